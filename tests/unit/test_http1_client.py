"""The HTTP/1.1 client: what goes over the wire, how answers end, and what becomes of connections."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from proxymode_agent.http1.connection import BUFFER, BrokenConnectionError, Connection, Head
from proxymode_agent.http1.pool import Clocks, Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

CLOCKS = Clocks(connect=10, idle=10)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def server(*talks: Talk) -> AsyncIterator[Pool]:
    """A server that holds one of these conversations with each connection, in order."""
    script = iter(talks)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await next(script)(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with asyncio.timeout(60), await asyncio.start_server(talk, "127.0.0.1", 0) as listening:
        pool = Pool(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/base/")
        try:
            yield pool
        finally:
            pool.close()


def answers(*parts: bytes) -> Talk:
    """One request, answered in these parts, each sent by itself; then the end."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    return talk


async def ask(pool: Pool, method: str = "GET", clocks: Clocks = CLOCKS) -> tuple[int, str, bytes]:
    async with pool.request(method, "/x?y=z", {"Accept": "a/b"}, clocks=clocks) as response:
        body = b"".join([bytes(piece) async for piece in response.chunks])
        return response.head.status, response.head.reason, body


async def test_the_request() -> None:
    heard: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(4))
        writer.write(OK)

    async with server(talk) as pool:
        async with pool.request("POST", "/x", {"Accept": "a/b"}, body=b"body", clocks=CLOCKS) as response:
            assert [bytes(piece) async for piece in response.chunks] == [b"ok"]
        host = pool.origin.removeprefix("http://")
        request = f"POST /base/x HTTP/1.1\r\nHost: {host}\r\nAccept: a/b\r\nContent-Length: 4\r\n\r\nbody"
        assert heard == [request.encode()]


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nok",
    ],
    ids=["length", "chunked", "until the end"],
)
async def test_an_answer_ends_where_it_says(answer: bytes) -> None:
    async with server(answers(answer), answers(*(bytes([byte]) for byte in answer))) as pool:
        assert await ask(pool) == (200, "OK", b"ok")
        assert await ask(pool) == (200, "OK", b"ok"), "byte by byte"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
async def test_an_answer_that_is_cut_short(answer: bytes) -> None:
    async with server(answers(answer)) as pool:
        with pytest.raises(BrokenConnectionError):
            await ask(pool)


def two(writer_ends: bool) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        if writer_ends:
            await reader.readuntil(b"\r\n\r\n")
            return  # the second request was received, and is not answered
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)

    return talk


async def test_a_connection_is_used_again() -> None:
    async with server(two(writer_ends=False)) as pool:
        assert await ask(pool) == (200, "OK", b"ok")
        assert await ask(pool) == (200, "OK", b"ok")


async def test_a_kept_connection_that_ends_is_not_the_requests_fault() -> None:
    async with server(two(writer_ends=True), answers(OK)) as pool:
        assert await ask(pool) == (200, "OK", b"ok")
        assert await ask(pool) == (200, "OK", b"ok")


async def test_what_may_not_be_done_twice_is_not_sent_twice() -> None:
    async with server(two(writer_ends=True), answers(OK)) as pool:
        assert await ask(pool) == (200, "OK", b"ok")
        with pytest.raises(BrokenConnectionError):
            await ask(pool, "POST")


async def test_what_may_not_be_done_twice_goes_by_a_new_connection_where_the_kept_one_is_known_to_have_ended() -> None:
    async with server(answers(OK), answers(OK)) as pool:
        assert await ask(pool) == (200, "OK", b"ok")
        (kept,) = pool._idle
        while not kept.closed:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0)
        assert await ask(pool, "POST") == (200, "OK", b"ok")


async def test_a_connection_that_the_server_will_close_is_not_kept() -> None:
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with server(answers(closing), answers(OK)) as pool:
        assert await ask(pool) == (200, "OK", b"ok")
        assert await ask(pool, "POST") == (200, "OK", b"ok")


async def test_an_answer_that_is_left_in_the_middle_ends_its_connection() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha"
    gone = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(half)
        try:
            assert await reader.read() == b""
        finally:
            gone.set()

    async with server(talk, answers(OK)) as pool:
        async with pool.request("GET", "/", {}, clocks=CLOCKS) as response:
            assert await anext(response.chunks) == b"ha"
        await gone.wait()
        assert await ask(pool) == (200, "OK", b"ok")


