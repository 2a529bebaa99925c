"""A real Prometheus scrapes the real agent and operator: every query of the dashboard has an answer, alerts fire.

What needs ip_vs in the kernel comes from a third process of the fleet, `other`: a real engine over a kernel that is an
object, which switches from ipvs to nftables and loses three of ten connections.
"""

from __future__ import annotations

import asyncio
import json
import math
import urllib.request
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import yaml
from operator_bed import api, operator
from proxymode_agent.dataplane.base import Finding, Look, SyncResult
from proxymode_agent.engine import Engine
from proxymode_agent.health import metrics_routes, serve
from proxymode_agent.kube.listwatch import Synced
from proxymode_agent.metrics import Metrics
from proxymode_agent.node.conditions import running_deprecation
from proxymode_agent.services.model import DataplaneConfig
from proxymode_agent.switch.record import Connections, Outcome, StepRecord, SwitchRecord
from proxymode_api.deprecation import Minor
from proxymode_api.modes import Mode, ObservedMode
from proxymode_docs import alerts
from proxymode_docs.panels import ROWS
from proxymode_flags import BindAddress
from proxymode_testbeds.agentbed import agent, apply, kubeconfig, node, relay, set_up_cluster, slices
from proxymode_testbeds.fixtures import node_fleet, traffic
from proxymode_testbeds.polling import eventually
from proxymode_testbeds.ports import free_port
from proxymode_testbeds.prometheus import Prometheus, prometheus, promtool
from proxymode_testbeds.relay import Relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from proxymode_agent.dataplane.base import Dataplane
    from proxymode_agent.services.model import ServicePortName, ServiceState
    from proxymode_testbeds.agentbed import Agent
    from proxymode_testbeds.apiserver import ApiServer
    from proxymode_testbeds.fixtures import Traffic
    from proxymode_testbeds.topology import Topology

__all__ = ["agent", "api", "kubeconfig", "node", "node_fleet", "relay", "traffic"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
QUERIES = {query.expr: panel.title for row in ROWS for panel in row.panels for query in panel.queries}

AT_LEAST = {
    'kubeproxy_sync_proxy_rules_service_changes_total{node="node1"}': 1,
    'kubeproxy_sync_proxy_rules_endpoint_changes_total{node="node1"}': 4,  # two slices, each made and changed
    'kubeproxy_network_programming_duration_seconds_count{node="node1"}': 1,
    'kubeproxy_sync_full_proxy_rules_duration_seconds_count{node="node1"}': 2,  # the first, and the repair
    'kubeproxy_sync_proxy_rules_last_timestamp_seconds{node="node1"} '
    '- kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{node="node1"}': 0,
    'sum(rest_client_requests_total{node="node1", code="200"})': 5,
    'sum(rest_client_request_duration_seconds_count{node="node1", verb="GET"})': 5,
    'proxymode_agent_drift_repairs_total{node="node1"}': 1,
    'proxymode_agent_mode{node="node1", mode="nftables"}': 1,
    'proxymode_agent_switch_connections_total{node="other", outcome="kept"}': 7,
    'proxymode_agent_switch_connections_total{node="other", outcome="lost"}': 3,
    'proxymode_operator_nodes{proxymode="fleet", state="updated"}': 1,
    'proxymode_operator_rollout_status{proxymode="fleet", status="Complete"}': 1,
}
"""What must have been counted after `something_happens`: a query over zeros has an answer too."""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The alerts as a rule file of Prometheus' own."""
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": alerts.groups(ROOT / alerts.FILE)}))
    return file


def test_promtool_has_no_objection_to_the_alerts(rules: Path) -> None:
    checked = promtool("check", "rules", "--lint-fatal", rules)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(alerts.read(ROOT / alerts.FILE))} rules found" in checked.stdout


def test_every_alert_fires_when_it_should_and_not_otherwise(rules: Path) -> None:
    (cases := rules.with_name("alerts.yaml")).write_text((HERE / "alerts.yaml").read_text())
    tested = promtool("test", "rules", cases)
    assert tested.returncode == 0, tested.stdout + tested.stderr


