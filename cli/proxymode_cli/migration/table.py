"""The rules in one table, and their application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxymode_cli.migration import neighbours, nodes, services
from proxymode_cli.migration.model import Finding, Report, Severity, Situation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, slots=True)
class Rule:
    """`id` is that of its findings."""

    id: str
    title: str
    find: Callable[[Situation], Iterator[Finding]]


RULES: Final = (
    Rule("kernel", "Kernels", nodes.kernel),
    Rule("kube-proxy", "kube-proxy", nodes.kube_proxy),
    Rule("kube-proxy-settings", "Settings of kube-proxy", nodes.kube_proxy_settings),
    Rule("cilium", "Cilium", neighbours.cilium),
    Rule("calico", "Calico", neighbours.calico),
    Rule("kube-router", "kube-router", neighbours.kube_router),
    Rule("antrea", "Antrea", neighbours.antrea),
    Rule("ovn-kubernetes", "OVN-Kubernetes", neighbours.ovn_kubernetes),
    Rule("strict-arp", "ARP for load balancers' addresses", neighbours.strict_arp),
    Rule("node-local-dns", "NodeLocal DNSCache", neighbours.node_local_dns),
    Rule("node-port-addresses", "NodePorts on other addresses of the node", services.node_port_addresses),
    Rule("node-port-localhost", "NodePorts on localhost", services.node_port_localhost),
    Rule("vip-local", "Addresses of Services on the node", services.vip_local),
    Rule("cluster-ip-ping", "Ping of cluster IPs", services.vip_ping),
    Rule("external-policy-local", "externalTrafficPolicy Local from inside", services.external_policy_local),
    Rule("scheduler", "Schedulers", services.scheduler),
    Rule("firewall", "Firewalls of nodes", services.firewall),
    Rule("conntrack-liberal", "Connections reset by conntrack", nodes.conntrack_liberal),
    Rule("ipvs-timeouts", "Timeouts of IPVS", nodes.timeouts),
    Rule("deprecated-mode", "Deprecation", nodes.deprecated),
)
TITLES: Final = {rule.id: rule.title for rule in RULES}

_ORDER: Final = {severity: place for place, severity in enumerate(Severity)}


def analyse(seen: Situation, notes: tuple[str, ...] = ()) -> Report:
    """All findings, the gravest first, then in the order of the rules."""
    found = [finding for rule in RULES for finding in rule.find(seen)]
    return Report(
        to=seen.to,
        moving=tuple(node.name for node in seen.moving),
        nodes=len(seen.nodes),
        services=len(seen.services),
        findings=tuple(sorted(found, key=lambda finding: _ORDER[finding.severity])),
        notes=notes,
    )
