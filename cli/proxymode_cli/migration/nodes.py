"""Rules about nodes and about how kube-proxy is set up."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, Final

from proxymode_api.deprecation import deprecation
from proxymode_api.durations import parse_duration
from proxymode_api.modes import DetectLocalMode, KubeProxyPolicy, Mode
from proxymode_cli.migration.family import Family
from proxymode_cli.migration.model import Finding, Severity, Situation
from proxymode_cli.migration.services import MIGRATING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MINIMUM_KERNEL: Final = (5, 13)
"""KEP-3866."""
REUSE_KERNEL: Final = (5, 9)
LIBERAL_KERNEL: Final = (6, 1)
"""From here on conntrack takes no more good packets for out of window (kubernetes.io, virtual IPs)."""

NFTABLES_KEP: Final = "https://kep.k8s.io/3866"
IPVS_KEP: Final = "https://kep.k8s.io/5495"
REUSE_ISSUE: Final = "https://github.com/kubernetes/kubernetes/issues/93297"
KUBE_PROXY_CONFIG: Final = "ConfigMap kube-system/kube-proxy"
CONFIGURATION: Final = "https://kubernetes.io/docs/reference/config-api/kube-proxy-config.v1alpha1/"


def kernel(seen: Situation) -> Iterator[Finding]:
    """Kernels that cannot run the mode, or not well."""
    for node in seen.moving:
        if node.kernel is None:
            continue
        if seen.to is Mode.NFTABLES and node.kernel < MINIMUM_KERNEL:
            yield Finding(
                rule="kernel",
                severity=Severity.BLOCK,
                subject=node.subject,
                detail=f"Linux {node.release}",
                why="nftables mode needs Linux 5.13 or newer.",
                do="Upgrade the node's kernel, best to 6.1 or newer. Until then the rollout goes round the node.",
                link=NFTABLES_KEP,
            )
        elif seen.to is Mode.IPVS and node.kernel < REUSE_KERNEL:
            yield Finding(
                rule="kernel",
                severity=Severity.WARN,
                subject=node.subject,
                detail=f"Linux {node.release}",
                why="Before Linux 5.9 a client that reuses a port may be led to an endpoint that is gone.",
                do="Upgrade the node's kernel.",
                link=REUSE_ISSUE,
            )


def conntrack_liberal(seen: Situation) -> Iterator[Finding]:
    """kube-proxy's iptables mode has a workaround that nftables mode has not."""
    liberal = seen.kube_proxy is not None and seen.kube_proxy.tcp_be_liberal
    if seen.to is not Mode.NFTABLES or liberal:
        return
    for node in seen.moving:
        if node.kernel is not None and MINIMUM_KERNEL <= node.kernel < LIBERAL_KERNEL:
            yield Finding(
                rule="conntrack-liberal",
                severity=Severity.WARN,
                subject=node.subject,
                detail=f"Linux {node.release}",
                why="Before Linux 6.1 conntrack may take a good packet of a long-lived connection for invalid; it then "
                "leaves untranslated, and the connection is reset. kube-proxy's iptables mode drops such packets, "
                "nftables mode does not.",
                do="Set net.netfilter.nf_conntrack_tcp_be_liberal=1 on the node (kube-proxy's metric "
                "kubeproxy_iptables_ct_state_invalid_dropped_packets_total tells whether it happens), or upgrade.",
                link=MIGRATING,
            )


def kube_proxy(seen: Situation) -> Iterator[Finding]:
    """A kube-proxy that runs keeps its nodes, unless the ProxyMode says that they are taken over."""
    options = seen.options.kube_proxy
    if options.policy is not KubeProxyPolicy.IGNORE or not seen.moving:
        return
    for daemon in seen.daemon_sets:
        if (daemon.namespace, daemon.name) == (options.namespace, options.daemon_set):
            yield Finding(
                rule="kube-proxy",
                severity=Severity.WARN,
                subject=daemon.subject,
                why="kube-proxy runs as this DaemonSet, and spec.kubeProxy.policy is Ignore: the rollout goes round "
                "every node where it runs.",
                do="Set spec.kubeProxy.policy: TakeOver, or keep kube-proxy off the nodes by node affinity before "
                "their turn.",
                link=CONFIGURATION,
            )


