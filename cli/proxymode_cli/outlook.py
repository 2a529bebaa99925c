"""How long a rollout will still take, by the pace that it has had so far. Pure.

An estimate and nothing more: it takes the nodes to come for like those that have been, and knows no one who is asleep
while a stage waits for approval, no window that closes, no node that fails.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from proxymode_api.durations import parse_duration
from proxymode_api.proxymode_status import FleetStatus, StagePhase

if TYPE_CHECKING:
    from datetime import datetime

    from proxymode_cli.view import RolloutView, StageView

_GOING = frozenset({FleetStatus.PROGRESSING, FleetStatus.SOAKING})


def remaining(rollout: RolloutView, now: datetime) -> timedelta | None:
    """Time until the last stage is over; None: it stands, or nothing is known of its pace yet."""
    if rollout.status not in _GOING:
        return None
    begun = [(stage, stage.report.started_at) for stage in rollout.stages if stage.report.started_at is not None]
    active = sum(((stage.report.completed_at or now) - started for stage, started in begun), timedelta())
    moved = sum(stage.report.updated for stage, _ in begun)
    if moved == 0:
        return None
    to_come = sum(_to_come(stage) for stage in rollout.stages)
    soaks = sum((_soak_left(stage, now) for stage in rollout.stages[:-1]), timedelta())
    return active / moved * to_come + soaks


def _to_come(stage: StageView) -> int:
    report = stage.report
    return max(0, report.nodes - report.updated - report.blocked - report.skipped)


def _soak_left(stage: StageView, now: datetime) -> timedelta:
    soak = parse_duration(stage.soak)
    if stage.report.phase is StagePhase.COMPLETE:
        return timedelta()
    if stage.report.completed_at is not None:
        return max(timedelta(), soak - (now - stage.report.completed_at))
    return soak
