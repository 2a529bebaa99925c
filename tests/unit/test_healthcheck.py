"""healthCheckNodePorts: what load balancers are told, where, and what happens when a port cannot be had."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import aiohttp
import pytest

from proxymode_agent.backoff import Backoff
from proxymode_agent.cell import Cell
from proxymode_agent.healthcheck import HealthCheckServers
from proxymode_agent.healthcheck.answers import EVERYWHERE, answer, hosts
from proxymode_agent.healthcheck.servers import local_addresses
from proxymode_agent.metrics import Metrics
from proxymode_agent.services.model import DataplaneConfig, HealthCheck, HealthChecks, ServiceName
from proxymode_api.modes import Mode
from proxymode_testbeds.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxymode_agent.kube.recorder import ObjectWarning

WEB = ServiceName("shop", "web")
HOST = "127.0.0.1"
CONFIG = DataplaneConfig(node_port_addresses=(ip_network("127.0.0.0/8"),))
DEADLINE = 60.0
LOCAL = [ip_address(text).packed for text in ("192.168.50.1", "192.168.60.1", "fd00:50::1", "127.0.0.1", "::1")]


def test_the_body_is_kube_proxys_to_the_byte() -> None:
    told = answer(WEB, 2, healthy=True)
    assert told.status == 200
    assert told.headers == {
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
        "X-Load-Balancing-Endpoint-Weight": "2",
    }
    assert told.body == (
        '{\n\t"service": {\n\t\t"namespace": "shop",\n\t\t"name": "web"\n\t},\n'
        '\t"localEndpoints": 2,\n\t"serviceProxyHealthy": true\n}'
    )


@pytest.mark.parametrize(("endpoints", "healthy", "status"), [(1, True, 200), (0, True, 503), (3, False, 503)])
def test_only_a_healthy_node_with_endpoints_takes_traffic(endpoints: int, healthy: bool, status: int) -> None:
    told = answer(WEB, endpoints, healthy=healthy)
    assert told.status == status
    assert told.headers["X-Load-Balancing-Endpoint-Weight"] == str(endpoints)


@pytest.mark.parametrize(
    ("mode", "networks", "node_ips", "expected"),
    [
        (Mode.NFTABLES, None, LOCAL[:1], ("192.168.50.1",)),
        (Mode.IPVS, None, LOCAL[:1], EVERYWHERE),
        (Mode.NFTABLES, ["192.168.0.0/16"], [], ("192.168.50.1", "192.168.60.1", "::1", "fd00:50::1")),
        (Mode.IPVS, ["192.168.60.0/24", "fd00::/8"], [], ("192.168.60.1", "fd00:50::1")),
        (Mode.NFTABLES, ["0.0.0.0/0"], [], EVERYWHERE),
        (Mode.NFTABLES, ["203.0.113.0/24", "fd99::/64"], [], EVERYWHERE),
        (Mode.NFTABLES, None, [], EVERYWHERE),
        (Mode.NFTABLES, ["127.0.0.0/8", "::1/128"], [], ("127.0.0.1", "::1")),
        (Mode.IPVS, ["127.0.0.1/32", "fd00::/8"], [], ("127.0.0.1", "fd00:50::1")),
    ],
    ids=[
        "primary",
        "ipvs: all",
        "one family",
        "both families",
        "all",
        "none matches",
        "a node without addresses",
        "the loopback",
        "the loopback of one family",
    ],
)
def test_it_listens_where_node_ports_answer(
    mode: Mode, networks: list[str] | None, node_ips: list[bytes], expected: tuple[str | None, ...]
) -> None:
    config = DataplaneConfig(
        node_port_addresses=None if networks is None else tuple(map(ip_network, networks)), node_ips=tuple(node_ips)
    )
    assert hosts(mode, config, LOCAL) == expected


def test_the_loopback_is_among_the_addresses_to_choose_from() -> None:
    assert ip_address(HOST).packed in local_addresses()


@dataclass
class Bench:
    """Servers that run, what they follow, and what they told."""

    metrics: Metrics = field(default_factory=Metrics)
    cell: Cell[HealthChecks | None] = field(default_factory=lambda: Cell(None))
    warnings: list[ObjectWarning] = field(default_factory=list)
    healthy: bool = True

    def want(self, **ports: tuple[int, int]) -> None:
        """Service name to port and number of endpoints."""
        checks = {ServiceName("shop", name): HealthCheck(*check) for name, check in ports.items()}
        self.cell.set(HealthChecks(Mode.NFTABLES, CONFIG, checks))

    async def servers(self, **states: int) -> None:
        """Until so many servers are listening and failed."""
        while states != {  # noqa: ASYNC110 - a metric wakes nobody
            state: self.metrics.registry.get_sample_value("proxymode_agent_health_check_servers", {"state": state})
            for state in states
        }:
            await asyncio.sleep(0.001)


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    it = Bench()
    servers = HealthCheckServers(
        lambda: it.healthy,
        it.warnings.append,
        it.metrics,
        local=lambda: [ip_address(HOST).packed],
        backoff=Backoff(first=0.001, cap=0.01),
    )
    task = asyncio.create_task(servers.run(it.cell))
    try:
        async with asyncio.timeout(DEADLINE):
            yield it
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled(), task.exception()


async def asked(port: int, path: str = "/") -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{port}{path}") as response:
        assert response.headers["Content-Type"] == "application/json"
        return response.status, await response.text()


async def test_a_service_is_answered_as_long_as_it_asks_for_it() -> None:
    first, second = free_port(), free_port()
    async with bench() as it:
        it.want(web=(first, 1), api=(second, 0))
        await it.servers(listening=2, failed=0)
        assert await asked(first) == (200, answer(WEB, 1, healthy=True).body)
        assert await asked(first, "/any/path?at=all") == (200, answer(WEB, 1, healthy=True).body)
        assert (await asked(second))[0] == 503
        it.healthy = False
        assert await asked(first) == (503, answer(WEB, 1, healthy=False).body)
        it.healthy = True
        it.want(web=(first, 3))
        await it.servers(listening=1)
        assert await asked(first) == (200, answer(WEB, 3, healthy=True).body)
        with pytest.raises(aiohttp.ClientConnectorError):
            await asked(second)
        it.want(web=(second, 3))
        while True:
            try:
                assert (await asked(second))[0] == 200
                break
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.001)
        with pytest.raises(aiohttp.ClientConnectorError):
            await asked(first)
    with pytest.raises(aiohttp.ClientConnectorError):
        await asked(second)


async def test_a_port_that_is_taken_is_told_once_and_had_as_soon_as_it_is_free() -> None:
    async with bench() as it:
        with socket.socket() as other:
            other.bind((HOST, 0))
            other.listen()
            port = other.getsockname()[1]
            it.want(web=(port, 1), api=(free_port(), 1))
            await it.servers(listening=1, failed=1)
            it.want(web=(port, 2), api=(free_port(), 1))
            await it.servers(listening=1, failed=1)
        await it.servers(listening=2, failed=0)
        assert (await asked(port))[0] == 200
    (warning,) = it.warnings
    assert (warning.kind, str(warning.key)) == ("Service", "shop/web")
    assert (warning.reason, warning.action) == ("FailedToStartServiceHealthcheck", "Listen")
    assert warning.note.startswith(f'failed to start healthcheck "shop/web" on port {port}: ')


async def test_addresses_that_cannot_be_read_do_not_stop_the_others() -> None:
    def unreadable() -> list[bytes]:
        raise OSError(1, "not permitted")

    port = free_port()
    cell: Cell[HealthChecks | None] = Cell(
        HealthChecks(Mode.NFTABLES, CONFIG, {WEB: HealthCheck(port, 1)}),
    )
    metrics = Metrics()
    it = Bench(metrics, cell)
    task = asyncio.create_task(
        HealthCheckServers(lambda: True, it.warnings.append, metrics, local=unreadable).run(cell)
    )
    async with asyncio.timeout(DEADLINE):
        await it.servers(listening=1)
        assert (await asked(port))[0] == 200
    task.cancel()
    await asyncio.wait([task])
