"""The kernel's table against the layout: what is missing or different, and what its maps hold.

The only part that reads. Elements are turned into :class:`~.plan.Observed`, from which the planner makes the
difference; chains, rules and sets are compared here, and one transaction puts them right. The elements of the map of
clients are theirs, never ours to compare: only their ids are read, for none of them may be given out again.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from proxymode_agent.dataplane.nfnetlink import NfnetlinkError, Set, Transaction
from proxymode_agent.dataplane.nftables.draws import BASES, CLUSTER_BASE, LOCAL_BASE, Draw, Space
from proxymode_agent.dataplane.nftables.elements import INDEX_BYTES, indices, number_of
from proxymode_agent.dataplane.nftables.plan import Observed, ObservedSpace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from proxymode_agent.dataplane.nfnetlink import Chain, Command, Connection, DumpedRule, Rule
    from proxymode_agent.dataplane.nftables.layout import Layout
    from proxymode_agent.dataplane.nftables.parts import Row

    _Rows = tuple[dict[int, dict[bytes, Row]], tuple[bytes, ...]]

MAX_INDEX = 2 * LOCAL_BASE  # an index from here on is nobody's
LOOKUPS_FROM = 50_000
"""From so many endpoints on they are looked up one by one, for the time of a dump grows with the square."""


class Base(msgspec.Struct, frozen=True):
    """The table without its elements. `repair` makes it what the layout says (empty: it is so already). `fresh`: its
    maps are new and empty. `chains`: draws that the two spaces have a chain for. `strangers`: deletes what is not ours,
    once no element refers to it any more. `damage`: all this in words, for whoever knows that it was as declared."""

    repair: Transaction
    fresh: bool
    chains: tuple[frozenset[Draw], frozenset[Draw]]
    strangers: Transaction
    damage: tuple[str, ...]


def read_base(kernel: Connection, layout: Layout) -> Base:
    """Compare the table in the kernel with the layout."""
    name = layout.table.name
    found = next((found for found in kernel.tables(layout.table.family) if found.table.name == name), None)
    if found is None:
        return _created(_create(layout), f"{layout.table} is gone")
    sets = {found.name: found for found in kernel.sets(layout.table)}
    other = next((wanted for wanted in layout.sets if wanted.name in sets and not sets[wanted.name].is_(wanted)), None)
    if other is not None:
        return _created((layout.table.delete(), *_create(layout)), f"{other} was changed")
    chains = {chain.name: chain for chain in kernel.chains(layout.table)}
    rules: dict[str, list[DumpedRule]] = {chain: [] for chain in chains}
    for rule in kernel.rules(layout.table):
        rules.setdefault(rule.chain, []).append(rule)

    services, nodeports = (
        frozenset(draw for chain in chains if (draw := space.draw_of(chain)) is not None) for space in layout.spaces
    )
    declared = dict(layout.rules_by_chain)
    declared |= {layout.services.chain(draw): layout.services.rules(draw) for draw in services}
    declared |= {layout.nodeports.chain(draw): layout.nodeports.rules(draw) for draw in nodeports}
    known_chains = {chain.name for chain in declared}
    known_sets = {wanted.name for wanted in layout.sets}
    strange_chains = [chain for chain in chains.values() if chain.name not in known_chains]
    strange_sets = [Set(layout.table, other, ()) for other in sets if other not in known_sets]
    wrong = [
        chain
        for chain, wanted in declared.items()
        if chains.get(chain.name) != chain or not _same(rules[chain.name], wanted)
    ]
    repair = (
        *([layout.table.add()] if found.dormant else ()),
        *(wanted.add() for wanted in layout.sets if wanted.name not in sets),
        *(chain.flush() for chain in strange_chains if rules[chain.name]),
        *_repair_chains(wrong, declared, chains, rules),
    )
    strangers = (*(chain.delete() for chain in strange_chains), *(other.delete() for other in strange_sets))
    damage = (
        *([f"{layout.table} was changed"] if found.dormant else ()),
        *(f"{wanted} is gone" for wanted in layout.sets if wanted.name not in sets),
        *(f"{chain} {'was changed' if chain.name in chains else 'is gone'}" for chain in wrong),
        *(f"{stranger} was added" for stranger in (*strange_chains, *strange_sets)),
    )
    return Base(Transaction(repair), False, (services, nodeports), Transaction(strangers), damage)


def read_elements(kernel: Connection, layout: Layout, base: Base) -> Observed:
    """What the table's maps and sets hold, after the base was repaired."""
    if base.fresh:
        return Observed()
    services, nodeports = (
        _read_space(kernel, space, chains) for space, chains in zip(layout.spaces, base.chains, strict=True)
    )
    return Observed(
        services,
        nodeports,
        {base: dict(kernel.elements(memory.by_id)) for base, memory in layout.memories.items()},
        frozenset(id_ for memory in layout.memories.values() for _, id_ in kernel.elements(memory.clients)),
        frozenset(key for key, _ in kernel.elements(layout.cluster_ips)),
        frozenset(key for key, _ in kernel.elements(layout.hairpin)),
        frozenset(key for key, _ in kernel.elements(layout.restricted)),
        frozenset(key for key, _ in kernel.elements(layout.sources)),
    )


