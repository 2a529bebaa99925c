"""Plain data: what a node's Service dataplane shall do, independent of how the kernel is told.

Addresses are packed (4 bytes for IPv4, 16 for IPv6, network order), endpoints with their ports: they are compared,
hashed and sent to the kernel 250,000 at a time, and never shown on the hot path. One ServicePort is one Service port in
one address family.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import msgspec

from proxymode_api.modes import ConnectionPolicy, KubeProxyPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxymode_api.modes import Mode

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Protocol(IntEnum):
    """Transport protocols of a Service port, as IP protocol numbers (IANA, include/uapi/linux/in.h)."""

    TCP = 6
    UDP = 17
    SCTP = 132

    __hash__ = int.__hash__  # Enum's own is Python code, called for every frontend in every dictionary


class Family(IntEnum):
    """Address families, as the length of a packed address in bytes."""

    IPV4 = 4
    IPV6 = 16

    __hash__ = int.__hash__  # as of Protocol


class Endpoint(bytes):
    """Where a packet goes: a pod's packed address and its port, in the bytes in which nf_tables has them in maps:
    address . inet_service, each padded with zeros to whole 32-bit registers. So a Service's endpoints are its elements'
    values as they stand. A real server of somebody else's may have port 0: that to which the packet was sent."""

    __slots__ = ()

    def __new__(cls, address: bytes, port: int) -> Self:
        """Raises ValueError for what is no port."""
        return super().__new__(cls, address + _packed_port(port))

    @classmethod
    def all_at(cls, addresses: Iterable[bytes], port: int) -> list[Self]:
        """One endpoint for each address, in a third of the time."""
        new, end = bytes.__new__, _packed_port(port)
        return [new(cls, address + end) for address in addresses]

    @property
    def address(self) -> bytes:
        """The packed address."""
        return self[:-PORT_BYTES]

    @property
    def port(self) -> int:
        """The port's number."""
        return int.from_bytes(self[-PORT_BYTES:-2], "big")

    def __str__(self) -> str:
        host = ipaddress.ip_address(self.address)
        return f"{host}:{self.port}" if host.version == 4 else f"[{host}]:{self.port}"

    def __repr__(self) -> str:
        return f"<Endpoint {self}>"

    def __reduce__(self) -> tuple[type[Self], tuple[bytes, int]]:
        return type(self), (self.address, self.port)


PORT_BYTES: Final = 4
"""Of an endpoint, those behind its address."""


@cache
def _packed_port(port: int) -> bytes:
    if not 0 <= port < 65536:
        raise ValueError(f"an endpoint's port is {port}; ports are 0 to 65535")
    return port.to_bytes(2, "big") + b"\0\0"


class Frontend(NamedTuple):
    """What a packet is addressed to: a packed Service address, protocol and port."""

    address: bytes
    protocol: Protocol
    port: int


class ServicePortName(NamedTuple):
    """Identity of a Service port in one family; `port` is the port's name, empty for a single unnamed one."""

    namespace: str
    service: str
    port: str
    protocol: Protocol
    family: Family

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}" + (f":{self.port}" if self.port else "")


class ServiceName(NamedTuple):
    """Identity of a Service."""

    namespace: str
    service: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}"


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """One Service port in one family, with its usable endpoints as *this node* sees them.

    Endpoints are sorted and without duplicates. `cluster_endpoints` serve traffic of policy Cluster, topology already
    applied; `local_endpoints` are this node's and serve traffic of policy Local; each is empty where no frontend uses
    that policy. `elsewhere`: both are empty although other nodes have usable endpoints; so that a port without
    `has_endpoints` refuses connections, while one whose policy finds none here drops them.

    External frontends are `external_ips`, `load_balancer_ips` (ipMode VIP; no address is in both) and `node_port`. A
    pod, and a process of the node, that speaks to an external frontend of policy Local is served by `cluster_endpoints`
    (the short-circuit of k8s.io/kubernetes pkg/proxy). `source_ranges`: who may use the load-balancer addresses; empty:
    everybody. `affinity_seconds`: a client stays with its endpoint until that long after its last connection; None: no
    affinity.
    `hairpin`: addresses of its endpoints that may reach themselves through this node: those that are on it or may be,
    and all where clients in the cluster are short-circuited. `ipvs_scheduler`: how its virtual servers choose in ipvs
    mode; None: as the node's configuration says. `lingering_endpoints`: of UDP ports, those that serve but get no new
    flows here, being about to end, or for other nodes: flows that they have may go on.
    """

    name: ServicePortName
    cluster_ip: Frontend
    cluster_endpoints: tuple[Endpoint, ...]
    node_port: int | None = None
    local_endpoints: tuple[Endpoint, ...] = ()
    elsewhere: bool = False
    internal_local: bool = False
    external_local: bool = False
    external_ips: tuple[bytes, ...] = ()
    load_balancer_ips: tuple[bytes, ...] = ()
    source_ranges: tuple[Network, ...] = ()
    affinity_seconds: int | None = None
    hairpin: tuple[bytes, ...] = ()
    ipvs_scheduler: str | None = None
    lingering_endpoints: tuple[Endpoint, ...] = ()

    @property
    def has_endpoints(self) -> bool:
        """Whether anything in the cluster could serve it (kube-proxy: hasAnyEndpoints)."""
        return bool(self.cluster_endpoints or self.local_endpoints or self.elsewhere)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """What serves the cluster IP."""
        return self.local_endpoints if self.internal_local else self.cluster_endpoints

    @property
    def external_endpoints(self) -> tuple[Endpoint, ...]:
        """What serves external frontends for clients that are neither pods nor the node itself."""
        return self.local_endpoints if self.external_local else self.cluster_endpoints


