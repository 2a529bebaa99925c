"""Plain data: what the ipvs mode keeps in the kernel, as wanted and as read back. No I/O.

A virtual server is known by its frontend, a real server by its virtual server and endpoint. Whether an object is ours
is never remembered but read back, see README.md: virtual servers whose address is bound to kube-ipvs0, and those that
the set `node-ports` of our nf_tables table names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.services.model import Endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxymode_agent.services.model import Frontend


class RealServer(NamedTuple):
    """`weight` 0 takes no new connections; `connections`: active and inactive ones, 0 in a wanted state."""

    weight: int
    connections: int


@dataclass(frozen=True, slots=True)
class VirtualServer:
    """One IPVS service with forwarding method Masq to each of its real servers."""

    scheduler: str
    real_servers: Mapping[Endpoint, RealServer]


class Set(Enum):
    """The sets of the table `proxymode-ipvs`. Keys are packed as nf_tables registers hold them, see `keys`."""

    ADDRESSES = "addresses"
    SERVICES = "services"
    NODE_PORTS = "node-ports"
    HAIRPIN = "hairpin"


class Element(NamedTuple):
    """One element of a set. `key` is an address, a frontend's key, or a pair of addresses; `family` its table."""

    set: Set
    family: int
    key: bytes


@dataclass(frozen=True, slots=True)
class IpvsState:
    """Everything that the ipvs mode has per Service.

    `addresses`: each address on kube-ipvs0 with the source address that the node's own connections to it get; None:
    the kernel's choice, which is the address itself.
    """

    virtual_servers: Mapping[Frontend, VirtualServer] = field(default_factory=dict)
    addresses: Mapping[bytes, bytes | None] = field(default_factory=dict)
    elements: frozenset[Element] = frozenset()


class AddVirtualServer(NamedTuple):
    frontend: Frontend
    scheduler: str

    def __str__(self) -> str:
        return f"add virtual server {shown(self.frontend)} with scheduler {self.scheduler}"


class SetScheduler(NamedTuple):
    frontend: Frontend
    scheduler: str

    def __str__(self) -> str:
        return f"set scheduler {self.scheduler} of virtual server {shown(self.frontend)}"


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


ServerChange = AddVirtualServer | SetScheduler | DeleteVirtualServer | AddRealServer | SetWeight | DeleteRealServer


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
