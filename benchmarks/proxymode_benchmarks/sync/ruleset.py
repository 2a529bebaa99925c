"""A cluster as kube-proxy 1.36 writes it in mode nftables, in the language of nft(8). Pure.

One chain and one anonymous map for each Service port, and elements that lead to it; the shape that its README and a
node's `nft list ruleset` show, with detectLocal by cluster CIDR, IPv4 only. What no Service of a case uses
(affinity sets, chains of external traffic and of source ranges) is left out, which is in its favour.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Final

from proxymode_benchmarks.sync import cases

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxymode_benchmarks.sync.cases import Case

TABLE: Final = "ip kube-proxy"

_MARK: Final = "0x4000"
_HOOKS: Final = {
    "filter-prerouting": "filter hook prerouting priority -110",
    "filter-input": "filter hook input priority -110",
    "filter-forward": "filter hook forward priority -110",
    "filter-output": "filter hook output priority -110",
    "filter-output-post-dnat": "filter hook output priority -90",
    "nat-prerouting": "nat hook prerouting priority -100",
    "nat-output": "nat hook output priority -100",
    "nat-postrouting": "nat hook postrouting priority 100",
}
_CHAINS: Final = (
    *("services", "mark-for-masquerade", "masquerading", "cluster-ips-check", "firewall-check"),
    *("service-endpoints-check", "nodeport-endpoints-check", "reject-chain"),
)
_SETS: Final = (
    "set ip kube-proxy cluster-ips { type ipv4_addr ; }",
    "set ip kube-proxy nodeport-ips { type ipv4_addr ; }",
    "set ip kube-proxy hairpin-connections { type ipv4_addr . ipv4_addr . inet_proto . inet_service ; }",
    "map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }",
    "map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; }",
    "map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }",
    "map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; }",
    "map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }",
)
_RULES: Final = (
    "filter-prerouting ct state new jump firewall-check",
    "filter-input ct state new jump nodeport-endpoints-check",
    "filter-input ct state new jump service-endpoints-check",
    "filter-forward ct state new jump service-endpoints-check",
    "filter-forward ct state new jump cluster-ips-check",
    "filter-output ct state new jump service-endpoints-check",
    "filter-output ct state new jump firewall-check",
    "filter-output-post-dnat ct state new jump cluster-ips-check",
    "nat-prerouting jump services",
    "nat-output jump services",
    "nat-postrouting jump masquerading",
    f"mark-for-masquerade mark set mark or {_MARK}",
    f"masquerading mark and {_MARK} != 0 mark set mark xor {_MARK} masquerade fully-random",
    "masquerading ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections "
    "masquerade fully-random",
    "cluster-ips-check ip daddr @cluster-ips reject",
    "firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips",
    "service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services",
    "nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports",
    "reject-chain reject",
    f"services ip daddr @cluster-ips ip saddr != {cases.POD_NETWORK} mark set mark or {_MARK}",
    "services ip daddr . meta l4proto . th dport vmap @service-ips",
    "services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
)


def whole(case: Case) -> Iterator[str]:
    """The lines of a full sync, as kube-proxy sends them at its start, whatever the kernel holds."""
    yield f"add table {TABLE}"
    for name in (*_HOOKS, *_CHAINS):
        hook = f" {{ type {_HOOKS[name]} ; }}" if name in _HOOKS else ""
        yield f"add chain {TABLE} {name}{hook}"
        yield f"flush chain {TABLE} {name}"
    yield from (f"add {declaration}" for declaration in _SETS)
    yield from (f"add rule {TABLE} {rule}" for rule in _RULES)
    for service in range(case.services + 1):
        targets = case.targets(service)
        yield from service_chain(service, targets)
        address = cases.cluster_ip(service)
        yield f"add element {TABLE} cluster-ips {{ {address} }}"
        yield f"add element {TABLE} service-ips {{ {address} . tcp . {cases.PORT} : goto {_chain(service)} }}"
        for number, target in enumerate(targets):
            if cases.node_of(case, service, number) == cases.NODE:
                element = f"{target} . {target} . tcp . {cases.TARGET_PORT}"
                yield f"add element {TABLE} hairpin-connections {{ {element} }}"


def service_chain(service: int, targets: Sequence[str]) -> Iterator[str]:
    """The lines of a partial sync when one of a Service's endpoints was replaced."""
    chain = f"{TABLE} {_chain(service)}"
    pairs = " , ".join(f"{index} : {target} . {cases.TARGET_PORT}" for index, target in enumerate(targets))
    yield f"add chain {chain}"
    yield f"flush chain {chain}"
    yield f"add rule {chain} meta l4proto tcp dnat ip to numgen random mod {len(targets)} map {{ {pairs} }}"


def _chain(service: int) -> str:
    name = f"{cases.namespace(service)}/service-{service}/tcp/http"
    digest = base64.b32encode(hashlib.sha256(name.encode()).digest()).decode()[:8]
    return f"service-{digest}-{name}"
