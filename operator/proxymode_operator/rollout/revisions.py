"""A revision's life: how it begins, how it ends, what a person's annotations say about it.

Solves: revision numbers, history, the stages in force, `proxymode.io/promote`, `proxymode.io/retry`,
`proxymode.io/abort` and `proxymode.io/undo`.
Deliberately looks at no node's state; that a rollback begins is the planner's finding, that it has begun is written
here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxymode_api.annotations import (
    ABORT_ANNOTATION,
    CHANGE_CAUSE_ANNOTATION,
    PROMOTE_ALL,
    PROMOTE_ANNOTATION,
    RETRY_ALL,
    RETRY_ANNOTATION,
    UNDO_ANNOTATION,
)
from proxymode_api.proxymode_status import RolloutOrder, RolloutOutcome, RolloutRecord
from proxymode_api.reasons.codes import Reason
from proxymode_api.stages import stages_in_force
from proxymode_operator.rollout.model import Heard, Notice, NoticeType
from proxymode_operator.rollout.writes import RUNS, told_at

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime

    from proxymode_api.common import ManagedFields, Mode
    from proxymode_api.proxymode import ProxyMode
    from proxymode_api.proxymode_status import NodeCounts, ProxyModeStatus
    from proxymode_api.rollout import Stage
    from proxymode_operator.rollout.model import Fleet, Template

HISTORY: Final = 10
"""Records kept, as the CRD allows."""

EARLY: Final = frozenset({RolloutOutcome.ABORTED, RolloutOutcome.ROLLED_BACK})
"""Ends after which a revision starts nothing more, for any node."""


_NAMED: Final = 5
_SHOWN: Final = 200
"""Characters of an annotation that are repeated in an Event, whose note has at most 1 KiB, or in the status."""


def begin(fleet: Fleet, template: Template, now: datetime) -> ProxyModeStatus:
    """The status with which a new revision begins."""
    stored = fleet.proxy_mode.status
    history = list(stored.history)
    if stored.revision and not any(past.revision == stored.revision for past in history):
        history.insert(0, record(fleet, RolloutOutcome.SUPERSEDED, stored.nodes, now))
    meta = fleet.proxy_mode.metadata
    return stored.model_copy(
        update={
            "revision": stored.revision + 1,
            "template_hash": template.hash,
            "mode": template.mode,
            "order": _wanted_order(fleet.proxy_mode) or RolloutOrder.FORWARD,
            "from_mode": stored.mode,
            "changed_by": last_editor(meta.managed_fields),
            "change_cause": " ".join(meta.annotations.get(CHANGE_CAUSE_ANNOTATION, "").split())[:_SHOWN],
            "started_at": now,
            "completed_at": None,
            "stages": [],
            "gates": [],
            "gates_checked_at": None,
            "history": history[:HISTORY],
        }
    )


def in_force(proxy_mode: ProxyMode) -> tuple[Stage, ...]:
    """The stages of the revision that is on record, in the order in which they go."""
    return stages_in_force(proxy_mode.spec.rollout.stages, proxy_mode.status.order)


def _wanted_order(proxy_mode: ProxyMode) -> RolloutOrder | None:
    value = proxy_mode.metadata.annotations.get(UNDO_ANNOTATION)
    undoing = (RolloutOrder.REVERSE, RolloutOrder.AT_ONCE)
    return next((order for order in undoing if order.value == value), None)


def undoing(proxy_mode: ProxyMode, *, begins: bool) -> Heard | None:
    """What becomes of `proxymode.io/undo`: it goes; one that no revision began with changes nothing and is said so."""
    value = proxy_mode.metadata.annotations.get(UNDO_ANNOTATION)
    if value is None:
        return None
    order = _wanted_order(proxy_mode)
    said = f"{UNDO_ANNOTATION}={value[:_SHOWN]}"
    if order is None:
        note = f"{said}: write {RolloutOrder.REVERSE} or {RolloutOrder.AT_ONCE}, together with another spec.mode"
    elif begins or proxy_mode.status.order is order:
        return Heard(annotation=UNDO_ANNOTATION)
    else:
        note = f"{said} came without a change of spec.mode or its options, so there is nothing to undo"
    notice = Notice(reason=Reason.UNDO_IGNORED, action="Undo", note=note, type=NoticeType.WARNING)
    return Heard(annotation=UNDO_ANNOTATION, notices=(notice,))


def mode_found(fleet: Fleet) -> Mode | None:
    """The one mode that every node ran before this revision told it; None while some have not reported, and where there
    were several."""
    name, revision = fleet.proxy_mode.metadata.name, fleet.proxy_mode.status.revision
    modes: set[Mode | None] = set()
    for node in fleet.nodes:
        turn = node.asked.intent.turn if node.asked is not None else None
        if turn is not None and told_at(node, name, revision) is not None:
            modes.add(turn.before_mode)
        else:
            modes.add(RUNS.get(node.report.mode) if node.report is not None else None)
        if len(modes) > 1:
            return None
    return next(iter(modes)) if len(modes) == 1 else None


def last_editor(managed: Iterable[ManagedFields]) -> str:
    """The field manager that wrote the spec last; empty where the API server does not say."""
    writers = [
        (entry.time, entry.manager)
        for entry in managed
        if entry.time is not None and not entry.subresource and "f:spec" in entry.fields_v1
    ]
    return max(writers, key=lambda writer: writer[0])[1] if writers else ""


def record(fleet: Fleet, outcome: RolloutOutcome, counts: NodeCounts, now: datetime) -> RolloutRecord:
    """History's line about the stored revision; `counts`: of its nodes at its end."""
    name, status = fleet.proxy_mode.metadata.name, fleet.proxy_mode.status
    return RolloutRecord(
        revision=status.revision,
        mode=status.mode or fleet.proxy_mode.spec.mode,
        started_at=status.started_at or now,
        ended_at=now,
        outcome=outcome,
        nodes=sum(told_at(node, name, status.revision) is not None for node in fleet.nodes),
        from_mode=status.from_mode,
        changed_by=status.changed_by,
        change_cause=status.change_cause,
        updated=counts.updated,
        failed=counts.failed,
        blocked=counts.blocked,
        skipped=counts.skipped,
    )


