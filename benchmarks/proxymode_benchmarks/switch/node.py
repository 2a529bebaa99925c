"""Pure: the node that changes its mode, with its Service and the Service's clients."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from proxymode_agent.services.model import (
    DataplaneConfig,
    Endpoint,
    Family,
    Frontend,
    PodNetworks,
    Protocol,
    ServicePort,
    ServicePortName,
    ServiceState,
)
from proxymode_testbeds.topology import make_fleet

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from proxymode_testbeds.topology import Fleet

NAME: Final = "node1"
VIP: Final = "10.96.0.10"
VIP6: Final = "fd96::10"
NODE_PORT: Final = 30080
BACKENDS: Final = ("node1-pod1", "node1-pod2", "node2-pod1")


def fleet() -> Fleet:
    """Two nodes of three pods each, and one client outside."""
    return make_fleet(nodes=2, pods=3, dual_stack=True)


def backends(fleet: Fleet, version: int) -> list[tuple[str, IPv4Address | IPv6Address]]:
    """The Service's endpoints of one family: the node that each is on, and its address."""
    return [
        (spec.name, address)
        for spec in fleet.nodes
        for pod in spec.pods
        if pod.name in BACKENDS
        for address in pod.addresses
        if address.version == version
    ]


def services(fleet: Fleet) -> ServiceState:
    """What the agent has after it has read the Service and its EndpointSlices."""
    ports = {}
    for vip, number, target, protocol, node_port in (
        (VIP, 80, 8080, Protocol.TCP, NODE_PORT),
        (VIP, 53, 5353, Protocol.UDP, None),
        (VIP6, 80, 8080, Protocol.TCP, NODE_PORT),
    ):
        frontend = Frontend(ipaddress.ip_address(vip).packed, protocol, number)
        family = Family(len(frontend.address))
        pods = sorted(pod.packed for _, pod in backends(fleet, 4 if family is Family.IPV4 else 6))
        name = ServicePortName("default", "web", f"{protocol.name.lower()}-{number}", protocol, family)
        endpoints = tuple(Endpoint(pod, target) for pod in pods)
        ports[name] = ServicePort(name, frontend, endpoints, node_port, hairpin=tuple(pods))
    return ServiceState(ports)


def config(fleet: Fleet) -> DataplaneConfig:
    """The agent's, on the node."""
    return DataplaneConfig(
        pods=PodNetworks(tuple(cidr for spec in fleet.nodes for cidr in spec.pod_cidrs)),
        node_ips=tuple(address.packed for address in fleet.node(NAME).addresses),
    )


def clients(fleet: Fleet, connections: int, new_rate: float) -> list[tuple[str, str, dict[str, float]]]:
    """Outside, by NodePort, on the node, in a pod over IPv6, in a pod that meets itself; each a share of the load."""
    share = max(4, connections // 5)
    talk, rate = share - 3, new_rate / 5
    own = str(fleet.node(NAME).addresses[0])
    long_lived: dict[str, float] = {"established": talk, "bulk": 1, "push": 2, "new_rate": rate, "interval": 1.0}
    return [
        ("client1", VIP, {"tcp": 80, "udp": 53, **long_lived, "udp_rate": 5.0, "udp_streams": 3}),
        ("client1", own, {"tcp": NODE_PORT, **long_lived}),
        (NAME, VIP, {"tcp": 80, **long_lived}),
        ("node1-pod3", VIP6, {"tcp": 80, **long_lived}),
        ("node1-pod1", VIP, {"tcp": 80, "udp": 53, **long_lived, "udp_streams": 1}),
    ]
