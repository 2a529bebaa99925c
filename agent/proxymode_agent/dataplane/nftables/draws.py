"""Chains that draw an endpoint, and the maps they draw from: for frontends by address, and for node ports. Pure.

A frontend has up to two pools of endpoints, one for traffic policy Cluster and one for policy Local, as ranges of the
index in one map. Its verdict leads to a chain that says how packets come (`Kind`), how many endpoints there are to draw
from, and for how long a client stays with the one drawn: a :class:`Draw`. There is one chain for each Draw that occurs,
never one for a Service. Every lookup that an update can race with is followed by another: on kernels up to 6.11 a
lookup can miss a key that is replaced in the same moment (delete and add in one transaction), and a second one right
after finds it. A draw that missed is followed by the first endpoint, twice.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from proxymode_agent.dataplane.nfnetlink import (
    META_PRIORITY,
    TH_DPORT,
    AddressField,
    Chain,
    Expression,
    Field,
    MetaKey,
    Rule,
    Set,
    Table,
    Verdict,
    VerdictCode,
    bitwise,
    delete_element,
    dnat,
    host_u32,
    load,
    lookup_map,
    lookup_verdict,
    meta,
    random_index,
    set_meta,
    update_element,
    verdict,
    verdict_element,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

CLUSTER_BASE = 0
LOCAL_BASE = 1 << 16
BASES = (CLUSTER_BASE, LOCAL_BASE)
"""First indices of the two pools; so 65,536 endpoints fit into each."""

GROUP_MASK = 0xFFFF0000
"""Of a sticky endpoint's id: the half that all endpoints of one Service port have in common."""

Body = tuple[Expression, ...]


class Kind(Enum):
    """How packets come to a chain; the value is part of its name. `base`: the first index of the pool that it draws
    from."""

    INTERNAL = "", CLUSTER_BASE
    """To a cluster IP of policy Cluster: masqueraded if from outside."""
    HERE = "here-", LOCAL_BASE
    """To a cluster IP of policy Local: likewise."""
    EXTERNAL = "external-", CLUSTER_BASE
    """To an external frontend of policy Cluster: masqueraded."""
    LOCAL = "local-", LOCAL_BASE
    """To an external frontend of policy Local: not masqueraded; pods and the node itself are short-circuited first."""
    INSIDE = "inside-", CLUSTER_BASE
    """Short-circuited: as policy Cluster, masqueraded or not as it was decided before."""

    _value_: str
    base: int
    __hash__ = object.__hash__  # Enum's own is Python code, called for every frontend

    def __new__(cls, prefix: str, base: int) -> Kind:
        made = object.__new__(cls)
        made._value_ = prefix
        made.base = base
        return made


class Draw(NamedTuple):
    """What a chain does. `sticky`: seconds for which a client stays with its endpoint; None: no affinity."""

    kind: Kind
    endpoints: int
    sticky: int | None = None


class Memory(NamedTuple):
    """Of one pool: the endpoint's id by client and group, and the endpoint, where it is in the pool, by protocol and
    id."""

    clients: Set
    by_id: Set


