"""What state one node is in, seen from one template.

Solves: exactly one of updated, pending, switching, failed, blocked and skipped for every node, whether it uses up the
budget, whether it may be told, and when any of that changes by time alone. Deliberately knows no other node and no
stage.

How a node gets its state (its NodeProxyMode is *at* the template, or not):

- at it, and its agent reports, about this turn, the mode and Ready for minReadySeconds: updated.
- at it, and the agent has reported, once since the turn, phase Failed in another mode than the one asked for; or it was
  not Ready for progressDeadline (from the turn, or from when it was last Ready or last heard of, whichever is later):
  failed. A failed sync in the mode asked for is not a failed switch and has until the deadline to mend.
- at it, and phase Blocked: blocked, and still in flight, since the agent may begin once the block is gone.
- at it otherwise: switching.
- what would be failed or blocked, and a person has annotated it with a reason to skip it: skipped, and to be sent back
  to what it ran before, if that is known; one that switches is let finish. Not at it, and annotated so: skipped, unless
  it is still on its way to what it was told before.
- not at it, but still on its way to what it was told before: switching until done, failed or overdue.
- not at it, and its agent was not heard of for progressDeadline (from the revision's or the Node's beginning, or from
  when it was last heard of, whichever is later): blocked, and given up until it is heard of. Nothing was asked of it by
  this revision: it has not failed, and uses up no budget unless it is in flight or its Node is not Ready or cordoned.
- not at it, and its preflight for the wanted mode has a block: blocked.
- else pending; it may be told once its agent, heard of lately, has reported a passed preflight for the wanted mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from proxymode_api.nodeproxymode import Phase

if TYPE_CHECKING:
    from proxymode_operator.rollout.model import Asked, Node, Report, Template

SILENT_AFTER: Final = timedelta(minutes=3)
"""An agent writes at least every minute; three missed heartbeats mean that nothing is known about its node."""

_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


class NodeState(StrEnum):
    UPDATED = "updated"
    PENDING = "pending"
    SWITCHING = "switching"
    FAILED = "failed"
    BLOCKED = "blocked"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """One node's state.

    `at_template`: told so, whether or not it has followed. `in_flight`: told something that it has not fully done.
    `to_mark`: its failed switch is not yet noted. `to_return`: it is skipped and not yet sent back. `homeward`: in
    flight no further, and what is wanted now is what it ran before it was told.
    `unavailable`: counts against the budget. `tellable`: may be told as far as this node itself goes. `silent`: its
    agent never reported or not lately. `unheard`: so long that it is given up. `due`: when the state may change by time
    alone. `why`: for people, no times.
    """

    state: NodeState
    at_template: bool
    in_flight: bool
    to_mark: bool
    to_return: bool
    homeward: bool
    unavailable: bool
    tellable: bool
    silent: bool
    unheard: bool
    due: datetime | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The rollout's times that judge a node."""

    min_ready: timedelta
    deadline: timedelta
    began: datetime
    """When the revision began: the deadline's start for a node whose turn is not on record, or that was not told."""


def assess(node: Node, wanted: Template, patience: Patience, now: datetime) -> Assessment:
    """The node's state at `now`."""
    asked, report = node.asked, node.report
    silent = report is None or now >= report.heard_at + SILENT_AFTER
    unreachable = "its agent has not reported" if report is None else "its agent has gone silent" if silent else ""
    machine = "the Node is not Ready" if not node.ready else "it is cordoned" if node.cordoned else ""
    outside = unreachable or machine
    silent_due = report.heard_at + SILENT_AFTER if report is not None and not silent else None
    given_up_at = _given_up_at(node, patience) if silent and not node.foreign else None

    if node.foreign or asked is None or asked.intent.mode is None:
        in_flight, overdue, due = False, False, None
    else:
        in_flight, overdue, due = _progress(asked, report, silent, patience, now)

    at_template = asked is not None and not node.foreign and asked.intent.runs(wanted)
    unheard = not at_template and given_up_at is not None and now >= given_up_at
    skip = asked.skip if asked is not None and not node.foreign else ""
    tellable = to_return = False
    if unheard:
        outside = machine
    if at_template:
        assert asked is not None
        state, why = _state_at_template(asked, report, in_flight, overdue)
        if skip and state in (NodeState.FAILED, NodeState.BLOCKED):
            state, why, to_return = NodeState.SKIPPED, skip, asked.way_back is not None
    elif unheard and not skip:
        state, why = NodeState.BLOCKED, f"{unreachable} for progressDeadline"
    elif not unheard and in_flight and not overdue and _gave_up(asked, report) is None:
        state, why = NodeState.SWITCHING, "on its way to what it was told before"
    elif skip:
        state, why = NodeState.SKIPPED, skip
    else:
        state, why = _state_before_turn(node, wanted)
        tellable = state is NodeState.PENDING and not why and not unreachable and node.ready

    return Assessment(
        state=state,
        at_template=at_template,
        in_flight=in_flight,
        to_mark=in_flight and not overdue and not to_return and _failed(asked, report) and not _is_marked(asked),
        to_return=to_return,
        homeward=in_flight and tellable and asked is not None and _came_from(asked, wanted),
        unavailable=bool(outside) or in_flight,
        tellable=tellable,
        silent=silent,
        unheard=unheard,
        due=min((d for d in (due, silent_due, given_up_at) if d is not None and d > now), default=None),
        why=why or (outside if state is not NodeState.UPDATED else ""),
    )


