"""Lists and watches over HTTP, as the operator's own client reads them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from kubernetes.aio import client as k8s

from fake_api import fake_api, listed, obj, watched
from proxymode_operator import kubeapi
from proxymode_operator.kubeapi import ApiError, Kind, KubeApi, identity
from proxymode_operator.pace import Pace

if TYPE_CHECKING:
    from fake_api import Answer


async def everything_watched(*script: Answer) -> list[tuple[str, str]]:
    """Type and name of every event, until the watch ends."""
    async with fake_api(*script) as server, KubeApi(k8s.Configuration(host=server.url.rstrip("/"))) as api:
        events = api.watch(Kind.NODE, "7", Pace().pause)
        return [(kind, identity(raw).name) async for kind, raw in events]


def everything_listed(*script: Answer) -> list[str]:
    async def scenario() -> list[str]:
        async with fake_api(*script) as server, KubeApi(k8s.Configuration(host=server.url.rstrip("/"))) as api:
            return [identity(raw).name async for page in api.list_pages(Kind.NODE) for raw in page.items]

    return asyncio.run(scenario())


def test_all_that_a_watch_brings_is_there_though_it_is_read_with_pauses() -> None:
    small = [("ADDED", obj(f"n{index}", index, uid="u")) for index in range(3)]
    large = [("MODIFIED", obj(f"large{index}", index, padding="x" * 50_000)) for index in range(60)]

    async def bit_by_bit(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for kind, each in [*small, *large, *small]:
            line = json.dumps({"type": kind, "object": each}).encode() + b"\n"
            await response.write(line[:20])
            await response.write(line[20:])
        return response

    found = asyncio.run(everything_watched(bit_by_bit))
    assert found == [(kind, each["metadata"]["name"]) for kind, each in [*small, *large, *small]]


@pytest.mark.parametrize("line", [b"<html>\n", b'{"type": "ADDED"}\n'])
def test_what_is_no_event_ends_the_watch_with_an_error(line: bytes) -> None:
    with pytest.raises(ApiError, match="watch /api/v1/nodes"):
        asyncio.run(everything_watched(watched(line)))


def test_a_watch_that_fell_silent_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load balancer that forgets a connection tells nobody, and neither does an API server that hangs."""
    monkeypatch.setattr(kubeapi, "SILENCE_SECONDS", 0.2)
    some_events = watched(("ADDED", obj("n1", 8, uid="u")), stay_open=True)

    async def scenario() -> None:
        async with asyncio.timeout(60):
            await everything_watched(some_events)

    with pytest.raises(ApiError, match="watch /api/v1/nodes"):
        asyncio.run(scenario())


def test_a_list_that_is_empty_or_has_pages_is_read_and_one_that_is_none_is_an_error() -> None:
    assert everything_listed(listed(9, obj("a", 1), more="token"), listed(9, obj("b", 2))) == ["a", "b"]

    async def nothing(_: web.Request) -> web.Response:
        return web.json_response({"metadata": {"resourceVersion": "9"}, "items": None})

    async def page_of_a_proxy(_: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="text/html")

    assert everything_listed(nothing) == []
    with pytest.raises(ApiError, match="GET /api/v1/nodes"):
        everything_listed(page_of_a_proxy)


@pytest.mark.parametrize("body", [b"<html>down for maintenance</html>", b"[]"])
def test_an_answer_that_is_no_object_is_an_error_and_no_empty_object(body: bytes) -> None:
    async def maintenance(_: web.Request) -> web.Response:
        return web.Response(body=body)

    async def scenario() -> None:
        async with fake_api(maintenance) as server, KubeApi(k8s.Configuration(host=server.url.rstrip("/"))) as api:
            await api.get("/apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy")

    with pytest.raises(ApiError, match="NotAnObject: GET /apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy"):
        asyncio.run(scenario())


def test_what_has_come_is_all_read_before_the_next_pause() -> None:
    """An HTTP parser that is paused hands on one piece at a time, however many have come."""
    lines = [json.dumps({"type": "ADDED", "object": obj(name, 1, uid="u")}).encode() + b"\n" for name in "abcd"]

    async def scenario() -> list[str]:
        first_is_read, all_is_sent, for_ever = asyncio.Event(), asyncio.Event(), asyncio.Event()
        pauses = iter([all_is_sent, for_ever])

        async def pause() -> None:
            await next(pauses).wait()

        async def in_two_goes(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(lines[0])
            await first_is_read.wait()
            assert request.transport is not None
            request.transport.write(b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in lines[1:]))
            await asyncio.sleep(0.05)  # if that is not sent by then, this shows less
            all_is_sent.set()
            await asyncio.Event().wait()
            return response

        names: list[str] = []
        configuration = k8s.Configuration()
        async with fake_api(in_two_goes) as server, asyncio.timeout(60):
            configuration.host = server.url.rstrip("/")
            async with KubeApi(configuration) as api:
                async for _, raw in api.watch(Kind.NODE, "7", pause):
                    names.append(identity(raw).name)
                    first_is_read.set()
                    if len(names) == len(lines):
                        break
        return names

    assert asyncio.run(scenario()) == ["a", "b", "c", "d"]
