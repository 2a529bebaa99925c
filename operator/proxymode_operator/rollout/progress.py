"""How far each stage is, and which stages are open.

Solves: a stage opens when every earlier one is complete and has soaked, and it is approved. What opens a stage is read
from the *stored* status only (completedAt, approved), never from what was computed a moment ago: whatever made a node
move was on record before it moved, so that a restart, or a second replica, comes to the same conclusion.
Deliberately tells no node; that is `planner`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxymode_api.common import parse_duration
from proxymode_api.proxymode_status import StagePhase, StageStatus
from proxymode_api.rollout import Approval
from proxymode_operator.rollout.assess import NodeState

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from proxymode_api.rollout import Stage
    from proxymode_operator.rollout.assess import Assessment


@dataclass(frozen=True, slots=True)
class StageProgress:
    """One stage now. `is_open`: its nodes may be told. `over`: complete and soaked, by the stored status.

    `due`: when its soak ends.
    """

    status: StageStatus
    members: tuple[str, ...]
    is_open: bool
    over: bool
    due: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What a stage may be complete without: blocked nodes (onBlocked Skip), failed ones below failureThreshold.

    A blocked one in flight may still begin, once the block is gone; not so if its agent is given up. A skipped one is
    waited for only until it has been sent back.
    """

    blocked: bool
    failed: bool

    def finished(self, node: Assessment) -> bool:
        """Whether the stage waits for this node no longer."""
        match node.state:
            case NodeState.UPDATED:
                return True
            case NodeState.FAILED:
                return self.failed
            case NodeState.BLOCKED:
                return self.blocked and (not node.in_flight or node.unheard)
            case NodeState.SKIPPED:
                return not node.to_return
            case _:
                return False


def progress(
    stages: Sequence[Stage],
    stored: Mapping[str, StageStatus],
    members: Mapping[str, tuple[str, ...]],
    states: Mapping[str, Assessment],
    *,
    promoted: Collection[str],
    hollow: Collection[str],
    tolerance: Tolerance,
    now: datetime,
) -> tuple[StageProgress, ...]:
    """Every stage, in order. `promoted` names the stages that a person has approved just now, `hollow` those whose
    selector no node meets at all: they cannot be complete, since more likely the selector is wrong than the fleet.

    A stage whose nodes all belong to earlier ones is complete as soon as it would open, and does not soak. While no
    agent of a stage's nodes, nor of those before it, is heard of, it is not complete: nothing was shown yet, and agents
    that are installed after the operator must not find that the canary is over.
    """
    result: list[StageProgress] = []
    reached, heard = bool(states), False
    for stage in stages:
        before = stored.get(stage.name) or StageStatus(name=stage.name, phase=StagePhase.PENDING)
        nodes = members[stage.name]
        automatic = stage.approval is Approval.AUTOMATIC
        is_open = reached and (automatic or before.approved)
        approved = before.approved or stage.name in promoted or (automatic and reached)
        heard = heard or any(not states[node].unheard for node in nodes)
        finished = all(tolerance.finished(states[node]) for node in nodes) and (heard or not nodes)
        done = is_open and finished and stage.name not in hollow
        completed_at = before.completed_at or (now if done else None)
        soak = parse_duration(stage.soak) if nodes else _NONE
        soaked_at = before.completed_at and before.completed_at + soak
        over = soaked_at is not None and now >= soaked_at
        if completed_at is not None:
            phase = StagePhase.COMPLETE if over or not soak else StagePhase.SOAKING
        elif is_open:
            phase = StagePhase.PROGRESSING
        elif reached and not approved:
            phase = StagePhase.AWAITING_APPROVAL
        else:
            phase = StagePhase.PENDING
        status = StageStatus(
            name=stage.name,
            phase=phase,
            nodes=len(nodes),
            updated=sum(states[node].state is NodeState.UPDATED for node in nodes),
            blocked=sum(states[node].state is NodeState.BLOCKED for node in nodes),
            skipped=sum(states[node].state is NodeState.SKIPPED for node in nodes),
            approved=approved,
            started_at=before.started_at or completed_at,
            completed_at=completed_at,
        )
        result.append(StageProgress(status, nodes, is_open, over, None if over else soaked_at))
        reached = reached and over
    return tuple(result)


_NONE = parse_duration("0")


def started(stages: Sequence[StageProgress], told: Mapping[str, datetime]) -> list[StageStatus]:
    """The stages' statuses, with startedAt where a node of an open stage has been told."""
    result: list[StageStatus] = []
    for stage in stages:
        times = [told[node] for node in stage.members if stage.is_open and node in told]
        known = stage.status.started_at
        first = min([*times, *([known] if known else [])], default=None)
        result.append(stage.status if first == known else stage.status.model_copy(update={"started_at": first}))
    return result
