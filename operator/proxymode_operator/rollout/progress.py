"""How far each stage is, and which stages are open.

Solves: a stage opens when every earlier one is complete, has soaked and has passed its gates, and it is approved. What
opens a stage is read from the *stored* status only (completedAt, gatesPassedAt, approved), never from what was computed
a moment ago: whatever made a node move was on record before it moved, so that a restart, or a second replica, comes to
the same conclusion.
Deliberately tells no node; that is `planner`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxymode_api.durations import parse_duration
from proxymode_api.proxymode_status import StagePhase, StageStatus
from proxymode_api.rollout import Approval
from proxymode_operator.rollout.assess import NodeState
from proxymode_operator.rollout.census import Trait
from proxymode_operator.rollout.gates import BEFORE_ALL, after_stage, before_all, hold

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime, timedelta

    from proxymode_api.gates import Gate, GateStatus
    from proxymode_api.proxymode_status import ProxyModeStatus
    from proxymode_api.rollout import Stage
    from proxymode_operator.rollout.census import Census
    from proxymode_operator.rollout.gates import Hold


@dataclass(frozen=True, slots=True)
class StageProgress:
    """One stage now. `is_open`: its nodes may be told. `over`: complete, soaked and past its gates, by the stored
    status. `due`: when its soak ends. `hold`: the gates that it waits for, or that watch its soak.
    """

    status: StageStatus
    members: tuple[str, ...]
    is_open: bool
    over: bool
    due: datetime | None
    hold: Hold | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What a stage may be complete without: blocked nodes (onBlocked Skip), failed ones below failureThreshold.

    A blocked one in flight may still begin, once the block is gone; not so if its agent is given up. A skipped one is
    waited for only until it has been sent back.
    """

    blocked: bool
    failed: bool

    def outstanding(self, census: Census) -> frozenset[str]:
        """The nodes that their stages wait for."""
        begun = census.having(NodeState.PENDING) | census.having(NodeState.SWITCHING)
        failed = frozenset() if self.failed else census.having(NodeState.FAILED)
        blocked = census.having(NodeState.BLOCKED)
        if self.blocked:
            blocked = (blocked & census.having(Trait.IN_FLIGHT)) - census.having(Trait.UNHEARD)
        skipped = census.having(NodeState.SKIPPED) & census.having(Trait.TO_RETURN)
        return frozenset().union(begun, failed, blocked, skipped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gating:
    """The rollout's gates and their answers so far. `quiet`: nothing may begin now anyway, whatever they say."""

    gates: Sequence[Gate] = ()
    statuses: tuple[GateStatus, ...] = ()
    quiet: bool = False

    def at_begin(self, stored: ProxyModeStatus, now: datetime) -> Hold | None:
        """What stands before the first stage; None: nothing does, or no more."""
        begun = stored.gates_checked_at is not None or any(stage.started_at is not None for stage in stored.stages)
        if begun or not self.gates:
            return None
        watches = before_all(self.gates, stored.started_at or now)
        return hold(BEFORE_ALL, watches, self.statuses, now, soaking=False, quiet=self.quiet)

    def after(self, stage: str, completed_at: datetime, soak: timedelta, now: datetime, *, last: bool) -> Hold | None:
        """What stands after a complete stage; None: nothing does."""
        watches = after_stage(self.gates, completed_at, soak, now, last=last)
        if not watches:
            return None
        soaking = now < completed_at + soak
        return hold(stage, watches, self.statuses, now, soaking=soaking, quiet=self.quiet)


def progress(
    stages: Sequence[Stage],
    stored: Mapping[str, StageStatus],
    members: Mapping[str, tuple[str, ...]],
    census: Census,
    outstanding: frozenset[str],
    *,
    may_begin: bool,
    undoes: bool,
    promoted: Collection[str],
    hollow: Collection[str],
    gating: Gating,
    now: datetime,
) -> tuple[StageProgress, ...]:
    """Every stage, in order. `outstanding` names the nodes that are waited for, `promoted` the stages that a person has
    approved just now, `hollow` those that cannot be complete: whose selector no node meets at all, since more likely
    the selector is wrong than the fleet, and the canary of which no node can move.

    A stage whose nodes all belong to earlier ones is complete as soon as it would open, and neither soaks nor has
    gates; gates stand after a stage only until another has begun. While no agent at all is heard of, no stage is
    complete: agents that are installed after the operator must not find that the canary is over. In an undo
    (`undoes`) a stage soaks only where nodes of it had to go back.
    """
    result: list[StageProgress] = []
    reached = bool(census.states) and may_begin
    heard = len(census.having(Trait.UNHEARD)) < len(census.states)
    for index, stage in enumerate(stages):
        before = _not_of_the_future(stored.get(stage.name), now) or StageStatus(
            name=stage.name, phase=StagePhase.PENDING
        )
        nodes = members[stage.name]
        automatic = stage.approval is Approval.AUTOMATIC
        is_open = reached and (automatic or before.approved)
        approved = before.approved or stage.name in promoted or (automatic and reached)
        finished = outstanding.isdisjoint(nodes) and (heard or not nodes)
        done = is_open and finished and stage.name not in hollow
        completed_at = before.completed_at or (now if done else None)
        watched = bool(nodes) if not undoes else not census.told.keys().isdisjoint(nodes)
        soak = parse_duration(stage.soak) if watched else _NONE
        soaked_at = before.completed_at and before.completed_at + soak
        followed = any(later.name in stored and stored[later.name].started_at for later in stages[index + 1 :])
        holds: Hold | None = None
        if reached and nodes and before.completed_at and not before.gates_passed_at and not followed:
            last = index == len(stages) - 1
            holds = gating.after(stage.name, before.completed_at, soak, now, last=last)
        soaked = soaked_at is not None and now >= soaked_at
        gates_passed_at = before.gates_passed_at or (now if holds is not None and soaked and holds.passed else None)
        over = soaked and holds is None
        if completed_at is not None:
            phase = _phase_after(soaked=soaked or not soak, held=soaked and holds is not None)
        else:
            phase = _phase_before(is_open=is_open, waits=reached and not approved)
        status = StageStatus(
            name=stage.name,
            phase=phase,
            nodes=len(nodes),
            updated=len(census.among(nodes, NodeState.UPDATED)),
            blocked=len(census.among(nodes, NodeState.BLOCKED)),
            skipped=len(census.among(nodes, NodeState.SKIPPED)),
            approved=approved,
            started_at=before.started_at or completed_at,
            completed_at=completed_at,
            gates_passed_at=gates_passed_at,
        )
        result.append(StageProgress(status, nodes, is_open, over, None if over else soaked_at, holds))
        reached = reached and over
    return tuple(result)


def _phase_before(*, is_open: bool, waits: bool) -> StagePhase:
    """Of a stage that is not complete. `waits`: for an approval."""
    if is_open:
        return StagePhase.PROGRESSING
    return StagePhase.AWAITING_APPROVAL if waits else StagePhase.PENDING


def _phase_after(*, soaked: bool, held: bool) -> StagePhase:
    """Of a stage that is complete. `held`: by gates, once it has soaked."""
    if held:
        return StagePhase.AWAITING_GATES
    return StagePhase.COMPLETE if soaked else StagePhase.SOAKING


_NONE = parse_duration("0")


def _not_of_the_future(stored: StageStatus | None, now: datetime) -> StageStatus | None:
    """Where somebody has set the clock back, a completed stage soaks anew rather than for as long as the clock lost."""
    if stored is None or stored.completed_at is None or stored.completed_at <= now:
        return stored
    return stored.model_copy(update={"completed_at": now})


def started(stages: Sequence[StageProgress], told: Mapping[str, datetime]) -> list[StageStatus]:
    """The stages' statuses, with startedAt where a node of an open stage has been told."""
    result: list[StageStatus] = []
    for stage in stages:
        times = [told[node] for node in stage.members if stage.is_open and node in told]
        known = stage.status.started_at
        first = min([*times, *([known] if known else [])], default=None)
        result.append(stage.status if first == known else stage.status.model_copy(update={"started_at": first}))
    return result
