"""Health and metrics over HTTP: what probes and load balancers are told."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from msgspec.structs import replace

from proxymode_agent.answers import serve_in_place_of_kube_proxy
from proxymode_agent.cell import Cell
from proxymode_agent.engine.snapshot import EnginePhase, EngineSnapshot
from proxymode_agent.health import Health, health_routes, judge, metrics_routes, serve
from proxymode_agent.metrics import Metrics
from proxymode_agent.preflight.facts import proxy_mode
from proxymode_agent.services.model import DataplaneConfig, HealthChecks
from proxymode_api.modes import KubeProxyPolicy, Mode, ObservedMode
from proxymode_flags import BindAddress
from proxymode_testbeds.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxymode_agent.health import Paths

SYNCED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GOOD = Health(healthy=True, alive=True, ready=True, node_eligible=True, last_updated=SYNCED)


@pytest.mark.parametrize(
    ("snapshot", "behind", "eligible", "expected"),
    [
        (EngineSnapshot(synced=True, last_sync=SYNCED), 0.0, True, GOOD),
        (EngineSnapshot(synced=True, last_sync=SYNCED), 59.0, True, GOOD),
        (EngineSnapshot(synced=True, last_sync=SYNCED), 60.0, True, replace(GOOD, healthy=False, alive=False)),
        (EngineSnapshot(synced=True, last_sync=SYNCED), 0.0, False, replace(GOOD, healthy=False, node_eligible=False)),
        (EngineSnapshot(synced=False, last_sync=SYNCED), 0.0, True, replace(GOOD, ready=False)),
        (EngineSnapshot(), 0.0, True, replace(GOOD, ready=False, last_updated=None)),
        (EngineSnapshot(phase=EnginePhase.OBSERVING), 0.0, True, replace(GOOD, last_updated=None)),
    ],
    ids=["good", "a little late", "stuck", "node leaves", "not synced", "just started", "observing"],
)
def test_judgement(snapshot: EngineSnapshot, behind: float, eligible: bool, expected: Health) -> None:
    assert judge(snapshot, behind, node_eligible=eligible, timeout=60.0) == expected


def none() -> ObservedMode:
    return ObservedMode.NONE


@asynccontextmanager
async def served(routes: Paths, host: str = "127.0.0.1") -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A client, and the URL of a server with these routes."""
    port = free_port()
    task = asyncio.create_task(serve("test", BindAddress(host, port), routes))
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            await listening(port)
            yield session, f"http://127.0.0.1:{port}"
    finally:
        task.cancel()
        await asyncio.wait([task])


PROGRAMMED = HealthChecks(Mode.NFTABLES, DataplaneConfig(kube_proxy=KubeProxyPolicy.TAKE_OVER), {})
HANDED_BACK = HealthChecks(Mode.NFTABLES, DataplaneConfig(kube_proxy=KubeProxyPolicy.HAND_BACK), {})


@pytest.mark.parametrize("without", [None, HANDED_BACK], ids=["nothing programmed", "handed back"])
async def test_kube_proxys_port_is_the_agents_while_it_handles_the_node(without: HealthChecks | None) -> None:
    """kube-proxy holds it before, and gets it again."""
    port = free_port()
    paths = health_routes(lambda: GOOD, Metrics().kube_proxy.probed)
    programmed: Cell[HealthChecks | None] = Cell(without)
    task = asyncio.create_task(serve_in_place_of_kube_proxy(BindAddress("127.0.0.1", port), paths, programmed))
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            for _ in range(2):
                kube_proxy = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
                programmed.set(PROGRAMMED)  # kube-proxy is on its way out
                kube_proxy.close()
                await kube_proxy.wait_closed()
                await answered(session, port)
                programmed.set(PROGRAMMED._replace(mode=Mode.IPVS))
                await asyncio.sleep(0)
                async with session.get(f"http://127.0.0.1:{port}/healthz") as response:
                    assert response.status == 200
                programmed.set(without)
                await free(port)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def answered(session: aiohttp.ClientSession, port: int) -> None:
    while True:
        try:
            async with session.get(f"http://127.0.0.1:{port}/healthz") as response:
                return response.raise_for_status()
        except aiohttp.ClientError:
            await asyncio.sleep(0.01)


async def free(port: int) -> None:
    """Until somebody else can listen there."""
    while True:
        try:
            server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            server.close()
            return await server.wait_closed()


