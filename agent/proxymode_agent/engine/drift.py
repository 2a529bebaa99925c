"""What looks for drift have found since the kernel was last read back, and when it is to be read back next.

Times are seconds of one monotonic clock; the rules are in `decide`. It neither looks nor repairs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec

from proxymode_agent.dataplane.base import Finding
from proxymode_agent.engine.decide import rest_after_full, rest_after_look

if TYPE_CHECKING:
    from proxymode_agent.dataplane.base import Look

_BY_WEIGHT: Final = tuple(Finding)
READ_BACK: Final = "found by reading the kernel back"
"""What is said of drift that no look has seen."""


class Drift(msgspec.Struct):
    """`sync_period`, `look_period`: wished between two read-backs and two looks. `shown`: so long after a repair it is
    still told."""

    sync_period: float
    look_period: float
    shown: float
    look_at: float = math.inf
    shown_until: float = math.inf
    _asked: float = math.inf
    _finding: Finding = Finding.UNTOUCHED
    _changed: str = ""
    _ended: float = -math.inf
    _seconds: float = 0.0

    @property
    def full_at(self) -> float:
        """When the next full sync is due."""
        found = self._ended + rest_after_full(self._finding, self.sync_period, self._seconds)
        return min(found, max(self._asked, self._ended + rest_after_full(Finding.NOTHING_SEEN, 0.0, self._seconds)))

    def read_back_at(self, when: float) -> None:
        """Somebody wants the kernel read back then; done later where that would take too much of the time."""
        self._asked = min(self._asked, when)

    def looked(self, look: Look, began: float, ended: float) -> None:
        """A look was made. What was found stays until the kernel is read back."""
        if _BY_WEIGHT.index(look.finding) > _BY_WEIGHT.index(self._finding):
            self._finding = look.finding
            self._changed = look.changed if look.finding is Finding.CHANGED else ""
        self.look_at = ended + rest_after_look(self.look_period, ended - began)

    def repaired(self, began: float, ended: float, *, expected: bool, written: int, damage: str) -> str:
        """The kernel was read back and so many objects were written; what drift that repaired, empty: none.

        `expected`: it had something to write of its own; `damage`: what it found itself.
        """
        changed = damage or self._changed or (READ_BACK if written and not expected else "")
        self._finding, self._changed = Finding.UNTOUCHED, ""
        self._ended, self._seconds = ended, ended - began
        self._asked = math.inf
        # What was written is looked at before others write: then theirs can be told from it.
        self.look_at = ended if written else ended + self.look_period
        if changed:
            self.shown_until = ended + self.shown
        return changed

    def expired(self, now: float) -> bool:
        """Whether a repair was long enough ago to be told no more; True once."""
        if now < self.shown_until:
            return False
        self.shown_until = math.inf
        return True
