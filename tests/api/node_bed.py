"""One node on a real API server: its Node, its NodeProxyMode, its agent's controller, and an engine that obeys at once.

The engine stands in for the kernel: what it is told to run it reports as running, after as long as a test wishes.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from proxymode_agent.cell import Cell
from proxymode_agent.engine.snapshot import EnginePhase, EngineSnapshot
from proxymode_agent.kube import config
from proxymode_agent.kube.client import KubeClient
from proxymode_agent.kube.own_node import OwnNode
from proxymode_agent.metrics import Metrics
from proxymode_agent.node.controller import NodeController
from proxymode_agent.node.writer import DEFAULT_PACE, Pace
from proxymode_agent.preflight.model import Facts
from proxymode_api.modes import Mode, ObservedMode
from proxymode_api.nodeproxymode import NodeProxyMode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from proxymode_agent.services.model import DataplaneConfig
    from proxymode_testbeds.apiserver import ApiServer

ROOT = Path(__file__).parents[2]
OUR_CRDS = ("proxymodes.proxymode.io", "nodeproxymodes.proxymode.io")
RBAC = ROOT / "manifests/base/agent/rbac.yaml"
DEADLINE_SECONDS = 180.0
HEALTHY = Facts(kernel="6.1.0-41-amd64", architecture="x86_64", conntrack_count=0, sysctls={"net.ipv4.ip_forward": 1})
TOO_OLD = replace(HEALTHY, kernel="5.10.0-34-amd64")


class ObedientEngine:
    """Does as it is told, in no time or when `obey` is called; `told` is everything that it was told."""

    def __init__(self, observed: ObservedMode, *, at_once: bool = True) -> None:
        self._at_once = at_once
        self.told: list[tuple[Mode | None, DataplaneConfig]] = []
        self.told_once = asyncio.Event()
        self.cell = Cell(EngineSnapshot(observed=observed))

    def set_desired(self, mode: Mode | None, config: DataplaneConfig, attempt: int = 0) -> None:
        self.told.append((mode, config))
        self.told_once.set()
        if self._at_once:
            self.obey()
        else:
            self.change(phase=EnginePhase.PROGRAMMING, desired=mode)

    def obey(self) -> None:
        """Do what was told last."""
        mode = self.told[-1][0]
        observed = self.cell.value.observed if mode is None else ObservedMode(mode.value)
        nothing = observed in (ObservedMode.NONE, ObservedMode.KUBE_PROXY_IPVS)
        phase = EnginePhase.OBSERVING if nothing else EnginePhase.ACTIVE
        self.change(phase=phase, desired=mode, observed=observed, synced=not nothing, last_sync=datetime.now(UTC))

    def change(self, **changes: Any) -> None:
        self.cell.set(msgspec.structs.replace(self.cell.value, **changes))

    def snapshot(self) -> EngineSnapshot:
        return self.cell.value

    async def changed(self, seen: EngineSnapshot) -> EngineSnapshot:
        return await self.cell.changed(seen)


@dataclass
class NodeBed:
    """One node's objects and controller. `facts` is what preflight finds; `pace` how often it looks; `slow`: by how
    much the node's clock is."""

    api: ApiServer
    state_dir: Path
    observed: ObservedMode = ObservedMode.IPVS
    facts: Facts = HEALTHY
    pace: Pace = DEFAULT_PACE
    slow: timedelta = timedelta()
    name: str = field(default_factory=lambda: f"node-{uuid.uuid4().hex[:10]}")

    def __post_init__(self) -> None:
        self.engine = ObedientEngine(self.observed)
        self.metrics = Metrics()

    async def add_node(self) -> None:
        """The Node object."""
        await self._create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name}})

    async def ask(self, **spec: Any) -> None:
        """Create the NodeProxyMode with this spec."""
        await self._create(
            {
                "apiVersion": "proxymode.io/v1alpha1",
                "kind": "NodeProxyMode",
                "metadata": {"name": self.name},
                "spec": spec,
            }
        )

    async def ask_again(self, **spec: Any) -> None:
        """Change fields of the spec."""
        patch = json.dumps({"spec": spec})
        await self.api.kubectl("patch", "nodeproxymode", self.name, "--type=merge", f"--patch={patch}")

    @property
    def writes(self) -> float:
        """How often the status was written."""
        return (
            self.metrics.registry.get_sample_value("proxymode_agent_status_writes_total", {"result": "success"}) or 0.0
        )

    async def read(self) -> NodeProxyMode:
        return NodeProxyMode.model_validate(
            (await self.api.kubectl("get", "nodeproxymode", self.name, "--output=json", "--show-managed-fields")).json()
        )

    async def until_told(self) -> None:
        """Return as soon as the engine was told anything."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.engine.told_once.wait()

    async def until(self, wanted: Callable[[NodeProxyMode], bool]) -> NodeProxyMode:
        """The NodeProxyMode as soon as it is as wanted."""
        found = None
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while True:
                    found = await self.read()
                    if wanted(found):
                        return found
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"not as wanted within {DEADLINE_SECONDS:.0f} s: {found}") from None

    async def events(self) -> list[dict[str, Any]]:
        """Events about the Node, oldest first."""
        listed = await self.api.kubectl("get", "events.events.k8s.io", "--namespace=default", "--output=json")
        about = [event for event in listed.json()["items"] if event["regarding"]["name"] == self.name]
        return sorted(about, key=lambda event: str(event["eventTime"]))

    async def until_events(self, *reasons: str) -> list[dict[str, Any]]:
        """The Events about the Node as soon as these reasons are among them."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                events = await self.events()
                if set(reasons) <= {event["reason"] for event in events}:
                    return events
                await asyncio.sleep(0.1)

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[None]:
        """The controller at work, with the rights of this node's agent; restarted by entering again."""
        await self.api.kubectl("apply", f"--filename={RBAC}")
        holder = self.api.add_service_account("proxymode-system", "proxymode-agent", node=self.name)
        async with KubeClient(config.load(self.api.kubeconfig(holder))) as client:
            node = OwnNode(client, self.name)
            controller = NodeController(
                self.name,
                client,
                self.engine,
                node.view,
                self.state_dir,
                self.metrics,
                collect=lambda: self.facts,
                clock=lambda: datetime.now(UTC) - self.slow,
                pace=self.pace,
            )
            tasks = [asyncio.create_task(node.run()), asyncio.create_task(controller.run())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
            failed = [result for result in results if not isinstance(result, asyncio.CancelledError)]
            assert not failed, failed

    async def _create(self, body: dict[str, Any]) -> None:
        await self.api.kubectl("create", "--filename=-", stdin=json.dumps(body))


def condition(found: NodeProxyMode, kind: str) -> str:
    """`True Programmed`: status and reason of a condition; empty where there is none."""
    return next((f"{c.status} {c.reason}" for c in found.status.conditions if c.type == kind), "")
