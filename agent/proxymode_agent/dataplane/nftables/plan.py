"""From what the kernel's maps hold and what they shall hold to the transactions between, in an order that never misses.

Pure. A packet looks its frontend up in a verdict map, perhaps again in that of the short-circuit, and then frontend and
random index in an index map; an update may come between any two. So
- what a verdict leads to is there before it: an endpoint's hairpin pair before the endpoint, an id before an index
  leads to it, all indices before the verdict that counts them, the short-circuit before the verdict that may take it;
- what a verdict led to goes only a grace period after it: every packet that read the old one is through;
- an endpoint that is replaced keeps its index: delete and add in one transaction;
- when endpoints become fewer, the last ones are copied over those that go;
- a frontend is refused before its verdict goes, and until a grace period after it came;
- allowed sources are there before a frontend is restricted to them, and both before its verdict;
- chains are made a transaction before verdicts refer to them: a packet runs rules as of the generation in which it
  began (nft_do_chain reads gencursor once) but sees elements of the generation that is current when it looks them up,
  and would find a chain of the same transaction empty;
- chains stay: a new one costs the kernel a walk over all elements of the map that it looks up (nf_tables_bind_set:
  0.15 s for 250,000), so they are best made while the map is empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from proxymode_agent.dataplane.conntrack.stale import is_udp
from proxymode_agent.dataplane.nftables.draws import BASES, Draw, Space
from proxymode_agent.dataplane.nftables.ids import Ids
from proxymode_agent.dataplane.nftables.members import Entries, References, Sources
from proxymode_agent.dataplane.nftables.parts import Indexed, Row, Whole
from proxymode_agent.dataplane.nftables.pools import Pool, Rows
from proxymode_agent.dataplane.nftables.units import Unit, pack, removed
from proxymode_agent.dataplane.shape import differing_elements

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxymode_agent.dataplane.nfnetlink import Transaction
    from proxymode_agent.dataplane.nftables.frontends import Wants
    from proxymode_agent.dataplane.nftables.layout import Layout
    from proxymode_agent.dataplane.nftables.wants import Group, Wanted

SPARE_CHAINS = 64  # up to this number of endpoints, chains are made ahead of need while there are none
FEW_ENDPOINTS = 4  # every Service has so many at some time

Endpoints = frozenset[bytes]


class Plan(msgspec.Struct, frozen=True):
    """Transactions in order: commit `make`, wait out a grace period if there is anything to clear, commit `clear`.

    `flows`: the UDP frontends among those that change, each with the endpoints that its flows may go on with.
    """

    make: tuple[Transaction, ...]
    clear: tuple[Transaction, ...]
    flows: tuple[tuple[bytes, Endpoints], ...] = ()

    @property
    def objects(self) -> int:
        """Kernel objects that it adds, changes or deletes; a replaced element counts as two."""
        return sum(transaction.objects for transaction in (*self.make, *self.clear))


class ObservedSpace(msgspec.Struct, frozen=True):
    """What the maps of a space hold. `junk`, `ids_junk`: keys of the index maps that no index of ours can have."""

    verdicts: Mapping[bytes, bytes] = msgspec.field(default_factory=dict)
    inside: Mapping[bytes, bytes] = msgspec.field(default_factory=dict)
    refused: Mapping[bytes, bytes] = msgspec.field(default_factory=dict)
    endpoints: Mapping[int, Mapping[bytes, Row]] = msgspec.field(default_factory=dict)  # by base
    ids: Mapping[int, Mapping[bytes, Row]] = msgspec.field(default_factory=dict)  # by base
    junk: tuple[bytes, ...] = ()
    ids_junk: tuple[bytes, ...] = ()
    chains: frozenset[Draw] = frozenset()


class Observed(msgspec.Struct, frozen=True):
    """What the kernel's maps hold. `remembered`: ids by which clients are remembered."""

    services: ObservedSpace = ObservedSpace()
    nodeports: ObservedSpace = ObservedSpace()
    by_id: Mapping[int, Mapping[bytes, bytes]] = msgspec.field(default_factory=dict)  # by base
    remembered: frozenset[bytes] = frozenset()
    cluster_ips: frozenset[bytes] = frozenset()
    hairpin: frozenset[bytes] = frozenset()
    restricted: frozenset[bytes] = frozenset()
    sources: frozenset[bytes] = frozenset()


