"""Every flag of the agent, named as kube-proxy's where it means the same, with its help and what its value may be.

A bad value ends with exit status 2 and one line that names flag, value and what would be right. What flags mean
together is not decided here, but in `flags`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from proxymode_agent import flag_values as values
from proxymode_agent.version import VERSION
from proxymode_flags import bind_address, log_format

if TYPE_CHECKING:
    from argparse import _ArgumentGroup as _Group


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


def _add_switch(group: _Group, flag: str, text: str, *, default: bool | None = None) -> None:
    """One that is either on or off, and on where no value is given; None: nothing was said."""
    group.add_argument(
        flag, nargs="?", const=True, default=default, type=values.boolean, metavar="true|false", help=text
    )


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
        type=values.period,
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
    _add_switch(
        general, "--cleanup", "remove everything that this program ever made, in both modes, and exit", default=False
    )
    _add_switch(
        general,
        "--cleanup-needs-kube-proxy",
        "with --cleanup: remove nothing and exit with 1 where rules of this program are and no kube-proxy runs",
        default=False,
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
            type=values.seconds,
            default=default,
            metavar="DURATION",
            help=f"how long {what} is remembered without packets; 0: as it is (default: %(default)s)",
        )
    for name, what in (("timeout", "that was not answered"), ("timeout-stream", "that was")):
        conntrack.add_argument(
            f"--conntrack-udp-{name}",
            type=values.seconds,
            default="0",
            metavar="DURATION",
            help=f"how long a UDP flow {what} is remembered without packets (default: %(default)s, as it is)",
        )
    _add_switch(
        conntrack,
        "--conntrack-tcp-be-liberal",
        "take TCP segments outside of the window for their connection's, rather than for invalid: those are not"
        " translated, and a client that meets one resets the connection",
        default=False,
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
    _add_switch(
        alone,
        "--localhost-nodeports",
        "answer TCP NodePorts also on 127.0.0.1 and [::1], by a proxy in the agent; in nftables mode only",
    )
    _add_switch(alone, "--masquerade-all", "masquerade all traffic to Service addresses")
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
    _add_switch(alone, "--ipvs-strict-arp", "do not answer ARP for Service addresses on other interfaces")
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
            type=values.seconds,
            metavar="DURATION",
            help=f"how long IPVS remembers {what}, without packets",
        )
    alone.add_argument(
        "--ipvs-drain-timeout",
        type=values.seconds,
        metavar="DURATION",
        help="how long an endpoint that leaves a Service may keep its TCP and SCTP connections (default: 0, until IPVS "
        "knows none)",
    )
