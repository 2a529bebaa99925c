"""Rules about Services: where they answer, and to whom, once nodes run the other mode.

Sources: "Migrating from iptables mode to nftables" in Kubernetes' reference on virtual IPs, kube-proxy's own ipvs and
nftables packages, and what this project's packet tables have shown (docs/behaviour.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxymode_api.modes import Mode
from proxymode_cli import words
from proxymode_cli.migration.family import Family
from proxymode_cli.migration.model import Finding, Severity, Situation

if TYPE_CHECKING:
    from collections.abc import Iterator

MIGRATING: Final = (
    "https://kubernetes.io/docs/reference/networking/virtual-ips/#migrating-from-iptables-mode-to-nftables"
)
IPVS_MODE: Final = "https://kubernetes.io/docs/reference/networking/virtual-ips/#proxy-mode-ipvs"
LOCALHOST_KEP: Final = "https://kep.k8s.io/6032"
POLICIES: Final = "https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-policies"


def node_port_addresses(seen: Situation) -> Iterator[Finding]:
    """NodePorts answer on all of a node's addresses in ipvs and iptables mode, on the primary ones in nftables mode."""
    nodes = seen.moving_from(Family.IPVS, Family.IPTABLES)
    if not nodes or seen.options.node_port_addresses:
        return
    with_others = [node for node in nodes if node.others]
    severity = Severity.WARN if with_others else Severity.INFO
    also = (
        f"; {words.names([f'{node.name} has {words.names(node.others, 2)} too' for node in with_others], 3)}"
        if with_others
        else ""
    )
    kept = seen.kube_proxy.node_port_addresses if seen.kube_proxy is not None else ()
    do = (
        f"Set spec.nodePortAddresses to what kube-proxy has: {', '.join(kept)}."
        if kept
        else "Where clients use other addresses: name them in spec.nodePortAddresses, as CIDRs. Else let them use the "
        "primary ones."
    )
    for service in seen.services:
        if service.node_ports:
            yield Finding(
                rule="node-port-addresses",
                severity=severity,
                subject=service.subject,
                detail=f"{', '.join(service.node_ports)}{also}",
                why="In nftables mode NodePorts answer only at the nodes' primary addresses (the first InternalIP of "
                "each IP family); until now they do at every local address.",
                do=do,
                link=MIGRATING,
            )


def node_port_localhost(seen: Situation) -> Iterator[Finding]:
    """kube-proxy's iptables mode answers NodePorts on 127.0.0.1; nothing else does."""
    config = seen.kube_proxy
    offered = config is None or config.localhost_node_ports
    if not seen.moving_from(Family.IPTABLES) or not offered:
        return
    answered = seen.to is Mode.NFTABLES and seen.options.localhost_node_ports
    for service in seen.services:
        lost = [port for port in service.node_ports if not (answered and port.endswith("/TCP"))]
        if lost:
            yield Finding(
                rule="node-port-localhost",
                severity=Severity.WARN,
                subject=service.subject,
                detail=", ".join(lost),
                why="NodePorts no longer answer on 127.0.0.1 of a node. Image registries and health checks that are "
                "reached as localhost:PORT stop working.",
                do="For TCP in nftables mode: spec.localhostNodePorts: true. Else use the node's own address.",
                link=LOCALHOST_KEP,
            )


def vip_local(seen: Situation) -> Iterator[Finding]:
    """Addresses of Services are local to every node in ipvs mode, on kube-ipvs0, and in no other."""
    if seen.to is Mode.NFTABLES and seen.moving_from(Family.IPVS):
        for service in seen.services:
            if service.vips:
                yield Finding(
                    rule="vip-local",
                    severity=Severity.WARN,
                    subject=service.subject,
                    detail=words.names(service.vips, 3),
                    why="In ipvs mode these addresses are on every node, so they answer ping and refuse ports that no "
                    "Service has. In nftables mode only the Service's ports are handled; everything else follows the "
                    "routes.",
                    do="Monitor them by a TCP or HTTP check instead of ping. A program of the node that binds to such "
                    "an address needs net.ipv4.ip_nonlocal_bind=1.",
                    link=IPVS_MODE,
                )
    elif seen.to is Mode.IPVS and seen.moving:
        for service in seen.services:
            if service.vips:
                yield Finding(
                    rule="vip-local",
                    severity=Severity.WARN,
                    subject=service.subject,
                    detail=words.names(service.vips, 3),
                    why="In ipvs mode these addresses become local to every node: packets to ports that no Service has "
                    "end at the node, and programs that listen on all addresses are reached there as well.",
                    do="Keep others' ports off these addresses (a firewall on the node), or stay with nftables.",
                    link=IPVS_MODE,
                )


