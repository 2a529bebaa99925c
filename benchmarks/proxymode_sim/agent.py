"""One simulated agent: what it would say. Pure; the words are the real agent's.

Its kernel is a field, a switch is a wait. Preflight checks, conditions and status are made by the agent's own
functions from made-up facts, so that what is written is as large and as frequent as in a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxymode_agent.engine.snapshot import EnginePhase, EngineSnapshot
from proxymode_agent.node.assess import assess
from proxymode_agent.node.conditions import Observation
from proxymode_agent.node.status import build
from proxymode_agent.preflight.model import Facts, ModuleState
from proxymode_agent.switch.record import Connections, Outcome, StepRecord, SwitchRecord
from proxymode_api.deprecation import parse_minor
from proxymode_api.modes import ObservedMode
from proxymode_api.nodeproxymode import NodeProxyModeSpec, NodeProxyModeStatus

if TYPE_CHECKING:
    from datetime import datetime

    from proxymode_api.common import Mode

CLUSTER: Final = "v1.36.2"
_MODULES: Final = ("nf_tables", "nft_numgen", "nf_conntrack", "nf_conntrack_netlink", "ip_vs", "ip_vs_rr", "dummy")
_STEPS: Final = ("load-target", "bridge", "move-connections", "remove-source", "release-addresses", "verify")
SERVICES: Final = 2000
ENDPOINTS: Final = 6000


def facts(*, able: bool) -> Facts:
    """Of a node with Debian's kernel, or of one whose kernel is too old for nftables mode."""
    return Facts(
        kernel="6.1.0-41-amd64" if able else "5.10.0-36-amd64",
        architecture="x86_64",
        modules=dict.fromkeys(_MODULES, ModuleState.LOADED),
        sysctls={"net.ipv4.ip_forward": 1, "net.netfilter.nf_conntrack_max": 262144, "net.ipv4.vs.conntrack": 1},
        conntrack_count=20_000,
    )


@dataclass(slots=True)
class Agent:
    """`written`: the status that the API server has. `failures`: so many switches still fail."""

    name: str
    facts: Facts
    failures: int = 0
    kernel: ObservedMode = ObservedMode.KUBE_PROXY_IPVS
    spec: NodeProxyModeSpec = field(default_factory=NodeProxyModeSpec)
    generation: int = 0
    phase: EnginePhase = EnginePhase.OBSERVING
    error: str = ""
    last_switch: SwitchRecord | None = None
    written: NodeProxyModeStatus = field(default_factory=NodeProxyModeStatus)

    def told(self, spec: NodeProxyModeSpec, generation: int) -> None:
        """A new spec was seen."""
        self.spec, self.generation = spec, generation

    def must_switch(self, now: datetime) -> bool:
        """Whether it was asked for a mode that it does not run and can."""
        mode = self.spec.mode
        if mode is None or mode.value == self.kernel.value:
            return False
        return not assess(self.spec, self.generation, None, self.facts, now).blocking

    def begins(self) -> None:
        self.phase, self.error = EnginePhase.SWITCHING, ""

    def ends(self, mode: Mode, began: datetime, now: datetime) -> None:
        """The switch that began then succeeds, or fails while there are `failures` left."""
        failed = self.failures > 0
        self.failures -= failed
        outcome = Outcome.ROLLED_BACK if failed else Outcome.SUCCEEDED
        self.error = "step bridge: No buffer space available (simulated)" if failed else ""
        self.last_switch = SwitchRecord(
            from_mode=self.kernel,
            to_mode=mode,
            started_at=began,
            completed_at=now,
            outcome=outcome,
            message=self.error,
            steps=tuple(StepRecord(name, began, 120) for name in _STEPS),
            connections=None if failed else Connections(found=1800, kept=1800),
        )
        if not failed:
            self.kernel = ObservedMode(mode.value)
        self.phase = EnginePhase.FAILED if failed else EnginePhase.ACTIVE

    def settles(self) -> None:
        """Nothing to switch: it programs Services in the mode asked for, or waits to be asked."""
        ours = self.spec.mode is not None and self.spec.mode.value == self.kernel.value
        self.phase, self.error = (EnginePhase.ACTIVE if ours else EnginePhase.OBSERVING), ""

    def status(self, now: datetime) -> NodeProxyModeStatus:
        """What it would write now."""
        assessed = assess(self.spec, self.generation, None, self.facts, now)
        active = self.phase is EnginePhase.ACTIVE
        engine = EngineSnapshot(
            phase=self.phase,
            desired=self.spec.mode,
            observed=self.kernel,
            synced=active,
            services=SERVICES if active else 0,
            endpoints=ENDPOINTS if active else 0,
            last_sync=now if active else None,
            error=self.error,
            last_switch=self.last_switch,
        )
        seen = Observation(
            generation=self.generation,
            spec=self.spec,
            engine=engine,
            facts=self.facts,
            preflight=assessed.preflight,
            refused=assessed.refused(self.kernel),
            options_error=assessed.options_error,
            cluster=parse_minor(CLUSTER),
            cluster_version=CLUSTER,
            agent_version="0.1.0",
        )
        return build(seen, self.written, now)
