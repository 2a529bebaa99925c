"""From a fleet's description to what `ip -batch` and /proc/sys are told: a pure function.

    client1 ──┐                         ┌── node1 (eth0) ── veth per pod ── node1-pod1 (eth0)
    client2 ──┴── br0 in "router" ──────┴── node2 (eth0) ── ...
                  │
                  └── uplink: point-to-point to the machine's first namespace, only with an uplink

All nodes and clients share one network segment, whose router is a namespace of its own; so nothing but the optional
uplink is visible outside. Pods hang on point-to-point links as with Calico or AWS: the node has a host route to each,
and a route to each other node's podCIDR. Pods and nodes know nothing of Service addresses: that is the dataplane's
work, and the thing under test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxymode_testbeds.topology.fleet import pod_gateway, router

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from ipaddress import IPv4Interface

    from proxymode_testbeds.topology.fleet import Address, ClientSpec, Fleet, Network, NodeSpec, PodSpec

ROUTER = "router"
UPLINK = "uplink"


class Setup(NamedTuple):
    """One namespace: sysctls (below /proc/sys/net) that must be set before it has links, and `ip` lines for after."""

    sysctls: dict[str, str]
    lines: tuple[str, ...]


class Plan(NamedTuple):
    """`setups` is by the part's name. `links` are `ip` lines for the router, before those of `setups`.

    The router, because older kernels (6.1) refuse a link's name that is taken where they are asked, and most
    machines have an eth0.
    """

    links: tuple[str, ...]
    setups: dict[str, Setup]


def plan(fleet: Fleet, prefix: str) -> Plan:
    """Namespaces are called `prefix` + the part's name, and so in the links' lines."""
    links = [
        f"link add eth0 netns {prefix}{part.name} type veth peer name p{port} netns {prefix}{ROUTER}"
        for port, part in enumerate(fleet.on_the_segment())
    ]
    links += [
        f"link add eth0 netns {prefix}{pod.name} type veth peer name {pod_link(index)} netns {prefix}{node.name}"
        for node in fleet.nodes
        for index, pod in enumerate(node.pods)
    ]
    setups = {ROUTER: Setup(_FORWARDING, tuple(_router(fleet)))}
    for node in fleet.nodes:
        setups[node.name] = Setup(_FORWARDING, tuple(_node(fleet, node)))
        for pod in node.pods:
            setups[pod.name] = Setup(_BASE, tuple(_pod(node, pod)))
    for client in fleet.clients:
        setups[client.name] = Setup(_BASE, tuple(_client(fleet, client)))
    return Plan(tuple(links), setups)


def pod_link(index: int) -> str:
    """The node's end of the link to its pod of that index."""
    return f"veth{index}"


def uplink(
    prefix: str, outside: IPv4Interface, inside: IPv4Interface, name: str, reached: Iterable[str]
) -> tuple[str, Setup]:
    """The line that makes the link `name` to the router, and the router's further setup; `reached`: the networks that
    are beyond it. No default route: what no Service takes must not leave the fleet."""
    line = f"link add {name} type veth peer name {UPLINK} netns {prefix}{ROUTER}"
    lines = (
        f"address add {inside} dev {UPLINK}",
        f"link set {UPLINK} up",
        *(f"route add {network} via {outside.ip}" for network in reached),
    )
    return line, Setup({}, lines)


_BASE = {
    # Links are made after this, and start with the "default" values. Duplicate address detection would hold every
    # IPv6 address back for a second. Nodes share a segment with clients, so without the last two the kernel would
    # tell clients short cuts that no real, routed network knows.
    "ipv6/conf/default/accept_dad": "0",
    "ipv4/conf/default/accept_redirects": "0",
    "ipv4/conf/all/accept_redirects": "0",
}
_FORWARDING = _BASE | {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    "ipv4/conf/default/send_redirects": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/all/rp_filter": "0",
}


def _router(fleet: Fleet) -> Iterator[str]:
    yield "link set lo up"
    yield "link add br0 type bridge stp_state 0 mcast_snooping 0"
    for port in range(len(fleet.on_the_segment())):
        yield f"link set p{port} master br0 up"
    for network in fleet.node_networks:
        yield f"address add {router(network)}/{network.prefixlen} dev br0"
    yield "link set br0 up"


def _node(fleet: Fleet, node: NodeSpec) -> Iterator[str]:
    yield from _segment_lines(fleet, node.addresses)
    for index, pod in enumerate(node.pods):
        link = pod_link(index)
        for cidr in node.pod_cidrs:
            yield f"address add {pod_gateway(cidr)}/{cidr.max_prefixlen} dev {link}"
        yield f"link set {link} up"
        for address in pod.addresses:
            yield f"route add {address}/{address.max_prefixlen} dev {link}"
    for other in fleet.nodes:
        if other is not node:
            for cidr in other.pod_cidrs:
                yield f"route add {cidr} via {_same_family(other.addresses, cidr)}"


def _pod(node: NodeSpec, pod: PodSpec) -> Iterator[str]:
    yield "link set lo up"
    yield "link set eth0 up"
    for address in pod.addresses:
        yield f"address add {address}/{address.max_prefixlen} dev eth0"
        for cidr in node.pod_cidrs:
            if cidr.version == address.version:
                yield f"route add {pod_gateway(cidr)} dev eth0"
                yield f"route add default via {pod_gateway(cidr)} dev eth0"


def _client(fleet: Fleet, client: ClientSpec) -> Iterator[str]:
    yield from _segment_lines(fleet, client.addresses)
    gateway = fleet.node(client.gateway)
    for cidr in fleet.service_cidrs:
        yield f"route add {cidr} via {_same_family(gateway.addresses, cidr)}"


def _segment_lines(fleet: Fleet, addresses: tuple[Address, ...]) -> Iterator[str]:
    yield "link set lo up"
    yield "link set eth0 up"
    for network in fleet.node_networks:
        for address in addresses:
            if address in network:
                yield f"address add {address}/{network.prefixlen} dev eth0"
        yield f"route add default via {router(network)}"


def _same_family(addresses: tuple[Address, ...], network: Network) -> Address:
    return next(address for address in addresses if address.version == network.version)
