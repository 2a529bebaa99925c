"""The nf_tables table beside IPVS: masquerading, hairpin, refusal, and the memory of which NodePorts are ours.

IPVS rewrites destinations only. Everything for which kube-proxy keeps ipsets and iptables rules is here in two chains:

    chain masquerade   nat, postrouting, srcnat: a connection's first packet, after IPVS chose a real server
    chain refuse       filter, input: a new connection to a Service address, before IPVS sees it (its hook is at 98)

What a packet was addressed to before IPVS is in its conntrack entry (sysctl net.ipv4.vs.conntrack = 1), so no packet
mark is needed. The masquerade chain has one more use: conntrack's address translation works only while some nat base
chain exists in a family, and this one keeps it working while the table of the nftables mode goes away.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.ipvs.model import Element, Set
from proxymode_agent.dataplane.nfnetlink import (
    IP6_DADDR,
    IP6_SADDR,
    IP_DADDR,
    IP_SADDR,
    L4PROTO,
    TH_DPORT,
    Chain,
    CmpOp,
    Connection,
    CtKey,
    CtState,
    Expression,
    Hook,
    HookNumber,
    MetaKey,
    NfProto,
    Rule,
    Table,
    Transaction,
    VerdictCode,
    add_elements,
    bitwise,
    cmp,
    ct,
    ct_state,
    delete_elements,
    load,
    lookup,
    masquerade,
    meta,
    one_by_one,
    reject,
    verdict,
)
from proxymode_agent.dataplane.nfnetlink import Set as NftSet
from proxymode_agent.dataplane.watch import TableWatch
from proxymode_agent.services.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.services.model import DataplaneConfig

NAME: Final = "proxymode-ipvs"
COMMENT: Final = "proxymode: what IPVS alone cannot do"
FAMILIES: Final = {4: NfProto.IPV4, 16: NfProto.IPV6}
_ICMP: Final = {4: socket.IPPROTO_ICMP, 16: socket.IPPROTO_ICMPV6}
_ORIGINAL: Final = 0  # IP_CT_DIR_ORIGINAL
_NAT_SOURCE: Final = 100  # NF_IP_PRI_NAT_SRC
_FILTER: Final = 0  # NF_IP_PRI_FILTER


@dataclass(frozen=True)
class Layout:
    """Table, sets, chains and rules of one address family (4 or 16, the length of an address) as declarations."""

    length: int
    config: DataplaneConfig

    @cached_property
    def table(self) -> Table:
        return Table(FAMILIES[self.length], NAME, COMMENT)

    @cached_property
    def sets(self) -> dict[Set, NftSet]:
        source, destination = (IP_SADDR, IP_DADDR) if self.length == 4 else (IP6_SADDR, IP6_DADDR)
        frontend = (destination, L4PROTO, TH_DPORT)
        keys = {
            Set.ADDRESSES: (destination,),
            Set.SERVICES: frontend,
            Set.NODE_PORTS: frontend,
            Set.HAIRPIN: (source, destination),
        }
        return {kind: NftSet(self.table, kind.value, key) for kind, key in keys.items()}

    @cached_property
    def chains(self) -> tuple[Chain, Chain]:
        return (
            Chain(self.table, "nat-postrouting", Hook("nat", HookNumber.POSTROUTING, _NAT_SOURCE)),
            Chain(self.table, "refuse", Hook("filter", HookNumber.INPUT, _FILTER)),
        )

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        masquerading, refusing = self.chains
        sets = self.sets
        addressed_to = self._original_destination()
        new = (*ct_state(CtState.NEW), meta(MetaKey.L4PROTO, 0), cmp(0, bytes((_ICMP[self.length],)), CmpOp.NEQ))
        rules = [
            Rule(masquerading, (*load(sets[Set.HAIRPIN].key), lookup(Set.HAIRPIN.value, 0), masquerade())),
            Rule(masquerading, (*addressed_to, lookup(Set.NODE_PORTS.value, 0), masquerade())),
            Rule(masquerading, (self._source(), lookup(Set.ADDRESSES.value, 0), masquerade())),
        ]
        outside = self._from_outside()
        if outside is not None:
            rules.append(Rule(masquerading, (*outside, *addressed_to, lookup(Set.SERVICES.value, 0), masquerade())))
        served = (*load(sets[Set.SERVICES].key), lookup(Set.SERVICES.value, 0), verdict(VerdictCode.ACCEPT))
        unserved = (*load(sets[Set.ADDRESSES].key), lookup(Set.ADDRESSES.value, 0), reject(self.table.family))
        return (*rules, Rule(refusing, (*new, *served)), Rule(refusing, (*new, *unserved)))

    def create(self, elements: Iterable[Element]) -> Transaction:
        """The whole table in the place of whatever has its name, at one instant."""
        return Transaction.of(
            self.table.add(),
            self.table.delete(),
            self.table.add(),
            *(declared.add() for declared in self.sets.values()),
            *(chain.add() for chain in self.chains),
            *(rule.add() for rule in self.rules),
            *(
                command
                for kind, keys in _by_set(elements, self.length).items()
                for command in add_elements(self.sets[kind], [(key, b"") for key in keys])
            ),
        )

    def _source(self) -> Expression:
        return (IP_SADDR if self.length == 4 else IP6_SADDR).load(0)

    def _original_destination(self) -> tuple[Expression, ...]:
        """The frontend that a connection was made to, in registers as a key of `services` or `node-ports`."""
        key = CtKey.DST_IP if self.length == 4 else CtKey.DST_IP6
        words = self.length // 4
        return (
            ct(key, 0, _ORIGINAL),
            meta(MetaKey.L4PROTO, words),
            ct(CtKey.PROTO_DST, words + 1, _ORIGINAL),
        )

    def _from_outside(self) -> tuple[Expression, ...] | None:
        """Conditions of a source that is no pod; () for every source, None for none."""
        if self.config.masquerade_all:
            return ()
        networks = self.config.pod_networks(Family(self.length))
        if not networks:
            return None
        return tuple(
            expression
            for network in networks
            for expression in (
                self._source(),
                bitwise(0, network.netmask.packed, bytes(self.length)),
                cmp(0, network.network_address.packed, CmpOp.NEQ),
            )
        )


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
        return any(self._exists(layout) for layout in self._layouts.values())

    def intact(self) -> frozenset[int]:
        """The families whose sets, chains and rules are as declared."""
        return frozenset(length for length, layout in self._layouts.items() if self._is(layout))

    def create(self, length: int, elements: frozenset[Element]) -> None:
        """Put a family's table in place with these elements, instead of what there was."""
        self._kernel.commit(self._layouts[length].create(elements))

    def elements(self) -> frozenset[Element]:
        """What the sets hold, as far as there are any."""
        found: set[Element] = set()
        for length, layout in self._layouts.items():
            if not self._exists(layout):
                continue
            there = {dumped.name for dumped in self._kernel.sets(layout.table)}
            for kind, declared in layout.sets.items():
                if declared.name in there:
                    found.update(Element(kind, length, key) for key, _ in self._kernel.elements(declared))
        return frozenset(found)

    def add(self, elements: frozenset[Element]) -> None:
        """Add elements, those of `addresses` last: they make the table refuse what no other set names."""
        for length, layout in self._layouts.items():
            grouped = _by_set(elements, length)
            for kind in sorted(grouped, key=lambda kind: kind is Set.ADDRESSES):
                pairs = [(key, b"") for key in grouped[kind]]
                self._kernel.commit_all(one_by_one(add_elements(layout.sets[kind], pairs)))

    def delete(self, elements: frozenset[Element]) -> None:
        """Delete elements, those of `addresses` first."""
        for length, layout in self._layouts.items():
            grouped = _by_set(elements, length)
            for kind in sorted(grouped, key=lambda kind: kind is not Set.ADDRESSES):
                self._kernel.commit_all(one_by_one(delete_elements(layout.sets[kind], grouped[kind])))

    def remove(self) -> None:
        """Delete the tables."""
        for layout in self._layouts.values():
            self._kernel.commit(Transaction.of(layout.table.add(), layout.table.delete()))

    def _exists(self, layout: Layout) -> bool:
        return any(dumped.table.name == NAME for dumped in self._kernel.tables(layout.table.family))

    def _is(self, layout: Layout) -> bool:
        tables = [dumped for dumped in self._kernel.tables(layout.table.family) if dumped.table.name == NAME]
        if not tables or tables[0].dormant:
            return False
        sets = {dumped.name: dumped for dumped in self._kernel.sets(layout.table)}
        declared = {kind.name: kind for kind in layout.sets.values()}
        if sets.keys() != declared.keys() or not all(sets[name].is_(declared[name]) for name in sets):
            return False
        if set(self._kernel.chains(layout.table)) != set(layout.chains):
            return False
        rules = self._kernel.rules(layout.table)
        return len(rules) == len(layout.rules) and all(
            found.is_(rule) for found, rule in zip(rules, layout.rules, strict=True)
        )


def _by_set(elements: Iterable[Element], length: int) -> dict[Set, list[bytes]]:
    grouped: dict[Set, list[bytes]] = {}
    for element in elements:
        if element.family == length:
            grouped.setdefault(element.set, []).append(element.key)
    return grouped
