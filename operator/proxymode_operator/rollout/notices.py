"""Events on the ProxyMode: what somebody who looks after the fleet wants to be told, once.

Solves: an Event is the difference between two statuses, so an operator that restarts repeats none, and a node more or
less makes none. Deliberately says nothing about single nodes; their agents do, on the Node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxymode_api.common import ConditionStatus
from proxymode_api.gates import GateResult
from proxymode_api.proxymode_status import FleetStatus, RolloutOrder
from proxymode_api.reasons.codes import Reason
from proxymode_operator.rollout.model import Notice, NoticeType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_api.gates import GateStatus
    from proxymode_api.proxymode_status import ProxyModeStatus, StageStatus


_ORDER: Final = {
    RolloutOrder.FORWARD: "",
    RolloutOrder.REVERSE: ", an undo, the last stage first",
    RolloutOrder.AT_ONCE: ", an undo, all stages at once",
}


def notices(old: ProxyModeStatus, new: ProxyModeStatus) -> tuple[Notice, ...]:
    """What happened between the two, in the order it happened."""
    return tuple(_notices(old, new))


def _notices(old: ProxyModeStatus, new: ProxyModeStatus) -> Iterator[Notice]:
    same_revision = old.revision == new.revision
    if not same_revision:
        over = f", in place of unfinished revision {old.revision}" if old.revision and not old.completed_at else ""
        yield Notice(
            reason=Reason.ROLLOUT_STARTED,
            action="Rollout",
            note=f"revision {new.revision}: {_nodes(new.nodes.desired)} to {new.mode}{_ORDER[new.order]}{over}",
        )
    answers = {gate.name: (gate.stage, gate.result) for gate in old.gates}
    for gate in new.gates:
        if answers.get(gate.name) != (gate.stage, gate.result):
            yield _gate_notice(gate)
    before = {stage.name: stage for stage in old.stages} if same_revision else {}
    for stage in new.stages:
        yield from _stage_notices(before.get(stage.name), stage)
    if new.completed_at and not (same_revision and old.completed_at):
        skipped = f", {new.nodes.blocked} blocked and passed over" if new.nodes.blocked else ""
        skipped += f", {new.nodes.skipped} skipped" if new.nodes.skipped else ""
        yield Notice(
            reason=Reason.ROLLOUT_COMPLETE,
            action="Rollout",
            note=f"revision {new.revision}: {new.nodes.progress} nodes run {new.mode}{skipped}",
        )
    if new.status is not old.status:
        yield from _word_notices(old, new)


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"


def _gate_notice(gate: GateStatus) -> Notice:
    about = f"after stage {gate.stage}" if gate.stage else "before the first stage"
    reason = {GateResult.PASS: Reason.GATE_PASSED, GateResult.FAIL: Reason.GATE_FAILED}.get(
        gate.result, Reason.GATE_UNANSWERED
    )
    type_ = NoticeType.NORMAL if gate.result is GateResult.PASS else NoticeType.WARNING
    return Notice(reason=reason, action="Gate", note=f"gate {gate.name} {about}: {gate.message}", type=type_)


def _stage_notices(old: StageStatus | None, new: StageStatus) -> Iterator[Notice]:
    if new.approved and old is not None and not old.approved and old.phase == "AwaitingApproval":
        yield Notice(reason=Reason.PROMOTED, action="Promote", note=f"stage {new.name} is approved")
    if new.started_at and not (old and old.started_at):
        yield Notice(reason=Reason.STAGE_STARTED, action="Rollout", note=f"stage {new.name}: {_nodes(new.nodes)}")
    if new.completed_at and not (old and old.completed_at):
        yield Notice(
            reason=Reason.STAGE_COMPLETE, action="Rollout", note=f"stage {new.name}: {new.updated}/{new.nodes} updated"
        )


def _word_notices(old: ProxyModeStatus, new: ProxyModeStatus) -> Iterator[Notice]:
    messages = {c.type: c.message for c in new.conditions if c.status is ConditionStatus.TRUE}
    degraded = messages.get("Degraded", "")
    warning = NoticeType.WARNING
    match new.status:
        case FleetStatus.REFUSED:
            refused = next((c.message for c in new.conditions if c.type == "Accepted"), "")
            yield Notice(reason=Reason.REFUSED, action="Accept", note=refused, type=warning)
        case FleetStatus.PAUSED:
            yield Notice(reason=Reason.PAUSED, action="Pause", note=f"{new.nodes.progress} nodes updated")
        case FleetStatus.WAITING_FOR_WINDOW:
            waits = next((c.message for c in new.conditions if c.type == "Progressing"), "")
            yield Notice(reason=Reason.OUTSIDE_WINDOW, action="Rollout", note=waits)
        case FleetStatus.AWAITING_APPROVAL:
            yield Notice(reason=Reason.AWAITING_APPROVAL, action="Promote", note=f"stage {new.current_stage} waits")
        case FleetStatus.ROLLING_BACK:
            yield Notice(reason=Reason.ROLLING_BACK, action="Rollback", note=degraded, type=warning)
        case FleetStatus.ABORTED:
            note = f"revision {new.revision} is aborted: {new.nodes.progress} nodes updated"
            yield Notice(reason=Reason.ROLLOUT_ABORTED, action="Rollout", note=note)
        case FleetStatus.STOPPED:
            rolled_back = any(r.revision == new.revision and r.outcome == "RolledBack" for r in new.history[:1])
            reason = Reason.ROLLOUT_ROLLED_BACK if rolled_back else Reason.ROLLOUT_STOPPED
            yield Notice(reason=reason, action="Rollout", note=degraded, type=warning)
    if old.status is FleetStatus.PAUSED and new.status is not FleetStatus.PAUSED:
        yield Notice(reason=Reason.RESUMED, action="Pause", note=f"{new.nodes.progress} nodes updated")
