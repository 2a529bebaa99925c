"""A request/answer netlink socket: batches of changes with one answer each, and dumps.

For the families where the kernel takes message after message: generic netlink (IPVS), rtnetlink, ctnetlink. Not for
nf_tables, whose batches are transactions: see nfnetlink. Many messages go out with one system call and only the last
asks for an acknowledgement, the others speak up only when they fail: about 10 us a change instead of 40 (RFC 3549
section 2.3.2; include/uapi/linux/netlink.h). Message bodies are bytes that the caller packed.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.dataplane.channel import Channel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
_NLMSG_NOOP: Final = 1
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_GET_STRICT_CHK: Final = 12
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33

_HEADER: Final = struct.Struct("=IHHII")  # nlmsg_len, nlmsg_type, nlmsg_flags, nlmsg_seq, nlmsg_pid
HEADER_BYTES: Final = _HEADER.size
_ERROR: Final = struct.Struct("=i")
_BATCH: Final = 64  # messages a system call: the time between two of them stays short, the cost of the call is spread
_DUMP_TRIES: Final = 8
_ANSWER_SECONDS: Final = 30.0


class Message(NamedTuple):
    """One request: nlmsg_type, NLM_F_* beyond REQUEST, and what follows the header."""

    kind: int
    flags: int
    body: bytes


def request_header(kind: int, flags: int, size: int) -> bytes:
    """The header of a request that is submitted, before a body of `size` bytes, which are a multiple of four."""
    return _HEADER.pack(_HEADER.size + size, kind, NLM_F_REQUEST | flags, 0, 0)


def equally_long(datagram: memoryview) -> int:
    """The length of each message if all have the same, and the same type, flags and sequence number; 0 otherwise."""
    size = int(_HEADER.unpack_from(datagram)[0])
    number, rest = divmod(len(datagram), size)
    if rest or size % 4:
        return 0
    words = datagram.cast("I")
    same = all(words[at :: size // 4].tolist() == [words[at]] * number for at in range(3))
    return size if same else 0


class DumpInterruptedError(OSError):
    """The table changed during every one of several dumps, so none of them is a consistent picture."""


class NetlinkSocket:
    """One AF_NETLINK socket in the network namespace of the thread that opens it. Not thread-safe.

    `strict`: rtnetlink's dumps hold to what the request asks for, a route's table, protocol and device (Linux 4.20).
    """

    def __init__(self, protocol: int, *, strict: bool = False) -> None:
        self._protocol = protocol
        self._strict = strict
        self._sequence = 0
        self._buffer = bytearray(1 << 18)
        self._channel = Channel(self._opened)

    def close(self) -> None:
        self._channel.close()

    def transact(self, messages: Sequence[Message]) -> dict[int, int]:
        """Send all messages in order; returns errno by index of those that the kernel refused.

        Each message stands for itself: one that fails does not stop those after it. Raises OSError when the kernel
        does not answer.
        """
        refused: dict[int, int] = {}
        for start in range(0, len(messages), _BATCH):
            refused.update(self._batch(messages[start : start + _BATCH], start))
        return refused

    def submit(self, requests: Iterable[bytes]) -> Counter[int]:
        """Send requests, each one or more messages with their headers, in order; returns how often the kernel refused
        with which errno.

        For tens of thousands: messages are not numbered, a batch is told by the answer to an empty message after it.
        Raises OSError when the kernel does not answer.
        """
        refused: Counter[int] = Counter()
        waiting = iter(requests)
        while batch := list(islice(waiting, _BATCH)):
            self._sequence += 1
            batch.append(_HEADER.pack(_HEADER.size, _NLMSG_NOOP, NLM_F_REQUEST | NLM_F_ACK, self._sequence, 0))
            self._channel.ask(b"".join(batch))
            refused.update(self._refusals())
        return refused

    def dump(self, kind: int, body: bytes) -> list[tuple[int, bytes]]:
        """All answers to a dump request as (nlmsg_type, body). Repeats a dump that a change interrupted.

        Raises DumpInterruptedError after several such, OSError with the kernel's errno if it refuses.
        """
        for _ in range(_DUMP_TRIES):
            answers: list[tuple[int, bytes]] = []
            consistent = True
            for answer_kind, flags, view in self._answers(kind, body):
                # The last entries may be what a change made the kernel pass over: then only the end is marked.
                consistent = consistent and not flags & NLM_F_DUMP_INTR
                if answer_kind not in (_NLMSG_DONE, _NLMSG_ERROR):
                    answers.append((answer_kind, bytes(view)))
            if consistent:
                return answers
        raise DumpInterruptedError(f"netlink dump {kind:#x} was interrupted by changes {_DUMP_TRIES} times in a row")

    def _answers(self, kind: int, body: bytes) -> Iterator[tuple[int, int, memoryview]]:
        """One dump as (nlmsg_type, nlmsg_flags, body), its end included; a body is valid until the next step."""
        self._send([Message(kind, NLM_F_DUMP, body)])
        view = memoryview(self._buffer)
        while True:
            length = self._channel.receive_into(self._buffer)
            offset = 0
            while offset < length:
                size, answer_kind, flags, sequence, _ = _HEADER.unpack_from(self._buffer, offset)
                if sequence == self._sequence:
                    ended = answer_kind in (_NLMSG_DONE, _NLMSG_ERROR)
                    if ended:
                        self._channel.ended()
                        _raise_for(-_ERROR.unpack_from(self._buffer, offset + _HEADER.size)[0])
                    yield answer_kind, flags, view[offset + _HEADER.size : offset + size]
                    if ended:
                        return
                offset += (size + 3) & ~3

    def rows(self, kind: int, body: bytes, answer: int) -> Iterator[tuple[int, bytes]]:
        """One dump's answers of type `answer`, interrupted by a change or not, with their headers, as many together as
        came at once and are equally long: how long, and they. For tens of thousands.

        Raises OSError with the kernel's errno if it refuses.
        """
        self._send([Message(kind, NLM_F_DUMP, body)])
        view = memoryview(self._buffer)
        while True:
            length = self._channel.receive_into(self._buffer)
            size = equally_long(view[:length])
            if size and _HEADER.unpack_from(view)[1] == answer and _HEADER.unpack_from(view)[3] == self._sequence:
                yield size, bytes(view[:length])
                continue
            ended, by_size = self._sorted(view[:length], answer)
            for size, some in by_size.items():
                yield size, b"".join(some)
            if ended:
                return

    def _sorted(self, datagram: memoryview, answer: int) -> tuple[bool, dict[int, list[memoryview]]]:
        """Whether a dump's end is in a datagram, and the answers of type `answer` by their length."""
        by_size: dict[int, list[memoryview]] = {}
        offset = 0
        while offset < len(datagram):
            size, kind, _, sequence, _ = _HEADER.unpack_from(datagram, offset)
            if sequence == self._sequence:
                if kind == answer:
                    by_size.setdefault(size, []).append(datagram[offset : offset + size])
                elif kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    self._channel.ended()
                    _raise_for(-_ERROR.unpack_from(datagram, offset + _HEADER.size)[0])
                    return True, by_size
            offset += (size + 3) & ~3
        return False, by_size

    def _refusals(self) -> Iterator[int]:
        """Each errno that comes before the answer to the last message."""
        while True:
            length = self._channel.receive_into(self._buffer)
            offset = 0
            while offset < length:
                size, kind, _, sequence, _ = _HEADER.unpack_from(self._buffer, offset)
                if kind == _NLMSG_ERROR:
                    if sequence == self._sequence:
                        self._channel.ended()
                        return
                    if sequence == 0:
                        yield -_ERROR.unpack_from(self._buffer, offset + _HEADER.size)[0]
                offset += (size + 3) & ~3

    def _batch(self, messages: Sequence[Message], first_index: int) -> dict[int, int]:
        first = self._sequence + 1
        self._send([*messages[:-1], messages[-1]._replace(flags=messages[-1].flags | NLM_F_ACK)])
        refused: dict[int, int] = {}
        while True:
            length = self._channel.receive_into(self._buffer)
            offset = 0
            while offset < length:
                size, kind, _, sequence, _ = _HEADER.unpack_from(self._buffer, offset)
                if kind == _NLMSG_ERROR and sequence >= first:
                    error = -_ERROR.unpack_from(self._buffer, offset + _HEADER.size)[0]
                    if error:
                        refused[first_index + sequence - first] = error
                    if sequence == self._sequence:
                        self._channel.ended()
                        return refused
                offset += (size + 3) & ~3

    def _send(self, messages: Sequence[Message]) -> None:
        parts: list[bytes] = []
        for message in messages:
            self._sequence += 1
            padding = -len(message.body) % 4
            size = _HEADER.size + len(message.body)
            parts += (
                _HEADER.pack(size, message.kind, NLM_F_REQUEST | message.flags, self._sequence, 0),
                message.body,
                bytes(padding),
            )
        self._channel.ask(b"".join(parts))

    def _opened(self) -> socket.socket:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, self._protocol)
        for option, size in ((_SO_SNDBUFFORCE, 4 << 20), (_SO_RCVBUFFORCE, 16 << 20)):
            opened.setsockopt(socket.SOL_SOCKET, option, size)
        opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        if self._strict:
            opened.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        opened.bind((0, 0))
        opened.settimeout(_ANSWER_SECONDS)
        return opened


def _raise_for(error: int) -> None:
    if error > 0:
        raise OSError(error, f"netlink dump refused: errno {error}")