class HealthCheck(NamedTuple):
    """A Service's healthCheckNodePort and how many ready endpoints this node has, counted by address."""

    port: int
    local_endpoints: int


class ServiceState(msgspec.Struct, frozen=True):
    """All that a node's dataplane shall do. Two states are equal when the kernel's state for them is."""

    ports: Mapping[ServicePortName, ServicePort] = {}


class PodNetworks(msgspec.Struct, frozen=True):
    """Sources in these networks are pods (detectLocal NodeCIDR and ClusterCIDR)."""

    networks: tuple[Network, ...]


class PodInterface(msgspec.Struct, frozen=True):
    """What comes in by this interface is from a pod (detectLocal BridgeInterface); with `prefix` by any interface whose
    name begins so (InterfaceNamePrefix)."""

    name: str
    prefix: bool = False


class IpvsTimeouts(NamedTuple):
    """Seconds after which IPVS forgets a connection without packets; 0: the kernel's own (ip_vs_proto_tcp.c, _udp.c).
    `tcp_fin`: after the first FIN."""

    tcp: int = 0
    tcp_fin: int = 0
    udp: int = 0


NO_TIMEOUTS: Final = IpvsTimeouts()
_EVERYTHING: Final[Mapping[Family, Network]] = {
    Family.IPV4: ipaddress.ip_network("0.0.0.0/0"),
    Family.IPV6: ipaddress.ip_network("::/0"),
}


class DataplaneConfig(msgspec.Struct, frozen=True):
    """What holds for all Services of a node; resolved from NodeProxyMode.spec or from flags.

    `pods`: who is a pod, and so is not masqueraded; None: nobody can be told, and nothing is masqueraded but hairpin
    and external traffic, as kube-proxy without --cluster-cidr. `node_port_addresses`: None means the mode's default.
    `localhost_node_ports`: in nftables mode TCP NodePorts answer on loopback too. `service_cidrs`: what is sent to an
    address in them that no Service has is dropped. `ipvs_drain_seconds`: how long a real server may keep its
    connections after its endpoint is gone; 0: as long as there are any. `kube_proxy`: what becomes of a kube-proxy that
    handles the node's Services. `connections`: what a switch does with connections that IPVS holds; `drain_seconds`:
    with policy Drain, how long it waits for them to end.
    """

    pods: PodNetworks | PodInterface | None = None
    masquerade_all: bool = False
    masquerade_bit: int = 14
    node_port_addresses: tuple[Network, ...] | None = None
    localhost_node_ports: bool = False
    node_ips: tuple[bytes, ...] = ()
    service_cidrs: tuple[Network, ...] = ()
    ipvs_scheduler: str = "rr"
    ipvs_strict_arp: bool = False
    ipvs_exclude_cidrs: tuple[Network, ...] = ()
    ipvs_timeouts: IpvsTimeouts = NO_TIMEOUTS
    ipvs_drain_seconds: int = 0
    kube_proxy: KubeProxyPolicy = KubeProxyPolicy.IGNORE
    connections: ConnectionPolicy = ConnectionPolicy.HANDOVER
    drain_seconds: int = 300

    def pod_networks(self, family: Family) -> tuple[Network, ...]:
        """The networks of one family by which pods are told; empty where they are told otherwise or not at all."""
        networks = self.pods.networks if isinstance(self.pods, PodNetworks) else ()
        return tuple(network for network in networks if network.max_prefixlen == family * 8)

    def node_port_networks(self, family: Family) -> tuple[Network, ...] | None:
        """The networks whose local addresses have NodePorts, None for the mode's default. Where networks are chosen but
        none of this family, all addresses of it have them, as with kube-proxy (NewNodePortAddresses)."""
        if self.node_port_addresses is None:
            return None
        chosen = tuple(one for one in self.node_port_addresses if one.max_prefixlen == family * 8)
        return chosen or (_EVERYTHING[family],)


class ConntrackLimits(msgspec.Struct, frozen=True):
    """What conntrack is to be set to: entries for each core and in all, seconds, TCP windows; 0 and False: left as it
    is."""

    max_per_core: int
    min_entries: int
    established_seconds: int
    close_wait_seconds: int
    udp_seconds: int = 0
    udp_stream_seconds: int = 0
    tcp_be_liberal: bool = False


class HealthChecks(NamedTuple):
    """What load balancers may ask this node, as of what is programmed: in which mode, under which configuration."""

    mode: Mode
    config: DataplaneConfig
    checks: Mapping[ServiceName, HealthCheck]

    @property
    def stays(self) -> bool:
        """Whether the node is this agent's from now on, and not to be handed back to kube-proxy."""
        return self.config.kube_proxy is not KubeProxyPolicy.HAND_BACK
