"""What a node's nf_tables table of ours looks like: tables, chains, rules and maps as data, for one address family.

Pure. README.md draws the packet's path through it. The layout depends on the DataplaneConfig only, never on Services:
those are elements of the maps declared here, and one chain for each *number* of endpoints that occurs. Every lookup
that an update can race with is written twice: on kernels up to 6.11 a lookup can miss a key that is replaced in the
same moment (delete and add in one transaction), and a second lookup right after finds it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.nfnetlink import (
    IP6_DADDR,
    IP6_SADDR,
    IP_DADDR,
    IP_SADDR,
    L4PROTO,
    TH_DPORT,
    AddressField,
    Chain,
    CtState,
    CtStatus,
    Expression,
    FibFlag,
    Hook,
    HookNumber,
    NfProto,
    Rule,
    Set,
    Table,
    Verdict,
    VerdictCode,
    address_is_local,
    ct_state,
    ct_status,
    dnat,
    flip_mark_bit,
    load,
    lookup,
    lookup_map,
    lookup_verdict,
    mark_has,
    masquerade,
    random_index,
    reject,
    set_mark_bit,
    verdict,
    verdict_element,
)
from proxymode_agent.services.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.services.model import DataplaneConfig

TABLE = "proxymode"

DNAT_PRIORITY = -100  # NF_IP_PRI_NAT_DST
SNAT_PRIORITY = 100  # NF_IP_PRI_NAT_SRC
FILTER_PRIORITY = 0  # NF_IP_PRI_FILTER

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class FamilyTraits:
    """What differs between IPv4 and IPv6."""

    proto: NfProto
    saddr: AddressField
    daddr: AddressField
    loopback: Network


TRAITS = {
    Family.IPV4: FamilyTraits(NfProto.IPV4, IP_SADDR, IP_DADDR, ipaddress.ip_network("127.0.0.0/8")),
    Family.IPV6: FamilyTraits(NfProto.IPV6, IP6_SADDR, IP6_DADDR, ipaddress.ip_network("::1/128")),
}


@dataclass(frozen=True, slots=True)
class Balancer:
    """A verdict map (frontend to chain), an endpoint map (frontend and index to endpoint), and the chains between.

    The chain for N endpoints draws an index below N and does the DNAT. `prelude`: its first rules, on the way there.
    """

    verdicts: Set
    endpoints: Set
    prefix: str
    prelude: tuple[tuple[Expression, ...], ...]

    def chain(self, count: int) -> Chain:
        """The chain for `count` endpoints."""
        return Chain(self.verdicts.table, f"{self.prefix}{count}")

    def target(self, count: int) -> bytes:
        """The verdict element's data for a frontend with `count` endpoints."""
        return verdict_element(VerdictCode.GOTO, f"{self.prefix}{count}")

    def count_of(self, chain: str) -> int | None:
        """The number of endpoints that a chain of this name is for; None if it is not one of these chains."""
        match = re.fullmatch(f"{re.escape(self.prefix)}([1-9][0-9]*)", chain)
        return int(match[1]) if match else None

    def rules(self, count: int) -> tuple[Rule, ...]:
        """The rules of the chain for `count` endpoints: the draw, again if it missed, and index 0 as a last resort."""
        bodies = (*self.prelude, self._draw(count), self._draw(count), self._draw(1))
        return tuple(Rule(self.chain(count), body) for body in bodies)

    def _draw(self, count: int) -> tuple[Expression, ...]:
        key = (*self.verdicts.key, random_index(count))
        family = self.verdicts.table.family
        port_register = (self.endpoints.data_length - TH_DPORT.padded) // 4
        return (*load(key), lookup_map(self.endpoints.name, 0, 0), dnat(family, 0, port_register))


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole table of one family but for its elements and the balancers' chains."""

    family: Family
    table: Table
    services: Balancer
    nodeports: Balancer
    cluster_ips: Set
    hairpin: Set
    refused_nodeports: Set
    chains: tuple[Chain, ...]
    rules: tuple[Rule, ...]

    @property
    def balancers(self) -> tuple[Balancer, Balancer]:
        return self.services, self.nodeports

    @property
    def sets(self) -> tuple[Set, ...]:
        """All sets and maps."""
        return (
            self.services.verdicts,
            self.services.endpoints,
            self.nodeports.verdicts,
            self.nodeports.endpoints,
            self.cluster_ips,
            self.hairpin,
            self.refused_nodeports,
        )

    def rules_of(self, chain: Chain) -> tuple[Rule, ...]:
        """The rules of one of `chains`."""
        return tuple(rule for rule in self.rules if rule.chain == chain)


