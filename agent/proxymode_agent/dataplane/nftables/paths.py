"""The chains that packets pass up to a frontend's verdict: who is translated, masqueraded, refused, where. Pure.

All of it as kube-proxy's nftables mode decides it (k8s.io/kubernetes pkg/proxy/nftables, syncProxyRules). Only first
packets of a flow take these paths: the nat hooks see no others, and the filter rules ask for `ct state new`.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from proxymode_agent.dataplane.nfnetlink import (
    IP6_DADDR,
    IP6_SADDR,
    IP_DADDR,
    IP_SADDR,
    AddressField,
    Chain,
    CtState,
    CtStatus,
    FibFlag,
    Hook,
    HookNumber,
    NfProto,
    VerdictCode,
    address_is_local,
    came_in_by,
    ct_state,
    ct_status,
    flip_mark_bit,
    load,
    lookup,
    mark_has,
    masquerade,
    reject,
    set_mark_bit,
    verdict,
)
from proxymode_agent.services.model import Family, PodInterface

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxymode_agent.dataplane.nfnetlink import Set, Table
    from proxymode_agent.dataplane.nftables.draws import Body, Space
    from proxymode_agent.services.model import DataplaneConfig, Network

REFUSE = "refuse"
"""The chain that answers a packet with an ICMP error."""

DNAT_PRIORITY = -100  # NF_IP_PRI_NAT_DST
BEFORE_DNAT = DNAT_PRIORITY - 10
SNAT_PRIORITY = 100  # NF_IP_PRI_NAT_SRC
FILTER_PRIORITY = 0  # NF_IP_PRI_FILTER


class FamilyTraits(NamedTuple):
    """What differs between IPv4 and IPv6."""

    proto: NfProto
    saddr: AddressField
    daddr: AddressField
    loopback: Network


TRAITS = {
    Family.IPV4: FamilyTraits(NfProto.IPV4, IP_SADDR, IP_DADDR, ipaddress.ip_network("127.0.0.0/8")),
    Family.IPV6: FamilyTraits(NfProto.IPV6, IP6_SADDR, IP6_DADDR, ipaddress.ip_network("::1/128")),
}


def node_port_networks(config: DataplaneConfig, family: Family) -> tuple[Network, ...]:
    """The networks of which the node's own addresses have NodePorts; by default those are its primary addresses."""
    chosen = config.node_port_networks(family)
    if chosen is not None:
        return chosen
    return tuple(ipaddress.ip_network(one) for one in config.node_ips if len(one) == family)


def _jump(chain: str) -> Body:
    return (verdict(VerdictCode.JUMP, chain),)


def _goto(chain: str) -> Body:
    return (verdict(VerdictCode.GOTO, chain),)


