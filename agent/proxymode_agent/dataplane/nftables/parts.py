"""What the maps and sets of a table should hold, and what differs where they hold something else. Pure."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.dataplane.nftables.elements import indices
from proxymode_agent.dataplane.shape import differing_elements

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from proxymode_agent.dataplane.nfnetlink import Element, Set

Row = tuple[bytes | None, ...]
"""A frontend's values by index, as the kernel holds them; None: no element."""


class Whole(NamedTuple):
    """A map or set that is read whole, and what it should hold."""

    of: Set
    held: Mapping[bytes, bytes]

    def elements(self) -> Iterable[Element]:
        """All of them."""
        return self.held.items()

    def differences(self, found: Mapping[bytes, bytes]) -> Iterator[str]:
        """What is otherwise in the kernel, in words."""
        return differing_elements(str(self.of), self.held, found)


class Indexed(NamedTuple):
    """An index map that may be large, and the rows that it should hold by base and frontend."""

    of: Set
    pools: Mapping[int, Mapping[bytes, Row]]

    @property
    def size(self) -> int:
        """How many elements, at most."""
        return sum(len(row) for rows in self.pools.values() for row in rows.values())

    def elements(self) -> Iterator[Element]:
        """All of them."""
        for base, rows in self.pools.items():
            for key, row in rows.items():
                yield from _elements(base, key, row)

    def differences(self, found: Mapping[int, Mapping[bytes, Row]]) -> Iterator[str]:
        """As of :class:`Whole`."""
        if self.pools != {base: found.get(base, {}) for base in self.pools}:
            yield from differing_elements(str(self.of), dict(self.elements()), dict(Indexed(self.of, found).elements()))

    def after(self, frontend: int, limit: int) -> tuple[list[Element], int]:
        """From the frontend of that number on `limit` elements or some more, and the number of the next frontend, 0
        after the last."""
        rows = ((base, key, row) for base, pool in self.pools.items() for key, row in pool.items())
        found: list[Element] = []
        for base, key, row in islice(rows, frontend, None):
            frontend += 1
            found += _elements(base, key, row)
            if len(found) >= limit:
                return found, frontend
        return found, 0


def _elements(base: int, key: bytes, row: Row) -> Iterator[Element]:
    for at, value in zip(indices(len(row), base), row, strict=False):
        if value is not None:
            yield key + at, value
