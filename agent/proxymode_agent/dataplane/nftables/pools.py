"""Pools: which endpoint of a frontend has which index, and for sticky frontends which id. Pure.

Endpoints keep their index for as long as they exist and the pool does not shrink below it: unrelated changes write
nothing, and a restart, which reads the order back from the kernel, writes nothing at all. Ids are for good: what
clients are remembered by is never given to another endpoint, of whatever Service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.dataplane.nftables.elements import INDEX_BYTES, indices, number, number_of, protocol_of
from proxymode_agent.dataplane.nftables.parts import Row, Whole
from proxymode_agent.dataplane.nftables.units import Unit, added, removed, replaced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from proxymode_agent.dataplane.nfnetlink import Element, Set

_LAST_ID = (1 << 8 * INDEX_BYTES) - 1


class Work(NamedTuple):
    """Element changes: what is to be there before a verdict counts on it, and what goes when nobody can need it."""

    make: list[Unit]
    clear: list[Unit]


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
        self._added: list[Element] = []
        self._replaced: list[Element] = []
        self._removed: list[bytes] = []

    def want(self, key: bytes, wanted: Sequence[bytes]) -> None:
        """From now on these values for a frontend; none: no row."""
        old = self.rows.get(key, ())
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
        work = Work(
            [*added(self._of, self._added), *replaced(self._of, self._replaced)],
            list(removed(self._of, self._removed)),
        )
        self._added, self._replaced, self._removed = [], [], []
        return work


class Ids:
    """The ids of sticky endpoints of one family, and the map from protocol and id to endpoint.

    The protocol is there for nft, which takes a rule that translates the port only if something in it says that there
    is one. `remembered`: ids that clients are remembered by; they are not given out though they may lead nowhere any
    more.
    """

    def __init__(self, of: Set, held: Mapping[bytes, bytes], remembered: Iterable[bytes]) -> None:
        self._of = of
        self._endpoints = dict(held)
        self._unclaimed = dict.fromkeys(held)
        self._last = max(map(number_of, (*(key[-INDEX_BYTES:] for key in held), *remembered)), default=0)
        self._added: list[Element] = []
        self._removed: list[bytes] = []

    @property
    def part(self) -> Whole:
        """What the map holds."""
        return Whole(self._of, self._endpoints)

    def claim(self, protocol: bytes, ids: Iterable[bytes | None]) -> dict[bytes, bytes]:
        """Ids by endpoint for a row that the kernel holds; what cannot be told, or is another row's, is left out."""
        claimed: dict[bytes, bytes] = {}
        for id_ in ids:
            if id_ is not None and (key := protocol + id_) in self._unclaimed:
                endpoint = self._endpoints[key]
                if endpoint not in claimed:
                    claimed[endpoint] = id_
                    del self._unclaimed[key]
        return claimed

    def new(self, protocol: bytes, endpoint: bytes) -> bytes:
        """An id for an endpoint."""
        key = b""
        while not key or key in self._endpoints:
            self._last = self._last % _LAST_ID + 1
            key = protocol + number(self._last)
        self._endpoints[key] = endpoint
        self._added.append((key, endpoint))
        return key[-INDEX_BYTES:]

    def release(self, protocol: bytes, ids: Iterable[bytes]) -> None:
        """Ids that lead nowhere from now on: their clients are no longer sticky."""
        self._remove(protocol + id_ for id_ in ids)

    def _remove(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            del self._endpoints[key]
            self._removed.append(key)

    def work(self) -> Work:
        """As of :class:`Rows`; ids that the kernel had and nobody claimed go, too."""
        self._remove(self._unclaimed)
        self._unclaimed = {}
        work = Work(list(added(self._of, self._added)), list(removed(self._of, self._removed)))
        self._added, self._removed = [], []
        return work


class Pool:
    """The endpoints that frontends have for one traffic policy, directly in one map or by id in another."""

    def __init__(self, plain: Rows, sticky: Rows, ids: Ids) -> None:
        self.plain = plain
        self.sticky = sticky
        self._ids = ids
        self._ids_of = {key: ids.claim(protocol_of(key), row) for key, row in sticky.rows.items()}

    def keys(self) -> Iterator[bytes]:
        """The frontends that have something here."""
        yield from self.plain.rows
        yield from self.sticky.rows

    def want(self, key: bytes, endpoints: Sequence[bytes], *, sticky: bool) -> None:
        """From now on these endpoints for a frontend."""
        self.plain.want(key, () if sticky else endpoints)
        if sticky or key in self.sticky.rows:
            self.sticky.want(key, self._ids_for(key, endpoints if sticky else ()))

    def forget(self, key: bytes) -> None:
        """No client of a frontend stays with the endpoint that it had here: each gets another id."""
        self._ids.release(protocol_of(key), self._ids_of.pop(key, {}).values())

    def work(self) -> Work:
        """As of :class:`Rows`."""
        plain, sticky = self.plain.work(), self.sticky.work()
        return Work([*plain.make, *sticky.make], [*plain.clear, *sticky.clear])

    def _ids_for(self, key: bytes, endpoints: Sequence[bytes]) -> tuple[bytes, ...]:
        before = self._ids_of.pop(key, {})
        protocol = protocol_of(key)
        now = {endpoint: before.pop(endpoint, b"") or self._ids.new(protocol, endpoint) for endpoint in endpoints}
        self._ids.release(protocol, before.values())
        if now:
            self._ids_of[key] = now
        return tuple(now.values())
