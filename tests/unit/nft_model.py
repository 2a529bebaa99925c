"""A model of packets on a fake kernel: what each of them could read, at every moment of an update.

A packet sees the rules of the generation in which it began, and elements as they are when it looks them up: a chain
must be a generation older than the first verdict that leads to it. A packet reads its frontend's verdict, and later,
maybe some transactions later but within the same grace period, that of the short-circuit, then an index, then an id.
Every sequence of such moments is tried, for clients from inside (pods, the node) and from outside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from nft_fake_kernel import FakeKernel, State, target
from proxymode_agent.dataplane.nfnetlink import Connection, Transaction
from proxymode_agent.dataplane.nftables.draws import BASES, LOCAL_BASE, Draw, Kind, Memory, Space
from proxymode_agent.dataplane.nftables.elements import INDEX_BYTES, indices, number_of, protocol_of
from proxymode_agent.dataplane.nftables.frontends import Wants
from proxymode_agent.dataplane.nftables.ids import any_of, group_of
from proxymode_agent.dataplane.nftables.layout import layout
from proxymode_agent.dataplane.nftables.paths import REFUSE
from proxymode_agent.dataplane.nftables.plan import Observed, TableState
from proxymode_agent.dataplane.nftables.readback import Base, read_elements
from proxymode_agent.services.model import DataplaneConfig, Family

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from proxymode_agent.dataplane.nftables.plan import Plan
    from proxymode_agent.dataplane.nftables.wants import Group, Wanted

LAYOUT = layout(Family.IPV4, DataplaneConfig(), "0")

CLUSTER_IP = (Kind.INTERNAL, Kind.HERE)

Target = dict[bytes, "Wanted"]
"""What is wanted of each frontend at one time."""


def wants(old: Mapping[bytes, Wanted], new: Mapping[bytes, Wanted]) -> Wants:
    """The way from one target to another."""
    made = Wants({}, ([], []), ([], []))
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if before != after:
            made.frontends[key] = after
            for side, one in zip((1, 0), (before, after), strict=True):
                if one is not None:
                    made.hairpin[side].extend(hairpin(one))
                    if one.kind in CLUSTER_IP:
                        made.cluster_ips[side].append(key[:4])
    return made


def hairpin(wanted: Wanted) -> list[bytes]:
    """The pairs that a frontend's endpoints need: all of them, as if every pod were here."""
    return sorted({endpoint[:4] * 2 for endpoint in (*wanted.cluster, *wanted.local)})


def served(wanted: Wanted | None, *, inside: bool) -> tuple[bytes, ...]:
    """Where a client may end up."""
    if wanted is None:
        return ()
    return wanted.local if wanted.kind is Kind.HERE or (wanted.kind is Kind.LOCAL and not inside) else wanted.cluster


def pool(wanted: Wanted | None, draw: Draw) -> tuple[bytes, ...]:
    """The endpoints that a draw is from; those of policy Local are never mixed with others."""
    if wanted is None:
        return ()
    return wanted.local if draw.kind.base == LOCAL_BASE else wanted.cluster


def space_of(key: bytes) -> Space:
    return LAYOUT.services if len(key) == 12 else LAYOUT.nodeports


def draw_at(state: State, space: Space, key: bytes, *, inside: bool = False) -> Draw | None:
    """The draw that a frontend's verdict leads to."""
    data = state.maps[(space.inside if inside else space.verdicts).name].get(key)
    return None if data is None else space.draw_of(target(data) or "")


def ways(generations: Sequence[State], space: Space, key: bytes, *, inside: bool) -> Iterator[tuple[Draw | None, int]]:
    """The draws that a packet can come to, each with the first generation in which it can go on from there."""
    seen: dict[Draw | None, int] = {}
    for number, state in enumerate(generations):
        draw = draw_at(state, space, key)
        if draw is not None and draw.kind is Kind.LOCAL and inside:
            for later, state_later in enumerate(generations[number:], number):
                seen.setdefault(draw_at(state_later, space, key, inside=True), later)
        else:
            seen.setdefault(draw, number)
    yield from seen.items()


def drawn(generations: Sequence[State], first: int, space: Space, key: bytes, draw: Draw) -> Iterator[bytes | None]:
    """What a draw can give when its last lookup is in the newest generation; None: a miss."""
    newest = generations[-1]
    by_id = LAYOUT.memories[draw.kind.base].by_id
    for index in indices(draw.endpoints, draw.kind.base)[: draw.endpoints]:
        if draw.sticky is None:
            yield newest.maps[space.endpoints.name].get(key + index)
        else:
            for id_ in {state.maps[space.ids.name].get(key + index) for state in generations[first:]}:
                yield None if id_ is None else newest.maps[by_id.name].get(protocol_of(key) + id_)