class _SpaceState:
    """The elements and chains of one space."""

    def __init__(self, space: Space, observed: ObservedSpace, ids: Ids) -> None:
        self._space = space
        self._ids = ids
        self.verdicts = Entries(space.verdicts, observed.verdicts)
        self.inside = Entries(space.inside, observed.inside)
        self.refused = Entries(space.refused, observed.refused)
        self.cluster, self.local = self.pools = tuple(
            Pool(
                Rows(space.endpoints, base, observed.endpoints.get(base, {})),
                Rows(space.ids, base, observed.ids.get(base, {})),
                ids,
            )
            for base in BASES
        )
        self._junk = [*removed(space.endpoints, observed.junk), *removed(space.ids, observed.ids_junk)]
        self._chains = set(observed.chains)
        self._needed: set[Draw] = set()
        self._targets: dict[Draw, bytes] = {}

    def keys(self) -> Iterator[bytes]:
        """The frontends of which something is in the kernel."""
        for held in (self.verdicts.held, self.inside.held, self.refused.held):
            yield from held
        for pool in self.pools:
            yield from pool.keys()

    def want(self, key: bytes, wanted: Wanted | None) -> None:
        """From now on that for a frontend; None: no such frontend."""
        draw = inside = refusal = None
        cluster: tuple[bytes, ...] = ()
        local: tuple[bytes, ...] = ()
        group: Group | None = None
        if wanted is not None:
            if wanted.sticky is not None and not self._ids.has_room(wanted.group):
                wanted = msgspec.structs.replace(wanted, sticky=None)
            draw, inside, refusal = wanted.draw, wanted.inside, wanted.refusal
            cluster, local = wanted.cluster, wanted.local
            group = None if wanted.sticky is None else wanted.group
        self.cluster.want(key, cluster, group)
        self.local.want(key, local, group)
        self.verdicts.want(key, self._target(draw))
        self.inside.want(key, self._target(inside))
        self.refused.want(key, refusal.value if refusal else None)

    def damage(self, found: ObservedSpace) -> Iterator[str]:
        """What somebody else did, as :meth:`TableState.damage` says it."""
        table = self._space.table
        for draw in sorted(self._chains - found.chains, key=_order):
            yield f"chain {table.family} {table.name} {self._space.name(draw)} is gone"
        yield from self.verdicts.part.differences(found.verdicts)
        yield from self.inside.part.differences(found.inside)
        yield from self.refused.part.differences(found.refused)
        endpoints, ids = self._indexed()
        yield from endpoints.differences(found.endpoints)
        yield from ids.differences(found.ids)
        for of, junk in ((endpoints.of, found.junk), (ids.of, found.ids_junk)):
            yield from differing_elements(str(of), {}, dict.fromkeys(junk))

    def parts(self) -> Iterator[Whole | Indexed]:
        """What the maps hold."""
        yield from (entries.part for entries in (self.verdicts, self.inside, self.refused))
        yield from self._indexed()

    def _indexed(self) -> tuple[Indexed, Indexed]:
        return (
            Indexed(self._space.endpoints, {pool.plain.base: pool.plain.rows for pool in self.pools}),
            Indexed(self._space.ids, {pool.sticky.base: pool.sticky.rows for pool in self.pools}),
        )

    def chains(self) -> Iterator[Unit]:
        """The chains that are needed and not there."""
        if self._needed and not self._chains:
            self._needed |= set(_ahead(self._needed))
        missing = self._needed - self._chains
        self._chains |= missing
        self._needed.clear()
        for draw in sorted(missing, key=_order):
            yield self._space.chain(draw).add(), *(rule.add() for rule in self._space.rules(draw))

    def clear_junk(self) -> list[Unit]:
        """Elements that nothing can lead to."""
        junk, self._junk = self._junk, []
        return junk

    def _target(self, draw: Draw | None) -> bytes | None:
        if draw is None:
            return None
        target = self._targets.get(draw)
        if target is None:
            target = self._targets[draw] = self._space.target(draw)
        self._needed.add(draw)
        return target


