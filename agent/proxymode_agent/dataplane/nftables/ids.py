"""Ids of sticky endpoints: what clients are remembered by, and what tells whose clients they are. Pure.

An id has two halves: the number of a group (a Service port's endpoints, by whichever frontend and policy) and an
endpoint's number in it. Clients are remembered by their address and the group, so by whatever frontend they come next,
they meet the same endpoint, if it is one of that frontend's pool: each pool has its own map from id to endpoint. An id
leads to an endpoint of its own group or to none, even where a number is given out again; it is not while it can be
helped, for whoever is remembered by it would not draw anew.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.nftables.elements import INDEX_BYTES, number, number_of, protocol_of
from proxymode_agent.dataplane.nftables.members import Entries
from proxymode_agent.dataplane.nftables.units import Work

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from proxymode_agent.dataplane.nfnetlink import Set
    from proxymode_agent.dataplane.nftables.parts import Row, Whole
    from proxymode_agent.dataplane.nftables.wants import Group

    User = tuple[bytes, int]  # a frontend and the base of one of its pools
    Place = tuple[int, bytes]  # the base of a pool and a key of its map

_HALF: Final = 16
_LARGEST: Final = (1 << _HALF) - 1
MAX_GROUPS: Final = _LARGEST  # none has number 0


def group_of(id_: bytes) -> int:
    """The group's number in an id."""
    return number_of(id_) >> _HALF


def any_of(group: int) -> bytes:
    """What the ids of a group have in common: the second part of its clients' keys."""
    return number(group << _HALF)


class _Group:
    """A group that somebody uses. `ids`: by endpoint; `drawn`: the endpoints that each user draws from; `places`: what
    the maps hold of it."""

    def __init__(self, number: int, protocol: bytes, ids: dict[bytes, bytes], places: set[Place]) -> None:
        self.number = number
        self.protocol = protocol
        self.ids = ids
        self.places = places
        self.drawn: dict[User, Sequence[bytes]] = {}