def recognized(generations: Sequence[State], first: int, space: Space, key: bytes, draw: Draw) -> Iterator[bytes]:
    """Where a client can be led that is remembered, whichever frontend and policy of the same group it came by."""
    newest = generations[-1]
    some = key + indices(1, draw.kind.base)[0]
    ids = {state.maps[space.ids.name].get(some) for state in generations[first:]}
    groups = {group_of(id_) for id_ in ids if id_ is not None}
    for known, endpoint in newest.maps[LAYOUT.memories[draw.kind.base].by_id.name].items():
        if known[:-INDEX_BYTES] == protocol_of(key) and group_of(known[-INDEX_BYTES:]) in groups:
            yield endpoint


@dataclass
class World:
    """A fake kernel with the planner's state of it, and the rules of the game checked at every generation."""

    kernel: FakeKernel = field(default_factory=lambda: FakeKernel(LAYOUT.sets, (REFUSE,)))
    state: TableState = field(default_factory=lambda: TableState(LAYOUT, Observed()))
    now: Target = field(default_factory=dict)
    to: Target = field(default_factory=dict)
    restarted: bool = False
    residue: set[bytes] = field(default_factory=set)  # endpoints that a crash half-way may have left
    ids: dict[bytes, bytes] = field(default_factory=dict)  # every id ever, and its endpoint

    def restart(self) -> None:
        """Forget all, read the kernel back."""
        services, nodeports = (
            frozenset(draw for chain in self.kernel.state.chains if (draw := space.draw_of(chain)) is not None)
            for space in LAYOUT.spaces
        )
        base = Base(Transaction(()), False, (services, nodeports), Transaction(()), ())
        self.restarted = True
        self.state = TableState(LAYOUT, read_elements(cast("Connection", self.kernel), LAYOUT, base))

    def change(self, to: Target) -> Plan:
        """The plan for what is different; after a restart for all of it."""
        if self.restarted:
            return self.state.plan_all(wants({}, to))
        return self.state.plan(wants(self.now, to))

    def execute(self, plan: Plan, to: Target, stop_after: int | None = None) -> None:
        """Commit the plan and check every moment of it; die after some transactions if asked to."""
        transactions = [*plan.make, *plan.clear][:stop_after]
        self.to = to
        generations = [self.kernel.state]
        for number, transaction in enumerate(transactions):
            if number == len(plan.make):
                generations = [self.kernel.state]  # a grace period: nobody has read anything older
            self.kernel.commit(transaction)
            generations.append(self.kernel.state)
            self.check_moment(generations, to)
        if stop_after is None:
            self.now, self.restarted = to, False
            self.residue = set()
            self.check_final()

    def check_moment(self, generations: Sequence[State], to: Target) -> None:
        before, newest = generations[-2:]
        for space in LAYOUT.spaces:
            for verdicts in (space.verdicts, space.inside):
                for data in newest.maps[verdicts.name].values():
                    assert target(data) in before.chains, "a packet that began before sees the chain's rules"
        for key in {*self.now, *to}:
            old, new = self.now.get(key), to.get(key)
            for inside in (False, True):
                self.check_client(generations, key, old, new, inside=inside)
            if old is not None and new is not None:
                self.check_refusal(generations, key, old, new)
                check_sources(generations, key, old, new)
            if not self.residue:
                check_open(newest, key, old, new)
        for memory in LAYOUT.memories.values():
            for known in newest.maps[memory.by_id.name]:
                self.remember(newest, memory, known)

    def check_client(
        self, generations: Sequence[State], key: bytes, old: Wanted | None, new: Wanted | None, *, inside: bool
    ) -> None:
        before, after = served(old, inside=inside), served(new, inside=inside)
        space, newest = space_of(key), generations[-1]
        for draw, first in ways(generations, space, key, inside=inside):
            if before and after:
                assert draw, "a frontend with endpoints before and after has a verdict"
            if draw is None:
                continue
            allowed = {*pool(old, draw), *pool(new, draw), *self.residue}
            for endpoint in drawn(generations, first, space, key, draw):
                assert endpoint in allowed, "every index that can be drawn is there, and leads to its own"
                if endpoint in after:
                    assert endpoint[:4] * 2 in newest.maps["hairpin"]
            # After a crash a group's number may be that of who has one of its frontends now, while others still go.
            if draw.sticky is not None and not self.residue:
                ours = allowed | self.siblings(old, draw) | self.siblings(new, draw)
                assert set(recognized(generations, first, space, key, draw)) <= ours, "by whatever frontend one comes"

    def siblings(self, wanted: Wanted | None, draw: Draw) -> set[bytes]:
        """The endpoints that the frontends of the same Service port have in the pool of a draw, now or before."""
        of = () if wanted is None else (*self.now.values(), *self.to.values())
        same = [one for one in of if wanted is not None and one.group == wanted.group]
        return {endpoint for one in same for endpoint in pool(one, draw)}

    def check_refusal(self, generations: Sequence[State], key: bytes, old: Wanted, new: Wanted) -> None:
        """Who finds no endpoint is refused afterwards, if that is how it is before or after."""
        space, newest = space_of(key), generations[-1]
        if old.kind in CLUSTER_IP and new.kind in CLUSTER_IP:
            assert key[:4] in newest.maps["cluster-ips"]
        elif not {old.kind, new.kind} & set(CLUSTER_IP) and (old.refusal or new.refusal) and not self.residue:
            for draw, _ in ways(generations, space, key, inside=False):
                if draw is None or not draw.endpoints:
                    assert key in newest.maps[space.refused.name]

    def remember(self, state: State, memory: Memory, known: bytes) -> None:
        """Some client is remembered by this protocol and id from now on; the id never stands for anything else."""
        id_ = known[-INDEX_BYTES:]
        rows = (row for space in LAYOUT.spaces for row in state.maps[space.ids.name].items())
        if any(held == id_ and protocol_of(key[:-INDEX_BYTES]) == known[:-INDEX_BYTES] for key, held in rows):
            endpoint = state.maps[memory.by_id.name][known]
            assert self.ids.setdefault(id_, endpoint) == endpoint, "an id is for good"
            state.maps[memory.clients.name][id_ + any_of(group_of(id_))] = id_  # the client's address is the id's

    def check_final(self) -> None:
        """The maps hold what is wanted and nothing else."""
        maps = self.kernel.state.maps
        used_ids: dict[int, set[bytes]] = {base: set() for base in BASES}
        for space in LAYOUT.spaces:
            mine = {key: one for key, one in self.now.items() if space_of(key) is space}
            for base in BASES:
                by_id = maps[LAYOUT.memories[base].by_id.name]
                plain, ids = (rows(maps[of.name], base) for of in (space.endpoints, space.ids))
                known = {key: [protocol_of(key) + id_ for id_ in row] for key, row in ids.items()}
                used_ids[base] |= {one for row in known.values() for one in row}
                found = plain | {key: [by_id[one] for one in row] for key, row in known.items()}
                wanted = {key: one.local if base else one.cluster for key, one in mine.items()}
                assert {key: sorted(row) for key, row in found.items()} == {
                    key: sorted(row) for key, row in wanted.items() if row
                }
                assert set(ids) == {key for key, row in wanted.items() if row and mine[key].sticky}
            assert maps[space.verdicts.name] == {key: space.target(one.draw) for key, one in mine.items() if one.draw}
            assert maps[space.inside.name] == {key: space.target(one.inside) for key, one in mine.items() if one.inside}
            assert maps[space.refused.name] == {key: one.refusal.value for key, one in mine.items() if one.refusal}
        assert {base: set(maps[memory.by_id.name]) for base, memory in LAYOUT.memories.items()} == used_ids
        self.check_groups()
        assert set(maps["hairpin"]) == {pair for one in self.now.values() for pair in hairpin(one)}
        assert set(maps["cluster-ips"]) == {key[:4] for key, one in self.now.items() if one.kind in CLUSTER_IP}
        assert set(maps["restricted"]) == {key for key, one in self.now.items() if one.sources}
        assert set(maps["allowed-sources"]) == {element for one in self.now.values() for element in one.sources}

    def check_groups(self) -> None:
        """Frontends have a group's number in common if they have the group in common."""
        numbers: dict[Group, set[int]] = {}
        for key, one in self.now.items():
            for base in BASES:
                row = rows(self.kernel.state.maps[space_of(key).ids.name], base).get(key, ())
                numbers.setdefault(one.group, set()).update(map(group_of, row))
        used = [number for found in numbers.values() for number in found]
        assert len(used) == len(set(used))
        assert all(len(found) <= 1 for found in numbers.values())


def check_sources(generations: Sequence[State], key: bytes, old: Wanted, new: Wanted) -> None:
    """Whoever is allowed before and after is allowed all the time."""
    newest = generations[-1]
    always = set(old.sources) & set(new.sources) if old.sources and new.sources else {*old.sources, *new.sources}
    if any(key in state.maps["restricted"] for state in generations):
        assert always <= set(newest.maps["allowed-sources"])


def check_open(newest: State, key: bytes, old: Wanted | None, new: Wanted | None) -> None:
    """A frontend with source ranges is never open to everybody."""
    if new is not None and new.sources and (old is None or old.sources) and key in newest.maps["services"]:
        assert key in newest.maps["restricted"]


def rows(held: Mapping[bytes, bytes], base: int) -> dict[bytes, list[bytes]]:
    """The rows of one pool; their indices have no gaps."""
    by_index: dict[bytes, dict[int, bytes]] = {}
    for key, value in held.items():
        index = number_of(key[-4:])
        if (index >= LOCAL_BASE) == (base == LOCAL_BASE):
            by_index.setdefault(key[:-4], {})[index - base] = value
    assert all(sorted(row) == list(range(len(row))) for row in by_index.values())
    return {key: list(row.values()) for key, row in by_index.items()}