async def test_a_silent_server() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(talk) as pool:
        with pytest.raises(TimeoutError, match="silent for 0 s"):
            await ask(pool, clocks=Clocks(connect=10, idle=0.01))


@pytest.mark.parametrize(
    "before", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]
)
async def test_what_comes_before_the_answer_is_not_the_answer(before: bytes) -> None:
    for parts in ((before + before + OK,), (before, before, OK)):
        async with server(answers(*parts)) as pool, pool.request("GET", "/", {}, clocks=CLOCKS) as response:
            assert response.head == Head(200, "OK", {"content-length": "2"})
            assert b"".join([bytes(piece) async for piece in response.chunks]) == b"ok"


async def test_a_body_without_length_is_not_complete_because_we_gave_it_up() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await reader.read()

    async with server(talk) as pool:
        with pytest.raises(TimeoutError, match="silent"):
            await ask(pool, clocks=Clocks(connect=10, idle=0.01))


class Wire(asyncio.Transport):
    """A transport to nobody."""

    aborted = False

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def abort(self) -> None:
        self.aborted = True


class Clock:
    """An event loop's clock, and its next timer."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timer: Callable[[], object] = lambda: None

    def time(self) -> float:
        return self.now

    def call_later(self, _: float, callback: Callable[[float], object], idle: float) -> None:
        self.timer = lambda: callback(idle)

    def at(self, now: float) -> None:
        self.now = now
        self.timer()


async def test_the_time_in_which_we_did_not_read_is_not_the_servers_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, wire, connection = Clock(), Wire(), Connection()
    monkeypatch.setattr(connection, "_loop", clock)
    connection.connection_made(wire)
    connection.send("GET", "/", {}, b"", idle=10.0)
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * BUFFER) + bytes(BUFFER + 1))
    clock.at(10.0)
    clock.now = 19.0
    await anext(connection.chunks())
    clock.at(20.0)
    assert not wire.aborted
    clock.at(29.0)
    assert wire.aborted


async def test_a_reader_that_is_slow_holds_up_the_server() -> None:
    size = 64 * BUFFER
    written = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while written < size:
            writer.write(bytes(BUFFER))
            await writer.drain()
            written += BUFFER

    async with server(talk) as pool, pool.request("GET", "/", {}, clocks=CLOCKS) as response:
        await anext(response.chunks)
        before = -1
        while before != written:  # until it stands still
            before = written
            for _ in range(200):
                await asyncio.sleep(0)
        assert written < size / 2
        assert sum([len(piece) async for piece in response.chunks]) > size / 2
        assert written == size


async def test_closing_ends_what_is_under_way() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        pool.close()
        await reader.read()

    async with server(talk) as pool:
        with pytest.raises(BrokenConnectionError):
            await ask(pool)


async def test_a_header_cannot_bring_another() -> None:
    async with server(answers(OK)) as pool:
        with pytest.raises(ValueError, match="line break"):
            async with pool.request("GET", "/", {"Authorization": "Bearer a\r\nX: y"}, clocks=CLOCKS):
                pass


async def test_an_answer_that_was_asked_for_ahead() -> None:
    asked: list[bytes] = []
    arrived = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        arrived.set()
        writer.write(OK)
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    async with server(talk) as pool:
        await pool.ahead("/x?y=z", {"Accept": "a/b"}, tls=None, clocks=CLOCKS)
        await arrived.wait()
        assert await ask(pool) == (200, "OK", b"ok")
        assert len(asked) == 1, "sent once"
        assert await ask(pool) == (200, "OK", b"ok")
        assert asked[0] == asked[1], "and with the same words"


async def test_what_was_asked_for_ahead_in_vain_is_asked_for_again() -> None:
    async with server(answers(), answers(OK)) as pool:
        await pool.ahead("/x?y=z", {"Accept": "a/b"}, tls=None, clocks=CLOCKS)
        assert await ask(pool) == (200, "OK", b"ok")


@pytest.mark.parametrize("url", ["", "10.0.0.1:6443", "ftp://a", "https://", "https://a:b"])
def test_what_is_no_server(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Pool(url)
