"""The description of a small cluster's network: values only.

What Kubernetes calls a node, a pod, a podCIDR and a Service CIDR is called so here; a client is a machine outside of
the cluster whose route to the Service CIDRs leads to one node. How the description becomes namespaces and links is
`plan`'s business.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class PodSpec:
    name: str
    addresses: tuple[Address, ...]

    @property
    def address(self) -> str:
        """The first address, as text."""
        return str(self.addresses[0])


@dataclass(frozen=True, slots=True)
class NodeSpec:
    name: str
    addresses: tuple[Address, ...]
    pod_cidrs: tuple[Network, ...]
    pods: tuple[PodSpec, ...] = ()

    @property
    def address(self) -> str:
        """The first address, as text."""
        return str(self.addresses[0])


@dataclass(frozen=True, slots=True)
class ClientSpec:
    """`gateway` is the name of the node to which the client sends what is for the Service CIDRs."""

    name: str
    addresses: tuple[Address, ...]
    gateway: str

    @property
    def address(self) -> str:
        """The first address, as text."""
        return str(self.addresses[0])


@dataclass(frozen=True, slots=True)
class Fleet:
    """A whole cluster's network. Raises ValueError for names used twice and addresses where they do not belong.

    The last usable address of each node network is the router's, see :func:`router`.
    """

    nodes: tuple[NodeSpec, ...]
    clients: tuple[ClientSpec, ...]
    node_networks: tuple[Network, ...]
    service_cidrs: tuple[Network, ...]

    def __post_init__(self) -> None:
        _all_different("name", [part.name for part in self.parts()])
        _all_different("address", [str(address) for part in self.parts() for address in part.addresses])
        for part in self.on_the_segment():
            for address in part.addresses:
                _inside(part.name, address, self.node_networks)
                if address in map(router, self.node_networks):
                    raise ValueError(f"{part.name}: {address} is the router's address")
        for node in self.nodes:
            for pod in node.pods:
                for address in pod.addresses:
                    _inside(pod.name, address, node.pod_cidrs)
                    if address in map(pod_gateway, node.pod_cidrs):
                        raise ValueError(f"{pod.name}: {address} is the node's own address in its podCIDR")
        for client in self.clients:
            if client.gateway not in {node.name for node in self.nodes}:
                raise ValueError(f"{client.name}: its gateway {client.gateway!r} is no node of this fleet")

    def parts(self) -> Iterator[NodeSpec | PodSpec | ClientSpec]:
        """Everything that gets a network namespace."""
        for node in self.nodes:
            yield node
            yield from node.pods
        yield from self.clients

    def on_the_segment(self) -> tuple[NodeSpec | ClientSpec, ...]:
        """What has an address in the node networks: nodes, then clients."""
        return (*self.nodes, *self.clients)

    def node(self, name: str) -> NodeSpec:
        """Raises KeyError for a name that is no node's."""
        return {node.name: node for node in self.nodes}[name]


def make_fleet(*, nodes: int, pods: int, clients: int = 1, dual_stack: bool = False) -> Fleet:
    """A fleet with addresses like those of many a small cluster; `pods` is per node.

    Nodes are node1, node2, ... (192.168.50.1, ...); pods node1-pod1, ... (10.244.1.11, ...); clients client1, ...
    (192.168.50.101, ...), the first one's gateway is node1, the second's node2 and so on, round and round. Raises
    ValueError where the numbers do not fit these networks.
    """
    for what, number, least in (("nodes", nodes, 1), ("pods", pods, 0), ("clients", clients, 0)):
        if not least <= number <= 99:
            raise ValueError(f"{what}={number}: must be {least} to 99")

    def addresses(v4: str, v6: str) -> tuple[Address, ...]:
        texts = (v4, v6) if dual_stack else (v4,)
        return tuple(ipaddress.ip_address(text) for text in texts)

    def networks(v4: str, v6: str) -> tuple[Network, ...]:
        texts = (v4, v6) if dual_stack else (v4,)
        return tuple(ipaddress.ip_network(text) for text in texts)

    return Fleet(
        nodes=tuple(
            NodeSpec(
                name=f"node{n}",
                addresses=addresses(f"192.168.50.{n}", f"fd50::{n}"),
                pod_cidrs=networks(f"10.244.{n}.0/24", f"fd44:0:0:{n}::/64"),
                pods=tuple(
                    PodSpec(f"node{n}-pod{p}", addresses(f"10.244.{n}.{10 + p}", f"fd44:0:0:{n}::{10 + p}"))
                    for p in range(1, pods + 1)
                ),
            )
            for n in range(1, nodes + 1)
        ),
        clients=tuple(
            ClientSpec(
                name=f"client{c}",
                addresses=addresses(f"192.168.50.{100 + c}", f"fd50::{100 + c}"),
                gateway=f"node{(c - 1) % nodes + 1}",
            )
            for c in range(1, clients + 1)
        ),
        node_networks=networks("192.168.50.0/24", "fd50::/64"),
        service_cidrs=networks("10.96.0.0/16", "fd96::/112"),
    )


def router(network: Network) -> Address:
    """Where a node network's default route leads."""
    return network[-2]


def pod_gateway(pod_cidr: Network) -> Address:
    """The node's own address in its podCIDR, the pods' default route."""
    return pod_cidr[1]


def _inside(name: str, address: Address, networks: tuple[Network, ...]) -> None:
    if not any(address in network for network in networks):
        raise ValueError(f"{name}: {address} is outside of {' and '.join(map(str, networks)) or 'nothing'}")


def _all_different(what: str, values: list[str]) -> None:
    for value, times in Counter(values).items():
        if times > 1:
            raise ValueError(f"{what} {value!r}: used {times} times in one fleet")