def ended(proxy_mode: ProxyMode) -> RolloutOutcome | None:
    """How the stored revision ended before its time, if it did."""
    revision = proxy_mode.status.revision
    return next((r.outcome for r in proxy_mode.status.history if r.revision == revision and r.outcome in EARLY), None)


def abort_asked(proxy_mode: ProxyMode) -> bool:
    """Whether `proxymode.io/abort` names the stored revision."""
    return proxy_mode.metadata.annotations.get(ABORT_ANNOTATION) == str(proxy_mode.status.revision)


@dataclass(frozen=True, slots=True)
class Promotion:
    """`stages`: approved now. `heard`: the annotation goes, with a word on why if it was useless."""

    stages: frozenset[str] = frozenset()
    heard: Heard | None = None


def promotion(proxy_mode: ProxyMode, *, begins: bool) -> Promotion:
    """What `proxymode.io/promote` (the name of a stage, or `all`) asks for.

    The annotation is dropped once the approval is stored. Dropped unheeded where it cannot be meant: when a revision
    begins, since it was about the one before; once the revision has ended early, after which it starts nothing more; in
    an undo, which waits for no approval.
    """
    value = proxy_mode.metadata.annotations.get(PROMOTE_ANNOTATION)
    if value is None:
        return Promotion()
    said = f"{PROMOTE_ANNOTATION}={value[:_SHOWN]}"
    names = [stage.name for stage in proxy_mode.spec.rollout.stages]
    if begins:
        return _unheeded(f"{said} was set before this revision began; promote again")
    if (end := ended(proxy_mode)) is not None:
        return _unheeded(f"{said}: revision {proxy_mode.status.revision} has ended ({end}) and starts nothing more")
    if proxy_mode.status.order is not RolloutOrder.FORWARD:
        return _unheeded(f"{said}: revision {proxy_mode.status.revision} is an undo, which waits for no approval")
    if value not in (*names, PROMOTE_ALL):
        right = f"write one of {', '.join(names)}, or {PROMOTE_ALL}"
        return _unheeded(f"{said}: there is no such stage; {right}")
    promoted = frozenset(names) if value == PROMOTE_ALL else frozenset({value})
    approved = {stage.name for stage in proxy_mode.status.stages if stage.approved}
    return Promotion(promoted, Heard(annotation=PROMOTE_ANNOTATION) if promoted <= approved else None)


def _unheeded(note: str) -> Promotion:
    notice = Notice(reason=Reason.PROMOTE_IGNORED, action="Promote", note=note, type=NoticeType.WARNING)
    return Promotion(heard=Heard(annotation=PROMOTE_ANNOTATION, notices=(notice,)))


@dataclass(frozen=True, slots=True)
class Retrial:
    """`nodes`: those to tell to try again, sorted. `heard`: the annotation goes, with a word on what came of it."""

    nodes: tuple[str, ...] = ()
    heard: Heard | None = None


def retrial(proxy_mode: ProxyMode, failed: Collection[str], *, begins: bool, held: bool) -> Retrial:
    """What `proxymode.io/retry` (names of nodes, or `all`) asks for, of the nodes that have failed.

    `held`: nothing may start now, so it waits. Dropped unheeded where it cannot be meant: when a revision begins, or
    once the revision has ended early, after which it starts nothing more. Heard once: should the operator die between
    telling the nodes and dropping the annotation, those of them that have failed anew by then are told once more.
    """
    value = proxy_mode.metadata.annotations.get(RETRY_ANNOTATION)
    if value is None:
        return Retrial()
    said = f"{RETRY_ANNOTATION}={value[:_SHOWN]}"
    if begins:
        return _untried(f"{said} was set before this revision began; retry again if nodes fail")
    if (end := ended(proxy_mode)) is not None:
        return _untried(f"{said}: revision {proxy_mode.status.revision} has ended ({end}) and starts nothing more")
    if held:
        return Retrial()
    names = {name.strip() for name in value.split(",")}
    nodes = tuple(sorted(name for name in failed if name in names or RETRY_ALL in names))
    if not nodes:
        return _untried(f"{said}: no such node has failed; write names of failed nodes with commas, or {RETRY_ALL}")
    told = ", ".join(nodes[:_NAMED]) + (f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else "")
    notice = Notice(reason=Reason.RETRIED, action="Retry", note=f"told to try again: {told}")
    return Retrial(nodes, Heard(annotation=RETRY_ANNOTATION, notices=(notice,)))


def _untried(note: str) -> Retrial:
    notice = Notice(reason=Reason.RETRY_IGNORED, action="Retry", note=note, type=NoticeType.WARNING)
    return Retrial(heard=Heard(annotation=RETRY_ANNOTATION, notices=(notice,)))
