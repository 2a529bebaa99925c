"""The view model: ProxyModes, NodeProxyModes and Nodes joined into what a person asks about. Pure.

One model for every rendering: tables, the live tree, JSON. It says where each node stands by what operator and agent
have written, and decides nothing: who belongs to which stage, and whose turn it is, is the operator's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from proxymode_api.common import Condition
    from proxymode_api.deprecation import KubeProxyMode
    from proxymode_api.gates import GateStatus
    from proxymode_api.modes import Mode, ObservedMode
    from proxymode_api.nodeproxymode import LastSwitch, Phase, PreflightResult
    from proxymode_api.proxymode_status import FleetStatus, NodeCounts, RolloutPlan, RolloutRecord, StageStatus


class NodeState(StrEnum):
    """Where a node stands on its way to the mode it is to run."""

    UPDATED = "Updated"
    SWITCHING = "Switching"
    FAILED = "Failed"
    BLOCKED = "Blocked"
    WAITING = "Waiting"
    """Its turn has not come."""
    SETTLED = "Settled"
    """No ProxyMode wants anything of it."""
    SILENT = "Silent"
    """Its agent has not written for three minutes."""
    SKIPPED = "Skipped"
    """A person has taken it out of rollouts."""
    NO_AGENT = "NoAgent"
    """No agent has reported."""


@dataclass(frozen=True, slots=True)
class MachineView:
    """What is read of a Node."""

    name: str
    zone: str = ""
    kernel: str = ""
    kubelet: str = ""
    ready: bool = True
    cordoned: bool = False


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node. `target` is where it is to go, None: nowhere. `ready` None: its agent does not say.

    `skip`: why a person has taken it out of rollouts, None: nobody has.
    `blockers` and `warnings` are about `target`. `stage`: to which it belongs, whether or not its turn has come.
    `heartbeat`: when its agent wrote last.
    """

    name: str
    machine: MachineView
    state: NodeState
    mode: ObservedMode | None
    desired: Mode | None
    target: Mode | None
    phase: Phase | None
    ready: bool | None
    proxy_mode: str = ""
    revision: int = 0
    stage: str = ""
    deprecated: str = ""
    agent: str = ""
    heartbeat: datetime | None = None
    services: int = 0
    endpoints: int = 0
    blockers: tuple[PreflightResult, ...] = ()
    warnings: tuple[PreflightResult, ...] = ()
    preflight: tuple[PreflightResult, ...] = ()
    checked_at: datetime | None = None
    last_switch: LastSwitch | None = None
    conditions: tuple[Condition, ...] = ()
    skip: str | None = None

    @property
    def changes(self) -> bool:
        """Whether the node is to run another mode than it does."""
        return self.target is not None and (self.mode is None or self.mode.value != self.target.value)

    def condition(self, kind: str) -> Condition | None:
        return next((condition for condition in self.conditions if condition.type == kind), None)


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage: how far it reaches in words, what the spec says about it, how far it is."""

    reach: str
    soak: str
    manual: bool
    report: StageStatus

    @property
    def name(self) -> str:
        return self.report.name


@dataclass(frozen=True, slots=True)
class RolloutView:
    """One ProxyMode. `stale`: the operator has not yet seen the latest spec.

    `why` and `trouble`: the operator's words on where it stands and on what is wrong.
    """

    name: str
    mode: Mode
    status: FleetStatus
    revision: int
    paused: bool
    stale: bool
    current_stage: str
    stages: tuple[StageView, ...]
    counts: NodeCounts
    nodes: tuple[NodeView, ...]
    why: str = ""
    trouble: str = ""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    from_mode: Mode | None = None
    changed_by: str = ""
    change_cause: str = ""
    gates: tuple[GateStatus, ...] = ()
    history: tuple[RolloutRecord, ...] = ()
    plan: RolloutPlan | None = None

    def told(self, node: NodeView) -> bool:
        """Whether this revision has told the node to move; `node.stage` is then the stage in which it did."""
        return self.revision > 0 and node.revision == self.revision

    @property
    def kept(self) -> int:
        """Connections that this revision's switches kept."""
        return sum(switch.connections_kept or 0 for switch in self.switches())

    @property
    def lost(self) -> int:
        """Connections that this revision's switches cut."""
        return sum(switch.connections_lost or 0 for switch in self.switches())

    def switches(self) -> Iterator[LastSwitch]:
        """Of the nodes, each its last, as far as it belongs to this revision."""
        return (switch for node in self.nodes if (switch := self.switch_of(node)) is not None)

    def switch_of(self, node: NodeView) -> LastSwitch | None:
        """The node's last switch, where this revision made it."""
        switch = node.last_switch
        if switch is None or self.started_at is None or switch.started_at < self.started_at:
            return None
        return switch


@dataclass(frozen=True, slots=True)
class FleetView:
    """Everything, at `at`. `nodes` are all Linux nodes, by name.

    `installed`: the cluster knows our kinds. `configured`: what kube-proxy's ConfigMap asks for, where it was looked at
    because no agent reports on some nodes.
    """

    at: datetime
    cluster_version: str
    rollouts: tuple[RolloutView, ...]
    nodes: tuple[NodeView, ...]
    modes: Mapping[str, int] = field(default_factory=dict)
    deprecation: str = ""
    installed: bool = True
    configured: KubeProxyMode | None = None

    def node(self, name: str) -> NodeView | None:
        return next((node for node in self.nodes if node.name == name), None)

    def rollout(self, name: str) -> RolloutView | None:
        return next((rollout for rollout in self.rollouts if rollout.name == name), None)
