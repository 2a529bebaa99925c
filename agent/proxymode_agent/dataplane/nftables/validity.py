"""Service ports that cannot be programmed, whatever the kernel: numbers and lengths that make no sense. Pure.

The API server would refuse them; the agent also runs beside such as are not Kubernetes' own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_agent.dataplane.nftables.draws import LOCAL_BASE
from proxymode_agent.services.model import PORT_BYTES

if TYPE_CHECKING:
    from proxymode_agent.services.model import Endpoint, Family, ServicePort

MAX_ENDPOINTS = LOCAL_BASE
MAX_AFFINITY_SECONDS = 86400  # Kubernetes API: sessionAffinityConfig.clientIP.timeoutSeconds


def invalid(port: ServicePort) -> str | None:
    """Why a Service port cannot be programmed; None if it can."""
    family = port.name.family
    if len(port.cluster_ip.address) != family:
        return f"cluster IP has {len(port.cluster_ip.address)} bytes, {family.name} addresses have {family.value}"
    if port.cluster_ip.protocol != port.name.protocol:
        return f"frontend is {port.cluster_ip.protocol.name}, the Service port {port.name.protocol.name}"
    if not _is_port(port.cluster_ip.port):
        return f"port is {port.cluster_ip.port}; ports are 1 to 65535"
    if port.node_port is not None and not _is_port(port.node_port):
        return f"node port is {port.node_port}; ports are 1 to 65535"
    if port.affinity_seconds is not None and not 0 < port.affinity_seconds <= MAX_AFFINITY_SECONDS:
        return f"affinity timeout is {port.affinity_seconds} seconds; it is 1 to {MAX_AFFINITY_SECONDS}"
    if port.external_ips or port.load_balancer_ips or port.hairpin:  # as few have
        for what, addresses in (
            ("an external IP", port.external_ips),
            ("a load-balancer address", port.load_balancer_ips),
            ("a hairpin address", port.hairpin),
        ):
            if any(len(address) != family for address in addresses):
                return f"{what} is not of {family.value} bytes, as {family.name} addresses are"
    return _invalid_endpoints(port.cluster_endpoints, family) or _invalid_endpoints(port.local_endpoints, family)


def _invalid_endpoints(endpoints: tuple[Endpoint, ...], family: Family) -> str | None:
    if not endpoints:
        return None
    if len(endpoints) > MAX_ENDPOINTS:
        return f"it has {len(endpoints)} endpoints; at most {MAX_ENDPOINTS} can be drawn from"
    if set(map(len, endpoints)) != {family + PORT_BYTES}:
        other = next(one.address for one in endpoints if len(one) != family + PORT_BYTES)
        return f"an endpoint's address has {len(other)} bytes, {family.name} addresses have {family.value}"
    return None


def _is_port(port: int) -> bool:
    return 0 < port <= 0xFFFF
