"""Judgements about who else handles Services on the node: kube-proxy, other dataplanes, other nat tables, other IPVS.

Pure; `checks` has the table. Who they are is data: an interface or a bpf pin that only they make.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.preflight.model import Facts, Finding
from proxymode_api.modes import ConnectionPolicy, KubeProxyPolicy
from proxymode_api.nodeproxymode import Verdict

if TYPE_CHECKING:
    from proxymode_agent.services.model import DataplaneConfig
    from proxymode_api.modes import Mode

DSTNAT_PRIORITY = -100
"""NF_IP_PRI_NAT_DST (include/uapi/linux/netfilter_ipv4.h), at which Services are translated."""


def kube_proxy_present(_mode: Mode, facts: Facts, config: DataplaneConfig) -> Finding:
    found = facts.kube_proxy
    if found.running:
        runs = f"kube-proxy is running{f' in {found.mode} mode' if found.mode else ''} ({found.running})"
        match config.kube_proxy:
            case KubeProxyPolicy.TAKE_OVER:
                return Finding(Verdict.PASS, f"{runs}; the node is taken over from it when its turn comes")
            case KubeProxyPolicy.HAND_BACK:
                return Finding(Verdict.PASS, f"{runs}; the node goes back to it")
            case KubeProxyPolicy.IGNORE:
                return Finding(
                    Verdict.BLOCK,
                    runs,
                    "Set spec.kubeProxy.policy to TakeOver, or take this node out of the kube-proxy DaemonSet by hand; "
                    "its rules stay and traffic flows on until the agent has taken their place.",
                )
    if found.rules:
        return Finding(
            Verdict.WARN,
            f"rules of a kube-proxy that no longer runs: {', '.join(found.rules)}",
            "They go when this node switches. Do not use kube-proxy --cleanup: it removes every virtual server.",
        )
    return Finding(Verdict.PASS, "no trace of kube-proxy")


class _Foreign(NamedTuple):
    name: str
    verdict: Verdict
    finding: str
    remedy: str


_FOREIGN_PINS = (
    _Foreign(
        "cilium-socketlb",
        Verdict.BLOCK,
        "Cilium's socket load balancer translates Service addresses before any packet is made",
        "Set kubeProxyReplacement=false and socketLB.enabled=false in Cilium, or leave this node to Cilium.",
    ),
    *(
        _Foreign(
            pin,
            Verdict.BLOCK,
            "Cilium replaces kube-proxy: it handles NodePorts in eBPF, before any table sees a packet",
            "Set kubeProxyReplacement=false in Cilium, or leave this node to Cilium.",
        )
        for pin in ("cilium-nodeport", "cilium-nodeport6")
    ),
)
_FOREIGN_INTERFACES = (
    _Foreign(
        "bpfin.cali",
        Verdict.BLOCK,
        "Calico's eBPF dataplane handles Services (interface bpfin.cali)",
        "Set linuxDataplane to Nftables or Iptables in Calico's Installation, or leave this node to Calico.",
    ),
    _Foreign(
        "kube-dummy-if",
        Verdict.BLOCK,
        "kube-router's service proxy handles Services (interface kube-dummy-if)",
        "Start kube-router with --run-service-proxy=false and run kube-router --cleanup-config once.",
    ),
    _Foreign(
        "ovn-k8s-mp0",
        Verdict.BLOCK,
        "OVN-Kubernetes handles Services in Open vSwitch (interface ovn-k8s-mp0)",
        "Leave this node to OVN-Kubernetes.",
    ),
    _Foreign(
        "antrea-gw0",
        Verdict.WARN,
        "Antrea is installed; its AntreaProxy handles Services of pods unless it is switched off",
        "Set antreaProxy.enable=false in antrea-agent.conf.",
    ),
    _Foreign(
        "cilium_host",
        Verdict.WARN,
        "Cilium is installed; whether it replaces kube-proxy cannot be seen from here",
        "Ask cilium-dbg status for KubeProxyReplacement; it should be False.",
    ),
)


def foreign_dataplane(_mode: Mode, facts: Facts, _config: DataplaneConfig) -> Finding:
    present = [entry for entry in _FOREIGN_PINS if entry.name in facts.bpf_pins]
    present += [entry for entry in _FOREIGN_INTERFACES if entry.name in facts.interfaces]
    if not present:
        return Finding(Verdict.PASS, "nobody else handles Services")
    verdict = Verdict.BLOCK if any(entry.verdict is Verdict.BLOCK for entry in present) else Verdict.WARN
    decisive = [entry for entry in present if entry.verdict is verdict]
    return Finding(
        verdict,
        "; ".join(dict.fromkeys(entry.finding for entry in decisive)),
        " ".join(dict.fromkeys(entry.remedy for entry in decisive)),
    )


def foreign_nat(_mode: Mode, facts: Facts, _config: DataplaneConfig) -> Finding:
    earlier = [
        chain
        for chain in facts.nat_chains
        if chain.hook in {"prerouting", "output"} and chain.priority < DSTNAT_PRIORITY
    ]
    if earlier:
        return Finding(
            Verdict.WARN,
            f"sees Service packets first: {', '.join(map(str, earlier))}",
            "Make sure that these chains leave Service addresses alone.",
        )
    if facts.nat_chains:
        tables = sorted({f"{chain.family} {chain.table}" for chain in facts.nat_chains})
        return Finding(Verdict.PASS, f"nat tables of others, none in the way: {', '.join(tables)}")
    return Finding(Verdict.PASS, "no nat table of others")


def ipvs_conntrack(_mode: Mode, facts: Facts, _config: DataplaneConfig) -> Finding:
    if not facts.ipvs.schedulers:
        return Finding(Verdict.PASS, "no virtual server to move away from")
    if facts.sysctls.get("net.ipv4.vs.conntrack") == 0:
        return Finding(
            Verdict.WARN,
            "net.ipv4.vs.conntrack is 0: IPVS connections have no conntrack entry and cannot be counted or kept",
            "Set net.ipv4.vs.conntrack=1 some time before this node's turn; new connections then have one.",
        )
    return Finding(Verdict.PASS, "IPVS connections have conntrack entries")


def conntrack_loose(_mode: Mode, facts: Facts, config: DataplaneConfig) -> Finding:
    loose = facts.sysctls.get("net.netfilter.nf_conntrack_tcp_loose")
    if loose != 0 or config.connections is not ConnectionPolicy.HANDOVER or not facts.ipvs.schedulers:
        return Finding(Verdict.PASS, "no packet of a connection that is handed over is taken for invalid")
    return Finding(
        Verdict.WARN,
        "net.netfilter.nf_conntrack_tcp_loose is 0: a packet that comes while its connection is handed over is invalid",
        "Set net.netfilter.nf_conntrack_tcp_loose=1 for the time of the switch.",
    )


def ipvs_forwarding(_mode: Mode, facts: Facts, _config: DataplaneConfig) -> Finding:
    others = {method: count for method, count in facts.ipvs.forwarding.items() if method not in {"Masq", "Local"}}
    if not others:
        count = sum(facts.ipvs.forwarding.values())
        return Finding(Verdict.PASS, f"all {count} real servers are masqueraded" if count else "no real server")
    return Finding(
        Verdict.WARN,
        "real servers that no Kubernetes proxy makes: "
        + ", ".join(f"{count} by {method}" for method, count in sorted(others.items())),
        "They stay as they are; name their addresses in spec.ipvs.excludeCIDRs.",
    )


def ipvs_scheduling(_mode: Mode, facts: Facts, _config: DataplaneConfig) -> Finding:
    special = {name: count for name, count in facts.ipvs.schedulers.items() if name != "rr"}
    if not special:
        count = sum(facts.ipvs.schedulers.values())
        return Finding(Verdict.PASS, f"all {count} virtual servers use rr" if count else "no virtual server")
    return Finding(
        Verdict.WARN,
        ", ".join(f"{count} virtual servers with {name}" for name, count in sorted(special.items()))
        + "; nftables picks endpoints at random",
        "Accept it, or solve by session affinity or more even endpoints what the scheduler was chosen for.",
    )
