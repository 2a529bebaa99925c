"""How long changes of endpoints take from the control plane to this kernel (the network programming latency SLI of
sig-scalability). Pure: it keeps times, and neither reads clocks nor counts.

The control plane notes on an EndpointSlice when the pod or Service changed that made it write the slice. What was noted
before this agent started is nobody's latency but the agent's absence, and does not count; nor does what has no note.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import Final

_KEPT: Final = 10_000
"""Changes that wait; of more, while syncs fail for long, only the latest are told."""


class Programming:
    """`started`: when the agent did."""

    def __init__(self, started: datetime) -> None:
        self._started = started
        self._waiting: deque[datetime] = deque(maxlen=_KEPT)
        self._taken: deque[datetime] = deque(maxlen=_KEPT)

    def changed(self, trigger: str | None) -> None:
        """An EndpointSlice with this note (RFC 3339) brings something to be written."""
        if trigger is None or (at := _parse(trigger)) is None or at <= self._started:
            return
        self._waiting.append(at)

    def take(self) -> None:
        """All changes so far go into the sync that begins, beside those of a sync that failed."""
        self._taken += self._waiting
        self._waiting.clear()

    def forget(self) -> None:
        """Nothing is programmed now: who waits, waits for something else."""
        self._waiting.clear()
        self._taken.clear()

    def written(self, now: datetime) -> list[float]:
        """The sync has succeeded at `now`: seconds since each change that it brought; none is told twice."""
        seconds = [max(0.0, (now - at).total_seconds()) for at in self._taken]
        self._taken.clear()
        return seconds


def _parse(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
