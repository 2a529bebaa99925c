"""What the planner found about a fleet at one moment, its counts, and the rollout in one word.

Solves: one value between those who find (stages, states, stops, gates) and those who tell nodes, put it into words or
plan ahead: all say the same. Deliberately decides nothing and words no condition; that is `status`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxymode_api.proxymode_status import FleetStatus, NodeCounts, RolloutOrder, RolloutOutcome, StagePhase
from proxymode_operator.rollout.assess import NodeState
from proxymode_operator.rollout.census import Trait
from proxymode_operator.rollout.gates import BEFORE_ALL
from proxymode_operator.rollout.stops import hollow_stages

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from proxymode_api.gates import GateStatus
    from proxymode_operator.rollout.assess import Assessment
    from proxymode_operator.rollout.census import Census
    from proxymode_operator.rollout.gates import Hold
    from proxymode_operator.rollout.model import Fleet
    from proxymode_operator.rollout.progress import StageProgress
    from proxymode_operator.rollout.stops import Rollback, Stop
    from proxymode_operator.rollout.windows import Hours

_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the planner found. `refusal`: why the spec cannot be followed. `ended`: how this revision ended early.

    `rollback`: whom it brings back. `hours`: of its windows, None: it has none. `outstanding`: nodes that are neither
    updated nor given up. `hold`: the gates that stand in the way or watch a soak; `answers`: what they answered last.
    """

    fleet: Fleet
    census: Census
    stages: Sequence[StageProgress]
    budget: int
    completed: bool
    refusal: str = ""
    ended: RolloutOutcome | None = None
    rollback: Rollback | None = None
    stop: Stop | None = None
    hours: Hours | None = None
    outstanding: frozenset[str] = frozenset()
    hold: Hold | None = None
    answers: tuple[GateStatus, ...] = ()

    @property
    def states(self) -> Mapping[str, Assessment]:
        """Of each node, by name."""
        return self.census.states

    def names(self, state: NodeState) -> tuple[str, ...]:
        """Nodes in this state, sorted."""
        return tuple(sorted(self.census.having(state)))

    @property
    def paused(self) -> bool:
        return self.fleet.proxy_mode.spec.rollout.paused

    @property
    def closed(self) -> bool:
        """Whether it waits for a window."""
        return self.hours is not None and not self.hours.open

    @property
    def overlapped(self) -> tuple[str, ...]:
        """Stages without a node of their own, though there are nodes that they are about."""
        if not self.fleet.nodes or self.fleet.proxy_mode.status.order is not RolloutOrder.FORWARD:
            return ()
        hollow = hollow_stages(self.fleet, self.census)
        return tuple(s.status.name for s in self.stages if not s.members and s.status.name not in hollow)

    @property
    def ailing(self) -> tuple[str, ...]:
        """Nodes that are unavailable, but not because anybody has told them to move, nor because their agent is still
        to report for the first time; sorted."""
        nodes = {name: self.census.nodes[name] for name in self.census.having(Trait.AILING)}
        return tuple(sorted(name for name, node in nodes.items() if node.report is not None or not node.ready))

    @property
    def current(self) -> StageProgress | None:
        """The first stage that is not over; None: all are."""
        return next((stage for stage in self.stages if not stage.over), None)


def listed(names: Iterable[str]) -> str:
    """`a, b, c, d, e and 7 more`."""
    everything = sorted(names)
    shown = ", ".join(everything[:_NAMED])
    return shown if len(everything) <= _NAMED else f"{shown} and {len(everything) - _NAMED} more"


def counts(census: Census) -> NodeCounts:
    """Nodes by state."""

    def count(what: NodeState | Trait) -> int:
        return len(census.having(what))

    desired, updated = len(census.nodes), count(NodeState.UPDATED)
    return NodeCounts(
        desired=desired,
        updated=updated,
        ready=count(Trait.READY),
        pending=count(NodeState.PENDING),
        switching=count(NodeState.SWITCHING),
        failed=count(NodeState.FAILED),
        blocked=count(NodeState.BLOCKED),
        skipped=count(NodeState.SKIPPED),
        ipvs=count(Trait.RUNS_IPVS),
        nftables=count(Trait.RUNS_NFTABLES),
        progress=f"{updated}/{desired}",
    )


def word(s: Situation) -> FleetStatus:
    """The STATUS column. What keeps the rollout from going on comes before how far it is."""
    if s.refusal:
        return FleetStatus.REFUSED
    if s.rollback is not None and s.rollback.under_way:
        return FleetStatus.ROLLING_BACK
    if s.ended is RolloutOutcome.ABORTED:
        return FleetStatus.ABORTED
    if s.ended is not None:
        return FleetStatus.STOPPED
    if not s.fleet.nodes:
        return FleetStatus.PENDING
    if s.completed and not s.outstanding:
        return FleetStatus.COMPLETE
    if s.paused:
        return FleetStatus.PAUSED
    if s.stop is not None:
        return FleetStatus.STOPPED
    if s.hold is not None and s.hold.stage == BEFORE_ALL:
        return FleetStatus.WAITING_FOR_WINDOW if s.closed else FleetStatus.AWAITING_GATES
    by_phase = {
        StagePhase.AWAITING_APPROVAL: FleetStatus.AWAITING_APPROVAL,
        StagePhase.SOAKING: FleetStatus.SOAKING,
    }
    if s.current and s.current.status.phase in by_phase:
        return by_phase[s.current.status.phase]
    if s.closed:
        return FleetStatus.WAITING_FOR_WINDOW
    gated = s.current and s.current.status.phase is StagePhase.AWAITING_GATES
    return FleetStatus.AWAITING_GATES if gated else FleetStatus.PROGRESSING
