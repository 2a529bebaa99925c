"""The command line, named as kube-proxy's where a flag means the same, checked before anything is started.

A bad value ends with exit status 2 and one line that names flag, value and what would be right. Flags about the
dataplane go with --mode, the standalone agent; without it the node's NodeProxyMode decides, and they are refused
rather than ignored.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from proxymode_agent import flag_values as values
from proxymode_agent.services.model import DataplaneConfig, IpvsTimeouts, PodInterface, PodNetworks
from proxymode_agent.version import VERSION
from proxymode_api.modes import DetectLocalMode
from proxymode_flags import bind_address, log_format

if TYPE_CHECKING:
    from argparse import _ArgumentGroup as _Group
    from collections.abc import Sequence

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


class ConntrackLimits(msgspec.Struct, frozen=True):
    """What conntrack is to be set to: entries for each core and in all, seconds; 0: left as it is."""

    max_per_core: int
    min_entries: int
    established_seconds: int
    close_wait_seconds: int


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


def parse(arguments: Sequence[str]) -> Options:
    """The options; ends the process with status 2 where they are wrong, 0 for --help and --version."""
    parser = flag_parser(os.uname().nodename.strip().lower())
    parsed = parser.parse_args(arguments)
    given = {flag for flag in _DATAPLANE_FLAGS if getattr(parsed, flag) is not None}
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
        ),
        state_dir=parsed.state_dir,
        sync_period=parsed.sync_period,
        log_format=parsed.logging_format,
        verbosity=parsed.v,
        cleanup=parsed.cleanup,
    )


_DATAPLANE_FLAGS: Final = (
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
    networks = tuple(ipaddress.ip_network(text, strict=False) for text in addresses if text != values.PRIMARY)
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
        node_port_primary=values.PRIMARY in addresses,
        node_cidrs=parsed.detect_local_mode is DetectLocalMode.NODE_CIDR,
    )


def flag_parser(host_name: str) -> argparse.ArgumentParser:
    """Every flag of the agent; `host_name` is the default of --node-name."""
    parser = argparse.ArgumentParser(
        prog="proxymode-agent",
        description="Programs this node's Service dataplane, in the mode that its NodeProxyMode asks for, or, with "
        "--mode, alone. Rules stay in place when it stops.",
        allow_abbrev=False,
    )
    _add_general(parser.add_argument_group("general"), host_name)
    _add_conntrack(
        parser.add_argument_group(
            "connection tracking",
            "Set once the agent handles the node's Services, as kube-proxy does at its start. What somebody else has "
            "set stays: a maximum is only raised, a time-out set only where it is the kernel's own.",
        )
    )
    _add_standalone(parser.add_argument_group("standalone", "With --mode no operator and no CRDs are needed."))
    return parser


def _add_general(general: _Group, host_name: str) -> None:
    """How to run, whoever decides about the mode."""
    general.add_argument(
        "--kubeconfig", type=Path, metavar="FILE", help="how to reach the API server; default: the Pod's ServiceAccount"
    )
    general.add_argument(
        "--node-name",
        "--hostname-override",
        type=values.node_name,
        default=host_name,
        metavar="NAME",
        help="name of this node's Node object (default: the host name, %(default)s)",
    )
    general.add_argument(
        "--state-dir",
        type=values.folder,
        default=Path("/var/lib/proxymode"),
        metavar="DIR",
        help="where the journal of a switch is kept (default: %(default)s)",
    )
    general.add_argument(
        "--sync-period",
        type=values.duration,
        default="30s",
        metavar="DURATION",
        help="at most this often the kernel is read back where others write to it, besides the look for drift "
        "every second (default: %(default)s)",
    )
    general.add_argument(
        "--metrics-bind-address",
        type=bind_address,
        default="127.0.0.1:10249",
        metavar="HOST:PORT",
        help="where /metrics and /proxyMode answer; empty: nowhere (default: %(default)s)",
    )
    general.add_argument(
        "--healthz-bind-address",
        type=bind_address,
        default="0.0.0.0:10256",
        metavar="HOST:PORT",
        help="where /healthz, /livez and /readyz answer; empty: nowhere (default: %(default)s)",
    )
    general.add_argument(
        "--node-healthz-bind-address",
        type=bind_address,
        default="",
        metavar="HOST:PORT",
        help="where they answer too, in kube-proxy's place, for load balancers that ask whether the node is well: only "
        "while this agent handles its Services and does not hand it back; empty: nowhere (the default)",
    )
    general.add_argument(
        "--logging-format",
        type=log_format,
        default="logfmt",
        metavar="FORMAT",
        help="form of a log line: logfmt or json (default: %(default)s)",
    )
    general.add_argument(
        "--v",
        "-v",
        type=values.verbosity,
        default="0",
        metavar="LEVEL",
        help="log level as klog's; 4 and more is debug",
    )
    general.add_argument("--version", action="version", version=f"proxymode-agent {VERSION}")
    general.add_argument(
        "--cleanup",
        nargs="?",
        const=True,
        default=False,
        type=values.boolean,
        metavar="true|false",
        help="remove everything that this program ever made, in both modes, and exit",
    )


def _add_conntrack(conntrack: _Group) -> None:
    """What kube-proxy sees to at its start."""
    for name, default, what in (
        ("max-per-core", "32768", "entries for each core; 0: as many as there may be now"),
        ("min", "131072", "entries that there may be whatever the number of cores"),
    ):
        conntrack.add_argument(
            f"--conntrack-{name}",
            type=values.count,
            default=default,
            metavar="COUNT",
            help=f"{what} (default: %(default)s)",
        )
    for name, default, what in (
        ("established", "24h", "an established TCP connection"),
        ("close-wait", "1h", "a TCP connection in CLOSE_WAIT"),
    ):
        conntrack.add_argument(
            f"--conntrack-tcp-timeout-{name}",
            type=values.whole_seconds,
            default=default,
            metavar="DURATION",
            help=f"how long {what} is remembered without packets; 0: as it is (default: %(default)s)",
        )


def _add_standalone(alone: _Group) -> None:
    """What to program, where the command line decides."""
    alone.add_argument("--mode", type=values.mode, metavar="MODE", help="what to program: nftables or ipvs")
    alone.add_argument(
        "--cluster-cidr",
        type=values.networks,
        metavar="CIDR[,CIDR]",
        help="networks of the cluster's pods; what comes from elsewhere is masqueraded",
    )
    alone.add_argument(
        "--detect-local-mode",
        type=values.detect_local_mode,
        metavar="MODE",
        help="what tells pods: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix (default: ClusterCIDR)",
    )
    alone.add_argument(
        "--pod-bridge-interface",
        type=values.interface,
        metavar="NAME",
        help="bridge by which pods' traffic comes in, for BridgeInterface",
    )
    alone.add_argument(
        "--pod-interface-name-prefix",
        type=values.interface,
        metavar="PREFIX",
        help="beginning of the names of pods' interfaces, for InterfaceNamePrefix",
    )
    alone.add_argument(
        "--nodeport-addresses",
        type=values.node_port_addresses,
        metavar="CIDR|primary[,…]",
        help="addresses of the node on which NodePorts answer; default: the primary ones in nftables mode, all local "
        "ones in ipvs mode",
    )
    alone.add_argument(
        "--localhost-nodeports",
        nargs="?",
        const=True,
        type=values.boolean,
        metavar="true|false",
        help="answer TCP NodePorts also on 127.0.0.1 and [::1], by a proxy in the agent; in nftables mode only",
    )
    alone.add_argument(
        "--masquerade-all",
        nargs="?",
        const=True,
        type=values.boolean,
        metavar="true|false",
        help="masquerade all traffic to Service addresses",
    )
    alone.add_argument(
        "--iptables-masquerade-bit",
        "--masquerade-bit",
        type=values.masquerade_bit,
        metavar="BIT",
        help="bit of the packet mark that asks for masquerading, 0 to 31 (default: 14)",
    )
    alone.add_argument(
        "--ipvs-scheduler", type=values.scheduler, metavar="NAME", help="scheduler of virtual servers (default: rr)"
    )
    alone.add_argument(
        "--ipvs-strict-arp",
        nargs="?",
        const=True,
        type=values.boolean,
        metavar="true|false",
        help="do not answer ARP for Service addresses on other interfaces",
    )
    alone.add_argument(
        "--ipvs-exclude-cidrs",
        type=values.networks,
        metavar="CIDR[,CIDR]",
        help="virtual servers in these networks are somebody else's",
    )
    for name, what in (
        ("tcp", "an established TCP connection (0: the kernel's 15m)"),
        ("tcpfin", "a TCP connection after the first FIN (0: the kernel's 2m)"),
        ("udp", "UDP (0: the kernel's 5m)"),
    ):
        alone.add_argument(
            f"--ipvs-{name}-timeout",
            type=values.whole_seconds,
            metavar="DURATION",
            help=f"how long IPVS remembers {what}, without packets",
        )
    alone.add_argument(
        "--ipvs-drain-timeout",
        type=values.whole_seconds,
        metavar="DURATION",
        help="how long an endpoint that leaves a Service may keep its TCP and SCTP connections (default: 0, until IPVS "
        "knows none)",
    )
