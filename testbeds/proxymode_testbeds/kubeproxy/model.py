"""What a kube-proxy is told, and one address family of a node as its rules see it. Pure."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Variant(StrEnum):
    """Which iptables: with nf_tables beneath, as on every current distribution, or the older one."""

    NFT = "nft"
    LEGACY = "legacy"


class ProxyMode(StrEnum):
    """kube-proxy --proxy-mode."""

    IPTABLES = "iptables"
    IPVS = "ipvs"
    NFTABLES = "nftables"


@dataclass(frozen=True)
class Service:
    """One port of a Service in one family; endpoints are (address, port)."""

    name: str
    address: str
    port: int
    endpoints: tuple[tuple[str, int], ...]
    protocol: str = "tcp"
    node_port: int | None = None

    @property
    def version(self) -> int:
        return ipaddress.ip_address(self.address).version

    def hashed(self, *parts: str) -> str:
        """portProtoHash and servicePortEndpointChainName."""
        digest = hashlib.sha256((self.name + self.protocol + "".join(parts)).encode()).digest()
        return base64.b32encode(digest).decode()[:16]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Service:
        return cls(**raw | {"endpoints": tuple((address, port) for address, port in raw["endpoints"])})


@dataclass(frozen=True)
class Family:
    """`pods`: networks of the cluster's pods; `services` and addresses are of this family."""

    version: int
    variant: Variant
    services: tuple[Service, ...]
    node_ips: tuple[str, ...]
    pods: tuple[str, ...]

    @property
    def iptables(self) -> str:
        return f"{'iptables' if self.version == 4 else 'ip6tables'}-{self.variant}"

    @property
    def bits(self) -> int:
        return 32 if self.version == 4 else 128

    @property
    def not_pods(self) -> str:
        return f"! -s {self.pods[0]} " if self.pods else ""

    def shown(self, address: str, port: int) -> str:
        return f"{address}:{port}" if self.version == 4 else f"[{address}]:{port}"
