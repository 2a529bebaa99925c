"""One connection to an HTTP/1.1 server: a request at a time, its answer's body as it comes.

llhttp parses (as in Node.js), asyncio carries; nothing is buffered beyond `BUFFER` bytes, so that a slow reader holds
up the server and not this process' memory. It follows no redirects, retries nothing, unpacks no compressed body.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from httptools import HttpParserError, HttpResponseParser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from ssl import SSLContext

BUFFER: Final = 1 << 20
"""Bytes of a body that wait to be read; the kernel holds back more."""
_KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)
"""A watch may rightly be silent for minutes, a peer that vanished must not: after 30 s of silence a probe every 10 s,
three unanswered end it; unacknowledged data ends it after 30 s."""


class BrokenConnectionError(OSError):
    """The connection ended before the answer did, or what came was no HTTP. `answered`: some of an answer came."""

    def __init__(self, message: str, *, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered


class Head(NamedTuple):
    """What an answer begins with; header names are in lower case."""

    status: int
    reason: str
    headers: Mapping[str, str]


class Connection(asyncio.Protocol):
    """Made by `connect`. Send, read the head, read the body to its end; then `reusable` says whether once more."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._error: Exception | None = None
        self._heard = 0.0
        self._begin()

    def _begin(self) -> None:
        self._parser = HttpResponseParser(self)
        self._reason = b""
        self._headers: dict[str, str] = {}
        self._head: Head | None = None
        self._body = bytearray()
        self._answered = self._complete = self._paused = self._keep_alive = False

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, or is about to."""
        return self._transport is None or self._transport.is_closing()

    @property
    def reusable(self) -> bool:
        """Whether another request may follow."""
        return self._complete and not self._body and self._keep_alive and not self.closed

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes, idle: float) -> None:
        """Send a request. From now on the server may be silent for `idle` seconds. Raises ValueError for what would be
        more than one header."""
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        if body or method != "GET":
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join((*lines, "\r\n"))
        if head.count("\r") != len(lines) + 1 or head.count("\n") != len(lines) + 1:
            raise ValueError(f"{method} request has a line break within a header")
        self._begin()
        self._heard = self._loop.time()
        self._watch(idle)
        if self._transport is not None:
            self._transport.write(head.encode("latin-1") + body)

    async def head(self) -> Head:
        """What the answer begins with. Raises BrokenConnectionError, TimeoutError."""
        while self._head is None:
            await self._more()
        return self._head

    async def chunks(self) -> AsyncIterator[bytearray]:
        """The body, piece by piece. Raises BrokenConnectionError, TimeoutError."""
        while True:
            if self._body:
                piece, self._body = self._body, bytearray()
                if self._paused and self._transport is not None:
                    self._paused = False
                    self._heard = self._loop.time()  # until now it was we who did not listen
                    self._transport.resume_reading()
                yield piece
            elif self._complete:
                return
            else:
                await self._more()

    def release(self) -> None:
        """The answer was read, or is not wanted any more: a connection that cannot be used again is cut."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        if not self.reusable:
            self.abort()

    def abort(self) -> None:
        """Cut the connection: there is nothing to say good-bye for, and no TLS shutdown that outlives us."""
        if self._transport is not None:
            self._transport.abort()

    async def _more(self) -> None:
        """Return when more has come."""
        if self._error is not None:
            raise self._error
        if self._transport is None:
            raise BrokenConnectionError("the server closed the connection", answered=self._answered)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self.abort()
        self._wake()

    def _watch(self, idle: float) -> None:
        """Fail when nothing was heard for so long; one timer for all of an answer, however often data comes."""
        silent = 0.0 if self._paused else self._loop.time() - self._heard
        if silent >= idle:
            self._fail(TimeoutError(f"the server was silent for {idle:.0f} s"))
        else:
            self._watchdog = self._loop.call_later(idle - silent, self._watch, idle)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._answered = True
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self._fail(BrokenConnectionError(f"the answer is not HTTP: {error}", answered=True))
            return
        if len(self._body) > BUFFER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if error is None and self._error is None and self._head is not None:
            # A body that says no length ends with the connection, as of many a proxy's error page.
            self._complete |= not self._head.headers.keys() & {"content-length", "transfer-encoding"}
        if error is not None and self._error is None and not self._complete:
            self._error = BrokenConnectionError(str(error) or type(error).__name__, answered=self._answered)
        self._wake()

    # What the parser calls.

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # else another head follows, whether or not that was asked for (RFC 9110 section 15.2)
            self._keep_alive = self._parser.should_keep_alive()
            self._head = Head(status, self._reason.decode("latin-1"), self._headers)
        self._reason, self._headers = b"", {}

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self._complete = self._head is not None


async def connect(host: str, port: int, tls: SSLContext | None, server_name: str | None, seconds: float) -> Connection:
    """A connection to a server, over TLS where a context is given; `server_name`: whose certificate it must have, else
    the host's. Raises OSError (ssl.SSLError is one), TimeoutError after so many seconds."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            transport, connection = await loop.create_connection(
                Connection,
                host,
                port,
                ssl=tls,
                server_hostname=server_name if tls is not None else None,
                happy_eyeballs_delay=0.25,
            )
    except TimeoutError as error:
        raise TimeoutError(f"no connection within {seconds:.0f} s") from error
    found = transport.get_extra_info("socket")
    for option in _KEEP_ALIVE:
        found.setsockopt(*option)
    return connection
