"""The language between host and guest: one TCP connection is one command.

The host opens with a request, one line of JSON; afterwards both sides send frames: one byte channel, four bytes
length (network order), then that many bytes. The end of the connection ends the command, from whichever side it
comes. Deliberately no multiplexing and no reconnecting: a test bed wants a broken link to be a broken command.
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct("!BI")


class Channel(IntEnum):
    """Who speaks about what: 0 and 3 come from the host, the others from the guest."""

    STDIN = 0  # payload for the command's standard input; an empty frame closes it
    STDOUT = 1
    STDERR = 2
    SIGNAL = 3  # payload: decimal signal number, sent to the command's process group
    STARTED = 4  # no payload; always first where the command was started
    EXIT = 5  # payload: decimal return code as subprocess gives it; the last frame
    REFUSED = 6  # payload: why the command was not started; the only frame


class Request(NamedTuple):
    """What to run. `netns` is a name below /run/netns, None is the guest's first namespace."""

    secret: str
    argv: list[str]
    cwd: str
    env: dict[str, str]
    netns: str | None

    def encode(self) -> bytes:
        return json.dumps(self._asdict()).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Request:
        return cls(**json.loads(line))


def frame(channel: Channel, payload: bytes = b"") -> bytes:
    return HEADER.pack(channel, len(payload)) + payload


def take(buffer: bytearray) -> Iterator[tuple[Channel, bytes]]:
    """The complete frames at the head of `buffer`, which are removed from it."""
    while len(buffer) >= HEADER.size:
        channel, length = HEADER.unpack_from(buffer)
        end = HEADER.size + length
        if len(buffer) < end:
            return
        payload = bytes(buffer[HEADER.size : end])
        del buffer[:end]
        yield Channel(channel), payload
