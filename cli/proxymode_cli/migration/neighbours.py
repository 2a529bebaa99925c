"""Rules about what else in the cluster has to do with Services: CNI plugins, MetalLB, NodeLocal DNSCache.

Known by their own objects, whatever made them: DaemonSets by name or image, settings by ConfigMap or custom resource.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxymode_api.modes import Mode
from proxymode_cli.migration.family import Family
from proxymode_cli.migration.model import Finding, Severity, Situation

if TYPE_CHECKING:
    from collections.abc import Iterator

METALLB: Final = "https://metallb.io/installation/#preparation"
CALICO: Final = "https://docs.tigera.io/calico/latest/getting-started/kubernetes/nftables"
CALICO_EBPF: Final = "https://docs.tigera.io/calico/latest/operations/ebpf/enabling-ebpf"
CILIUM: Final = "https://docs.cilium.io/en/stable/network/kubernetes/kubeproxy-free/"
KUBE_ROUTER: Final = "https://www.kube-router.io/docs/user-guide/"
ANTREA: Final = "https://antrea.io/docs/main/docs/antrea-proxy/"
OVN: Final = "https://ovn-kubernetes.io/"
NODE_LOCAL_DNS: Final = "https://kubernetes.io/docs/tasks/administer-cluster/nodelocaldns/"

CALICO_NFTABLES_SINCE: Final = "3.29"
ON: Final = frozenset({"true", "strict", "partial", "probe", "enabled"})
"""Values by which Cilium's kube-proxy-replacement is, or may be, in force."""


def strict_arp(seen: Situation) -> Iterator[Finding]:
    """Nodes must not answer ARP for addresses that MetalLB or kube-vip announces from one of them."""
    announcer = seen.image("metallb/speaker") or seen.image("kube-vip")
    if announcer is None:
        return
    layer2 = seen.metallb_l2 or "kube-vip" in " ".join(announcer.images)
    config = seen.kube_proxy
    had = seen.options.ipvs.strict_arp or (config is not None and config.strict_arp)
    if seen.to is Mode.IPVS and seen.moving and not seen.options.ipvs.strict_arp:
        yield Finding(
            rule="strict-arp",
            severity=Severity.BLOCK if layer2 else Severity.WARN,
            subject=announcer.subject,
            detail="announces by ARP" if layer2 else "no L2Advertisement was found",
            why="In ipvs mode every node holds the load balancers' addresses and answers ARP for them, so traffic goes "
            "to any node and moves at random.",
            do="Set spec.ipvs.strictARP: true before the rollout begins.",
            link=METALLB,
        )
    elif seen.to is Mode.NFTABLES and seen.moving_from(Family.IPVS) and had:
        yield Finding(
            rule="strict-arp",
            severity=Severity.INFO,
            subject=announcer.subject,
            why="strictARP is needed in ipvs mode only: with nftables no node holds the load balancers' addresses.",
            do="Nothing. Leave it set for the way back.",
            link=METALLB,
        )


def calico(seen: Situation) -> Iterator[Finding]:
    """Calico's own dataplane must be of the kind of the service proxy's."""
    daemon = seen.daemon_set("calico-node")
    if daemon is None and seen.calico is None:
        return
    subject = daemon.subject if daemon is not None else "Installation default"
    environment = daemon.environment if daemon is not None else {}
    known = seen.calico
    bpf = environment.get("FELIX_BPFENABLED", "").lower() == "true" or (
        known is not None and (known.bpf or known.dataplane == "BPF")
    )
    nftables = environment.get("FELIX_NFTABLESMODE", "").lower() == "enabled" or (
        known is not None and (known.dataplane == "Nftables" or known.nftables_mode == "Enabled")
    )
    if not seen.moving:
        return
    if bpf:
        yield Finding(
            rule="calico",
            severity=Severity.BLOCK,
            subject=subject,
            detail="eBPF dataplane",
            why="Calico's eBPF dataplane handles Services itself; another service proxy would see none of the packets.",
            do="Stay with Calico on these nodes, or set Calico's dataplane to Nftables or Iptables first.",
            link=CALICO_EBPF,
        )
    elif seen.to is Mode.NFTABLES and not nftables:
        yield Finding(
            rule="calico",
            severity=Severity.WARN,
            subject=subject,
            detail="iptables dataplane",
            why="Calico supports its iptables dataplane beside a service proxy of iptables or ipvs, and its nftables "
            "dataplane beside one of nftables.",
            do=f"With Calico {CALICO_NFTABLES_SINCE} or newer set linuxDataplane: Nftables in the Installation "
            "(nftablesMode: Enabled in FelixConfiguration) once all nodes run nftables; try it with the canary.",
            link=CALICO,
        )
    elif seen.to is Mode.IPVS and nftables:
        yield Finding(
            rule="calico",
            severity=Severity.WARN,
            subject=subject,
            detail="nftables dataplane",
            why="Calico supports its nftables dataplane only beside a service proxy of nftables.",
            do="Set linuxDataplane: Iptables in the Installation (nftablesMode: Disabled in FelixConfiguration) with "
            "the move.",
            link=CALICO,
        )


