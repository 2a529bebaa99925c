"""What a kube-proxy that has come back has not programmed yet: before that, nothing of ours may go. Pure.

By mode: virtual servers with their real servers, and the masquerade rules, which come last; chains of every Service
port (iptables-restore brings chains and what leads to them at once); or elements of the map that leads to Services.
Cluster IPs of ports with endpoints are what is looked for: what kube-proxy adds for other frontends of a Service comes
in the same write.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from proxymode_agent.services.model import Endpoint, Frontend, ServicePort, ServiceState

MASQUERADING: Final = "KUBE-POSTROUTING"
_CHAINS: Final = ("KUBE-SVC-", "KUBE-SVL-")


def of_virtual_servers(
    state: ServiceState, servers: Mapping[Frontend, Collection[Endpoint]], masquerading: Collection[int]
) -> str:
    """`servers`: what IPVS has; `masquerading`: lengths of addresses in whose family there are masquerade rules."""
    for port in _served(state):
        if not set(port.endpoints) <= set(servers.get(port.cluster_ip, ())):
            return f"virtual server of {port.name}"
        if port.name.family not in masquerading:
            return f"rules in {MASQUERADING} of {port.name.family.name}"
    return ""


def of_chains(state: ServiceState, chains: Collection[tuple[int, str]]) -> str:
    """`chains`: those of table nat, with the length of their family's addresses."""
    for port in _served(state):
        if not any((port.name.family, f"{prefix}{chain_hash(port)}") in chains for prefix in _CHAINS):
            return f"chain of {port.name}"
    return ""


def of_elements(state: ServiceState, frontends: Collection[Frontend]) -> str:
    """`frontends`: keys of kube-proxy's map service-ips, both families."""
    for port in _served(state):
        if port.cluster_ip not in frontends:
            return f"element of {port.name} in map service-ips"
    return ""


def chain_hash(port: ServicePort) -> str:
    """The part of a chain's name that stands for a Service port (portProtoHash, pkg/proxy/iptables/proxier.go)."""
    digest = hashlib.sha256(f"{port.name}{port.name.protocol.name.lower()}".encode()).digest()
    return base64.b32encode(digest).decode()[:16]


def _served(state: ServiceState) -> Iterable[ServicePort]:
    return (port for port in state.ports.values() if port.endpoints)
