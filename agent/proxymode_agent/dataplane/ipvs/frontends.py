"""Pure: what a Service port's frontends are, and what becomes of a new connection to each.

The rules are those of k8s.io/kubernetes pkg/proxy/ipvs (syncProxyRules, syncEndpoint), with one hole closed: where
policy Local finds no endpoint on this node, kube-proxy's ipvs mode sends outsiders to other nodes' endpoints without
masquerading, so that answers never reach them; here they are dropped, as in its nftables mode.
"""

from __future__ import annotations

import ipaddress
from enum import Enum
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.ipvs.model import Set, Verdict
from proxymode_agent.services.model import Frontend

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxymode_agent.services.model import Endpoint, Network, ServicePort


class Kind(Enum):
    """By which of a Service's addresses it is reached."""

    CLUSTER_IP = "cluster IP"
    EXTERNAL = "external IP or NodePort"
    LOAD_BALANCER = "load-balancer address"


def frontends(port: ServicePort, node_port_addresses: Iterable[bytes]) -> set[Frontend]:
    """The virtual servers of a port; its NodePort has one on each of these addresses that is of its family."""
    protocol, number = port.name.protocol, port.cluster_ip.port
    found = {Frontend(address, protocol, number) for address in (*port.external_ips, *port.load_balancer_ips)}
    found.add(port.cluster_ip)
    if port.node_port is not None:
        for address in node_port_addresses:
            if len(address) == port.name.family:
                found.add(Frontend(address, protocol, port.node_port))
    return found


def kind_of(frontend: Frontend, port: ServicePort) -> Kind:
    """What a port's frontend is. An external IP that is the load balancer's too counts as the latter: it has source
    ranges."""
    if frontend == port.cluster_ip:
        return Kind.CLUSTER_IP
    if frontend.port == port.cluster_ip.port and frontend.address in port.load_balancer_ips:
        return Kind.LOAD_BALANCER
    return Kind.EXTERNAL


def real_servers(port: ServicePort, kind: Kind) -> tuple[Endpoint, ...]:
    """The real servers of a frontend's virtual server.

    One virtual server cannot tell pods from outsiders: with policy Local everybody gets endpoints of this node, and
    only where it has none insiders get others.
    """
    if kind is Kind.CLUSTER_IP:
        return port.endpoints
    return port.external_endpoints or port.cluster_endpoints


def verdict(port: ServicePort, kind: Kind) -> Verdict:
    """What becomes of new connections to a frontend."""
    here = port.endpoints if kind is Kind.CLUSTER_IP else port.external_endpoints
    if here:
        return Verdict.ACCEPT
    if not port.has_endpoints:
        return Verdict.NO_ENDPOINTS
    return Verdict.INSIDERS if real_servers(port, kind) else Verdict.DROP


def masquerading(port: ServicePort, kind: Kind) -> Set:
    """The set that says whose connections to a frontend are masqueraded."""
    if kind is Kind.CLUSTER_IP:
        return Set.INTERNAL
    return Set.EXTERNAL_LOCAL if port.external_local else Set.EXTERNAL


def sources(port: ServicePort, node: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """Who may use the load-balancer addresses, as ranges (first, last) that do not overlap.

    If this node may (`node`: its address), so may who speaks from such an address: a node that has the address of the
    load balancer itself uses it as its source (kube-proxy's allowFromNode).
    """
    networks = list(port.source_ranges)
    if node is not None:
        own = ipaddress.ip_address(node)
        if any(own in network for network in networks):
            networks += [ipaddress.ip_network(address) for address in port.load_balancer_ips]
    v4 = [network for network in networks if isinstance(network, ipaddress.IPv4Network)]
    v6 = [network for network in networks if isinstance(network, ipaddress.IPv6Network)]
    distinct: list[Network] = [*ipaddress.collapse_addresses(v4), *ipaddress.collapse_addresses(v6)]
    for network in distinct:
        yield network.network_address.packed, network.broadcast_address.packed