def kube_proxy_settings(seen: Situation) -> Iterator[Finding]:
    """What kube-proxy is told that the ProxyMode or the agent is not, or is told otherwise."""
    config, options = seen.kube_proxy, seen.options
    if config is None or not seen.moving:
        return
    detect = options.detect_local
    by_cidr = detect.mode is DetectLocalMode.CLUSTER_CIDR
    elsewhere = [cidr for cidr in config.cluster_cidrs if not _covered(cidr, detect.cluster_cidrs)]
    if by_cidr and detect.cluster_cidrs and elsewhere:
        yield Finding(
            rule="kube-proxy-settings",
            severity=Severity.BLOCK,
            subject=KUBE_PROXY_CONFIG,
            detail=f"clusterCIDR {', '.join(elsewhere)}: spec.detectLocal.clusterCIDRs has "
            + ", ".join(detect.cluster_cidrs),
            why="The ProxyMode has other pod networks than kube-proxy. Connections of pods outside of them would get "
            "the node's address: network policies that name pods no longer match, and servers see the wrong client.",
            do="Write the pods' networks into spec.detectLocal.clusterCIDRs.",
            link=CONFIGURATION,
        )
    lacking = {
        f"clusterCIDR {', '.join(config.cluster_cidrs)}: spec.detectLocal.clusterCIDRs": config.cluster_cidrs
        and by_cidr
        and not detect.cluster_cidrs,
        f"detectLocalMode {config.detect_local_mode}: spec.detectLocal.mode": config.detect_local_mode
        not in ("", detect.mode),
        f"nodePortAddresses {', '.join(config.node_port_addresses)}: spec.nodePortAddresses": (
            config.node_port_addresses and not options.node_port_addresses
        ),
        "masqueradeAll: spec.masqueradeAll": config.masquerade_all and not options.masquerade_all,
        f"ipvs.excludeCIDRs {', '.join(config.exclude_cidrs)}: spec.ipvs.excludeCIDRs": config.exclude_cidrs
        and not options.ipvs.exclude_cidrs,
        "ipvs.strictARP: spec.ipvs.strictARP": seen.to is Mode.IPVS
        and config.strict_arp
        and not options.ipvs.strict_arp,
        f"conntrack {', '.join(config.conntrack)}: flags --conntrack-* of the agent": config.conntrack,
    }
    for detail, missing in lacking.items():
        if missing:
            yield Finding(
                rule="kube-proxy-settings",
                severity=Severity.WARN,
                subject=KUBE_PROXY_CONFIG,
                detail=detail,
                why="kube-proxy has a setting that the ProxyMode or the agent has not. Without clusterCIDRs, traffic "
                "from outside to cluster IPs is no longer masqueraded; without excludeCIDRs, other people's virtual "
                "servers are not spared; without nodePortAddresses, NodePorts answer on the mode's own addresses.",
                do="Write the same into the ProxyMode or the agent's flags before the rollout begins.",
                link=CONFIGURATION,
            )


def _covered(cidr: str, by: Iterable[str]) -> bool:
    """Whether a network, or what is not one, is in one of these."""
    try:
        network = ip_network(cidr.strip(), strict=False)
    except ValueError:
        return True  # kube-proxy would not start with it
    others = (ip_network(other, strict=False) for other in by)
    return any(network.version == other.version and network[0] in other and network[-1] in other for other in others)


def timeouts(seen: Situation) -> Iterator[Finding]:
    """IPVS has timeouts of its own; elsewhere conntrack's hold."""
    if seen.to is not Mode.NFTABLES or not seen.moving_from(Family.IPVS):
        return
    found = list(seen.kube_proxy.timeouts) if seen.kube_proxy is not None else []
    own = seen.options.ipvs.timeouts
    found += [f"spec.ipvs.timeouts.{key}: {value}" for key, value in own.wire().items() if parse_duration(value)]
    if found:
        yield Finding(
            rule="ipvs-timeouts",
            severity=Severity.INFO,
            subject="Cluster",
            detail=", ".join(found),
            why="These are timeouts of IPVS. In nftables mode those of conntrack hold: "
            "net.netfilter.nf_conntrack_tcp_timeout_established, …_fin_wait, nf_conntrack_udp_timeout.",
            do="Set the sysctls where connections rely on such times.",
            link=CONFIGURATION,
        )


def deprecated(seen: Situation) -> Iterator[Finding]:
    """Going to a mode that upstream gives up."""
    found = deprecation(seen.to, seen.cluster)
    if found is not None and seen.moving:
        yield Finding(
            rule="deprecated-mode",
            severity=Severity.WARN if found.in_effect else Severity.INFO,
            subject="Cluster",
            why=f"{found.message}.",
            do="Take it as a way back, not as a place to stay.",
            link=IPVS_KEP,
        )
