"""What the engine and the switch ask of a dataplane, whichever mode it is.

Implementations are synchronous: netlink calls take microseconds to milliseconds and are made from the agent's one
dataplane thread, never from the event loop.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from proxymode_agent.services.model import ServicePortName, ServiceState
    from proxymode_api.modes import Mode


Refused = tuple[tuple["ServicePortName", str], ...]
"""Service ports that the kernel would not take, and why."""


class DataplaneError(Exception):
    """The kernel refused an update, or answered what was not expected; the message says which object and why."""


class SyncResult(msgspec.Struct, frozen=True):
    """What one sync did. `written`: kernel objects added, changed or removed (0: everything was as it should be);
    `refused`: Service ports that the kernel would not take, with the reason; the others are programmed. `damage`: what
    others had done to what the last sync left, in words, where this one has read the kernel back and could tell.
    `instead`: what was done in the place of what was asked for, since this kernel cannot do that. `read_back_in`:
    seconds after which there is something of ours to look for in the kernel."""

    written: int
    services: int
    endpoints: int
    refused: Refused = ()
    damage: str = ""
    instead: str = ""
    read_back_in: float | None = None


class Finding(StrEnum):
    """What a look at the kernel has found."""

    UNTOUCHED = "untouched"
    """Nobody else wrote anything since the last look."""
    NOTHING_SEEN = "nothing-seen"
    """Somebody may have written, and what a look can see of ours is as it was left."""
    DOUBTFUL = "doubtful"
    """Somebody wrote, and only reading the kernel back can tell whether ours was meant."""
    CHANGED = "changed"
    """Somebody changed what is ours."""


class Look(NamedTuple):
    """The result of a look; `changed` says what somebody changed, where that was found."""

    finding: Finding
    changed: str = ""


class Dataplane(Protocol):
    """One mode's programming of the kernel in the current network namespace."""

    @property
    def mode(self) -> Mode: ...

    def present(self) -> bool:
        """Whether the kernel holds anything of ours in this mode (also half-made or left by a former run)."""
        ...

    def sync(self, state: ServiceState, changed: frozenset[ServicePortName] | None = None) -> SyncResult:
        """Make the kernel do what `state` says.

        `changed` names the ports that differ from the state of the last successful sync of this object; None means
        unknown: read the kernel back and write the difference only. Idempotent. Raises DataplaneError when nothing
        could be done; ports that the kernel refuses singly are returned instead.
        """
        ...

    def look(self) -> Look:
        """Whether others changed what the last sync left, as far as can be told in at most some milliseconds, whatever
        the number of Services. Reading back is `sync`'s. Raises DataplaneError."""
        ...

    def remove(self) -> None:
        """Take away everything that this mode ever made, and nothing else. Idempotent. Raises DataplaneError."""
        ...

    def close(self) -> None:
        """Close sockets; leaves the kernel as it is."""
        ...
