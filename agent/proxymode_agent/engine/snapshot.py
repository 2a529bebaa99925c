"""What the engine tells the rest of the agent: an immutable picture of where the node's dataplane stands."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from proxymode_agent.cell import Cell
from proxymode_api.modes import ObservedMode

if TYPE_CHECKING:
    from datetime import datetime

    from proxymode_agent.dataplane.base import Refused
    from proxymode_agent.switch.record import StepRecord, SwitchRecord
    from proxymode_api.modes import Mode


class EnginePhase(StrEnum):
    """The engine's state in one word; the values are those of NodeProxyMode's phase."""

    PENDING = "Pending"
    """Waits for the first complete list of Services and EndpointSlices, or to be told what is desired."""
    OBSERVING = "Observing"
    """No mode is desired and none of ours is in the kernel: programs nothing."""
    PROGRAMMING = "Programming"
    """The mode's first full sync has not succeeded yet."""
    SWITCHING = "Switching"
    ACTIVE = "Active"
    """The dataplane does what Services say, as of the last sync."""
    FAILED = "Failed"
    """The last sync or switch failed; it is tried again."""


class EngineSnapshot(msgspec.Struct, frozen=True):
    """Where the node's dataplane stands. Times are wall-clock, UTC."""

    phase: EnginePhase = EnginePhase.PENDING
    desired: Mode | None = None
    observed: ObservedMode = ObservedMode.NONE
    synced: bool = False
    """Whether the kernel agrees with all Services and EndpointSlices seen up to the last sync."""
    services: int = 0
    """Service ports programmed."""
    endpoints: int = 0
    last_sync: datetime | None = None
    """End of the last successful sync."""
    refused: Refused = ()
    """Service ports that the kernel would not take, and why."""
    instead: str = ""
    """What was done in the place of what was asked for, since this kernel cannot do that."""
    drift: str = ""
    """What others had changed and was put back within the last minutes."""
    error: str = ""
    """Why the last sync or switch failed; empty when it did not."""
    steps: tuple[StepRecord, ...] = ()
    """Steps done of the switch that is under way."""
    last_switch: SwitchRecord | None = None


class Board:
    """The latest snapshot, for whoever looks or waits."""

    def __init__(self) -> None:
        self._cell = Cell(EngineSnapshot())

    @property
    def snapshot(self) -> EngineSnapshot:
        return self._cell.value

    async def changed(self, seen: EngineSnapshot) -> EngineSnapshot:
        """The latest, as soon as it differs from `seen`."""
        return await self._cell.changed(seen)

    def show(self, **changes: Any) -> None:
        """These fields are so now."""
        value = self._cell.value
        if any(getattr(value, name) != new for name, new in changes.items()):
            self._cell.set(msgspec.structs.replace(value, **changes))