def layout(family: Family, config: DataplaneConfig, version: str) -> Layout:
    """The table of a family. `version` goes into the comment that tells an admin whose table it is."""
    traits = TRAITS[family]
    table = Table(traits.proto, TABLE, f"proxymode {version}: Kubernetes Services of this node")
    service_key = (traits.daddr, L4PROTO, TH_DPORT)
    nodeport_key = (L4PROTO, TH_DPORT)
    endpoint = (traits.daddr, TH_DPORT)
    mark = 1 << config.masquerade_bit

    cluster_ips = Set(table, "cluster-ips", (traits.daddr,))
    hairpin = Set(table, "hairpin", (traits.saddr, traits.daddr))
    refused_nodeports = Set(table, "nodeports-without-endpoints", nodeport_key)

    from_outside = Chain(table, "masquerade-from-outside")
    services = Balancer(
        Set(table, "services", service_key, Verdict),
        Set(table, "endpoints", (*service_key, random_index(2)), endpoint),
        "one-of-",
        ((verdict(VerdictCode.JUMP, from_outside.name),),),
    )
    nodeports = Balancer(
        Set(table, "nodeports", nodeport_key, Verdict),
        Set(table, "nodeport-endpoints", (*nodeport_key, random_index(2)), endpoint),
        "nodeport-one-of-",
        (set_mark_bit(mark),),
    )

    to_service = Chain(table, "to-service")
    to_nodeport = Chain(table, "to-nodeport")
    refuse_nodeport = Chain(table, "refuse-nodeport")
    nat_prerouting = Chain(table, "nat-prerouting", Hook("nat", HookNumber.PREROUTING, DNAT_PRIORITY))
    nat_output = Chain(table, "nat-output", Hook("nat", HookNumber.OUTPUT, DNAT_PRIORITY))
    nat_postrouting = Chain(table, "nat-postrouting", Hook("nat", HookNumber.POSTROUTING, SNAT_PRIORITY))
    filter_input = Chain(table, "filter-input", Hook("filter", HookNumber.INPUT, FILTER_PRIORITY))
    filter_forward = Chain(table, "filter-forward", Hook("filter", HookNumber.FORWARD, FILTER_PRIORITY))
    filter_output = Chain(table, "filter-output", Hook("filter", HookNumber.OUTPUT, FILTER_PRIORITY))

    find_service = (*load(service_key), lookup_verdict(services.verdicts.name, 0))
    find_nodeport = (*load(nodeport_key), lookup_verdict(nodeports.verdicts.name, 0))
    nodeport_networks = _nodeport_networks(family, config)
    unknown_port = (
        *ct_state(CtState.NEW),
        *load(cluster_ips.key),
        lookup(cluster_ips.name, 0),
        reject(traits.proto),
    )
    rules = (
        *(Rule(from_outside, body) for body in _mark_from_outside(traits, config, mark)),
        Rule(to_nodeport, find_nodeport),
        Rule(to_nodeport, find_nodeport),
        Rule(to_service, find_service),
        Rule(to_service, find_service),
        *(Rule(to_service, body) for body in _go_to_nodeport(traits, nodeport_networks, to_nodeport)),
        *(
            Rule(refuse_nodeport, (*traits.daddr.in_network(network), reject(traits.proto)))
            for network in nodeport_networks
        ),
        Rule(nat_prerouting, (verdict(VerdictCode.GOTO, to_service.name),)),
        Rule(nat_output, (verdict(VerdictCode.GOTO, to_service.name),)),
        Rule(nat_postrouting, (*mark_has(mark), *flip_mark_bit(mark), masquerade())),
        Rule(
            nat_postrouting,
            (*ct_status(CtStatus.DNAT), *load(hairpin.key), lookup(hairpin.name, 0), masquerade()),
        ),
        Rule(
            filter_input,
            (
                *ct_state(CtState.NEW),
                *load(nodeport_key),
                lookup(refused_nodeports.name, 0),
                verdict(VerdictCode.JUMP, refuse_nodeport.name),
            ),
        ),
        Rule(filter_forward, unknown_port),
        Rule(filter_output, unknown_port),
    )
    chains = (
        from_outside,
        to_service,
        to_nodeport,
        refuse_nodeport,
        nat_prerouting,
        nat_output,
        nat_postrouting,
        filter_input,
        filter_forward,
        filter_output,
    )
    return Layout(family, table, services, nodeports, cluster_ips, hairpin, refused_nodeports, chains, rules)


def _mark_from_outside(traits: FamilyTraits, config: DataplaneConfig, mark: int) -> Iterable[tuple[Expression, ...]]:
    if config.masquerade_all:
        return (set_mark_bit(mark),)
    pods = config.pod_networks(Family(traits.saddr.length))
    if not pods:
        return ()
    return (
        *((*traits.saddr.in_network(network), verdict(VerdictCode.RETURN)) for network in pods),
        set_mark_bit(mark),
    )


def _nodeport_networks(family: Family, config: DataplaneConfig) -> tuple[Network, ...]:
    if config.node_port_addresses is not None:
        return tuple(network for network in config.node_port_addresses if network.max_prefixlen == family * 8)
    return tuple(ipaddress.ip_network(address) for address in config.node_ips if len(address) == family)


def _go_to_nodeport(
    traits: FamilyTraits, networks: tuple[Network, ...], to_nodeport: Chain
) -> Iterable[tuple[Expression, ...]]:
    if any(network.overlaps(traits.loopback) for network in networks):
        yield *traits.daddr.in_network(traits.loopback), verdict(VerdictCode.RETURN)
    for network in networks:
        yield (
            *traits.daddr.in_network(network),
            *address_is_local(FibFlag.DADDR),
            verdict(VerdictCode.GOTO, to_nodeport.name),
        )
