"""What a switch tells afterwards: steps with times, connections, outcome. Pure data; times are wall-clock, UTC."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from datetime import datetime

    from proxymode_api.modes import Mode, ObservedMode


class Outcome(StrEnum):
    """How a switch ended; the values are those of NodeProxyMode's lastSwitch.outcome."""

    SUCCEEDED = "Succeeded"
    RESUMED = "Resumed"
    """A switch that had been interrupted was finished."""
    ROLLED_BACK = "RolledBack"
    """It failed and was undone: the node is in its old mode again."""
    FAILED = "Failed"
    """It failed half-way, and so did the way back; the next attempt goes on."""


class StepRecord(msgspec.Struct, frozen=True):
    """One step that was done. Of one that was begun several times: from its first begin to its end."""

    name: str
    started_at: datetime
    milliseconds: int
    tries: int = 1


class Connections(msgspec.Struct, frozen=True):
    """Established TCP connections to Services when the old mode was about to go, and what became of them.

    Those that their own ends closed in the meantime, as far as that was seen, do not count. `kept`: afterwards still
    translated to the same endpoint. `drained`: ended by themselves while they were given time. The others were cut.
    """

    found: int
    kept: int
    drained: int = 0

    @property
    def lost(self) -> int:
        return self.found - self.kept - self.drained


class Probes(msgspec.Struct, frozen=True):
    """Connections from the node to frontends of one kind. `before`: so many answered in the old mode; `after`: so many
    of these in the new one; `failed`: those that did not although one of their endpoints does."""

    kind: str
    probed: int
    before: int
    after: int
    failed: tuple[str, ...]


class SwitchRecord(msgspec.Struct, frozen=True):
    """One switch. `connections`: None where there was no old mode, or it did not come so far. `attempts`: how often it
    was begun. `outcome` and `completed_at`: None while it waits for connections to end. `drain_until`: when those that
    are left on the old mode are cut, with policy Drain."""

    from_mode: ObservedMode
    to_mode: Mode
    started_at: datetime
    completed_at: datetime | None
    outcome: Outcome | None
    message: str
    steps: tuple[StepRecord, ...]
    connections: Connections | None
    attempts: int = 1
    drain_until: datetime | None = None
    verification: tuple[Probes, ...] = ()


class SwitchError(Exception):
    """A switch failed; `record` says how far it came and whether it was undone."""

    def __init__(self, record: SwitchRecord) -> None:
        super().__init__(record.message)
        self.record = record


class SwitchPending(Exception):  # noqa: N818 - not an error: nothing has failed
    """A switch waits for connections to end; it goes on when it is called again, in `seconds` at the latest."""

    def __init__(self, record: SwitchRecord, seconds: float) -> None:
        super().__init__(record.message)
        self.record = record
        self.seconds = seconds
