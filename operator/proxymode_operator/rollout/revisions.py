"""A revision's life: how it begins, how it ends, what a person's annotations say about it.

Solves: revision numbers, history, `proxymode.io/promote` and `proxymode.io/abort`. Deliberately looks at no node's
state; that a rollback begins is the planner's finding, that it has begun is written here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxymode_api.annotations import ABORT_ANNOTATION, PROMOTE_ALL, PROMOTE_ANNOTATION
from proxymode_api.proxymode import RolloutOutcome, RolloutRecord
from proxymode_operator.rollout.model import (
    Notice,
    NoticeType,
)
from proxymode_operator.rollout.writes import told_at

if TYPE_CHECKING:
    from datetime import datetime

    from proxymode_api.proxymode import ProxyMode, ProxyModeStatus
    from proxymode_operator.rollout.model import Fleet, Template

HISTORY: Final = 10
"""Records kept, as the CRD allows."""

EARLY: Final = frozenset({RolloutOutcome.ABORTED, RolloutOutcome.ROLLED_BACK})
"""Ends after which a revision starts nothing more, for any node."""


def begin(fleet: Fleet, template: Template, now: datetime) -> ProxyModeStatus:
    """The status with which a new revision begins."""
    stored = fleet.proxy_mode.status
    history = list(stored.history)
    if stored.revision and not any(past.revision == stored.revision for past in history):
        history.insert(0, record(fleet, RolloutOutcome.SUPERSEDED, now))
    return stored.model_copy(
        update={
            "revision": stored.revision + 1,
            "template_hash": template.hash,
            "mode": template.mode,
            "started_at": now,
            "completed_at": None,
            "stages": [],
            "history": history[:HISTORY],
        }
    )


def record(fleet: Fleet, outcome: RolloutOutcome, now: datetime) -> RolloutRecord:
    """History's line about the stored revision."""
    name, status = fleet.proxy_mode.metadata.name, fleet.proxy_mode.status
    return RolloutRecord(
        revision=status.revision,
        mode=status.mode or fleet.proxy_mode.spec.mode,
        started_at=status.started_at or now,
        ended_at=now,
        outcome=outcome,
        nodes=sum(told_at(node, name, status.revision) is not None for node in fleet.nodes),
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
    """`stages`: approved now. `done`: the annotation has no work left and goes. `notices`: why it was useless."""

    stages: frozenset[str] = frozenset()
    done: bool = False
    notices: tuple[Notice, ...] = ()


def promotion(proxy_mode: ProxyMode, *, begins: bool) -> Promotion:
    """What `proxymode.io/promote` (the name of a stage, or `all`) asks for.

    The annotation is dropped once the approval is stored. One that is there when a revision begins is dropped unheeded:
    it was about the revision before, and nobody has seen this one yet.
    """
    value = proxy_mode.metadata.annotations.get(PROMOTE_ANNOTATION)
    if value is None:
        return Promotion()
    names = [stage.name for stage in proxy_mode.spec.rollout.stages]
    if begins:
        return _useless(f"{PROMOTE_ANNOTATION}={value} was set before this revision began; promote again")
    if value not in (*names, PROMOTE_ALL):
        right = f"write one of {', '.join(names)}, or {PROMOTE_ALL}"
        return _useless(f"{PROMOTE_ANNOTATION}={value}: there is no such stage; {right}")
    promoted = frozenset(names) if value == PROMOTE_ALL else frozenset({value})
    approved = {stage.name for stage in proxy_mode.status.stages if stage.approved}
    return Promotion(promoted, done=promoted <= approved)


def _useless(note: str) -> Promotion:
    notice = Notice(reason="PromoteIgnored", action="Promote", note=note, type=NoticeType.WARNING)
    return Promotion(done=True, notices=(notice,))
