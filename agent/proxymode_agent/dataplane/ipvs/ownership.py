"""Pure: what of the node's kernel is ours to change, and which of its addresses Services may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_agent.dataplane.ipvs.model import Set, frontend_key
from proxymode_agent.dataplane.ipvs.wanted import NodeAddresses
from proxymode_agent.services.model import Family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proxymode_agent.dataplane.ipvs.addresses import Found
    from proxymode_agent.dataplane.ipvs.model import Element
    from proxymode_agent.services.model import DataplaneConfig, Frontend, Network


def excluded(config: DataplaneConfig, address: bytes) -> bool:
    """Whether an address is somebody else's by configuration."""
    return any(_contains(network, address) for network in config.ipvs_exclude_cidrs)


def is_ours(config: DataplaneConfig, elements: Iterable[Element], bound: Iterable[bytes]) -> Callable[[Frontend], bool]:
    """Tells which of the kernel's virtual servers are ours, by our table's elements and the addresses on kube-ipvs0."""
    addresses = set(bound)
    on_the_node = {element.key for element in elements if element.set is Set.NODE_FRONTENDS}

    def ours(frontend: Frontend) -> bool:
        return not excluded(config, frontend.address) and (
            frontend.address in addresses or frontend_key(frontend) in on_the_node
        )

    return ours


def node_addresses(config: DataplaneConfig, found: Found) -> NodeAddresses:
    """Which of the addresses that the node has are for Services."""
    chosen = {family: config.node_port_networks(family) for family in Family}

    def has_node_ports(address: bytes) -> bool:
        networks = chosen[Family(len(address))]
        return networks is None or any(_contains(network, address) for network in networks)

    return NodeAddresses(
        node_ports=frozenset(filter(has_node_ports, found.local)),
        sources={len(address): address for address in reversed(config.node_ips) if address in found.local},
        own=found.elsewhere,
    )


def _contains(network: Network, address: bytes) -> bool:
    if network.max_prefixlen != len(address) * 8:
        return False
    mask = int(network.netmask)
    return int.from_bytes(address, "big") & mask == int(network.network_address)
