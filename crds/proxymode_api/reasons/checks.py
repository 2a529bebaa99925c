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
        "api-server-address",
        Mood.CHECK,
        _HERE,
        "Services work on a node once its agent has programmed them, and it learns them from the API server. An agent "
        "that reaches the API server by the Service kubernetes works as long as the node has rules, and is cut off for "
        "good when the node reboots without kube-proxy. It blocks while kube-proxy runs on the node, so that no node "
        "gets there; where the agent handles the node already it is a warning.",
        "Set KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT in manifests/base/api-server.env or in your overlay "
        "to the load balancer of the control plane, or what else every node reaches without a Service and the API "
        "server's certificate names, and apply it. To bring a node back that is cut off: kubectl label node NODE "
        "proxymode.io/service-proxy- lets kube-proxy return.",
    ),
    Page(
        "pod-networks",
        Mood.CHECK,
        _HERE,
        "spec.detectLocal tells traffic of pods from traffic from outside. Where it leaves the pods' own networks out, "
        "their connections to Services get the node's address: network policies that name pods no longer match, and "
        "servers see the wrong client.",
        "Set spec.detectLocal.clusterCIDRs to the pods' networks: clusterCIDR in the ConfigMap kube-system/kube-proxy, "
        "networking.podSubnet in kubeadm-config, or what the CNI plugin gives addresses from.",
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