class TableState:
    """One family's table as the kernel has it, once every plan made so far is committed.

    After a plan that could not be committed whole it is worthless: read the kernel back and begin anew.
    """

    def __init__(self, layout: Layout, observed: Observed) -> None:
        self._ids = Ids(
            {base: memory.by_id for base, memory in layout.memories.items()}, observed.by_id, observed.remembered
        )
        self._services = _SpaceState(layout.services, observed.services, self._ids)
        self._nodeports = _SpaceState(layout.nodeports, observed.nodeports, self._ids)
        self._service_key = layout.services.verdicts.key_length
        self._cluster_ips = References(layout.cluster_ips, observed.cluster_ips)
        self._hairpin = References(layout.hairpin, observed.hairpin)
        self._restricted = Entries(layout.restricted, dict.fromkeys(observed.restricted, b""))
        self._sources = Sources(layout.sources, observed.sources, self._service_key)

    def damage(self, observed: Observed) -> Iterator[str]:
        """What somebody else did to the elements and the draws' chains, now that the kernel holds `observed`."""
        yield from self._services.damage(observed.services)
        yield from self._nodeports.damage(observed.nodeports)
        yield from self._ids.differences(observed.by_id)
        yield from self._cluster_ips.part.differences(dict.fromkeys(observed.cluster_ips, b""))
        yield from self._hairpin.part.differences(dict.fromkeys(observed.hairpin, b""))
        yield from self._restricted.part.differences(dict.fromkeys(observed.restricted, b""))
        yield from self._sources.part.differences(dict.fromkeys(observed.sources, b""))

    def parts(self) -> Iterator[Whole | Indexed]:
        """What the maps and sets hold, but for the clients' elements."""
        yield from self._services.parts()
        yield from self._nodeports.parts()
        yield from self._ids.parts()
        yield from (one.part for one in (self._cluster_ips, self._hairpin, self._restricted, self._sources))

    def plan_all(self, wants: Wants) -> Plan:
        """The way to these frontends and no others."""
        held = dict.fromkeys((*self._services.keys(), *self._nodeports.keys()))
        held |= dict.fromkeys((*self._restricted.held, *self._sources.keys()))
        gone = {key: None for key in held if key not in wants.frontends}
        return self.plan(wants._replace(frontends={**wants.frontends, **gone}))

    def plan(self, wants: Wants) -> Plan:
        """The way to these wants; all other frontends stay as they are."""
        flows: list[tuple[bytes, Endpoints]] = []
        for key, wanted in wants.frontends.items():
            space = self._services if len(key) == self._service_key else self._nodeports
            space.want(key, wanted)
            if is_udp(key):
                flows.append((key, frozenset() if wanted is None else wanted.serving))
            if space is self._services:
                sources = () if wanted is None else wanted.sources
                self._sources.want(key, sources)
                self._restricted.want(key, b"" if sources else None)
        for references, (more, less) in ((self._cluster_ips, wants.cluster_ips), (self._hairpin, wants.hairpin)):
            references.take(more)
            references.drop(less)
        return self._ordered(tuple(flows))

    def _ordered(self, flows: tuple[tuple[bytes, Endpoints], ...]) -> Plan:
        spaces = (self._services, self._nodeports)
        chains = [unit for space in spaces for unit in space.chains()]
        pools = [pool.work() for space in spaces for pool in space.pools]
        ids = self._ids.work()
        verdicts = [space.verdicts.changes() for space in spaces]
        inside = [space.inside.changes() for space in spaces]
        refused = [space.refused.changes() for space in spaces]
        hairpin, cluster_ips = self._hairpin.changes(), self._cluster_ips.changes()
        restricted, sources = self._restricted.changes(), self._sources.changes()
        make = [
            *hairpin.make,
            *sources.make,
            *restricted.make,
            *(unit for one in refused for unit in one.make),
            *ids.make,
            *(unit for one in pools for unit in one.make),
            *(unit for one in inside for unit in one.make),
            *(unit for one in verdicts for unit in one.make),
            *(unit for one in verdicts for unit in one.remove),
            *cluster_ips.make,
            *cluster_ips.remove,
            *restricted.remove,
            *hairpin.remove,
        ]
        clear = [
            *(unit for one in inside for unit in one.remove),
            *(unit for one in refused for unit in one.remove),
            *sources.remove,
            *(unit for one in pools for unit in one.clear),
            *(unit for space in spaces for unit in space.clear_junk()),
            *ids.clear,
        ]
        return Plan((*pack(chains), *pack(make)), tuple(pack(clear)), flows)


def _ahead(needed: set[Draw]) -> Iterator[Draw]:
    """Draws that are likely to be needed later, too: a Service with a quarter more endpoints, as in a rollout of its
    pods, or a quarter less; and one that begins or ends. No more of them, for each makes every element of its map
    dearer to add."""
    for draw in needed:
        quarter = draw.endpoints // 4
        few = range(1, min(draw.endpoints, FEW_ENDPOINTS) + 1)
        near = range(max(1, draw.endpoints - quarter), min(draw.endpoints + quarter + 1, SPARE_CHAINS) + 1)
        for number in (*few, *near):
            yield draw._replace(endpoints=number)


def _order(draw: Draw) -> tuple[str, int, int]:
    return draw.kind.value, draw.sticky or 0, draw.endpoints