class Ids:
    """The ids of one family, and for each pool, by its base, the map from protocol and id to endpoint.

    The protocol is there for nft, which takes a rule that translates the port only if something in it says that there
    is one. `held`: what the maps hold; `remembered`: ids that clients are remembered by.
    """

    def __init__(
        self, maps: Mapping[int, Set], held: Mapping[int, Mapping[bytes, bytes]], remembered: Iterable[bytes]
    ) -> None:
        self._by_id = {base: Entries(of, held.get(base, {})) for base, of in maps.items()}
        self._unclaimed: dict[int, list[Place]] = defaultdict(list)  # by group, as the kernel was read back
        self._last: dict[int, int] = defaultdict(lambda: -1)  # the last endpoint's number, by group
        for base, entries in self._by_id.items():
            for key in entries.held:
                self._unclaimed[group_of(key[-INDEX_BYTES:])].append((base, key))
        for id_ in (*(key[-INDEX_BYTES:] for places in self._unclaimed.values() for _, key in places), *remembered):
            group = group_of(id_)
            self._last[group] = max(self._last[group], number_of(id_) & _LARGEST)
        self._newest = max(self._last, default=0)
        self._groups: dict[Group, _Group] = {}
        self._numbers: set[int] = set()
        self._group_of: dict[User, Group] = {}
        self._changed: dict[Group, None] = {}

    def parts(self) -> Iterator[Whole]:
        """What the maps hold."""
        return (entries.part for entries in self._by_id.values())

    def differences(self, found: Mapping[int, Mapping[bytes, bytes]]) -> Iterator[str]:
        """What the maps hold otherwise, in words."""
        for base, entries in self._by_id.items():
            yield from entries.part.differences(found.get(base, {}))

    def has_room(self, group: Group) -> bool:
        """Whether there is a number for it."""
        return group in self._groups or len(self._numbers) + len(self._unclaimed) < MAX_GROUPS

    def use(self, user: User, group: Group, row: Row, endpoints: Sequence[bytes]) -> tuple[bytes, ...]:
        """The ids of a group's endpoints, in their order, for one that draws from them. `row`: the ids that it drew
        from before, which tell the group's number where it is not known, after a restart."""
        if self._group_of.get(user) != group:
            self.leave(user)
            self._group_of[user] = group
        found = self._groups.get(group)
        if found is None:
            found = self._groups[group] = self._adopted(protocol_of(user[0]), row) or self._new(protocol_of(user[0]))
            self._numbers.add(found.number)
        found.drawn[user] = endpoints
        self._changed[group] = None
        self._identify(found, endpoints)
        return tuple([found.ids[endpoint] for endpoint in endpoints])

    def leave(self, user: User) -> None:
        """A frontend does not draw from its group any more."""
        group = self._group_of.pop(user, None)
        if group is not None:
            del self._groups[group].drawn[user]
            self._changed[group] = None

    def work(self) -> Work:
        """As of :class:`~.pools.Rows`; ids of endpoints that nobody draws go, groups that nobody uses, and ids that the
        kernel had and nobody claimed."""
        for group in self._changed:
            found = self._groups[group]
            self._settle(found)
            if not found.drawn:
                del self._groups[group]
                self._numbers.remove(found.number)
        self._changed = {}
        for places in self._unclaimed.values():
            self._forget(places)
        self._unclaimed.clear()
        changes = [entries.changes() for entries in self._by_id.values()]
        return Work(
            [unit for one in changes for unit in one.make],
            [unit for one in changes for unit in one.remove],
        )

    def _settle(self, group: _Group) -> None:
        """The maps hold what is drawn of a group and nothing else of it."""
        wanted = {
            (base, group.protocol + group.ids[endpoint]): endpoint
            for (_, base), endpoints in group.drawn.items()
            for endpoint in endpoints
        }
        for (base, key), endpoint in wanted.items():
            self._by_id[base].want(key, endpoint)
        self._forget(sorted(group.places - wanted.keys()))
        group.places = set(wanted)
        drawn = set(wanted.values())
        group.ids = {endpoint: id_ for endpoint, id_ in group.ids.items() if endpoint in drawn}

    def _forget(self, places: Iterable[Place]) -> None:
        for base, key in places:
            self._by_id[base].want(key, None)

    def _adopted(self, protocol: bytes, row: Row) -> _Group | None:
        """The group to which a row of ids belonged when the kernel was read back, if nobody else has it by now."""
        for id_ in row:
            group = 0 if id_ is None else group_of(id_)
            if group and group in self._unclaimed:
                places = self._unclaimed.pop(group)
                # Of what is there twice, which is somebody else's doing, the first stays.
                of: dict[bytes, bytes] = {}  # endpoints by id
                for base, key in places:
                    if key.startswith(protocol):
                        of.setdefault(key[-INDEX_BYTES:], self._by_id[base].held[key])
                return _Group(group, protocol, {endpoint: id_ for id_, endpoint in reversed(of.items())}, set(places))
        return None

    def _new(self, protocol: bytes) -> _Group:
        """A group of the next number that is free; there is one, see `has_room`."""
        while True:
            self._newest = self._newest % MAX_GROUPS + 1
            if self._newest not in self._numbers and self._newest not in self._unclaimed:
                return _Group(self._newest, protocol, {}, set())

    def _identify(self, group: _Group, endpoints: Iterable[bytes]) -> None:
        """Give an id to each endpoint that has none; one that no place of the maps has either."""
        missing = [endpoint for endpoint in endpoints if endpoint not in group.ids]
        if not missing:
            return
        taken = {*group.ids.values(), *(key[-INDEX_BYTES:] for _, key in group.places)}
        for endpoint in missing:
            for low in count(self._last[group.number] + 1):
                id_ = number(group.number << _HALF | low & _LARGEST)
                if id_ not in taken:
                    break
            self._last[group.number] = low & _LARGEST
            group.ids[endpoint] = id_
            taken.add(id_)