async def listening(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


@pytest.mark.parametrize(
    ("health", "statuses"),
    [
        (GOOD, (200, 200, 200)),
        (replace(GOOD, healthy=False, node_eligible=False), (503, 200, 200)),
        (replace(GOOD, healthy=False, alive=False), (503, 503, 200)),
        (replace(GOOD, ready=False, last_updated=None), (200, 200, 503)),
    ],
)
async def test_endpoints_answer_as_kube_proxys(health: Health, statuses: tuple[int, int, int]) -> None:
    metrics = Metrics()
    async with served(health_routes(lambda: health, metrics.kube_proxy.probed)) as (session, url):
        found = []
        for path in ("/healthz", "/livez", "/readyz"):
            async with session.get(url + path) as response:
                found.append(response.status)
                body: dict[str, Any] = await response.json()
                assert body.keys() - {"nodeEligible", "status"} == {"lastUpdated", "currentTime", "healthy"}
                assert body["healthy"] is health.alive
                assert body.get("nodeEligible") is (health.node_eligible if path == "/healthz" else None)
                datetime.fromisoformat(body["currentTime"])
                assert response.headers["Content-Type"] == "application/json"
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["Server"].startswith("proxymode-agent/"), "or preflight takes it for kube-proxy"
        assert tuple(found) == statuses
    async with served(metrics_routes(metrics, none)) as (session, url), session.get(f"{url}/metrics") as response:
        text = await response.text()
    for probe, status in zip(("healthz", "livez"), statuses, strict=False):
        assert f'kubeproxy_proxy_{probe}_total{{code="{status}"}} 1.0' in text


@pytest.mark.parametrize("good", [GOOD, replace(GOOD, ready=False, last_updated=None)], ids=["synced", "starting"])
async def test_last_updated_is_now_while_nothing_waits(good: Health) -> None:
    async with (
        served(health_routes(lambda: good, Metrics().kube_proxy.probed)) as (session, url),
        session.get(f"{url}/healthz") as response,
    ):
        body = await response.json()
        assert body["lastUpdated"] == body["currentTime"]


@pytest.mark.parametrize(
    "bad", [replace(GOOD, healthy=False, alive=False), replace(GOOD, healthy=False, node_eligible=False)]
)
async def test_last_updated_is_the_last_sync_where_the_answer_is_no(bad: Health) -> None:
    async with (
        served(health_routes(lambda: bad, Metrics().kube_proxy.probed)) as (session, url),
        session.get(f"{url}/healthz") as response,
    ):
        body = await response.json()
        assert body["lastUpdated"] == "2026-01-02T03:04:05Z"
        one = {"lastUpdated": "2026-01-02T03:04:05Z", "healthy": bad.alive}
        assert body["status"] == {"IPv4": one, "IPv6": one}


async def test_a_node_that_never_synced_says_so_as_kube_proxy_does() -> None:
    never = Health(healthy=False, alive=False, ready=False, node_eligible=True, last_updated=None)
    async with (
        served(health_routes(lambda: never, Metrics().kube_proxy.probed)) as (session, url),
        session.get(f"{url}/livez") as response,
    ):
        body = await response.json()
        assert body["lastUpdated"] == "0001-01-01T00:00:00Z"
        assert "status" not in body


async def test_metrics_are_in_prometheus_text_and_every_name_has_a_known_prefix() -> None:
    metrics = Metrics()
    metrics.watch_restarts.labels("services", "expired").inc()
    async with served(metrics_routes(metrics, none)) as (session, url), session.get(f"{url}/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain")
        text = await response.text()
    assert 'proxymode_agent_watch_restarts_total{reason="expired",resource="services"} 1.0' in text
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert all(name.startswith(("proxymode_agent_", "kubeproxy_", "rest_client_", "process_")) for name in names)


@pytest.mark.parametrize(
    ("observed", "status", "body"),
    [
        (ObservedMode.NFTABLES, 200, "nftables"),
        (ObservedMode.IPVS, 200, "ipvs"),
        (ObservedMode.NONE, 503, ""),
        (ObservedMode.KUBE_PROXY_IPVS, 503, ""),
    ],
)
async def test_the_mode_is_told_as_by_kube_proxy_but_nobody_takes_the_agent_for_one(
    observed: ObservedMode, status: int, body: str
) -> None:
    async with (
        served(metrics_routes(Metrics(), lambda: observed)) as (session, url),
        session.get(f"{url}/proxyMode") as response,
    ):
        assert response.status == status
        assert await response.text() == body
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert await asyncio.to_thread(proxy_mode, "127.0.0.1", int(url.rpartition(":")[2])) == ""


async def test_the_port_of_metrics_says_ok_as_kube_proxys() -> None:
    async with served(metrics_routes(Metrics(), none)) as (session, url), session.get(f"{url}/healthz") as response:
        assert (response.status, await response.text()) == (200, "ok")
        assert response.headers["Server"].startswith("proxymode-agent/")


async def test_an_address_that_is_taken_is_tried_again_until_it_is_free() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = int(other.getsockname()[1])
        task = asyncio.create_task(
            serve("test", BindAddress("127.0.0.1", port), health_routes(lambda: GOOD, Metrics().kube_proxy.probed))
        )
        done, _ = await asyncio.wait([task], timeout=0.1)
        assert not done
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        await listening(port)
        async with session.get(f"http://127.0.0.1:{port}/livez") as response:
            assert response.status == 200
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_all_addresses_are_those_of_both_families(host: str) -> None:
    health = health_routes(lambda: GOOD, Metrics().kube_proxy.probed)
    async with served(health, host) as (session, url):
        for asked in (url, url.replace("127.0.0.1", "[::1]")):
            async with session.get(f"{asked}/livez") as response:
                assert response.status == 200