class Paths(msgspec.Struct, frozen=True):
    """The chains of one family's table but for those of draws."""

    family: Family
    config: DataplaneConfig
    table: Table
    services: Space
    nodeports: Space
    cluster_ips: Set
    hairpin: Set
    restricted: Set
    sources: Set

    def chains(self) -> Iterator[tuple[Chain, tuple[Body, ...]]]:
        """Every chain with the bodies of its rules."""
        hooks = {
            "nat-prerouting": Hook("nat", HookNumber.PREROUTING, DNAT_PRIORITY),
            "nat-output": Hook("nat", HookNumber.OUTPUT, DNAT_PRIORITY),
            "nat-postrouting": Hook("nat", HookNumber.POSTROUTING, SNAT_PRIORITY),
            "filter-prerouting": Hook("filter", HookNumber.PREROUTING, BEFORE_DNAT),
            "filter-output-before-dnat": Hook("filter", HookNumber.OUTPUT, BEFORE_DNAT),
            "filter-input": Hook("filter", HookNumber.INPUT, FILTER_PRIORITY),
            "filter-forward": Hook("filter", HookNumber.FORWARD, FILTER_PRIORITY),
            "filter-output": Hook("filter", HookNumber.OUTPUT, FILTER_PRIORITY),
        }
        for name, bodies in {**self._firewall(), **self._nat(), **self._filter()}.items():
            yield Chain(self.table, name, hooks.get(name)), tuple(bodies)

    @property
    def _traits(self) -> FamilyTraits:
        return TRAITS[self.family]

    @property
    def _mark(self) -> Body:
        return set_mark_bit(1 << self.config.masquerade_bit)

    def _nat(self) -> dict[str, Iterable[Body]]:
        mark = 1 << self.config.masquerade_bit
        reached_itself = (*ct_status(CtStatus.DNAT), *load(self.hairpin.key), lookup(self.hairpin.name, 0))
        return {
            **self.services.last_resorts(),
            **self.nodeports.last_resorts(),
            "masquerade-from-outside": self._from_outside(),
            "inside": self.services.find(self.services.inside),
            "nodeport-inside": self.nodeports.find(self.nodeports.inside),
            "short-circuit": self._short_circuit("inside"),
            "nodeport-short-circuit": self._short_circuit("nodeport-inside"),
            "to-nodeport": self.nodeports.find(self.nodeports.verdicts),
            "to-service": (*self.services.find(self.services.verdicts), *self._to_nodeport()),
            "nat-prerouting": (_goto("to-service"),),
            "nat-output": (_goto("to-service"),),
            "nat-postrouting": (
                (*mark_has(mark), *flip_mark_bit(mark), masquerade()),
                (*reached_itself, masquerade()),
            ),
        }

    def _filter(self) -> dict[str, Iterable[Body]]:
        new = ct_state(CtState.NEW)
        # What has been led to an endpoint need not be looked up again: three lookups less for a Service's first packet.
        served = (*ct_status(CtStatus.DNAT), verdict(VerdictCode.RETURN))
        refused = self.services.find(self.services.refused)
        known_address = (*load(self.cluster_ips.key), lookup(self.cluster_ips.name, 0))
        unallocated = [network for network in self.config.service_cidrs if network.max_prefixlen == self.family * 8]
        return {
            REFUSE: ((reject(self._traits.proto),),),
            "refused-nodeport": self.nodeports.find(self.nodeports.refused),
            "check-here": (
                served,
                *((*self._is_in(network), *_jump("refused-nodeport")) for network in self._nodeport_networks()),
                *refused,
            ),
            "check-elsewhere": (
                served,
                *refused,
                (*known_address, *_goto(REFUSE)),
                *((*self._is_in(network), verdict(VerdictCode.DROP)) for network in unallocated),
            ),
            "filter-input": ((*new, *_goto("check-here")),),
            "filter-forward": ((*new, *_goto("check-elsewhere")),),
            "filter-output": ((*new, *_goto("check-elsewhere")),),
        }

    def _firewall(self) -> dict[str, Iterable[Body]]:
        """Source ranges look at the address that the client wrote, so before it is translated."""
        allowed = (*load(self.sources.key), lookup(self.sources.name, 0), verdict(VerdictCode.RETURN))
        is_restricted = (*load(self.restricted.key), lookup(self.restricted.name, 0))
        check: Body = (*ct_state(CtState.NEW), *is_restricted, *_jump("check-source"))
        return {
            "check-source": (allowed, allowed, (verdict(VerdictCode.DROP),)),
            "filter-prerouting": (check,),
            "filter-output-before-dnat": (check,),
        }

    def _from_outside(self) -> Iterator[Body]:
        if self.config.masquerade_all:
            yield self._mark
            return
        pods = list(self._from_pods())
        if pods:
            yield from ((*pod, verdict(VerdictCode.RETURN)) for pod in pods)
            yield self._mark

    def _short_circuit(self, inside: str) -> Iterator[Body]:
        """Who is on this node or in a pod is served as if by the load balancer, wherever endpoints are."""
        yield from ((*pod, *_goto(inside)) for pod in self._from_pods())
        yield *address_is_local(FibFlag.SADDR), *self._mark, *_goto(inside)

    def _from_pods(self) -> Iterator[Body]:
        pods = self.config.pods
        if isinstance(pods, PodInterface):
            yield came_in_by(pods.name, prefix=pods.prefix)
        for network in self.config.pod_networks(self.family):
            yield self._traits.saddr.in_network(network)

    def _to_nodeport(self) -> Iterator[Body]:
        networks = self._nodeport_networks()
        if any(network.overlaps(self._traits.loopback) for network in networks):
            yield *self._is_in(self._traits.loopback), verdict(VerdictCode.RETURN)
        for network in networks:
            yield *self._is_in(network), *address_is_local(FibFlag.DADDR), *_goto("to-nodeport")

    def _nodeport_networks(self) -> tuple[Network, ...]:
        return node_port_networks(self.config, self.family)

    def _is_in(self, network: Network) -> Body:
        return self._traits.daddr.in_network(network)
