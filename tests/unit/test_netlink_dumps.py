"""Dumps over a netlink socket whose kernel is a script."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from proxymode_agent.dataplane.netlink import NLM_F_DUMP_INTR, DumpInterruptedError, NetlinkSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct("=IHHII")
MULTI, ERROR, DONE, ENTRY = 2, 2, 3, 20


def message(kind: int, sequence: int, body: bytes, flags: int = 0) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, MULTI | flags, sequence, 0) + body


def entry(sequence: int, body: bytes, flags: int = 0) -> bytes:
    return message(ENTRY, sequence, body, flags)


def done(sequence: int, flags: int = 0, error: int = 0) -> bytes:
    return message(DONE, sequence, struct.pack("=i", -error), flags)


@contextlib.contextmanager
def answered(*datagrams: bytes) -> Iterator[NetlinkSocket]:
    """A socket to which the kernel has already said all this; requests are numbered from 1."""
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, kernels, pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetlinkSocket, "_opened", lambda _: ours)
        ours.settimeout(5.0)
        for datagram in datagrams:
            kernels.send(datagram)
        yield NetlinkSocket(0)


@pytest.mark.parametrize(
    "interrupted",
    [
        (entry(1, b"old1", NLM_F_DUMP_INTR), entry(1, b"old2"), done(1)),
        (entry(1, b"old1"), done(1, NLM_F_DUMP_INTR)),
        (entry(1, b"old1") + done(1, NLM_F_DUMP_INTR),),
    ],
    ids=["an entry is marked", "the end alone is marked", "in one datagram"],
)
def test_a_dump_that_a_change_interrupted_is_made_again(interrupted: tuple[bytes, ...]) -> None:
    with answered(*interrupted, entry(2, b"new1") + entry(2, b"new2"), done(2)) as kernel:
        assert kernel.dump(ENTRY, b"") == [(ENTRY, b"new1"), (ENTRY, b"new2")]


def test_a_dump_that_is_interrupted_each_time_is_given_up() -> None:
    answers = [entry(number, b"some") + done(number, NLM_F_DUMP_INTR) for number in range(1, 9)]
    with answered(*answers) as kernel, pytest.raises(DumpInterruptedError):
        kernel.dump(ENTRY, b"")


@pytest.mark.parametrize(
    "refusal", [done(1, error=errno.ENOENT), message(ERROR, 1, struct.pack("=i", -errno.ENOENT))], ids=["end", "error"]
)
def test_a_dump_that_is_refused(refusal: bytes) -> None:
    with answered(refusal) as kernel, pytest.raises(FileNotFoundError):
        kernel.dump(ENTRY, b"")


def test_what_is_anothers_answer_is_passed_over() -> None:
    with answered(entry(7, b"what"), entry(1, b"mine"), done(7), done(1)) as kernel:
        assert kernel.dump(ENTRY, b"") == [(ENTRY, b"mine")]
