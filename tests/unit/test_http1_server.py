"""The HTTP/1.1 server of probes and metrics: what it answers, and whom it does not wait for."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from proxymode_agent.http1 import server as module
from proxymode_agent.http1.server import Answer, HttpServer, routes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxymode_agent.http1.server import Handler


def hello() -> Answer:
    return Answer(200, {"Content-Type": "text/plain"}, b"hello")


def broken() -> Answer:
    raise RuntimeError("no figure")


PATHS = routes({"/hello": hello, "/broken": broken})


@asynccontextmanager
async def served(handler: Handler = PATHS, idle: float = 20.0) -> AsyncIterator[tuple[HttpServer, int]]:
    server = HttpServer(handler, idle)
    async with asyncio.timeout(60):
        await server.listen("127.0.0.1", 0)
        try:
            yield server, server.addresses[0][1]
        finally:
            server.close()


async def said(port: int, request: bytes) -> bytes:
    """All that is answered until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def request(method: str = "GET", target: str = "/hello", *headers: str) -> bytes:
    return "\r\n".join((f"{method} {target} HTTP/1.1", "Host: a", *headers, "\r\n")).encode()


CLOSE = "Connection: close"


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        (request("GET", "/hello?all=1", CLOSE), b"200 OK", b"hello"),
        (request("HEAD", "/hello", CLOSE), b"200 OK", b""),
        (request("POST", "/hello", CLOSE, "Content-Length: 0"), b"405 Method Not Allowed", b""),
        (request("GET", "/other", CLOSE), b"404 Not Found", b"404 page not found\n"),
        (request("GET", "/broken", CLOSE), b"500 Internal Server Error", b""),
        (b"GET /hello HTTP/1.0\r\n\r\n", b"200 OK", b"hello"),
        (b"\x16\x03\x01\x02\x00", b"400 Bad Request", b""),
        (b"GET /hello HTTP/1.1\r\nX: " + 20_000 * b"x", b"431 Request Header Fields Too Large", b""),
    ],
)
async def test_answers(asked: bytes, status: bytes, body: bytes) -> None:
    async with served() as (_, port):
        head, _, found = (await said(port, asked)).partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert first == b"HTTP/1.1 " + status
    headers = dict(line.split(b": ", 1) for line in lines)
    assert found == body
    assert headers[b"Date"].endswith(b"GMT")
    assert headers[b"Connection"] == b"close"
    if asked.startswith(b"HEAD"):
        assert headers[b"Content-Length"] == b"5"


async def test_one_connection_takes_many_requests() -> None:
    async with served() as (_, port):
        whole = await said(port, request() + request() + request("GET", "/hello", CLOSE))
    assert whole.count(b"HTTP/1.1 200 OK") == 3
    assert whole.count(b"\r\n\r\nhello") == 3


async def test_who_asks_nothing_is_cut() -> None:
    async with served(idle=0.01) as (server, port):
        assert await said(port, b"") == b""
        assert await said(port, b"GET /hel") == b""
        answered = await said(port, request())
        assert answered.endswith(b"hello"), "and not before the answer"
        while server.conversations:  # noqa: ASYNC110 - a connection's end wakes nobody
            await asyncio.sleep(0)


async def test_who_does_not_read_answers_is_cut_and_costs_no_memory() -> None:
    made = 0

    def large() -> Answer:
        nonlocal made
        made += 1
        return Answer(200, {}, bytes(1 << 20))

    async with served(routes({"/hello": large})) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request() * 1000)  # which the server reads in one go
        while not made:  # noqa: ASYNC110
            await asyncio.sleep(0)
        while server.conversations:  # noqa: ASYNC110
            await asyncio.sleep(0)
        writer.close()
    assert made < 50


async def test_no_more_connections_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTIONS", 1)
    async with served() as (server, port):
        _, first = await asyncio.open_connection("127.0.0.1", port)
        while not server.conversations:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert await said(port, request()) == b""
        first.close()
        while server.conversations:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert (await said(port, request("GET", "/hello", CLOSE))).endswith(b"hello")


async def test_closing_ends_conversations() -> None:
    async with served() as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not server.conversations:  # noqa: ASYNC110
            await asyncio.sleep(0)
        server.close()
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", port)
