"""Since when real servers drain, and which of them have had their time. Pure: it neither reads clocks nor decides.

A restart of the agent knows nothing of the time before: whoever drains then begins anew. Times are seconds of one
monotonic clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.ipvs.model import RealServerName, SetWeight

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.dataplane.ipvs.model import ServerChange

LOOK_SECONDS: Final = 60.0
"""So often it is looked whether the connections have ended, while any real server drains; as kube-proxy does."""


class Drain:
    """`seconds`: so long a real server may drain; 0: as long as it has connections."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._since: dict[RealServerName, float] = {}

    def seen(self, draining: Iterable[RealServerName], now: float) -> None:
        """These drain in the kernel, and no others."""
        self._since = {name: self._since.get(name, now) for name in draining}

    def changed(self, changes: Iterable[ServerChange], now: float) -> None:
        """These changes are made now."""
        for change in changes:
            if isinstance(change, SetWeight):
                name = RealServerName(change.frontend, change.endpoint)
                if change.weight == 0:
                    self._since[name] = now
                else:
                    self._since.pop(name, None)

    def gone(self, names: Iterable[RealServerName]) -> None:
        """These have been deleted."""
        for name in names:
            self._since.pop(name, None)

    def overdue(self, now: float) -> frozenset[RealServerName]:
        """Who has had its time."""
        if not self._seconds:
            return frozenset()
        return frozenset(name for name, since in self._since.items() if now - since >= self._seconds)

    def due_in(self, now: float) -> float | None:
        """Seconds until the kernel is to be read back; None: nobody drains."""
        if not self._since:
            return None
        left = min(self._since.values()) + self._seconds - now if self._seconds else LOOK_SECONDS
        return max(0.0, min(left, LOOK_SECONDS))
