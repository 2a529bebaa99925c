"""I/O: a table's elements against what they should be, in turns, where the kernel does not count them (before 6.16).

While others write all the time, only reading can tell whether they took something of ours, and reading back 250,000
endpoints every second would take a CPU. So each turn reads the small maps whole, all verdicts among them, and of a
large map the next so many elements: whoever flushes or deletes a map, or takes a Service away, is seen in the first
turn, whoever takes one endpoint of many when its turn comes. What somebody adds to a large map is left to the
read-back.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.nfnetlink import NfnetlinkError
from proxymode_agent.dataplane.nftables.parts import Indexed, Whole
from proxymode_agent.dataplane.shape import differing_elements

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxymode_agent.dataplane.nfnetlink import Connection

SAMPLE: Final = 16_000  # elements of a large map in a turn; 2.5 us each where nobody else needs the CPU


class Samples:
    """The turns of one table. `due`: somebody wrote, and not everything was looked at since."""

    def __init__(self, kernel: Connection) -> None:
        self._kernel = kernel
        self._frontend: dict[str, int] = {}  # where the next turn begins, by name of a large map
        self._ends: dict[str, int] = {}  # how often a turn came to the end of a large map since somebody wrote
        self.due = False

    def suspect(self) -> None:
        """Somebody wrote: everything is to be looked at once more."""
        self._ends = {}
        self.due = True

    def turn(self, parts: Iterable[Whole | Indexed]) -> list[str]:
        """What differs in this turn, in words. Raises DataplaneError."""
        said: list[str] = []
        large: list[str] = []
        for part in parts:
            if isinstance(part, Indexed) and part.size > SAMPLE:
                large.append(part.of.name)
                said += self._sampled(part)
            else:
                held = dict(part.elements())
                said += differing_elements(str(part.of), held, dict(self._kernel.elements(part.of)))
        # The first end is that of a round that began before somebody wrote.
        self.due = any(self._ends.get(name, 0) < 2 for name in large)
        return said

    def _sampled(self, part: Indexed) -> Iterator[str]:
        name = part.of.name
        elements, following = part.after(self._frontend.get(name, 0), SAMPLE)
        self._frontend[name] = following
        self._ends[name] = self._ends.get(name, 0) + (following == 0)
        try:
            values = self._kernel.values(part.of, (key for key, _ in elements))
            found = {key: value for (key, _), value in zip(elements, values, strict=True)}
        except NfnetlinkError as error:
            if error.errno != errno.ENOENT:
                raise
            yield f"{part.of} has elements less"
            return
        yield from differing_elements(str(part.of), dict(elements), found)
