"""A watch's answer as events: read in goes, cut into lines.

Solves: most of what a heartbeat costs is to wake up for it, and 5,000 agents send 83 a second. So whatever is small is
followed by a pause. Deliberately knows nothing of what the events are about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxymode_operator.shapes import EventShape, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable

    import aiohttp

_MUCH: Final = 64 * 1024
"""Bytes; after more in one go the next is read at once."""


async def lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[EventShape]:
    """A watch's events: one JSON object a line, of any length. Raises msgspec.MsgspecError for what is none."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield read(EventShape, line)


async def chunks(response: aiohttp.ClientResponse, pause: Callable[[], Awaitable[None]]) -> AsyncIterator[bytes]:
    """What comes in, and after anything small nothing more until a `pause` is over: what comes meanwhile comes in one
    go."""
    async for chunk in response.content.iter_any():
        yield chunk
        transport = response.connection.transport if response.connection is not None else None
        if len(chunk) < _MUCH and transport is not None:
            # Not the protocol, whose parser would then hand on but one piece of what comes next.
            transport.pause_reading()
            await pause()
            transport.resume_reading()
