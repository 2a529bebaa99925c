"""From a NodeProxyMode's options and the Node itself to what the dataplane is told. Pure.

Deliberately refuses what this agent cannot do instead of doing something near it: traffic masqueraded wrongly is worse
than a node that stays as it is and says why.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from proxymode_agent.kube.own_node import host_ips, pod_networks
from proxymode_agent.services.model import DataplaneConfig, IpvsTimeouts, PodInterface, PodNetworks
from proxymode_api.durations import parse_duration
from proxymode_api.modes import DetectLocalMode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.kube.objects import Node
    from proxymode_agent.services.model import Network
    from proxymode_api.common import DataplaneOptions
    from proxymode_api.nodeproxymode import NodeProxyModeSpec

PRIMARY = "primary"
"""The word for the node's own addresses in nodePortAddresses (kube-proxy: --nodeport-addresses=primary)."""


class OptionsError(Exception):
    """An option that this agent cannot follow; the message names the field, the value and what would be right."""


def dataplane_config(options: NodeProxyModeSpec, node: Node | None) -> DataplaneConfig:
    """The options resolved for this node. Raises OptionsError."""
    addresses = host_ips(node) if node is not None else ()
    timeouts = options.ipvs.timeouts
    return DataplaneConfig(
        pods=_pods(options, node),
        masquerade_all=options.masquerade_all,
        masquerade_bit=options.nftables.masquerade_bit,
        node_port_addresses=_node_port_networks(options.node_port_addresses, addresses),
        localhost_node_ports=options.localhost_node_ports,
        node_ips=addresses,
        ipvs_scheduler=options.ipvs.scheduler.value,
        ipvs_strict_arp=options.ipvs.strict_arp,
        ipvs_exclude_cidrs=_networks("ipvs.excludeCIDRs", options.ipvs.exclude_cidrs),
        ipvs_timeouts=IpvsTimeouts(*map(_seconds, (timeouts.tcp, timeouts.tcp_fin, timeouts.udp))),
        ipvs_drain_seconds=_seconds(options.ipvs.drain_timeout),
        kube_proxy=options.kube_proxy.policy,
        connections=options.connections,
        drain_seconds=_seconds(options.drain_timeout),
    )


def _seconds(duration: str) -> int:
    return int(parse_duration(duration).total_seconds())


def _pods(options: DataplaneOptions, node: Node | None) -> PodNetworks | PodInterface | None:
    detect = options.detect_local
    match detect.mode:
        case DetectLocalMode.CLUSTER_CIDR:
            networks = _networks("detectLocal.clusterCIDRs", detect.cluster_cidrs)
            return PodNetworks(networks) if networks else None
        case DetectLocalMode.NODE_CIDR:
            networks = pod_networks(node) if node is not None else ()
            if not networks:
                raise OptionsError(
                    "detectLocal.mode: NodeCIDR needs podCIDRs in the Node's spec and this Node has none; "
                    "use ClusterCIDR with clusterCIDRs"
                )
            return PodNetworks(networks)
    if detect.interface is None:
        raise OptionsError(f"detectLocal.interface: mode {detect.mode.value} needs it, as in cni0 or veth")
    return PodInterface(detect.interface, prefix=detect.mode is DetectLocalMode.INTERFACE_PREFIX)


def _node_port_networks(texts: Iterable[str], node_ips: tuple[bytes, ...]) -> tuple[Network, ...] | None:
    """None where nothing is said: the mode's own default."""
    texts = tuple(texts)
    if not texts:
        return None
    primary = tuple(ipaddress.ip_network(address) for address in node_ips) if PRIMARY in texts else ()
    return primary + _networks("nodePortAddresses", (text for text in texts if text != PRIMARY))


def _networks(field: str, texts: Iterable[str]) -> tuple[Network, ...]:
    networks = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError as error:
            raise OptionsError(f"{field}: {text!r} is not a network; write it as in 10.244.0.0/16") from error
    return tuple(networks)