class Space(msgspec.Struct, frozen=True):
    """The maps and chains of one kind of frontend key: address, protocol and port, or protocol and node port.

    `memories`, by the pool's base, are the other space's, too. `preludes`: for each kind that occurs here the first
    rules of its chains.
    """

    table: Table
    saddr: AddressField
    prefix: str
    verdicts: Set
    inside: Set
    refused: Set
    endpoints: Set
    ids: Set
    memories: Mapping[int, Memory]
    preludes: Mapping[Kind, tuple[Body, ...]]

    @property
    def sets(self) -> tuple[Set, ...]:
        """The maps of this space only."""
        return self.verdicts, self.inside, self.refused, self.endpoints, self.ids

    def chain(self, draw: Draw) -> Chain:
        """The chain of a draw."""
        return Chain(self.table, self.name(draw))

    def target(self, draw: Draw) -> bytes:
        """The verdict element's data that leads to the chain of a draw."""
        return verdict_element(VerdictCode.GOTO, self.name(draw))

    def draw_of(self, chain: str) -> Draw | None:
        """What a chain of this name is for; None if it is not one of this space's."""
        match = re.fullmatch(f"{re.escape(self.prefix)}([a-z]+-|)one-of-(0|[1-9][0-9]*)(?:-for-([1-9][0-9]*)s)?", chain)
        kinds = {kind.value: kind for kind in self.preludes}
        if match is None or match[1] not in kinds:
            return None
        return Draw(kinds[match[1]], int(match[2]), int(match[3]) if match[3] else None)

    def rules(self, draw: Draw) -> tuple[Rule, ...]:
        """The rules of the chain of a draw: the draw, and if it missed the first endpoint as a last resort."""
        bodies = self.preludes[draw.kind]
        if draw.endpoints:
            base = draw.kind.base
            index = random_index(draw.endpoints, base)
            if draw.sticky is None:
                bodies += (self._plain(index), (verdict(VerdictCode.GOTO, self._last_resort(base)),))
            else:
                bodies += self._sticky(index, base, draw.sticky)
        chain = self.chain(draw)
        return tuple(Rule(chain, body) for body in bodies)

    def find(self, verdicts: Set) -> tuple[Body, Body]:
        """The lookup of a packet's frontend in a verdict map of this space, twice."""
        body = (*load(verdicts.key), lookup_verdict(verdicts.name, 0))
        return body, body

    def name(self, draw: Draw) -> str:
        """The name of the chain of a draw."""
        suffix = "" if draw.sticky is None else f"-for-{draw.sticky}s"
        return f"{self.prefix}{draw.kind.value}one-of-{draw.endpoints}{suffix}"

    def last_resorts(self) -> dict[str, tuple[Body, Body]]:
        """Chains for packets whose draw missed, by name: to the first endpoint of the pool, looked up twice.

        They are shared, because the kernel compares every element that is added to a map with every rule that looks
        the map up (nft_add_set_elem walks set->bindings): three such rules in each of 64 chains cost 2 us an element.
        """
        return {
            self._last_resort(base): (self._plain(random_index(1, base)), self._plain(random_index(1, base)))
            for base in BASES
        }

    def _last_resort(self, base: int) -> str:
        return f"{self.prefix}first-of-{'cluster' if base == CLUSTER_BASE else 'local'}"

    def _plain(self, index: Field) -> Body:
        return (*load((*self.verdicts.key, index)), lookup_map(self.endpoints.name, 0, 0), self._dnat())

    def _sticky(self, index: Field, base: int, seconds: int) -> tuple[Body, ...]:
        """A known client goes to its endpoint, whose id is in the packet's priority: a value that one lookup can leave
        to the next, as nft can print it. Any endpoint's id tells the group by which the client is remembered. Who is
        not known by this pool, or whose endpoint is not in it any more, goes where the other pool's frontends lead it,
        if that is an endpoint of this one too, and else to one that is drawn; and is remembered here from then on. If
        the client cannot be remembered, it is served all the same."""
        [other] = (memory for of, memory in self.memories.items() if of != base)
        clients, by_id = self.memories[base]
        group = self.saddr.padded // 4  # the register of the second part of the client's key
        whole = -(-clients.key_length // 16) * 4  # the next register of 16 bytes, as nft takes
        mask = (host_u32(GROUP_MASK), host_u32(0))
        whose = (*load(clients.key), bitwise(group, *mask), meta(MetaKey.PRIORITY, whole))
        remember = (*whose, update_element(clients.name, 0, whole, seconds))
        to_endpoint = (*load(by_id.key), lookup_map(by_id.name, 0, 0), self._dnat())
        keep = set_meta(MetaKey.PRIORITY, 0)
        only_group = (meta(MetaKey.PRIORITY, 0), bitwise(0, *mask), keep)
        known, known_to_other = ((*load(of.key), lookup_map(of.name, 0, 0), keep) for of in (clients, other.clients))
        draw, some = (
            (*load((*self.verdicts.key, one)), lookup_map(self.ids.name, 0, 0), keep)
            for one in (index, random_index(1, base))
        )
        forget = (*some, *whose, delete_element(clients.name, 0, whole))
        return (
            (*some, *only_group, *known, *remember, *to_endpoint),
            forget,
            (*some, *only_group, *known_to_other, *remember, *to_endpoint),
            forget,
            (*draw, *remember, *to_endpoint),
            (*draw, *to_endpoint),
            (*some, *to_endpoint),
        )

    def _dnat(self) -> Expression:
        port_register = (self.endpoints.data_length - TH_DPORT.padded) // 4
        return dnat(self.table.family, 0, port_register)


def space(
    table: Table,
    addresses: tuple[AddressField, AddressField],
    key: tuple[Field, ...],
    names: tuple[str, str],
    memories: Mapping[int, Memory],
    preludes: Mapping[Kind, tuple[Body, ...]],
) -> Space:
    """A space with key `key`. `addresses`: the family's source and destination; `names`: of the verdict map, and the
    prefix of everything else; `memories`: of sticky clients."""
    saddr, daddr = addresses
    frontends, prefix = names
    row = (*key, random_index(2))
    return Space(
        table,
        saddr,
        prefix,
        verdicts=Set(table, frontends, key, Verdict),
        inside=Set(table, f"{frontends}-from-inside", key, Verdict),
        refused=Set(table, f"{frontends}-refused", key, Verdict),
        endpoints=Set(table, f"{prefix}endpoints", row, (daddr, TH_DPORT)),
        ids=Set(table, f"{prefix}sticky-ids", row, (META_PRIORITY,)),
        memories=memories,
        preludes=preludes,
    )
