"""The kernel's table against the layout: what is missing or different, and what its maps hold.

The only part that reads. Elements are turned into :class:`~.plan.ObservedElements`, from which the planner makes
the difference; chains, rules and sets are compared here, and one transaction puts them right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.nfnetlink import Set, Transaction
from proxymode_agent.dataplane.nftables.elements import INDEX_BYTES, index_of
from proxymode_agent.dataplane.nftables.plan import ObservedElements
from proxymode_agent.dataplane.nftables.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from proxymode_agent.dataplane.nfnetlink import Chain, Command, Connection, DumpedRule, Rule
    from proxymode_agent.dataplane.nftables.layout import Balancer, Layout

MAX_ENDPOINTS = 1 << 16  # of one Service port; an index above is nobody's


@dataclass(frozen=True, slots=True)
class Base:
    """The table without its elements. `repair` makes it what the layout says (empty: it is so already). `fresh`: its
    maps are new and empty. `chains`: endpoint counts that the two balancers have a chain for. `strangers`: deletes
    what is not ours, once no element refers to it any more."""

    repair: Transaction
    fresh: bool
    chains: tuple[frozenset[int], frozenset[int]]
    strangers: Transaction


def read_base(kernel: Connection, layout: Layout) -> Base:
    """Compare the table in the kernel with the layout."""
    name = layout.table.name
    found = next((found for found in kernel.tables(layout.table.family) if found.table.name == name), None)
    if found is None:
        return _created(_create(layout))
    sets = {found.name: found for found in kernel.sets(layout.table)}
    if any(wanted.name in sets and not sets[wanted.name].is_(wanted) for wanted in layout.sets):
        return _created((layout.table.delete(), *_create(layout)))
    chains = {chain.name: chain for chain in kernel.chains(layout.table)}
    rules: dict[str, list[DumpedRule]] = {chain: [] for chain in chains}
    for rule in kernel.rules(layout.table):
        rules.setdefault(rule.chain, []).append(rule)

    services, nodeports = (
        frozenset(count for chain in chains if (count := balancer.count_of(chain)) is not None)
        for balancer in layout.balancers
    )
    declared = {chain: layout.rules_of(chain) for chain in layout.chains}
    declared |= {layout.services.chain(count): layout.services.rules(count) for count in sorted(services)}
    declared |= {layout.nodeports.chain(count): layout.nodeports.rules(count) for count in sorted(nodeports)}
    known_chains = {chain.name for chain in declared}
    known_sets = {wanted.name for wanted in layout.sets}
    strange_chains = [chain for chain in chains.values() if chain.name not in known_chains]
    strange_sets = [Set(layout.table, other, ()) for other in sets if other not in known_sets]
    repair = (
        *([layout.table.add()] if found.dormant else ()),
        *(wanted.add() for wanted in layout.sets if wanted.name not in sets),
        *(chain.flush() for chain in strange_chains if rules[chain.name]),
        *_repair_chains(declared, chains, rules),
    )
    strangers = (*(chain.delete() for chain in strange_chains), *(other.delete() for other in strange_sets))
    return Base(Transaction(repair), False, (services, nodeports), Transaction(strangers))


def read_elements(kernel: Connection, layout: Layout, base: Base) -> ObservedElements:
    """What the table's maps and sets hold, after the base was repaired."""
    if base.fresh:
        return ObservedElements()
    services, services_junk = _read_slots(kernel, layout.services)
    nodeports, nodeports_junk = _read_slots(kernel, layout.nodeports)
    return ObservedElements(
        services,
        nodeports,
        services_junk,
        nodeports_junk,
        base.chains[0],
        base.chains[1],
        frozenset(key for key, _ in kernel.elements(layout.cluster_ips)),
        frozenset(key for key, _ in kernel.elements(layout.hairpin)),
        frozenset(key for key, _ in kernel.elements(layout.refused_nodeports)),
    )


def _created(commands: Iterable[Command]) -> Base:
    return Base(Transaction(tuple(commands)), True, (frozenset(), frozenset()), Transaction(()))


def _create(layout: Layout) -> Iterable[Command]:
    yield layout.table.add()
    yield from (wanted.add() for wanted in layout.sets)
    yield from (chain.add() for chain in layout.chains)
    yield from (rule.add() for rule in layout.rules)


def _repair_chains(
    declared: Mapping[Chain, Sequence[Rule]], found: Mapping[str, Chain], rules: Mapping[str, Sequence[DumpedRule]]
) -> Iterable[Command]:
    """Old rules go first and new rules come last, so that no order of references between chains is wrong."""
    wrong = [
        chain
        for chain, wanted in declared.items()
        if found.get(chain.name) != chain or not _same(rules[chain.name], wanted)
    ]
    yield from (chain.flush() for chain in wrong if rules.get(chain.name))
    yield from (chain.delete() for chain in wrong if chain.name in found and found[chain.name] != chain)
    yield from (chain.add() for chain in wrong if found.get(chain.name) != chain)
    yield from (rule.add() for chain in wrong for rule in declared[chain])


def _same(found: Sequence[DumpedRule], wanted: Sequence[Rule]) -> bool:
    return len(found) == len(wanted) and all(one.is_(other) for one, other in zip(found, wanted, strict=True))


def _read_slots(kernel: Connection, balancer: Balancer) -> tuple[dict[bytes, Slots], tuple[bytes, ...]]:
    """The frontends in a balancer's two maps, and the keys of endpoint elements that no index of ours can have."""
    endpoints: dict[bytes, list[bytes | None]] = {}
    junk: list[bytes] = []
    for key, endpoint in kernel.elements(balancer.endpoints):
        index = index_of(key[-INDEX_BYTES:])
        if index >= MAX_ENDPOINTS:
            junk.append(key)
            continue
        row = endpoints.setdefault(key[:-INDEX_BYTES], [])
        if index >= len(row):
            row += [None] * (index + 1 - len(row))
        row[index] = endpoint
    verdicts = dict(kernel.elements(balancer.verdicts))
    slots = {key: Slots(tuple(row), verdicts.pop(key, None)) for key, row in endpoints.items()}
    slots |= {key: Slots((), verdict) for key, verdict in verdicts.items()}
    return slots, tuple(junk)
