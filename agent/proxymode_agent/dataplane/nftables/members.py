"""Elements that stand for themselves: verdict maps, sets that several need, and allowed sources. Pure.

Each class holds what the kernel has, is told what is wanted, and gives the difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.dataplane.nfnetlink import add_elements, delete_elements
from proxymode_agent.dataplane.nftables.parts import Whole
from proxymode_agent.dataplane.nftables.units import Unit, added, members, removed, replaced

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxymode_agent.dataplane.nfnetlink import Element, Set


class Changes(NamedTuple):
    """New or different elements, and those that go."""

    make: list[Unit]
    remove: list[Unit]


class Entries:
    """A map, or a set (data b""), in which each key is one frontend's."""

    def __init__(self, of: Set, held: Mapping[bytes, bytes]) -> None:
        self._of = of
        self.held = dict(held)
        self._added: list[Element] = []
        self._replaced: list[Element] = []
        self._removed: list[bytes] = []

    def want(self, key: bytes, data: bytes | None) -> None:
        """From now on this data for a key; None: no element."""
        old = self.held.get(key)
        if data == old:
            return
        if data is None:
            del self.held[key]
            self._removed.append(key)
            return
        self.held[key] = data
        (self._added if old is None else self._replaced).append((key, data))

    @property
    def part(self) -> Whole:
        """What the kernel holds."""
        return Whole(self._of, self.held)

    def changes(self) -> Changes:
        """What the wants since the last call need; from then on it counts as done."""
        if not (self._added or self._replaced or self._removed):
            return Changes([], [])
        changes = Changes(
            [*added(self._of, self._added), *replaced(self._of, self._replaced)],
            list(removed(self._of, self._removed)),
        )
        self._added, self._replaced, self._removed = [], [], []
        return changes


class References:
    """A set whose elements are there as long as something needs them."""

    def __init__(self, of: Set, existing: Iterable[bytes]) -> None:
        self._of = of
        self._counts: dict[bytes, int] = {}
        # Dictionaries for their order: the same history gives the same transactions.
        self._missing: dict[bytes, None] = {}  # needed, and not in the kernel
        self._surplus: dict[bytes, None] = dict.fromkeys(existing)  # in the kernel, and not needed

    @property
    def part(self) -> Whole:
        """As of :class:`Entries`."""
        return Whole(self._of, dict.fromkeys(self._counts, b""))

    def take(self, keys: Iterable[bytes]) -> None:
        """One more need for each key."""
        counts = self._counts
        for key in keys:
            count = counts.get(key, 0)
            counts[key] = count + 1
            if not count:
                if key in self._surplus:
                    del self._surplus[key]
                else:
                    self._missing[key] = None

    def drop(self, keys: Iterable[bytes]) -> None:
        """One need less for each key."""
        counts = self._counts
        for key in keys:
            count = counts[key] - 1
            if count:
                counts[key] = count
                continue
            del counts[key]
            if key in self._missing:
                del self._missing[key]
            else:
                self._surplus[key] = None

    def changes(self) -> Changes:
        """As of :class:`Entries`."""
        if not (self._missing or self._surplus):
            return Changes([], [])
        changes = Changes(list(members(self._of, list(self._missing))), list(removed(self._of, list(self._surplus))))
        self._missing.clear()
        self._surplus.clear()
        return changes


class Sources:
    """Allowed sources by frontend. A frontend's ranges change in one transaction: they may overlap the old ones."""

    def __init__(self, of: Set, existing: Iterable[bytes], key_bytes: int) -> None:
        self._of = of
        self._held: dict[bytes, frozenset[bytes]] = {}
        for element in existing:
            key = element[:key_bytes]
            self._held[key] = self._held.get(key, frozenset()) | {element}
        self._units: list[Unit] = []
        self._removed: list[bytes] = []

    @property
    def part(self) -> Whole:
        """As of :class:`Entries`."""
        held = (element for elements in self._held.values() for element in elements)
        return Whole(self._of, dict.fromkeys(held, b""))

    def keys(self) -> Iterable[bytes]:
        """The frontends that have ranges."""
        return self._held.keys()

    def want(self, key: bytes, ranges: Iterable[bytes]) -> None:
        """From now on these elements for a frontend; none: it is open to everybody."""
        old, new = self._held.get(key, frozenset()), frozenset(ranges)
        if old == new:
            return
        if not new:
            del self._held[key]
            self._removed += sorted(old)
            return
        self._held[key] = new
        extra = [(element, b"") for element in sorted(new - old)]
        self._units.append((*delete_elements(self._of, sorted(old - new)), *add_elements(self._of, extra)))

    def changes(self) -> Changes:
        """As of :class:`Entries`."""
        if not (self._units or self._removed):
            return Changes([], [])
        changes = Changes(self._units, list(removed(self._of, self._removed)))
        self._units, self._removed = [], []
        return changes
