"""An API server for tests that does exactly what its script says: one answer a request, in order."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.test_utils import TestServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FakeApi:
    """`script`: answers still to give. `requests`: what was asked, path and query."""

    url: str = ""
    script: list[Answer] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    exhausted: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, dict(request.query)))
        self.headers.append(dict(request.headers))
        if not self.script:
            self.exhausted.set()
            await asyncio.Event().wait()
        return await self.script.pop(0)(request)


@asynccontextmanager
async def fake_api(*script: Answer) -> AsyncIterator[FakeApi]:
    """A server with this script; requests beyond it are never answered."""
    api = FakeApi(script=list(script))
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.handle)
    server = TestServer(application, skip_url_asserts=True)
    await server.start_server(shutdown_timeout=0.1)
    api.url = str(server.make_url("/"))
    try:
        yield api
    finally:
        await server.close()


def obj(name: str, version: int, namespace: str = "ns", **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, "resourceVersion": str(version)}} | fields


def listed(version: int, *items: dict[str, Any], more: str = "") -> Answer:
    """A page of a list; `more`: continue token."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(
            {"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(items)}
        )

    return answer


def status(code: int, reason: str, message: str = "said so", **headers: str) -> Answer:
    """A refusal with a Status body."""

    async def answer(_: web.Request) -> web.Response:
        body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
        return web.json_response(body, status=code, headers=headers)

    return answer


def watched(*events: tuple[str, dict[str, Any]] | bytes, stay_open: bool = False, cut: bool = False) -> Answer:
    """A watch's stream: events as (type, object), or raw bytes; then the end, unless it is to stay open; `cut`: the end
    of the connection, not of the answer."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for event in events:
            line = event if isinstance(event, bytes) else json.dumps({"type": event[0], "object": event[1]}).encode()
            await response.write(line if isinstance(event, bytes) else line + b"\n")
        if stay_open:
            await asyncio.Event().wait()
        if cut:
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer


def vanished() -> Answer:
    """The connection is cut before anything is answered."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return answer


def dropped() -> Answer:
    """The connection is cut in the middle of an answer."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"type":"ADDED",')
        assert request.transport is not None
        request.transport.abort()
        return response

    return answer


def expired(version: int) -> tuple[str, dict[str, Any]]:
    """The event that ends a watch whose resourceVersion is too old."""
    message = f"too old resource version: {version}"
    return ("ERROR", {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": message})
