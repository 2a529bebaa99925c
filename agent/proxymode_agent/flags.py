"""What the command line means, checked before anything is started; the flags themselves are in `flag_parser`.

Flags about the dataplane go with --mode, the standalone agent; without it the node's NodeProxyMode decides, and they
are refused rather than ignored, as are flags that contradict each other: one line that says what would be right, and
exit status 2.
"""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING, Final

import msgspec

from proxymode_agent.flag_parser import flag_parser
from proxymode_agent.flag_values import PRIMARY
from proxymode_agent.services.model import ConntrackLimits, DataplaneConfig, IpvsTimeouts, PodInterface, PodNetworks
from proxymode_api.modes import DetectLocalMode

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from proxymode_agent.services.model import Network
    from proxymode_api.modes import Mode
    from proxymode_flags import BindAddress
    from proxymode_log import LogFormat


class Standalone(msgspec.Struct, frozen=True):
    """What the flags say about the dataplane, where no operator decides. `node_port_primary`: NodePorts answer on the
    node's own addresses, besides those in `config`. `node_cidrs`: the node's own pod networks tell who is a pod."""

    mode: Mode
    config: DataplaneConfig
    node_port_primary: bool
    node_cidrs: bool

    def resolve(self, node_ips: tuple[bytes, ...], pod_networks: tuple[Network, ...]) -> DataplaneConfig | None:
        """The configuration for a node with these packed addresses and pod networks; None: it cannot do without the
        latter."""
        if self.node_cidrs and not pod_networks:
            return None
        node_ports = self.config.node_port_addresses
        if self.node_port_primary:
            node_ports = (node_ports or ()) + tuple(ipaddress.ip_network(address) for address in node_ips)
        return msgspec.structs.replace(
            self.config,
            pods=PodNetworks(pod_networks) if self.node_cidrs else self.config.pods,
            node_port_addresses=node_ports,
            node_ips=node_ips,
        )


class Options(msgspec.Struct, frozen=True):
    """The command line, checked. `standalone` None: the node's NodeProxyMode decides. Addresses None: do not serve."""

    kubeconfig: Path | None
    node_name: str
    standalone: Standalone | None
    metrics_address: BindAddress | None
    healthz_address: BindAddress | None
    node_healthz_address: BindAddress | None
    conntrack: ConntrackLimits
    state_dir: Path
    sync_period: float
    log_format: LogFormat
    verbosity: int
    cleanup: bool
    cleanup_needs_kube_proxy: bool


def parse(arguments: Sequence[str]) -> Options:
    """The options; ends the process with status 2 where they are wrong, 0 for --help and --version."""
    parser = flag_parser(os.uname().nodename.strip().lower())
    parsed = parser.parse_args(arguments)
    given = {flag for flag in DATAPLANE_FLAGS if getattr(parsed, flag) is not None}
    if given and parsed.mode is None and not parsed.cleanup:
        flag = min(given).replace("_", "-")
        parser.error(f"argument --{flag}: needs --mode; without it the node's NodeProxyMode decides")
    return Options(
        kubeconfig=parsed.kubeconfig,
        node_name=parsed.node_name,
        standalone=None if parsed.mode is None or parsed.cleanup else _standalone(parser, parsed),
        metrics_address=parsed.metrics_bind_address,
        healthz_address=parsed.healthz_bind_address,
        node_healthz_address=parsed.node_healthz_bind_address,
        conntrack=ConntrackLimits(
            parsed.conntrack_max_per_core,
            parsed.conntrack_min,
            parsed.conntrack_tcp_timeout_established,
            parsed.conntrack_tcp_timeout_close_wait,
            parsed.conntrack_udp_timeout,
            parsed.conntrack_udp_timeout_stream,
            parsed.conntrack_tcp_be_liberal,
        ),
        state_dir=parsed.state_dir,
        sync_period=parsed.sync_period,
        log_format=parsed.logging_format,
        verbosity=parsed.v,
        cleanup=parsed.cleanup,
        cleanup_needs_kube_proxy=parsed.cleanup_needs_kube_proxy,
    )


DATAPLANE_FLAGS: Final = (
    "cluster_cidr",
    "detect_local_mode",
    "pod_bridge_interface",
    "pod_interface_name_prefix",
    "nodeport_addresses",
    "localhost_nodeports",
    "masquerade_all",
    "iptables_masquerade_bit",
    "ipvs_scheduler",
    "ipvs_strict_arp",
    "ipvs_exclude_cidrs",
    "ipvs_tcp_timeout",
    "ipvs_tcpfin_timeout",
    "ipvs_udp_timeout",
    "ipvs_drain_timeout",
)
"""Those that go with --mode, as argparse calls them."""


_FLAG_OF_LOCAL_MODE: Final = {
    DetectLocalMode.CLUSTER_CIDR: "cluster_cidr",
    DetectLocalMode.BRIDGE: "pod_bridge_interface",
    DetectLocalMode.INTERFACE_PREFIX: "pod_interface_name_prefix",
}


def _pods(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> PodNetworks | PodInterface | None:
    """Who is a pod, by what the flags alone can say. Ends the process where they contradict each other."""
    mode = parsed.detect_local_mode or DetectLocalMode.CLUSTER_CIDR
    for other, name in _FLAG_OF_LOCAL_MODE.items():
        flag = name.replace("_", "-")
        if getattr(parsed, name) and other is not mode:
            parser.error(f"argument --{flag}: would be ignored with --detect-local-mode {mode}; it goes with {other}")
        if other is mode and not getattr(parsed, name) and mode is not DetectLocalMode.CLUSTER_CIDR:
            parser.error(f"argument --detect-local-mode: {mode} needs --{flag}")
    match mode:
        case DetectLocalMode.CLUSTER_CIDR:
            return PodNetworks(parsed.cluster_cidr) if parsed.cluster_cidr else None
        case DetectLocalMode.NODE_CIDR:
            return None
        case DetectLocalMode.BRIDGE:
            return PodInterface(parsed.pod_bridge_interface)
        case _:
            return PodInterface(parsed.pod_interface_name_prefix, prefix=True)


def _standalone(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> Standalone:
    default = DataplaneConfig()
    addresses: list[str] = parsed.nodeport_addresses or []
    networks = tuple(ipaddress.ip_network(text, strict=False) for text in addresses if text != PRIMARY)
    return Standalone(
        mode=parsed.mode,
        config=DataplaneConfig(
            pods=_pods(parser, parsed),
            masquerade_all=bool(parsed.masquerade_all),
            masquerade_bit=(
                default.masquerade_bit if parsed.iptables_masquerade_bit is None else parsed.iptables_masquerade_bit
            ),
            node_port_addresses=networks or None,
            localhost_node_ports=bool(parsed.localhost_nodeports),
            ipvs_scheduler=parsed.ipvs_scheduler or default.ipvs_scheduler,
            ipvs_strict_arp=bool(parsed.ipvs_strict_arp),
            ipvs_exclude_cidrs=parsed.ipvs_exclude_cidrs or (),
            ipvs_timeouts=IpvsTimeouts(
                parsed.ipvs_tcp_timeout or 0, parsed.ipvs_tcpfin_timeout or 0, parsed.ipvs_udp_timeout or 0
            ),
            ipvs_drain_seconds=parsed.ipvs_drain_timeout or 0,
        ),
        node_port_primary=PRIMARY in addresses,
        node_cidrs=parsed.detect_local_mode is DetectLocalMode.NODE_CIDR,
    )
