"""Plain data: what a node's Service dataplane shall do, independent of how the kernel is told.

Addresses are packed (4 bytes for IPv4, 16 for IPv6, network order): they are compared, hashed and sent to the kernel
250,000 at a time, and never shown on the hot path. One ServicePort is one Service port in one address family.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from proxymode_api.modes import ConnectionPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping


class Protocol(IntEnum):
    """Transport protocols of a Service port, as IP protocol numbers (IANA, include/uapi/linux/in.h)."""

    TCP = 6
    UDP = 17
    SCTP = 132


class Family(IntEnum):
    """Address families, as the length of a packed address in bytes."""

    IPV4 = 4
    IPV6 = 16


class Endpoint(NamedTuple):
    """Where a packet goes: a pod's packed address and port."""

    address: bytes
    port: int

    def __str__(self) -> str:
        host = ipaddress.ip_address(self.address)
        return f"{host}:{self.port}" if host.version == 4 else f"[{host}]:{self.port}"


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


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One Service port and its usable endpoints: sorted, no duplicates. Without endpoints connections are refused."""

    name: ServicePortName
    cluster_ip: Frontend
    endpoints: tuple[Endpoint, ...]
    node_port: int | None = None


@dataclass(frozen=True, slots=True)
class ServiceState:
    """All that a node's dataplane shall do. Two states are equal when the kernel's state for them is."""

    ports: Mapping[ServicePortName, ServicePort] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DataplaneConfig:
    """What holds for all Services of a node; resolved from NodeProxyMode.spec or from flags.

    `cluster_cidrs`: sources in these networks are pods and are not masqueraded; empty: nobody is taken for a pod and
    nothing is masqueraded but hairpin traffic, as kube-proxy without --cluster-cidr. `node_port_addresses`: None means
    the mode's default. `connections`: what a switch does with connections that IPVS holds.
    """

    cluster_cidrs: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    masquerade_all: bool = False
    masquerade_bit: int = 14
    node_port_addresses: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] | None = None
    node_ips: tuple[bytes, ...] = ()
    ipvs_scheduler: str = "rr"
    ipvs_strict_arp: bool = False
    ipvs_exclude_cidrs: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    connections: ConnectionPolicy = ConnectionPolicy.HANDOVER
