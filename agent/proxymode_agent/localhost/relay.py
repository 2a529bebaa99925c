"""I/O: carries bytes between two TCP connections until both have ended. Knows nothing of Services."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, NamedTuple

CHUNK: Final = 1 << 16
HALF_CLOSED_SECONDS: Final = 60.0
"""When one side has ended, the other may be silent for so long (the kernel's nf_conntrack_tcp_timeout_close_wait)."""


class Stream(NamedTuple):
    """One of the two connections."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def relay(one: Stream, other: Stream, half_closed_seconds: float = HALF_CLOSED_SECONDS) -> None:
    """Until both sides have said that they send no more, one was reset, or one has ended and the other is silent. Both
    are closed then; when cancelled, at once. A side that reads slowly holds up the one that writes: at most a few
    hundred kilobytes wait here."""
    ways = [_Way(one, other), _Way(other, one)]
    tasks = {asyncio.create_task(way.carry()) for way in ways}
    try:
        _, open_ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        carried = -1
        while open_ and carried != (carried := sum(way.carried for way in ways)):
            _, open_ = await asyncio.wait(open_, timeout=half_closed_seconds)
        if not open_:
            await asyncio.gather(flush(one, half_closed_seconds), flush(other, half_closed_seconds))
    finally:
        for task in tasks:
            task.cancel()
        for stream in (one, other):
            stream.writer.transport.abort()


async def flush(stream: Stream, seconds: float) -> None:
    """Close a connection once what is buffered was taken, or no longer wait for that than so many seconds."""
    stream.writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(seconds):
            await stream.writer.wait_closed()


class _Way:
    """From one connection to the other."""

    def __init__(self, source: Stream, sink: Stream) -> None:
        self._reader, self._writer = source.reader, sink.writer
        self.carried = 0

    async def carry(self) -> None:
        """Up to the source's end, which the sink is told."""
        try:
            while data := await self._reader.read(CHUNK):
                self._writer.write(data)
                await self._writer.drain()
                self.carried += len(data)
            if self._writer.can_write_eof():
                self._writer.write_eof()
        except OSError:  # a reset is passed on: the other side is to know that this is no orderly end
            self._writer.transport.abort()
