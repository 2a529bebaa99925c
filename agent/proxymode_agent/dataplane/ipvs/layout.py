"""Pure: the table `proxymode-ipvs` of one address family as declarations: sets, chains, rules.

    filter-input (0), filter-output (-101)   new connections, just before IPVS sees them
        ├─ to-masquerade  external, external-local from this node, internal from what is no pod: packet mark
        └─ refuse      restricted frontend, and source not in source-ranges: drop
                       frontends: accept | drop | no-endpoints (reject) | insiders (accept pods and the node, drop)
                       any other port of an address on kube-ipvs0: reject
    filter-forward (0), unallocated (output 0)   to an address of the Service CIDRs that no Service has: drop
    nat-postrouting (100)                    marked, hairpin, or from an address on kube-ipvs0: masquerade

The map `frontends` is looked up twice: on kernels up to 6.11 a lookup can miss an element that is replaced in the same
moment (delete and add in one transaction), and a second lookup right after finds it.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.ipvs.model import Element, Set, Verdict
from proxymode_agent.dataplane.ipvs.presence import TABLE
from proxymode_agent.dataplane.nfnetlink import (
    IP6_DADDR,
    IP6_SADDR,
    IP_DADDR,
    IP_SADDR,
    L4PROTO,
    TH_DPORT,
    AddressField,
    Chain,
    CmpOp,
    CtState,
    Expression,
    FibFlag,
    Hook,
    HookNumber,
    MetaKey,
    NfProto,
    Rule,
    Table,
    Transaction,
    VerdictCode,
    add_elements,
    address_is_local,
    bitwise,
    came_in_by,
    cmp,
    ct_state,
    fib_address_type,
    flip_mark_bit,
    host_u32,
    load,
    lookup,
    lookup_verdict,
    mark_has,
    masquerade,
    meta,
    one_by_one,
    reject,
    set_mark_bit,
    verdict,
    verdict_element,
)
from proxymode_agent.dataplane.nfnetlink import Set as NftSet
from proxymode_agent.dataplane.nfnetlink import Verdict as NftVerdict
from proxymode_agent.services.model import Family, PodInterface

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from proxymode_agent.services.model import DataplaneConfig

COMMENT: Final = "proxymode: what IPVS alone cannot do"
FAMILIES: Final = {4: NfProto.IPV4, 16: NfProto.IPV6}
VERDICTS: Final = {
    Verdict.ACCEPT: verdict_element(VerdictCode.ACCEPT),
    Verdict.DROP: verdict_element(VerdictCode.DROP),
    Verdict.NO_ENDPOINTS: verdict_element(VerdictCode.GOTO, Verdict.NO_ENDPOINTS.value),
    Verdict.INSIDERS: verdict_element(VerdictCode.GOTO, Verdict.INSIDERS.value),
}
"""The data of the elements of `frontends`."""

_ICMP: Final = {4: socket.IPPROTO_ICMP, 16: socket.IPPROTO_ICMPV6}
_RTN_LOCAL: Final = 2  # include/uapi/linux/rtnetlink.h
_NAT_SOURCE: Final = 100  # NF_IP_PRI_NAT_SRC
_FILTER: Final = 0  # NF_IP_PRI_FILTER
_BEFORE_IPVS: Final = -101  # at output IPVS comes at NF_IP_PRI_NAT_DST + 2, on older kernels at + 1


@dataclass(frozen=True)
class Layout:
    """The table of one address family (4 or 16, the length of an address). Depends on the configuration only."""

    length: int
    config: DataplaneConfig

    @cached_property
    def table(self) -> Table:
        return Table(FAMILIES[self.length], TABLE, COMMENT)

    @cached_property
    def sets(self) -> dict[Set, NftSet]:
        frontend = (self._destination, L4PROTO, TH_DPORT)
        keys = dict.fromkeys(Set, frontend) | {
            Set.ADDRESSES: (self._destination,),
            Set.HAIRPIN: (self._source, self._destination),
            Set.SOURCE_RANGES: (*frontend, self._source),
        }
        return {
            kind: NftSet(
                self.table,
                kind.value,
                key,
                NftVerdict if kind is Set.FRONTENDS else None,
                intervals=kind is Set.SOURCE_RANGES,
            )
            for kind, key in keys.items()
        }

    @cached_property
    def bodies(self) -> dict[Chain, tuple[tuple[Expression, ...], ...]]:
        """The chains with their rules, in the order in which they are made."""
        mark, refuse = Chain(self.table, "to-masquerade"), Chain(self.table, "refuse")
        check = tuple((*self._new(), verdict(VerdictCode.JUMP, chain.name)) for chain in (mark, refuse))
        bodies = {
            self._base("nat-postrouting", "nat", HookNumber.POSTROUTING, _NAT_SOURCE): self._masquerading(),
            mark: self._marking(),
            Chain(self.table, Verdict.NO_ENDPOINTS.value): ((reject(self.table.family),),),
            Chain(self.table, Verdict.INSIDERS.value): self._insiders(),
            Chain(self.table, "source-ranges"): (
                (*self._in(Set.SOURCE_RANGES), verdict(VerdictCode.RETURN)),
                (verdict(VerdictCode.DROP),),
            ),
            refuse: (
                (*self._in(Set.RESTRICTED), verdict(VerdictCode.JUMP, "source-ranges")),
                self._to_frontend(),
                self._to_frontend(),
                (*self._in(Set.ADDRESSES), reject(self.table.family)),
            ),
            self._base("filter-input", "filter", HookNumber.INPUT, _FILTER): check,
            self._base("filter-output", "filter", HookNumber.OUTPUT, _BEFORE_IPVS): check,
        }
        unallocated = self._unallocated()
        if unallocated:
            bodies[self._base("filter-forward", "filter", HookNumber.FORWARD, _FILTER)] = unallocated
            bodies[self._base("unallocated", "filter", HookNumber.OUTPUT, _FILTER)] = unallocated
        return bodies

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        return tuple(Rule(chain, body) for chain, bodies in self.bodies.items() for body in bodies)

    def create(self, elements: Mapping[Element, Verdict | None]) -> Iterator[Transaction]:
        """The whole table in the place of whatever has its name, in transactions of bounded size.

        First all but the filters; the nat chain is never missing, for without any conntrack translates no more. Then
        the elements, and with them all the filters, at one instant.
        """
        filters = [chain for chain in self.bodies if chain.hook is not None and chain.hook.type == "filter"]
        yield Transaction.of(
            self.table.add(),
            self.table.delete(),
            self.table.add(),
            *(declared.add() for declared in self.sets.values()),
            *(chain.add() for chain in self.bodies if chain not in filters),
            *(rule.add() for rule in self.rules if rule.chain not in filters),
        )
        for kind, pairs in by_set(elements, self.length).items():
            yield from one_by_one(add_elements(self.sets[kind], pairs))
        yield Transaction.of(
            *(chain.add() for chain in filters), *(rule.add() for rule in self.rules if rule.chain in filters)
        )

    def rewrite(self, found: Iterable[Chain]) -> Transaction:
        """All chains and rules as declared, at one instant, where the sets are as they should be and `found` are the
        chains that there are."""
        there = {chain.name: chain for chain in found}
        other = [chain for chain in there.values() if chain not in self.bodies]
        return Transaction.of(
            self.table.add(),
            *(chain.flush() for chain in there.values()),
            *(chain.delete() for chain in other),
            *(chain.add() for chain in self.bodies if there.get(chain.name) != chain),
            *(rule.add() for rule in self.rules),
        )

    @property
    def _source(self) -> AddressField:
        return IP_SADDR if self.length == 4 else IP6_SADDR

    @property
    def _destination(self) -> AddressField:
        return IP_DADDR if self.length == 4 else IP6_DADDR

    @property
    def _mark(self) -> int:
        return 1 << self.config.masquerade_bit

    def _base(self, name: str, kind: str, hook: HookNumber, priority: int) -> Chain:
        return Chain(self.table, name, Hook(kind, hook, priority))

    def _new(self) -> tuple[Expression, ...]:
        """A new connection, or attempt at one; ping is answered whatever the address's ports are."""
        return (*ct_state(CtState.NEW), meta(MetaKey.L4PROTO, 0), cmp(0, bytes((_ICMP[self.length],)), CmpOp.NEQ))

    def _in(self, kind: Set) -> tuple[Expression, ...]:
        return (*load(self.sets[kind].key), lookup(kind.value, 0))

    def _to_frontend(self) -> tuple[Expression, ...]:
        return (*load(self.sets[Set.FRONTENDS].key), lookup_verdict(Set.FRONTENDS.value, 0))

    def _masquerading(self) -> tuple[tuple[Expression, ...], ...]:
        return (
            (*self._in(Set.HAIRPIN), masquerade()),
            (self._source.load(0), lookup(Set.ADDRESSES.value, 0), masquerade()),
            (*mark_has(self._mark), *flip_mark_bit(self._mark), masquerade()),
        )

    def _marking(self) -> tuple[tuple[Expression, ...], ...]:
        mark = set_mark_bit(self._mark)
        from_here = address_is_local(FibFlag.SADDR)
        external = ((*self._in(Set.EXTERNAL), *mark), (*from_here, *self._in(Set.EXTERNAL_LOCAL), *mark))
        internal = (*self._in(Set.INTERNAL), *mark)
        if self.config.masquerade_all:
            return (*external, internal)
        if isinstance(self.config.pods, PodInterface):
            return (*external, *self._from_pod_interface(VerdictCode.RETURN), internal)
        return (*external, (*self._no_pod(), *internal)) if self._no_pod() else external

    def _no_pod(self) -> tuple[Expression, ...]:
        """A source in none of the pods' networks; () if there are none."""
        return tuple(
            expression
            for network in self.config.pod_networks(Family(self.length))
            for expression in (
                self._source.load(0),
                bitwise(0, network.netmask.packed, bytes(self.length)),
                cmp(0, network.network_address.packed, CmpOp.NEQ),
            )
        )

    def _from_pod_interface(self, code: VerdictCode) -> tuple[tuple[Expression, ...], ...]:
        pods = self.config.pods
        if not isinstance(pods, PodInterface):
            return ()
        return ((*came_in_by(pods.name, prefix=pods.prefix), verdict(code)),)

    def _insiders(self) -> tuple[tuple[Expression, ...], ...]:
        networks = self.config.pod_networks(Family(self.length))
        return (
            *((*self._source.in_network(network), verdict(VerdictCode.ACCEPT)) for network in networks),
            *self._from_pod_interface(VerdictCode.ACCEPT),
            (*address_is_local(FibFlag.SADDR), verdict(VerdictCode.ACCEPT)),
            (verdict(VerdictCode.DROP),),
        )

    def _unallocated(self) -> tuple[tuple[Expression, ...], ...]:
        not_here = (fib_address_type(FibFlag.DADDR, 0), cmp(0, host_u32(_RTN_LOCAL), CmpOp.NEQ))
        return tuple(
            (*ct_state(CtState.NEW), *self._destination.in_network(cidr), *not_here, verdict(VerdictCode.DROP))
            for cidr in self.config.service_cidrs
            if cidr.max_prefixlen == self.length * 8
        )


def by_set(elements: Mapping[Element, Verdict | None], length: int) -> dict[Set, list[tuple[bytes, bytes]]]:
    """The elements of one family as (key, data), by their set."""
    grouped: dict[Set, list[tuple[bytes, bytes]]] = {}
    for element, value in elements.items():
        if element.family == length:
            grouped.setdefault(element.set, []).append((element.key, b"" if value is None else VERDICTS[value]))
    return grouped
