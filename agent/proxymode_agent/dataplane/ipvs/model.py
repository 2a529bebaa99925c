"""Plain data: what the ipvs mode keeps in the kernel, as wanted and as read back. No I/O.

A virtual server is known by its frontend, a real server by its virtual server and endpoint. Whether an object is ours
is never remembered but read back, see README.md: virtual servers whose address is bound to kube-ipvs0, and those that
the set `node-frontends` of our nf_tables table names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntFlag
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.services.model import Endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxymode_agent.services.model import Frontend


class RealServerName(NamedTuple):
    """Identity of a real server."""

    frontend: Frontend
    endpoint: Endpoint


class RealServer(NamedTuple):
    """`weight` 0 takes no new connections; `connections`: active and inactive ones, 0 in a wanted state."""

    weight: int
    connections: int


class Hashing(IntFlag):
    """Flags of the schedulers sh and mh (include/uapi/linux/ip_vs.h: IP_VS_SVC_F_SCHED_SH_*, _MH_*)."""

    PLAIN = 0
    FALLBACK = 0x08
    """A client whose real server takes no new connections gets another; without it, it is refused."""
    PORT = 0x10
    """The client's port is hashed too."""


class Scheduling(NamedTuple):
    """How a virtual server chooses. `scheduler`: the kernel's name for it; `affinity_seconds`: a client stays with its
    real server until that long after its last connection (IPVS calls it persistence), None: no affinity."""

    scheduler: str
    affinity_seconds: int | None = None
    hashing: Hashing = Hashing.PLAIN

    def __str__(self) -> str:
        flags = "".join(f" {flag.name}" for flag in self.hashing).lower()
        sticky = "" if self.affinity_seconds is None else f", affinity {self.affinity_seconds} s"
        return f"scheduler {self.scheduler}{flags}{sticky}"


@dataclass(frozen=True, slots=True)
class VirtualServer:
    """One IPVS service with forwarding method Masq to each of its real servers."""

    scheduling: Scheduling
    real_servers: Mapping[Endpoint, RealServer]


class Set(Enum):
    """The sets of the table `proxymode-ipvs`, and `frontends`, a map to verdicts.

    Keys are packed as nf_tables registers hold them: an address, a frontend's key (`frontend_key`), a pair of addresses
    (`hairpin`), or the first and the last of a range of keys (`source-ranges`).
    """

    ADDRESSES = "addresses"
    """Addresses on kube-ipvs0: a port of them that is no frontend is refused."""
    NODE_FRONTENDS = "node-frontends"
    """Frontends on the node's own addresses: by these their virtual servers are known as ours."""
    FRONTENDS = "frontends"
    """What becomes of a new connection to a frontend."""
    INTERNAL = "internal"
    """Frontends whose clients are masqueraded if they are no pods: cluster IPs."""
    EXTERNAL = "external"
    """Frontends whose clients are always masqueraded: external ones of policy Cluster."""
    EXTERNAL_LOCAL = "external-local"
    """Frontends whose clients are masqueraded if they are this node: external ones of policy Local."""
    RESTRICTED = "restricted"
    """Frontends with source ranges."""
    SOURCE_RANGES = "source-ranges"
    """Frontend and source address, from and to: who may use a restricted frontend."""
    HAIRPIN = "hairpin"
    """Endpoints' addresses that may reach themselves, as source and destination."""

    __hash__ = object.__hash__  # Enum's own is Python code, called for every element in every dictionary


class Verdict(Enum):
    """What an element of the map `frontends` says of new connections; the values are names in nf_tables."""

    ACCEPT = "accept"
    DROP = "drop"
    NO_ENDPOINTS = "no-endpoints"
    """A chain that refuses: nothing in the cluster could serve it."""
    INSIDERS = "insiders"
    """A chain that accepts pods and the node itself and drops others: policy Local without endpoints here."""
    FOREIGN = "foreign"
    """As read back: none of these. Never wanted."""


class Element(NamedTuple):
    """One element of a set; `family` (4 or 16, the length of an address) tells its table."""

    set: Set
    family: int
    key: bytes


@dataclass(frozen=True, slots=True)
class IpvsState:
    """Everything that the ipvs mode has per Service.

    `addresses`: each address on kube-ipvs0 with the source address that the node's own connections to it get; None:
    the kernel's choice, which is the address itself. `elements`: with their verdict in `frontends`, None elsewhere.
    """

    virtual_servers: Mapping[Frontend, VirtualServer] = field(default_factory=dict)
    addresses: Mapping[bytes, bytes | None] = field(default_factory=dict)
    elements: Mapping[Element, Verdict | None] = field(default_factory=dict)


class AddVirtualServer(NamedTuple):
    frontend: Frontend
    scheduling: Scheduling

    def __str__(self) -> str:
        return f"add virtual server {shown(self.frontend)} with {self.scheduling}"


class SetScheduling(NamedTuple):
    frontend: Frontend
    scheduling: Scheduling

    def __str__(self) -> str:
        return f"set {self.scheduling} of virtual server {shown(self.frontend)}"


class DeleteVirtualServer(NamedTuple):
    frontend: Frontend

    def __str__(self) -> str:
        return f"delete virtual server {shown(self.frontend)}"


class AddRealServer(NamedTuple):
    """Weight 1; one that is there already gets this weight."""

    frontend: Frontend
    endpoint: Endpoint

    def __str__(self) -> str:
        return f"add real server {self.endpoint} to {shown(self.frontend)}"


class SetWeight(NamedTuple):
    frontend: Frontend
    endpoint: Endpoint
    weight: int

    def __str__(self) -> str:
        return f"set weight {self.weight} of real server {self.endpoint} of {shown(self.frontend)}"


class DeleteRealServer(NamedTuple):
    frontend: Frontend
    endpoint: Endpoint

    def __str__(self) -> str:
        return f"delete real server {self.endpoint} of {shown(self.frontend)}"


ServerChange = AddVirtualServer | SetScheduling | DeleteVirtualServer | AddRealServer | SetWeight | DeleteRealServer


class BindAddress(NamedTuple):
    """Address on kube-ipvs0, and the source address for the node's own connections to it."""

    address: bytes
    source: bytes | None

    def __str__(self) -> str:
        return f"bind address {ip_address(self.address)}"


class ReleaseAddress(NamedTuple):
    address: bytes

    def __str__(self) -> str:
        return f"release address {ip_address(self.address)}"


AddressChange = BindAddress | ReleaseAddress


def shown(frontend: Frontend) -> str:
    """A frontend for people: `10.96.0.10:80/TCP`."""
    return f"{Endpoint(frontend.address, frontend.port)}/{frontend.protocol.name}"


def frontend_key(frontend: Frontend) -> bytes:
    """address . inet_proto . inet_service, each in 32-bit registers padded with zeros."""
    return frontend.address + bytes((frontend.protocol, 0, 0, 0)) + frontend.port.to_bytes(2, "big") + b"\0\0"