def _created(commands: Iterable[Command], damage: str) -> Base:
    return Base(Transaction(tuple(commands)), True, (frozenset(), frozenset()), Transaction(()), (damage,))


def _create(layout: Layout) -> Iterable[Command]:
    yield layout.table.add()
    yield from (wanted.add() for wanted in layout.sets)
    yield from (chain.add() for chain in layout.rules_by_chain)
    yield from (rule.add() for rules in layout.rules_by_chain.values() for rule in rules)


def _repair_chains(
    wrong: Sequence[Chain],
    declared: Mapping[Chain, Sequence[Rule]],
    found: Mapping[str, Chain],
    rules: Mapping[str, Sequence[DumpedRule]],
) -> Iterable[Command]:
    """Old rules go first and new rules come last, so that no order of references between chains is wrong."""
    yield from (chain.flush() for chain in wrong if rules.get(chain.name))
    yield from (chain.delete() for chain in wrong if chain.name in found and found[chain.name] != chain)
    yield from (chain.add() for chain in wrong if found.get(chain.name) != chain)
    yield from (rule.add() for chain in wrong for rule in declared[chain])


def _same(found: Sequence[DumpedRule], wanted: Sequence[Rule]) -> bool:
    return len(found) == len(wanted) and all(one.is_(other) for one, other in zip(found, wanted, strict=True))


def _read_space(kernel: Connection, space: Space, chains: frozenset[Draw]) -> ObservedSpace:
    verdicts, inside = dict(kernel.elements(space.verdicts)), dict(kernel.elements(space.inside))
    draws = {space.target(draw): draw for draw in chains}
    drawn = [(key, draw) for held in (verdicts, inside) for key, data in held.items() if (draw := draws.get(data))]
    endpoints, junk = _find_rows(kernel, space.endpoints, drawn) or _read_rows(kernel, space.endpoints)
    ids, ids_junk = _read_rows(kernel, space.ids)
    return ObservedSpace(
        verdicts,
        inside,
        dict(kernel.elements(space.refused)),
        endpoints,
        ids,
        junk,
        ids_junk,
        chains,
    )


def _find_rows(kernel: Connection, of: Set, drawn: Iterable[tuple[bytes, Draw]]) -> _Rows | None:
    """What `_read_rows` returns, by looking up what the verdicts count on; None: that would not be all, or not faster.

    Nothing else is in the map if it has as many elements as were found.
    """
    counts: dict[int, dict[bytes, int]] = {base: {} for base in BASES}
    for key, draw in drawn:
        if draw.sticky is None:
            counts[draw.kind.base][key] = draw.endpoints
    total = sum(sum(pool.values()) for pool in counts.values())
    if total < LOOKUPS_FROM or total != kernel.count(of):
        return None
    keys = (
        frontend + index
        for base, pool in counts.items()
        for frontend, count in pool.items()
        for index in indices(count, base)[:count]
    )
    values = kernel.values(of, keys)
    try:
        return {
            base: {frontend: tuple(islice(values, count)) for frontend, count in pool.items() if count}
            for base, pool in counts.items()
        }, ()
    except NfnetlinkError:  # somebody else's element in place of one of ours
        return None


def _read_rows(kernel: Connection, of: Set) -> _Rows:
    """The rows of an index map, by base and frontend, and the keys of elements that no index of ours can have."""
    rows: dict[int, dict[bytes, dict[int, bytes]]] = {base: {} for base in BASES}
    junk: list[bytes] = []
    numbers: dict[bytes, tuple[dict[bytes, dict[int, bytes]], int]] = {}
    for key, value in kernel.elements(of):
        packed = key[-INDEX_BYTES:]
        place = numbers.get(packed)
        if place is None:
            index = number_of(packed)
            if index >= MAX_INDEX:
                junk.append(key)
                continue
            base = LOCAL_BASE if index >= LOCAL_BASE else CLUSTER_BASE
            place = numbers[packed] = rows[base], index - base
        pool, index = place
        frontend = key[:-INDEX_BYTES]
        row = pool.get(frontend)
        if row is None:
            pool[frontend] = {index: value}
        else:
            row[index] = value
    return {base: {key: _row(values) for key, values in pool.items()} for base, pool in rows.items()}, tuple(junk)


def _row(values: Mapping[int, bytes]) -> Row:
    return tuple([values.get(index) for index in range(max(values) + 1)])
