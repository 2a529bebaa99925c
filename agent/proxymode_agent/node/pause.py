"""How long to wait by the clock on the wall, which somebody may set. Pure.

Solves: what waits until half past must not wait an hour more because the clock was set back an hour meanwhile. A node
that boots with a wrong clock has it set back within its first minutes, and an agent that then wrote nothing for an hour
would be taken for dead. Deliberately waits for nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime


class Pause(NamedTuple):
    """From a moment that has been to one that is to come."""

    since: datetime
    until: datetime

    def over(self, now: datetime) -> bool:
        """Whether it has ended; also when `now` is before its beginning, since then the clock was set back."""
        return not self.since <= now < self.until
