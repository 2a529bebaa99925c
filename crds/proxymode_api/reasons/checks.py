"""Pages on preflight checks. What each looks at is in the agent's own table; here is what to make of its answer.

The agent's results carry what was found on that node and the remedy for it; a page says what lies behind.
"""

from __future__ import annotations

from typing import Final

from proxymode_api.reasons.page import PREFLIGHT, Mood, Page

_HERE: Final = (PREFLIGHT,)

PAGES: Final = (
    Page(
        "kernel-version",
        Mood.CHECK,
        _HERE,
        "nftables mode needs Linux 5.13, as kube-proxy's does (KEP-3866); an older kernel blocks. ipvs mode warns "
        "before 5.9: there a client that reuses a port may reach an endpoint that is gone.",
        "Upgrade the node's kernel, best to 6.1 or newer. Until then the rollout goes round the node.",
    ),
    Page(
        "nft-expressions",
        Mood.CHECK,
        _HERE,
        "Each nf_tables expression that the mode's tables are made of is tried in a transaction that is rolled back. "
        "Distributions build kernels without some of them; the version alone does not tell.",
        "Load or install the modules nft_NAME that the result names (on some distributions in a package such as "
        "linux-modules-extra). Where nf_tables as a whole is refused, the agent lacks CAP_NET_ADMIN or the kernel "
        "lacks CONFIG_NF_TABLES.",
    ),
    Page(
        "ip-vs-module",
        Mood.CHECK,
        _HERE,
        "ipvs mode is made of the kernel's IPVS. The check passes where it answers over generic netlink, is built in "
        "or can be loaded.",
        "modprobe ip_vs on the node, or install the package of kernel modules that has it.",
    ),
    Page(
        "ip-vs-scheduler",
        Mood.CHECK,
        _HERE,
        "Every scheduler is a module of its own, ip_vs_NAME, and the kernel refuses virtual servers with a scheduler "
        "that it lacks. Where the wanted one is missing they get rr.",
        "Install or load the module, or ask for another spec.ipvs.scheduler.",
    ),
    Page(
        "dummy-device",
        Mood.CHECK,
        _HERE,
        "IPVS takes only packets whose address is local to the node. The dummy device kube-ipvs0 holds the Services' "
        "addresses for it.",
        "modprobe dummy, or a kernel that has it.",
    ),
    Page(
        "conntrack-headroom",
        Mood.CHECK,
        _HERE,
        "How full nf_conntrack is: warns at 80 %, blocks at 95 %. A full table drops new connections, and a switch "
        "makes clients of cut connections come anew.",
        "Raise net.netfilter.nf_conntrack_max. If it fills again, look for what opens so many connections: conntrack "
        "-S and -L on the node.",
    ),
    Page(
        "conntrack-netlink",
        Mood.CHECK,
        _HERE,
        "Connections are counted, handed over and, where their endpoint is gone, cleared over ctnetlink.",
        "modprobe nf_conntrack_netlink, or install the package of kernel modules that has it.",
    ),
    Page(
        "ip-forward",
        Mood.CHECK,
        _HERE,
        "Packets to endpoints on other nodes are forwarded ones. kube-proxy's ipvs mode switched IPv4 forwarding on by "
        "itself, its nftables mode does not.",
        "net.ipv4.ip_forward=1, and net.ipv6.conf.all.forwarding=1 in dual-stack clusters; a CNI plugin usually sees "
        "to it. Make it last, in /etc/sysctl.d.",
    ),
    Page(
        "kube-proxy-present",
        Mood.CHECK,
        _HERE,
        "Two programs that write the same Services undo each other's work. A running kube-proxy blocks unless "
        "spec.kubeProxy.policy says what becomes of it; rules that one left behind are a warning.",
        "Set spec.kubeProxy.policy: TakeOver, or take the node out of the kube-proxy DaemonSet by node affinity; its "
        "rules stay, and traffic flows on by them until the agent programs the node. They go when the node switches.",
    ),
    Page(
        "foreign-dataplane",
        Mood.CHECK,
        _HERE,
        "Where Cilium, Calico's eBPF dataplane, kube-router, OVN-Kubernetes or Antrea handle Services, our tables "
        "would see none of the packets, or only some.",
        "Leave such nodes to them (spec.nodeSelector), or switch their handling of Services off; the result says by "
        "which setting.",
    ),
    Page(
        "foreign-nat",
        Mood.CHECK,
        _HERE,
        "The first translation of a connection wins. A nat chain of somebody else that runs before ours (prerouting or "
        "output, priority below -100) can take Service traffic away.",
        "See what those chains do: nft list ruleset. They must leave Service addresses and NodePorts alone.",
    ),
    Page(
        "ipvs-conntrack",
        Mood.CHECK,
        _HERE,
        "With net.ipv4.vs.conntrack=0 connections through IPVS have no conntrack entry, so they can neither be counted "
        "nor handed over: a switch would cut them.",
        "Set net.ipv4.vs.conntrack=1 some time before the node's turn. Connections opened from then on are kept.",
    ),
    Page(
        "conntrack-loose",
        Mood.CHECK,
        _HERE,
        "While a connection is handed over there are microseconds in which its packets belong to no entry. With "
        "net.netfilter.nf_conntrack_tcp_loose=0 such a packet counts as invalid.",
        "Set it to 1 for the time of the switch.",
    ),
    Page(
        "ipvs-forwarding",
        Mood.CHECK,
        _HERE,
        "Real servers by Route or Tunnel are none that a Kubernetes proxy makes: somebody else balances load on this "
        "node, and that must survive the switch.",
        "Name their addresses in spec.ipvs.excludeCIDRs; they stay as they are either way.",
    ),
    Page(
        "ipvs-scheduling",
        Mood.CHECK,
        _HERE,
        "nftables picks an endpoint at random. What least-connection, weighted or hashing schedulers did is lost.",
        "Accept it, or reach the same by session affinity, trafficDistribution, or endpoints of equal strength.",
    ),
)
