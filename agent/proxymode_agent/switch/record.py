"""What a switch tells afterwards: steps with times, connections, outcome. Pure data; times are wall-clock, UTC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from proxymode_api.modes import Mode, ObservedMode


class Outcome(StrEnum):
    """How a switch ended; the values are those of NodeProxyMode's lastSwitch.outcome."""

    SUCCEEDED = "Succeeded"
    RESUMED = "Resumed"
    """A switch that had been interrupted was finished."""
    ROLLED_BACK = "RolledBack"
    """It failed before anything of the old mode was taken away, and was undone."""
    FAILED = "Failed"
    """It failed half-way; the next attempt goes on."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step that was done."""

    name: str
    started_at: datetime
    milliseconds: int


@dataclass(frozen=True, slots=True)
class Connections:
    """Established TCP connections to Services when the old mode was about to go, and what became of them.

    Those that their own ends closed in the meantime, as far as that was seen, do not count. `kept`: afterwards still
    translated to the same endpoint. The others were cut.
    """

    found: int
    kept: int

    @property
    def lost(self) -> int:
        return self.found - self.kept


@dataclass(frozen=True, slots=True)
class SwitchRecord:
    """One switch. `connections`: None where there was no old mode, or it did not come so far."""

    from_mode: ObservedMode
    to_mode: Mode
    started_at: datetime
    completed_at: datetime
    outcome: Outcome
    message: str
    steps: tuple[StepRecord, ...]
    connections: Connections | None


class SwitchError(Exception):
    """A switch failed; `record` says how far it came and whether it was undone."""

    def __init__(self, record: SwitchRecord) -> None:
        super().__init__(record.message)
        self.record = record
