"""Requests to one HTTP/1.1 server over connections that are kept for the next one.

As many connections as there are requests at a time; a few are kept when idle. Deliberately no redirects, no proxies and
no cookies; one request is tried again by itself: where a kept connection turns out to have been closed by the server.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from proxymode_agent.http1.connection import BrokenConnectionError, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from ssl import SSLContext

    from proxymode_agent.http1.connection import Connection, Head

IDLE_CONNECTIONS: Final = 4


class Clocks(NamedTuple):
    """Seconds: until a connection stands, and of silence of the server after that."""

    connect: float
    idle: float


class Response(NamedTuple):
    """An answer whose head has come; the body is read from `chunks`, once."""

    head: Head
    chunks: AsyncIterator[bytearray]


class Pool:
    """`server`: a URL, whose path comes before that of every request. `server_name`: whom its certificate must name,
    where that is not the URL's host. Raises ValueError for what is no such URL."""

    def __init__(self, server: str, server_name: str | None = None) -> None:
        url = urlsplit(server)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"server {server!r} must be a URL such as https://10.0.0.1:6443")
        self._address = url.hostname
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self.host: Final = url.netloc.rpartition("@")[2]
        self._base = url.path.rstrip("/")
        self._server_name = server_name
        self._tls: SSLContext | None = None
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._ahead: dict[str, Connection] = {}
        self.origin: Final = f"{url.scheme}://{self.host}"

    def close(self) -> None:
        """Cut all connections; requests that are under way raise BrokenConnectionError."""
        for connection in (*self._idle, *self._busy, *self._ahead.values()):
            connection.abort()
        self._idle.clear()
        self._ahead.clear()

    async def ahead(self, target: str, headers: Mapping[str, str], *, tls: SSLContext | None, clocks: Clocks) -> None:
        """Send a GET whose answer will be asked for by `request` with the same target: what the server writes until
        then waits, up to what the kernel's and our buffers hold. Raises OSError and TimeoutError."""
        self._use(tls)
        connection = await connect(self._address, self._port, tls, self._server_name, clocks.connect)
        connection.send("GET", self._base + target, {"Host": self.host, **headers}, b"", clocks.idle)
        self._ahead[self._base + target] = connection

    @asynccontextmanager
    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        *,
        body: bytes = b"",
        tls: SSLContext | None = None,
        clocks: Clocks,
    ) -> AsyncIterator[Response]:
        """The answer. `target`: path and query, encoded; `tls`: None where the server's URL is http://. Raises OSError
        and TimeoutError, also while the body is read."""
        self._use(tls)
        lines = {"Host": self.host, **headers}
        connection, head = await self._sent(method, self._base + target, lines, body, clocks)
        try:
            yield Response(head, connection.chunks())
        finally:
            self._busy.discard(connection)
            connection.release()
            if tls is self._tls and not connection.closed and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
            else:
                connection.abort()

    async def _sent(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, clocks: Clocks
    ) -> tuple[Connection, Head]:
        """The connection that the request was sent by, and the head of its answer."""
        if method == "GET" and (ahead := self._ahead.pop(target, None)) is not None:
            with suppress(OSError):
                return ahead, await self._head(ahead)
        while self._idle:
            kept = self._idle.pop()
            if kept.closed:
                continue
            try:
                return kept, await self._send(kept, method, target, headers, body, clocks)
            except BrokenConnectionError as error:
                if error.answered or method == "POST":
                    raise
        new = await connect(self._address, self._port, self._tls, self._server_name, clocks.connect)
        return new, await self._send(new, method, target, headers, body, clocks)

    async def _send(
        self, connection: Connection, method: str, target: str, headers: Mapping[str, str], body: bytes, clocks: Clocks
    ) -> Head:
        connection.send(method, target, headers, body, clocks.idle)
        return await self._head(connection)

    async def _head(self, connection: Connection) -> Head:
        self._busy.add(connection)
        try:
            return await connection.head()
        except BaseException:
            self._busy.discard(connection)
            connection.abort()
            connection.release()
            raise

    def _use(self, tls: SSLContext | None) -> None:
        if tls is not self._tls:  # another client certificate: what stands was opened for the former
            self._tls = tls
            for connection in (*self._idle, *self._ahead.values()):
                connection.abort()
            self._idle.clear()
            self._ahead.clear()
