"""Answers small HTTP/1.1 requests: health probes and metrics. An answer is made at once, from memory.

Bounded: requests have no use for a body, and a head of more than a few kilobytes, one connection too many, one that
asks nothing for a while, or asks without taking the answers, is cut. No TLS, no files.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

logger = logging.getLogger(__name__)

IDLE_SECONDS: Final = 15.0
CONNECTIONS: Final = 256
"""At a time and server; probes and scrapes take one each."""
_REQUEST_BYTES: Final = 1 << 14
_UNTAKEN_BYTES: Final = 1 << 20


class Request(NamedTuple):
    """What is asked; `path` without the query."""

    method: str
    path: str


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Handler = Callable[[Request], Answer]


class HttpServer:
    """Made by `listen`."""

    def __init__(self, handler: Handler, idle_seconds: float) -> None:
        self.handler: Final = handler
        self.idle_seconds: Final = idle_seconds
        self.conversations: Final[set[_Conversation]] = set()
        self._servers: list[asyncio.Server] = []

    async def listen(self, host: str | None, port: int) -> None:
        """Answer here too; host None: at all addresses. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(lambda: _Conversation(self), host, port, backlog=128))

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        return [socket.getsockname()[:2] for server in self._servers for socket in server.sockets]

    def close(self) -> None:
        """Listen no more, and cut what is open."""
        for server in self._servers:
            server.close()
        for conversation in tuple(self.conversations):
            conversation.cut()


class _Conversation(asyncio.Protocol):
    """One connection: requests in turn, an answer to each."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._parser = HttpRequestParser(self)
        self._target = b""
        self._unread = 0

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._server.conversations) >= CONNECTIONS:
            transport.abort()
            return
        self._server.conversations.add(self)
        self._wait()

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._send(Answer(400, {}, b""), keep=False)
        if self._unread > _REQUEST_BYTES:
            self._send(Answer(431, {}, b""), keep=False)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._server.conversations.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    # What the parser calls.

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_message_complete(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return  # what was read in one go with the request that ended the conversation
        request = Request(self._parser.get_method().decode("ascii"), self._target.decode("latin-1").partition("?")[0])
        self._target, self._unread = b"", 0
        try:
            answer = self._server.handler(request)
        except Exception:
            logger.exception("a request cannot be answered", extra={"path": request.path})
            answer = Answer(500, {}, b"")
        self._send(answer, keep=self._parser.should_keep_alive(), with_body=request.method != "HEAD")
        self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._server.idle_seconds, self.cut)

    def _send(self, answer: Answer, *, keep: bool, with_body: bool = True) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > _UNTAKEN_BYTES:
            self._transport.abort()
            return
        headers = {
            **answer.headers,
            "Content-Length": str(len(answer.body)),
            "Date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
            **({} if keep else {"Connection": "close"}),
        }
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join((*lines, "\r\n")).encode("latin-1")
        self._transport.write(head + answer.body if with_body else head)
        if not keep:
            self._transport.close()


def routes(handlers: Mapping[str, Callable[[], Answer]]) -> Handler:
    """A handler that answers GET and HEAD of these paths, and says 404 and 405 to the rest."""

    def handle(request: Request) -> Answer:
        handler = handlers.get(request.path)
        if handler is None:
            return Answer(404, {}, b"404 page not found\n")
        if request.method not in ("GET", "HEAD"):
            return Answer(405, {"Allow": "GET, HEAD"}, b"")
        return handler()

    return handle
