"""What the engine hears besides Services: the node's zone, the cluster's Service networks; and what it passes on."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import TYPE_CHECKING

import msgspec

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.engine import Engine, EnginePhase
from proxymode_agent.kube.listwatch import Changed, Synced
from proxymode_agent.kube.objects import EndpointHints, EndpointSlice, Hint, Service, SliceEndpoint
from proxymode_agent.metrics import Metrics
from proxymode_agent.services.model import DataplaneConfig, HealthCheck, HealthChecks, ServiceName
from proxymode_api.modes import Mode
from test_engine import DEADLINE, QUICK, FakeKernel, bench, eventually, pods, programmed, web

if TYPE_CHECKING:
    from proxymode_agent.services.tracker import Problem

CIDRS = (ip_network("10.96.0.0/16"),)


def spread(**zones: str) -> Changed[EndpointSlice]:
    """An EndpointSlice with one endpoint a zone, hinted for it."""
    endpoints = [
        SliceEndpoint(addresses=[address], hints=EndpointHints(for_zones=[Hint(zone)]))
        for zone, address in zones.items()
    ]
    one = pods()
    return Changed(one.key, msgspec.structs.replace(one.object, endpoints=endpoints))


def behind_a_load_balancer() -> Changed[Service]:
    one = web()
    spec = msgspec.structs.replace(
        one.object.spec, type="LoadBalancer", external_traffic_policy="Local", health_check_node_port=32000
    )
    return Changed(one.key, msgspec.structs.replace(one.object, spec=spec))


async def test_service_networks_reach_the_dataplane_whenever_they_become_known() -> None:
    async with bench() as it:
        it.engine.set_service_cidrs(CIDRS)
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig(masquerade_all=True))
        it.list_cluster()
        await it.active(Mode.NFTABLES)
        assert it.kernel.configs == [DataplaneConfig(masquerade_all=True, service_cidrs=CIDRS)]
        it.engine.set_service_cidrs(CIDRS)
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig(masquerade_all=True))
        assert it.engine.snapshot().synced, "nothing new was said"
        it.engine.set_service_cidrs(())
        await it.active(Mode.NFTABLES)
        assert it.kernel.configs[1:] == [DataplaneConfig(masquerade_all=True)]


async def test_a_change_of_zone_moves_services_that_are_spread_by_zone() -> None:
    async with bench() as it:
        it.engine.set_zone("a")
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        it.engine.on_slice(spread(a="10.1.0.1", b="10.1.0.2"))
        await it.active(Mode.NFTABLES)
        assert programmed(it.kernel, Mode.NFTABLES) == {"ns/web": ["10.1.0.1:8080"]}
        it.engine.set_zone("b")
        await eventually(lambda: programmed(it.kernel, Mode.NFTABLES) == {"ns/web": ["10.1.0.2:8080"]})


async def test_load_balancers_hear_of_what_is_programmed_only() -> None:
    kernel = FakeKernel()
    async with bench(kernel) as it:
        kernel.faults = [DataplaneError("no")]
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        it.engine.on_service(behind_a_load_balancer())
        await it.until(lambda seen: seen.phase is EnginePhase.FAILED)
        heard = it.engine.health_checks
        before = heard.value
        assert before is None, "nothing is programmed"
        await it.active(Mode.NFTABLES)
        check = {ServiceName("ns", "web"): HealthCheck(32000, 0)}
        assert heard.value == HealthChecks(Mode.NFTABLES, DataplaneConfig(), check)
        it.engine.on_service(web())  # nothing that the kernel is to do differs
        await eventually(lambda: heard.value == HealthChecks(Mode.NFTABLES, DataplaneConfig(), {}))


async def test_what_cannot_be_used_is_passed_on() -> None:
    problems: list[Problem] = []
    engine = Engine(FakeKernel().switcher, Metrics(), on_problem=problems.append, pace=QUICK)
    engine.set_desired(Mode.NFTABLES, DataplaneConfig())
    engine.on_service(web())
    engine.on_service(Synced("1"))
    engine.on_slice(pods("127.0.0.1"))
    engine.on_slice(Synced("1"))
    task = asyncio.create_task(engine.run())
    async with asyncio.timeout(DEADLINE):
        await eventually(lambda: problems)
    task.cancel()
    await asyncio.wait([task])
    assert [(problem.kind, str(problem.key)) for problem in problems] == [("EndpointSlice", "ns/web-1")]