async def test_the_component_goes_with_the_base_in_an_overlay(api: ApiServer, tmp_path: Path) -> None:
    up = Path("../" * len(tmp_path.parts)) / str(ROOT / "manifests").lstrip("/")
    (tmp_path / "kustomization.yaml").write_text(f"resources: [{up / 'base'}]\ncomponents: [{up / 'monitoring'}]\n")
    rendered = list(yaml.safe_load_all((await api.kubectl("kustomize", str(tmp_path))).stdout))
    named = {(found["kind"], found["metadata"]["name"]): found for found in rendered}
    assert {name for kind, name in named if kind == "PodMonitor"} == {"proxymode-agent", "proxymode-operator"}
    assert ("PrometheusRule", "proxymode") in named
    board = named["ConfigMap", "proxymode-dashboard"]
    assert board["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(board["data"]["proxymode.json"])["title"] == "proxymode"
    taken = await api.kubectl("apply", "--dry-run=server", "--filename=-", stdin=json.dumps(board))
    assert taken.stdout == "configmap/proxymode-dashboard created (server dry run)\n"


@dataclass
class KernelInAnObject:
    """Both modes' kernel of `other`, and the switch between them."""

    observed: ObservedMode = ObservedMode.IPVS

    def close(self) -> None: ...

    def observe(self) -> ObservedMode:
        return self.observed

    def unfinished(self) -> Mode | None:
        return None

    def dataplane(self, mode: Mode) -> Dataplane:
        return NothingToProgram(mode)

    def hand_back(self, state: ServiceState) -> str:
        raise NotImplementedError

    def switch(self, to: Mode, state: ServiceState, on_step: Callable[[StepRecord], None]) -> SwitchRecord:
        now = datetime.now(UTC)
        record = SwitchRecord(self.observed, to, now, now, Outcome.SUCCEEDED, "", (), Connections(found=10, kept=7))
        self.observed = ObservedMode(to.value)
        return record


@dataclass
class NothingToProgram:
    mode: Mode

    def present(self) -> bool:
        return True

    def sync(self, state: ServiceState, changed: frozenset[ServicePortName] | None = None) -> SyncResult:
        return SyncResult(0, 0, 0)

    def look(self) -> Look:
        return Look(Finding.UNTOUCHED)

    def remove(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class Other:
    """A node in ipvs mode on a cluster of 1.39, of which only the engine is real."""

    port: int
    metrics: Metrics = field(default_factory=Metrics)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Engine]:
        kernel = KernelInAnObject()
        engine = Engine(lambda config: kernel, self.metrics)
        engine.set_desired(Mode.IPVS, DataplaneConfig())
        engine.on_service(Synced("1"))
        engine.on_slice(Synced("1"))
        self.metrics.deprecated(running_deprecation(kernel.observed, Minor(1, 39)))
        answering = serve(
            "metrics", BindAddress("127.0.0.1", self.port), metrics_routes(self.metrics, lambda: ObservedMode.NONE)
        )
        tasks = {asyncio.create_task(answering), asyncio.create_task(engine.run())}
        try:
            yield engine
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def test_every_query_of_the_dashboard_is_answered_by_the_real_processes(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic, rules: Path, tmp_path: Path
) -> None:
    await set_up_cluster(api, node, traffic, "node1-pod1")
    ready = {"type": "Ready", "status": "True", "reason": "Kubelet", "message": ""}
    patch = json.dumps({"status": {"conditions": [ready]}})
    await api.kubectl("patch", "node", "node1", "--subresource=status", "--patch", patch)
    async with AsyncExitStack() as stack:
        operators, others = free_port(), free_port()
        await stack.enter_async_context(operator(api, tmp_path / "operator.log", metrics_port=operators))
        engine = await stack.enter_async_context(Other(others).running())
        namespace = node.netns("node1")
        server = stack.enter_context(
            prometheus(
                namespace,
                tmp_path / "prometheus",
                {
                    "proxymode-system/proxymode-agent": ("127.0.0.1:10249", {"node": "node1"}),
                    "proxymode-system/proxymode-operator": (f"127.0.0.1:{_relayed(stack, namespace, operators)}", {}),
                    "other/proxymode-agent": (f"127.0.0.1:{_relayed(stack, namespace, others)}", {"node": "other"}),
                },
                rules,
            )
        )
        await asyncio.to_thread(agent.start, mode=None)
        await until_scraped(server, "proxymode_agent_build_info", "proxymode_operator_leader", count=3)
        await something_happens(api, node, agent, engine)

        for expr, title in QUERIES.items():
            await until_answered(server, expr.replace("$__rate_interval", "1h"), title)
        for expr, least in AT_LEAST.items():
            await until_answered(server, f"{expr} >= {least}", "none, it is about what was counted")
        await eventually_firing(server, "ProxymodeConnectionsLost")
        states = await asyncio.to_thread(server.rules)
        assert {name for name, state in states.items() if state == "firing"} == {"ProxymodeConnectionsLost"}

        _, of_agent = await asyncio.to_thread(agent.get, "/metrics", 10249)
        for text in (of_agent, await asyncio.to_thread(_fetch, f"http://127.0.0.1:{operators}/metrics")):
            checked = promtool("check", "metrics", stdin=text.encode())
            assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


async def something_happens(api: ApiServer, node: Topology, agent: Agent, engine: Engine) -> None:
    """A rollout to node1; there, endpoints that change and somebody who deletes a table; a switch on `other`."""
    fleet = {"apiVersion": "proxymode.io/v1alpha1", "kind": "ProxyMode", "metadata": {"name": "fleet"}}
    await apply(api, fleet | {"spec": {"mode": "nftables", "detectLocal": {"clusterCIDRs": ["10.244.0.0/16"]}}})
    await api.kubectl("wait", "proxymode/fleet", "--for=jsonpath={.status.status}=Complete", "--timeout=180s")
    changed = slices(node, "node1-pod1", "node1-pod2")
    for found in changed:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        found["metadata"]["annotations"] = {"endpoints.kubernetes.io/last-change-trigger-time": now}
    await apply(api, *changed)

    async def programmed() -> bool:
        return await asyncio.to_thread(agent.metric, "endpoints") == 8

    await eventually(programmed, "both endpoints of each Service port")
    await asyncio.to_thread(node.run, "node1", ["nft", "delete", "table", "ip", "proxymode"])
    engine.set_desired(Mode.NFTABLES, DataplaneConfig())

    async def repaired() -> bool:
        return await asyncio.to_thread(agent.metric, "drift_repairs_total") > 0

    await eventually(repaired, "the table is put back")


async def until_scraped(server: Prometheus, *names: str, count: int) -> None:
    async def scraped() -> bool:
        found = await asyncio.to_thread(server.ask, f'{{__name__=~"{"|".join(names)}"}}')
        return len(found) == count

    await eventually(scraped, f"{count} series of {names}")


async def until_answered(server: Prometheus, expr: str, title: str) -> None:
    """Rates need a second scrape after the first change."""
    last: list[dict[str, Any]] = []

    async def answered() -> bool:
        last[:] = await asyncio.to_thread(server.ask, expr)
        return any(not math.isnan(float(sample["value"][1])) for sample in last)

    try:
        await eventually(answered, title)
    except TimeoutError:
        pytest.fail(f"panel {title!r} stays empty: {expr} is {last}")


async def eventually_firing(server: Prometheus, name: str) -> None:
    async def firing() -> bool:
        return (await asyncio.to_thread(server.rules))[name] == "firing"

    await eventually(firing, f"{name} fires")


def _relayed(stack: AsyncExitStack, namespace: str, port: int) -> int:
    """The port inside that leads to this one outside."""
    return stack.enter_context(Relay(namespace, ("127.0.0.1", port))).port


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as response:
        text: str = response.read().decode()
        return text