def _given_up_at(node: Node, patience: Patience) -> datetime:
    """When a silent agent is given up, unless it is heard of before."""
    since = max(patience.began, node.created)
    if node.report is None:
        return since + patience.deadline
    # After the operator's start a live agent on a node with a wrong clock seems silent until it writes again.
    certain_at = node.report.known_since + SILENT_AFTER
    return max(certain_at, max(since, node.report.heard_at) + patience.deadline)


def _progress(
    asked: Asked, report: Report | None, silent: bool, patience: Patience, now: datetime
) -> tuple[bool, bool, datetime | None]:
    """Of a node that was told: whether it is in flight, whether it is overdue, when one of them changes by time."""
    told_at = asked.intent.turn.tried_at if asked.intent.turn else None
    assert asked.intent.mode is not None
    if (
        report is not None
        and report.observed_generation >= asked.turn_generation
        and asked.intent.arrived(report.mode)
        and report.ready
        # Ready speaks of the Services that are served, which a failed change of options leaves as they were.
        and report.phase not in (Phase.SWITCHING, Phase.FAILED)
    ):
        steady_at = max(report.ready_since or _LONG_AGO, told_at or _LONG_AGO) + patience.min_ready
        # Times of the future are from before somebody set a clock back: without minReadySeconds nothing rests on them.
        return bool(patience.min_ready) and now < steady_at, False, steady_at
    since = told_at or patience.began
    if report is not None and not report.ready:
        since = max(since, report.ready_since or _LONG_AGO)
    if report is not None and silent:
        since = max(since, report.heard_at)
    deadline = since + patience.deadline
    return True, now >= deadline, deadline


def _came_from(asked: Asked, wanted: Template) -> bool:
    turn = asked.intent.turn
    return turn is not None and turn.before_mode is wanted.mode and turn.before_options == wanted.options


def _gave_up(asked: Asked | None, report: Report | None) -> Phase | None:
    """Failed or Blocked, if that is how the last turn ended."""
    if _failed(asked, report):
        return Phase.FAILED
    if asked is None or report is None or report.observed_generation < asked.turn_generation:
        return None
    return Phase.BLOCKED if report.phase is Phase.BLOCKED else None


def _is_marked(asked: Asked | None) -> bool:
    return asked is not None and asked.intent.turn is not None and asked.intent.turn.failed


def _failed(asked: Asked | None, report: Report | None) -> bool:
    """Whether the agent says, or has said, that the switch of the last turn failed."""
    if asked is None or asked.intent.mode is None:
        return False
    says_so = (
        report is not None
        and report.observed_generation >= asked.turn_generation
        and report.phase is Phase.FAILED
        and not asked.intent.arrived(report.mode)
    )
    return says_so or _is_marked(asked)


def _state_at_template(asked: Asked, report: Report | None, in_flight: bool, overdue: bool) -> tuple[NodeState, str]:
    if not in_flight:
        return NodeState.UPDATED, ""
    if overdue:
        return NodeState.FAILED, "not Ready in the wanted mode within progressDeadline"
    match _gave_up(asked, report):
        case Phase.FAILED:
            return NodeState.FAILED, "its switch failed"
        case Phase.BLOCKED:
            blockers = report.blockers if report is not None else ()
            return NodeState.BLOCKED, f"blocked by {', '.join(blockers) or 'its preflight'}"
        case _:
            return NodeState.SWITCHING, ""


def _state_before_turn(node: Node, wanted: Template) -> tuple[NodeState, str]:
    """Of a node that may be told: pending or blocked, and what it waits for; no reason means nothing."""
    if node.foreign:
        return NodeState.PENDING, "its NodeProxyMode belongs to an earlier Node of this name and is not yet removed"
    if node.asked is None:
        return NodeState.PENDING, "it has no NodeProxyMode yet"
    report = node.report
    if report is None:
        return NodeState.PENDING, "its agent has not reported"
    # A report about an older generation may speak of another target's preflight, or of other options.
    if report.preflight_mode is not wanted.mode or report.observed_generation < node.asked.generation:
        return NodeState.PENDING, f"its agent has not yet reported a preflight for {wanted.mode}"
    if report.blockers:
        return NodeState.BLOCKED, f"blocked by {', '.join(report.blockers)}"
    return NodeState.PENDING, ""
