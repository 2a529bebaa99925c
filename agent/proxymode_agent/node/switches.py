"""The engine's account of a switch, under way or done, as NodeProxyMode's lastSwitch. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_agent.engine.snapshot import EnginePhase
from proxymode_api.nodeproxymode import FrontendKind, LastSwitch, SwitchOutcome, SwitchProbes, SwitchStepStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.engine.snapshot import EngineSnapshot
    from proxymode_agent.switch import StepRecord, SwitchRecord

STEPS_MAXIMUM = 32
MESSAGE_MAXIMUM = 4096
"""Bounds of the API's schema."""


def last_switch(engine: EngineSnapshot, previous: LastSwitch | None) -> LastSwitch | None:
    """The switch that is under way, else the last one that this agent made, else what an earlier run has reported."""
    if engine.phase is EnginePhase.SWITCHING and engine.desired is not None and engine.steps:
        return LastSwitch(
            from_mode=engine.observed,
            to_mode=engine.desired,
            started_at=engine.steps[0].started_at,
            steps=_steps(engine.steps),
        )
    return previous if engine.last_switch is None else _done(engine.last_switch)


def _done(record: SwitchRecord) -> LastSwitch:
    connections = record.connections
    return LastSwitch(
        from_mode=record.from_mode,
        to_mode=record.to_mode,
        started_at=record.started_at,
        completed_at=record.completed_at,
        outcome=None if record.outcome is None else SwitchOutcome(record.outcome.value),
        message=record.message[:MESSAGE_MAXIMUM],
        steps=_steps(record.steps),
        connections_found=None if connections is None else connections.found,
        connections_kept=None if connections is None else connections.kept,
        connections_drained=None if connections is None else connections.drained,
        connections_lost=None if connections is None else connections.lost,
        drain_deadline=record.drain_until,
        attempts=record.attempts,
        verification=[
            SwitchProbes(
                kind=FrontendKind(probes.kind),
                probed=probes.probed,
                before=probes.before,
                after=probes.after,
                failed=list(probes.failed),
            )
            for probes in record.verification
        ],
    )


def _steps(records: Iterable[StepRecord]) -> list[SwitchStepStatus]:
    steps = [
        SwitchStepStatus(
            name=record.name,
            started_at=record.started_at,
            milliseconds=record.milliseconds,
            tries=record.tries,
        )
        for record in records
    ]
    return steps[:STEPS_MAXIMUM]