def vip_ping(seen: Situation) -> Iterator[Finding]:
    """Cluster IPs answer ping in ipvs mode only."""
    if seen.to is Mode.NFTABLES and seen.moving_from(Family.IPVS) and seen.services:
        yield Finding(
            rule="cluster-ip-ping",
            severity=Severity.INFO,
            subject="Cluster",
            detail=f"{len(seen.services)} Services",
            why="Cluster IPs answered ping in ipvs mode, since every node held them. In nftables mode they do not; "
            "a port that no Service has is refused.",
            do="Test a Service by its port, not by ping.",
            link=IPVS_MODE,
        )


def external_policy_local(seen: Situation) -> Iterator[Finding]:
    """Pods and nodes that use a Service's outside address take the short way in nftables mode."""
    to_nftables = seen.to is Mode.NFTABLES and seen.moving_from(Family.IPVS)
    to_ipvs = seen.to is Mode.IPVS and seen.moving
    if not to_nftables and not to_ipvs:
        return
    change = (
        "reach endpoints of this node only until now, and all endpoints in nftables mode"
        if to_nftables
        else "reach all endpoints until now, and endpoints of this node only in ipvs mode, others where it has none"
    )
    for service in seen.services:
        if service.local:
            yield Finding(
                rule="external-policy-local",
                severity=Severity.INFO if to_nftables else Severity.WARN,
                subject=service.subject,
                why="externalTrafficPolicy is Local: pods and the node itself that use the load balancer's address or "
                f"the NodePort {change}.",
                do="Nothing for clients outside. Inside the cluster use the cluster IP.",
                link=POLICIES,
            )


def scheduler(seen: Situation) -> Iterator[Finding]:
    """nftables picks endpoints at random."""
    if seen.to is not Mode.NFTABLES or not seen.moving_from(Family.IPVS):
        return
    why = "nftables picks an endpoint at random. What least-connection, weighted or hashing schedulers did is lost."
    do = "Accept it, or solve by session affinity, trafficDistribution or endpoints of equal strength."
    asked = dict.fromkeys(
        name
        for name in (
            seen.options.ipvs.scheduler.value,
            seen.kube_proxy.scheduler if seen.kube_proxy is not None else "",
        )
        if name not in ("", "rr")
    )
    if asked:
        yield Finding(
            rule="scheduler",
            severity=Severity.WARN,
            subject="Cluster",
            detail=f"scheduler {', '.join(asked)}",
            why=why,
            do=do,
            link=IPVS_MODE,
        )
    for service in seen.services:
        if service.scheduler not in ("", "rr"):
            yield Finding(
                rule="scheduler",
                severity=Severity.WARN,
                subject=service.subject,
                detail=f"scheduler {service.scheduler}",
                why=why,
                do=do,
                link=IPVS_MODE,
            )


def firewall(seen: Situation) -> Iterator[Finding]:
    """iptables' accepts were seen by other iptables rules; an nftables accept ends only its own table."""
    nodes = seen.moving_from(Family.IPVS, Family.IPTABLES)
    if seen.to is not Mode.NFTABLES or not nodes:
        return
    ports = sorted({port for service in seen.services for port in service.node_ports})
    if ports:
        yield Finding(
            rule="firewall",
            severity=Severity.WARN,
            subject="Cluster",
            detail=f"NodePorts {words.names(ports, 5)}",
            why="kube-proxy's iptables rules accept Service traffic (KUBE-FORWARD, KUBE-NODEPORTS) before a "
            "firewall's own rules drop it. In nftables an accept holds in its own table only: a drop "
            "elsewhere stands.",
            do="Where nodes have a firewall with policy drop (firewalld, ufw, FORWARD DROP), let it accept the "
            "NodePort range and traffic to and from pods.",
            link=MIGRATING,
        )
