"""The nf_tables table beside IPVS: masquerading, refusal, source ranges, and the memory of which frontends are ours.

IPVS rewrites destinations only, and knows a frontend by its address alone. What kube-proxy keeps ipsets and iptables
rules for is here in few chains, whatever the number of Services; `Layout` declares them. The nat chain has one more
use: conntrack's address translation works only while some nat base chain exists in a family, and this one keeps it
working while the table of the nftables mode goes away.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.ipvs.layout import FAMILIES, VERDICTS, Layout, by_set
from proxymode_agent.dataplane.ipvs.model import Element, Set, Verdict
from proxymode_agent.dataplane.ipvs.presence import TABLE, has_table
from proxymode_agent.dataplane.nfnetlink import (
    Connection,
    NfnetlinkError,
    Transaction,
    add_elements,
    delete_elements,
    one_by_one,
)
from proxymode_agent.dataplane.watch import TableWatch

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from proxymode_agent.dataplane.nfnetlink import DumpedRule, Rule
    from proxymode_agent.dataplane.nfnetlink import Set as NftSet
    from proxymode_agent.services.model import DataplaneConfig

_AT_ONCE: Final = 500
"""Elements that get another verdict in one transaction: deletion and addition must be in the same."""


class SideTable:
    """I/O: the table in both families of the current network namespace. Raises DataplaneError."""

    def __init__(self, config: DataplaneConfig) -> None:
        self._layouts = {length: Layout(length, config) for length in FAMILIES}
        self._kernel = Connection()
        self.watch: Final = TableWatch(self._kernel, [made.table for made in self._layouts.values()])

    def close(self) -> None:
        self._kernel.close()

    def present(self) -> bool:
        """Whether a table of this name exists in either family."""
        return has_table(self._kernel)

    def mend(self) -> tuple[int, frozenset[int]]:
        """Put chains and rules right where the sets are as declared; how many tables were mended, and the families
        whose table is as declared now. Elements stay, and lookups go on."""
        mended, intact = 0, set()
        for length, layout in self._layouts.items():
            if self._is(layout):
                intact.add(length)
            elif self._exists(layout) and self._sets_are(layout):
                # An element that leads to somebody's chain is in its way: the table is made anew then.
                with contextlib.suppress(NfnetlinkError):
                    self._kernel.commit(layout.rewrite(self._kernel.chains(layout.table)))
                    intact.add(length)
                    mended += 1
        return mended, frozenset(intact)

    def create(self, length: int, elements: Mapping[Element, Verdict | None]) -> None:
        """Put a family's table in place with these elements, instead of what there was."""
        self._kernel.commit_all(self._layouts[length].create(elements))

    def elements(self) -> dict[Element, Verdict | None]:
        """What the sets hold, as far as there are any."""
        verdicts = {data: value for value, data in VERDICTS.items()}
        found: dict[Element, Verdict | None] = {}
        for length, layout in self._layouts.items():
            if not self._exists(layout):
                continue
            there = {dumped.name: dumped for dumped in self._kernel.sets(layout.table)}
            for kind, declared in layout.sets.items():
                if declared.name in there and there[declared.name].is_(declared):
                    for key, data in self._kernel.elements(declared):
                        value = verdicts.get(data, Verdict.FOREIGN) if kind is Set.FRONTENDS else None
                        found[Element(kind, length, key)] = value
        return found

    def put(
        self,
        elements: Mapping[Element, Verdict | None],
        there: Container[Element],
        outdated: Iterable[Element] = (),
    ) -> None:
        """Add elements in the place of those that are `outdated`, and give those that are `there` their new verdict."""
        replaced = {element: value for element, value in elements.items() if element in there}
        new = {element: value for element, value in elements.items() if element not in there}
        for length, layout in self._layouts.items():
            for kind, pairs in by_set(replaced, length).items():
                for some in (pairs[at : at + _AT_ONCE] for at in range(0, len(pairs), _AT_ONCE)):
                    self._replace(layout.sets[kind], [key for key, _ in some], some)
            grouped = by_set(new, length)
            for kind, pairs in by_set(dict.fromkeys(outdated), length).items():
                self._replace(layout.sets[kind], [key for key, _ in pairs], grouped.pop(kind, []))
            for kind in sorted(grouped, key=_closes):
                self._kernel.commit_all(one_by_one(add_elements(layout.sets[kind], grouped[kind])))

    def delete(self, elements: Iterable[Element]) -> None:
        """Delete elements."""
        for length, layout in self._layouts.items():
            grouped = by_set(dict.fromkeys(elements), length)
            for kind in sorted(grouped, key=_closes, reverse=True):
                keys = [key for key, _ in grouped[kind]]
                self._kernel.commit_all(one_by_one(delete_elements(layout.sets[kind], keys)))

    def remove(self) -> None:
        """Delete the tables."""
        for layout in self._layouts.values():
            self._kernel.commit(Transaction.of(layout.table.add(), layout.table.delete()))

    def _replace(self, of: NftSet, old: list[bytes], new: list[tuple[bytes, bytes]]) -> None:
        self._kernel.commit(Transaction.of(*delete_elements(of, old), *add_elements(of, new)))

    def _exists(self, layout: Layout) -> bool:
        return any(dumped.table.name == TABLE for dumped in self._kernel.tables(layout.table.family))

    def _is(self, layout: Layout) -> bool:
        tables = [dumped for dumped in self._kernel.tables(layout.table.family) if dumped.table.name == TABLE]
        if not tables or tables[0].dormant or not self._sets_are(layout):
            return False
        if set(self._kernel.chains(layout.table)) != layout.bodies.keys():
            return False
        # Chain by chain: a chain that was made again comes last.
        rules: dict[str, list[DumpedRule]] = {}
        for rule in self._kernel.rules(layout.table):
            rules.setdefault(rule.chain, []).append(rule)
        declared: dict[str, list[Rule]] = {}
        for wanted in layout.rules:
            declared.setdefault(wanted.chain.name, []).append(wanted)
        return rules.keys() == declared.keys() and all(_same(rules[name], declared[name]) for name in declared)

    def _sets_are(self, layout: Layout) -> bool:
        sets = {dumped.name: dumped for dumped in self._kernel.sets(layout.table)}
        declared = {kind.name: kind for kind in layout.sets.values()}
        return sets.keys() == declared.keys() and all(sets[name].is_(declared[name]) for name in sets)


def _same(found: Sequence[DumpedRule], declared: Sequence[Rule]) -> bool:
    return len(found) == len(declared) and all(one.is_(other) for one, other in zip(found, declared, strict=True))


def _closes(kind: Set) -> bool:
    """Whether an element of the set refuses what no other set names: it comes last and goes first."""
    return kind is Set.ADDRESSES or kind is Set.RESTRICTED
