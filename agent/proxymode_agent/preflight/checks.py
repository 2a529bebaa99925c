"""Preflight checks: can this node run a mode, and what would a person want to know before it does?

Pure: facts and configuration in, results out. A check blocks only where the mode cannot work or would fight somebody
else for the same Services; everything a person may reasonably accept is a warning. `CHECKS` is the one table: what is
checked, for which modes, and why; documentation is generated from it.

It reads nothing and changes nothing; what a node has is `facts`' business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxymode_agent.preflight import cluster, kernel, neighbours
from proxymode_api.modes import Mode
from proxymode_api.nodeproxymode import PreflightResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_agent.preflight.model import Facts, Finding
    from proxymode_agent.services.model import DataplaneConfig


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table: a stable id in kebab-case, the modes it is about, what is looked at, why it matters."""

    id: str
    modes: frozenset[Mode]
    what: str
    why: str
    judge: Callable[[Mode, Facts, DataplaneConfig], Finding]


def run(mode: Mode, facts: Facts, config: DataplaneConfig) -> tuple[PreflightResult, ...]:
    """Results of every check that is about `mode`, in the order of the table."""
    results = []
    for check in CHECKS:
        if mode in check.modes:
            verdict, found, remedy = check.judge(mode, facts, config)
            results.append(PreflightResult(id=check.id, verdict=verdict, found=found, remedy=remedy))
    return tuple(results)


_BOTH = frozenset(Mode)
_NFTABLES = frozenset({Mode.NFTABLES})
_IPVS = frozenset({Mode.IPVS})

CHECKS: tuple[Check, ...] = (
    Check(
        "kernel-version",
        _BOTH,
        "The kernel's release: 5.13 or newer for nftables, better 5.9 or newer for ipvs.",
        "Older kernels lack what the tables are made of, or have bugs that break connections.",
        kernel.kernel_version,
    ),
    Check(
        "nft-expressions",
        _BOTH,
        "Every nf_tables expression that the mode uses, tried in a transaction that is rolled back.",
        "Distributions build kernels without some of them; the version alone does not tell.",
        kernel.nft_expressions,
    ),
    Check(
        "ip-vs-module",
        _IPVS,
        "ip_vs answers over generic netlink, is built in or can be loaded.",
        "Without it there is no ipvs mode.",
        kernel.ip_vs_module,
    ),
    Check(
        "ip-vs-scheduler",
        _IPVS,
        "The wanted scheduler's module ip_vs_NAME is loaded, built in or can be loaded.",
        "The kernel refuses every virtual server with a scheduler that it lacks.",
        kernel.ip_vs_scheduler,
    ),
    Check(
        "dummy-device",
        _IPVS,
        "kube-ipvs0 is there, or the kernel can make dummy devices.",
        "IPVS takes only packets whose address is local; the dummy makes Service addresses local.",
        kernel.dummy_device,
    ),
    Check(
        "conntrack-headroom",
        _BOTH,
        "Entries in nf_conntrack against nf_conntrack_max: warns at 80 %, blocks at 95 %.",
        "A full table drops new connections, and a switch makes clients connect anew.",
        kernel.conntrack_headroom,
    ),
    Check(
        "conntrack-netlink",
        _BOTH,
        "nf_conntrack_netlink is loaded, built in or can be loaded.",
        "A switch counts and hands over connections by it, and stale UDP entries are cleared by it.",
        kernel.conntrack_netlink,
    ),
    Check(
        "ip-forward",
        _BOTH,
        "net.ipv4.ip_forward and net.ipv6.conf.all.forwarding.",
        "kube-proxy's ipvs mode switched IPv4 forwarding on by itself; nftables mode does not.",
        kernel.ip_forward,
    ),
    Check(
        "kube-proxy-present",
        _BOTH,
        "A running kube-proxy (process, or an answer on 127.0.0.1, port 10249 or 10256), and rules that one left.",
        "Two programs that write the same Services undo each other's work.",
        neighbours.kube_proxy_present,
    ),
    Check(
        "api-server-address",
        _BOTH,
        "Whether the agent reaches the API server by the Service kubernetes.",
        "A node that boots without kube-proxy has no Services before its agent has reached the API server.",
        cluster.api_server_address,
    ),
    Check(
        "pod-networks",
        _BOTH,
        "The Node's podCIDRs against spec.detectLocal.clusterCIDRs.",
        "Traffic of pods that counts as from outside is masqueraded: network policies and servers see the node.",
        cluster.pod_networks,
    ),
    Check(
        "foreign-dataplane",
        _BOTH,
        "Cilium, Calico eBPF, kube-router, OVN-Kubernetes, Antrea, by their interfaces and bpf pins.",
        "Where they handle Services, our tables would never see a packet, or only some.",
        neighbours.foreign_dataplane,
    ),
    Check(
        "foreign-nat",
        _BOTH,
        "nat chains of others that run before ours (prerouting and output, priority below -100).",
        "The first translation wins; a rule there can take Service traffic away.",
        neighbours.foreign_nat,
    ),
    Check(
        "ipvs-conntrack",
        _NFTABLES,
        "net.ipv4.vs.conntrack, where virtual servers exist.",
        "Only connections with a conntrack entry can be counted and moved.",
        neighbours.ipvs_conntrack,
    ),
    Check(
        "conntrack-loose",
        _NFTABLES,
        "net.netfilter.nf_conntrack_tcp_loose, where connections are to be handed over.",
        "Between the old entry's end and the new one's begin a packet belongs to no entry.",
        neighbours.conntrack_loose,
    ),
    Check(
        "ipvs-forwarding",
        _NFTABLES,
        "Forwarding methods of the real servers in the kernel.",
        "Route and Tunnel are somebody else's load balancer, which must survive the switch.",
        neighbours.ipvs_forwarding,
    ),
    Check(
        "ipvs-scheduling",
        _NFTABLES,
        "Schedulers of the virtual servers in the kernel.",
        "nftables picks endpoints at random; least-connection or weighted scheduling is lost.",
        neighbours.ipvs_scheduling,
    ),
)
