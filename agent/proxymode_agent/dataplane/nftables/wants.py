"""What a frontend of a Service port shall do, in the kernel's bytes: pools, verdict, refusal, allowed sources. Pure.

The decisions are kube-proxy's (k8s.io/kubernetes pkg/proxy/nftables, syncProxyRules).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable
from enum import Enum
from typing import TYPE_CHECKING, Final

import msgspec

from proxymode_agent.dataplane.nfnetlink import VerdictCode, verdict_element
from proxymode_agent.dataplane.nftables.draws import CLUSTER_BASE, Draw, Kind
from proxymode_agent.dataplane.nftables.elements import (
    collapsed,
    nodeport_key,
    service_key,
    source_range,
)
from proxymode_agent.dataplane.nftables.paths import REFUSE
from proxymode_agent.services.model import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxymode_agent.services.model import ServicePort

MAX_STICKY_ENDPOINTS: Final = 1 << 15
"""Beyond that there is no affinity. Ids have 16 bits for them, and those of old endpoints are not given out at once."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Endpoints = tuple[bytes, ...]  # as values of the endpoint maps
Group = Hashable
"""Whose endpoints: a Service port. Clients are remembered by it."""


class Role(Enum):
    """What a frontend is of its Service port; the value says what is claimed."""

    CLUSTER_IP = "cluster IP, protocol and port"
    LOAD_BALANCER = "load-balancer address, protocol and port"
    EXTERNAL_IP = "external IP, protocol and port"
    NODE_PORT = "protocol and node port"


_CLUSTER_IP: Final = Role.CLUSTER_IP  # an enumeration's members are found through a descriptor
_INTERNAL: Final = Kind.INTERNAL
_HERE: Final = Kind.HERE
_UDP: Final = Protocol.UDP
_NOBODY: Final[frozenset[bytes]] = frozenset()


class Refusal(Enum):
    """What becomes of new flows that nobody serves; the value is the verdict element's data."""

    REJECT = verdict_element(VerdictCode.GOTO, REFUSE)
    DROP = verdict_element(VerdictCode.DROP)


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """What a frontend shall do. `cluster`, `local`: packed endpoints of its two pools; `sticky`: seconds of affinity;
    `sources`: elements of the set of allowed sources; none: open to everybody. `group`: whose the endpoints are.
    `serving`: of UDP, the packed endpoints that flows may go on with."""

    kind: Kind
    cluster: Endpoints
    local: Endpoints
    sticky: int | None
    refusal: Refusal | None
    sources: tuple[bytes, ...]
    group: Group
    serving: frozenset[bytes] = frozenset()

    @property
    def draw(self) -> Draw | None:
        """The chain that its verdict leads to."""
        endpoints = self.cluster if self.kind.base == CLUSTER_BASE else self.local
        if endpoints:
            return Draw(self.kind, len(endpoints), self.sticky)
        return Draw(self.kind, 0) if self.inside else None

    @property
    def inside(self) -> Draw | None:
        """The chain that the short-circuit leads to."""
        if self.kind is not Kind.LOCAL or not self.cluster:
            return None
        return Draw(Kind.INSIDE, len(self.cluster), self.sticky)


def frontends_of(port: ServicePort) -> dict[bytes, Role]:
    """The keys that a Service port claims. An address that is both a load balancer's and an external IP is the former,
    for source ranges hold for it."""
    cluster_ip = port.cluster_ip
    frontends = {service_key(cluster_ip): _CLUSTER_IP}
    for address in port.load_balancer_ips:
        frontends.setdefault(service_key(cluster_ip._replace(address=address)), Role.LOAD_BALANCER)
    for address in port.external_ips:
        frontends.setdefault(service_key(cluster_ip._replace(address=address)), Role.EXTERNAL_IP)
    if port.node_port is not None:
        frontends[nodeport_key(port.name.protocol, port.node_port)] = Role.NODE_PORT
    return frontends


def wanted(port: ServicePort, key: bytes, role: Role, node_ips: Sequence[Address]) -> Wanted:
    """What one of a Service port's frontends shall do."""
    cluster, local = port.cluster_endpoints, port.local_endpoints
    sticky = port.affinity_seconds if len(cluster) <= MAX_STICKY_ENDPOINTS else None
    serving = _NOBODY
    if port.name.protocol is _UDP:
        serving = frozenset((*cluster, *local, *port.lingering_endpoints))
    if role is _CLUSTER_IP:
        endpoints = port.endpoints
        # Without any endpoints it is refused as every other port of a cluster IP that nobody serves.
        refusal = Refusal.DROP if not endpoints and port.has_endpoints else None
        if port.internal_local:
            return Wanted(_HERE, (), endpoints, sticky, refusal, (), port.name, serving)
        return Wanted(_INTERNAL, endpoints, (), sticky, refusal, (), port.name, serving)
    refusal = None
    if not port.external_endpoints:
        refusal = Refusal.DROP if port.has_endpoints else Refusal.REJECT
    kind, here = (Kind.LOCAL, local) if port.external_local else (Kind.EXTERNAL, ())
    sources = tuple(_sources(port, key, node_ips)) if role is Role.LOAD_BALANCER else ()
    return Wanted(kind, cluster, here, sticky, refusal, sources, port.name, serving)


def _sources(port: ServicePort, key: bytes, node_ips: Sequence[Address]) -> Iterator[bytes]:
    """Load balancers' addresses are allowed where the node itself is: they may be its own (kube-proxy's
    allowFromNode)."""
    bits = 8 * port.name.family
    ranges = [network for network in port.source_ranges if network.max_prefixlen == bits]
    if any(address in network for address in node_ips for network in ranges):
        ranges += map(ipaddress.ip_network, port.load_balancer_ips)
    for network in collapsed(ranges):
        yield source_range(key, network)
