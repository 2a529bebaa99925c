"""Events about objects: posted with what `kubectl describe` looks for, within a budget, never in anybody's way."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from fake_api import fake_api, listed, status
from proxymode_agent.kube.client import KubeClient
from proxymode_agent.kube.cluster import ClusterConfig
from proxymode_agent.kube.credentials import Credential, StaticCredentials
from proxymode_agent.kube.objects import ObjectKey
from proxymode_agent.kube.recorder import BURST, ObjectWarning, Recorder
from proxymode_agent.metrics import Metrics
from proxymode_api.reasons.codes import Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from fake_api import Answer

KEY = ObjectKey("shop", "web")
BAD = ObjectWarning("Service", KEY, Reason.UNUSABLE_FIELD, "ReadObject", "spec.externalIPs has 127.0.0.1")
DEADLINE = 60.0


async def found(_: web.Request) -> web.Response:
    return web.json_response({"items": [{"metadata": {"name": "web", "namespace": "shop", "uid": "uid-1"}}]})


class Posted:
    """An answer to a POST that keeps what was posted."""

    def __init__(self) -> None:
        self.bodies: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()

    async def __call__(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.put_nowait((request.path, body))
        return web.json_response(body)


@asynccontextmanager
async def recording(*script: Answer, refill_seconds: float = 10.0) -> AsyncIterator[tuple[Recorder, Metrics]]:
    async with fake_api(*script) as api, asyncio.timeout(DEADLINE):
        config = ClusterConfig(server=api.url, credentials=StaticCredentials(Credential("secret")))
        async with KubeClient(config) as client:
            metrics = Metrics()
            recorder = Recorder(client, "node-a", metrics, refill_seconds=refill_seconds)
            task = asyncio.create_task(recorder.run())
            try:
                yield recorder, metrics
            finally:
                task.cancel()
                await asyncio.wait([task])


def count(metrics: Metrics, result: str) -> float:
    return metrics.registry.get_sample_value("proxymode_agent_object_events_total", {"result": result}) or 0.0


async def until(metrics: Metrics, result: str, value: float) -> None:
    while count(metrics, result) != value:  # noqa: ASYNC110 - a metric wakes nobody
        await asyncio.sleep(0.001)


async def test_a_warning_becomes_an_event_about_the_object_that_is_there() -> None:
    posted = Posted()
    async with recording(found, posted) as (recorder, metrics):
        recorder.warn(BAD)
        path, body = await posted.bodies.get()
        await until(metrics, "success", 1)
    assert path == "/apis/events.k8s.io/v1/namespaces/shop/events"
    assert body["regarding"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "namespace": "shop",
        "name": "web",
        "uid": "uid-1",
    }
    assert (body["type"], body["reason"], body["action"]) == ("Warning", Reason.UNUSABLE_FIELD, "ReadObject")
    assert body["note"] == "node node-a: spec.externalIPs has 127.0.0.1"


async def test_an_object_that_is_gone_needs_no_event() -> None:
    async with recording(listed(7)) as (recorder, metrics):
        recorder.warn(BAD)
        await until(metrics, "dropped", 1)


async def test_what_cannot_be_posted_is_logged_and_does_not_stop_the_next(caplog: pytest.LogCaptureFixture) -> None:
    posted = Posted()
    with caplog.at_level(logging.WARNING):
        async with recording(found, status(403, "Forbidden"), found, posted) as (recorder, metrics):
            recorder.warn(BAD)
            recorder.warn(BAD)
            await posted.bodies.get()
            await until(metrics, "success", 1)
            assert count(metrics, "failure") == 1
    assert "event cannot be posted" in caplog.text


async def test_a_flood_is_cut_to_the_budget_and_the_rest_is_counted() -> None:
    answers: list[Answer] = [found, Posted()]
    async with recording(*answers * BURST, refill_seconds=3600.0) as (recorder, metrics):
        for _ in range(1000):
            recorder.warn(BAD)
        await until(metrics, "success", BURST)
        assert count(metrics, "dropped") == 900


async def test_the_budget_grows_again() -> None:
    answers: list[Answer] = [found, Posted()]
    async with recording(*answers * (BURST + 5), refill_seconds=0.001) as (recorder, metrics):
        for _ in range(BURST + 5):
            recorder.warn(BAD)
        await until(metrics, "success", BURST + 5)
