"""Pools: which endpoint of a frontend has which index. Pure.

Endpoints keep their index for as long as they exist and the pool does not shrink below it: unrelated changes write
nothing, and a restart, which reads the order back from the kernel, writes nothing at all. Sticky frontends draw an
endpoint's id (:mod:`.ids`) in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_agent.dataplane.nftables.elements import indices
from proxymode_agent.dataplane.nftables.units import Work, added, added_rows, removed, replaced

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from proxymode_agent.dataplane.nfnetlink import Element, Set
    from proxymode_agent.dataplane.nftables.ids import Ids
    from proxymode_agent.dataplane.nftables.parts import Row
    from proxymode_agent.dataplane.nftables.wants import Group


def assign(current: Sequence[bytes | None], wanted: Sequence[bytes]) -> tuple[bytes, ...]:
    """The wanted values by index: as many as possible where they are, the others in the gaps, in a fixed order."""
    if not current or current == wanted:
        return tuple(wanted)
    missing = dict.fromkeys(wanted)
    result: list[bytes | None] = [None] * len(wanted)
    for index, value in enumerate(current[: len(wanted)]):
        if value in missing:
            result[index] = value
            del missing[value]
    moved = [value for value in dict.fromkeys(current[len(wanted) :]) if value in missing]
    for value in moved:
        del missing[value]
    rest = iter((*moved, *missing))
    return tuple(value if value is not None else next(rest) for value in result)


class Rows:
    """One pool's rows in an index map: those from index `base` on."""

    def __init__(self, of: Set, base: int, rows: Mapping[bytes, Row]) -> None:
        self._of = of
        self.base = base
        self.rows = dict(rows)
        self._new: list[tuple[bytes, tuple[bytes, ...]]] = []
        self._added: list[Element] = []
        self._replaced: list[Element] = []
        self._removed: list[bytes] = []

    def want(self, key: bytes, wanted: Sequence[bytes]) -> None:
        """From now on these values for a frontend; none: no row."""
        old = self.rows.get(key)
        if old is None:
            if wanted:
                self.rows[key] = row = tuple(wanted)
                self._new.append((key, row))
            return
        new = assign(old, wanted)
        if new == old:
            return
        if new:
            self.rows[key] = new
        else:
            del self.rows[key]
        at = indices(max(len(old), len(new)), self.base)
        for index, (before, after) in enumerate(zip(old, new, strict=False)):
            if before != after:
                (self._added if before is None else self._replaced).append((key + at[index], after))
        if len(new) > len(old):
            self._added += [(key + index, after) for index, after in zip(at[len(old) :], new[len(old) :], strict=False)]
        else:
            gone = zip(at[len(new) :], old[len(new) :], strict=False)
            self._removed += [key + index for index, before in gone if before is not None]

    def work(self) -> Work:
        """What the wants since the last call need; from then on it counts as done."""
        if not (self._new or self._added or self._replaced or self._removed):
            return Work([], [])
        ends = indices(max((len(row) for _, row in self._new), default=0), self.base)
        work = Work(
            [
                *added_rows(self._of, self._new, ends),
                *added(self._of, self._added),
                *replaced(self._of, self._replaced),
            ],
            list(removed(self._of, self._removed)),
        )
        self._new, self._added, self._replaced, self._removed = [], [], [], []
        return work


class Pool:
    """The endpoints that frontends have for one traffic policy, directly in one map or by id in another."""

    def __init__(self, plain: Rows, sticky: Rows, ids: Ids) -> None:
        self.plain = plain
        self.sticky = sticky
        self._ids = ids

    def keys(self) -> Iterator[bytes]:
        """The frontends that have something here."""
        yield from self.plain.rows
        yield from self.sticky.rows

    def want(self, key: bytes, endpoints: Sequence[bytes], group: Group | None) -> None:
        """From now on these endpoints for a frontend; sticky ones are the group's."""
        self.plain.want(key, endpoints if group is None else ())
        row = self.sticky.rows.get(key, ())
        if group is not None and endpoints:
            self.sticky.want(key, self._ids.use((key, self.sticky.base), group, row, endpoints))
        elif row:
            self._ids.leave((key, self.sticky.base))
            self.sticky.want(key, ())

    def work(self) -> Work:
        """As of :class:`Rows`."""
        plain, sticky = self.plain.work(), self.sticky.work()
        return Work([*plain.make, *sticky.make], [*plain.clear, *sticky.clear])