def cilium(seen: Situation) -> Iterator[Finding]:
    """Cilium replaces kube-proxy, or leaves Services to it."""
    daemon = seen.daemon_set("cilium")
    if daemon is None or not seen.moving:
        return
    replacement = seen.settings.get("cilium-config/kube-proxy-replacement")
    if replacement is None:
        yield Finding(
            rule="cilium",
            severity=Severity.WARN,
            subject=daemon.subject,
            why="Cilium is installed, and its ConfigMap cilium-config does not say whether it replaces kube-proxy.",
            do="Ask one of its pods: cilium-dbg status | grep KubeProxyReplacement. It must be False.",
            link=CILIUM,
        )
    elif replacement.lower() in ON:
        yield Finding(
            rule="cilium",
            severity=Severity.BLOCK,
            subject=daemon.subject,
            detail=f"kube-proxy-replacement: {replacement}",
            why="Cilium handles Services in eBPF, mostly before any packet is made; another service proxy would see "
            "none of them.",
            do="Leave these nodes to Cilium (spec.nodeSelector). There is nothing to migrate on them.",
            link=CILIUM,
        )
    elif seen.settings.get("cilium-config/bpf-lb-sock", "").lower() == "true":
        yield Finding(
            rule="cilium",
            severity=Severity.BLOCK,
            subject=daemon.subject,
            detail="bpf-lb-sock: true",
            why="Cilium's socket load balancer translates Service addresses of pods before any packet is made.",
            do="Set socketLB.enabled=false in Cilium's values.",
            link=CILIUM,
        )


def kube_router(seen: Situation) -> Iterator[Finding]:
    """kube-router's service proxy is IPVS of its own."""
    daemon = seen.daemon_set("kube-router") or seen.image("/kube-router:")
    if daemon is None or not seen.moving:
        return
    if "--run-service-proxy=false" not in daemon.arguments:
        yield Finding(
            rule="kube-router",
            severity=Severity.BLOCK,
            subject=daemon.subject,
            why="kube-router handles Services by an IPVS of its own unless told not to (its default is on).",
            do="Start it with --run-service-proxy=false and run kube-router --cleanup-config once on each node, or "
            "leave the nodes to it.",
            link=KUBE_ROUTER,
        )


def antrea(seen: Situation) -> Iterator[Finding]:
    """AntreaProxy with proxyAll handles Services of nodes and outsiders too."""
    daemon = seen.daemon_set("antrea-agent")
    if daemon is None or not seen.moving:
        return
    config = seen.settings.get("antrea-config/antrea-agent.conf", "")
    everything = any(line.strip().startswith("proxyAll: true") for line in config.splitlines())
    yield Finding(
        rule="antrea",
        severity=Severity.BLOCK if everything else Severity.INFO,
        subject=daemon.subject,
        detail="antreaProxy.proxyAll: true" if everything else "",
        why="AntreaProxy handles all Services in Open vSwitch."
        if everything
        else "AntreaProxy handles cluster IPs of pods in Open vSwitch; what changes is traffic of nodes and from "
        "outside.",
        do="Leave these nodes to Antrea, or set proxyAll: false." if everything else "Nothing.",
        link=ANTREA,
    )


def ovn_kubernetes(seen: Situation) -> Iterator[Finding]:
    """OVN-Kubernetes handles Services in Open vSwitch."""
    daemon = seen.daemon_set("ovnkube-node")
    if daemon is not None and seen.moving:
        yield Finding(
            rule="ovn-kubernetes",
            severity=Severity.BLOCK,
            subject=daemon.subject,
            why="OVN-Kubernetes handles Services in Open vSwitch; another service proxy would see none of the packets.",
            do="Leave these nodes to OVN-Kubernetes (spec.nodeSelector).",
            link=OVN,
        )


def node_local_dns(seen: Situation) -> Iterator[Finding]:
    """NodeLocal DNSCache may hold kube-dns' cluster IP, which in ipvs mode kube-ipvs0 holds."""
    daemon = seen.daemon_set("node-local-dns")
    if daemon is None or not seen.moving:
        return
    local = _after("-localip", daemon.arguments).split(",")
    if seen.to is Mode.IPVS and len(local) > 1:
        yield Finding(
            rule="node-local-dns",
            severity=Severity.BLOCK,
            subject=daemon.subject,
            detail=f"-localip {','.join(local)}",
            why="NodeLocal DNSCache listens on kube-dns' cluster IP too, and in ipvs mode that address is on "
            "kube-ipvs0: both take it, and DNS fails.",
            do="Let it listen on its link-local address only and set the kubelets' --cluster-dns to that, before the "
            "rollout.",
            link=NODE_LOCAL_DNS,
        )
    elif seen.to is Mode.NFTABLES and seen.moving_from(Family.IPVS) and local != [""]:
        yield Finding(
            rule="node-local-dns",
            severity=Severity.INFO,
            subject=daemon.subject,
            detail=f"-localip {','.join(local)}",
            why="In ipvs mode NodeLocal DNSCache can listen on its link-local address only. It works on like that; "
            "with nftables it may listen on kube-dns' cluster IP as well.",
            do="Nothing. Pods whose resolver is the link-local address go on as before.",
            link=NODE_LOCAL_DNS,
        )


def _after(flag: str, arguments: tuple[str, ...]) -> str:
    """The value of `-flag value`, `-flag=value` or either with two dashes; "" where it is not given."""
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name.lstrip("-") == flag.lstrip("-") and name.startswith("-"):
            return value or (arguments[place + 1] if place + 1 < len(arguments) else "")
    return ""
