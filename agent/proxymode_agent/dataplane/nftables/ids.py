"""Ids of sticky endpoints: what clients are remembered by, and what tells whose clients they are. Pure.

An id has two halves: the number of a group (a Service port's endpoints for one traffic policy, whichever frontend they
are asked for by) and an endpoint's number in it. Clients are remembered by their address and the group, so by whatever
frontend they come next, they meet the same endpoint. An id leads to an endpoint of its own group or to none, even where
a number is given out again; it is not while it can be helped, for whoever is remembered by it would not draw anew.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.nftables.elements import INDEX_BYTES, number, number_of, protocol_of
from proxymode_agent.dataplane.nftables.parts import Whole
from proxymode_agent.dataplane.nftables.units import Work, added, removed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from proxymode_agent.dataplane.nfnetlink import Element, Set
    from proxymode_agent.dataplane.nftables.parts import Row
    from proxymode_agent.dataplane.nftables.wants import Group

    User = tuple[bytes, int]  # a frontend and which of its pools

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
    """A group that somebody uses. `ids`: by endpoint."""

    def __init__(self, number: int, protocol: bytes, ids: dict[bytes, bytes]) -> None:
        self.number = number
        self.protocol = protocol
        self.ids = ids
        self.users: set[User] = set()


class Ids:
    """The ids of one family, and the map from protocol and id to endpoint.

    The protocol is there for nft, which takes a rule that translates the port only if something in it says that there
    is one. `held`: what the map holds; `remembered`: ids that clients are remembered by.
    """

    def __init__(self, of: Set, held: Mapping[bytes, bytes], remembered: Iterable[bytes]) -> None:
        self._of = of
        self._endpoints = dict(held)
        self._unclaimed: dict[int, list[bytes]] = defaultdict(list)  # keys by group, as the kernel was read back
        self._last: dict[int, int] = defaultdict(lambda: -1)  # the last endpoint's number, by group
        for key in held:
            self._unclaimed[group_of(key[-INDEX_BYTES:])].append(key)
        for id_ in (*(key[-INDEX_BYTES:] for key in held), *remembered):
            group = group_of(id_)
            self._last[group] = max(self._last[group], number_of(id_) & _LARGEST)
        self._newest = max(self._last, default=0)
        self._groups: dict[Group, _Group] = {}
        self._numbers: set[int] = set()
        self._group_of: dict[User, Group] = {}
        self._idle: dict[Group, None] = {}
        self._added: list[Element] = []
        self._removed: dict[bytes, None] = {}

    @property
    def part(self) -> Whole:
        """What the map holds."""
        return Whole(self._of, self._endpoints)

    def has_room(self, groups: Iterable[Group]) -> bool:
        """Whether there are numbers for all of them."""
        new = {group for group in groups if group not in self._groups}
        return len(self._numbers) + len(self._unclaimed) + len(new) <= MAX_GROUPS

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
        found.users.add(user)
        before = found.ids
        found.ids = {endpoint: before.pop(endpoint, b"") or self._new_id(found, endpoint) for endpoint in endpoints}
        self._remove([found.protocol + id_ for id_ in before.values()])
        return tuple(found.ids.values())

    def leave(self, user: User) -> None:
        """A frontend does not draw from its group any more."""
        group = self._group_of.pop(user, None)
        if group is not None:
            self._groups[group].users.remove(user)
            self._idle[group] = None

    def work(self) -> Work:
        """As of :class:`~.pools.Rows`; groups that nobody uses go, and ids that the kernel had and nobody claimed."""
        for group in self._idle:
            found = self._groups[group]
            if not found.users:
                del self._groups[group]
                self._numbers.remove(found.number)
                self._remove([found.protocol + id_ for id_ in found.ids.values()])
        self._idle = {}
        self._remove([key for keys in self._unclaimed.values() for key in keys])
        self._unclaimed.clear()
        work = Work(list(added(self._of, self._added)), list(removed(self._of, list(self._removed))))
        self._added, self._removed = [], {}
        return work

    def _adopted(self, protocol: bytes, row: Row) -> _Group | None:
        """The group to which a row of ids belonged when the kernel was read back, if nobody else has it by now."""
        for id_ in row:
            group = 0 if id_ is None else group_of(id_)
            if group and group in self._unclaimed:
                ids: dict[bytes, bytes] = {}
                surplus = []
                for key in self._unclaimed.pop(group):
                    if not key.startswith(protocol) or self._endpoints[key] in ids:
                        surplus.append(key)
                    else:
                        ids[self._endpoints[key]] = key[-INDEX_BYTES:]
                self._remove(surplus)
                return _Group(group, protocol, ids)
        return None

    def _new(self, protocol: bytes) -> _Group:
        """A group of the next number that is free; there is one, see `has_room`."""
        while True:
            self._newest = self._newest % MAX_GROUPS + 1
            if self._newest not in self._numbers and self._newest not in self._unclaimed:
                return _Group(self._newest, protocol, {})

    def _new_id(self, group: _Group, endpoint: bytes) -> bytes:
        for low in count(self._last[group.number] + 1):
            id_ = number(group.number << _HALF | low & _LARGEST)
            key = group.protocol + id_
            if key not in self._endpoints and key not in self._removed:
                break
        self._last[group.number] = low & _LARGEST
        self._endpoints[key] = endpoint
        self._added.append((key, endpoint))
        return id_

    def _remove(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            del self._endpoints[key]
            self._removed[key] = None
