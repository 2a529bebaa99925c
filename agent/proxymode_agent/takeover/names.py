"""Names that kube-proxy gives to what it makes. Pure.

Others use the same beginning: kubelet (KUBE-FIREWALL, KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT), kube-router
(KUBE-ROUTER-*, KUBE-NWPLCY-*, KUBE-POD-FW-* and ipsets KUBE-SRC-*, KUBE-DST-*). So kube-proxy's are named one by one,
as in k8s.io/kubernetes pkg/proxy/iptables/proxier.go, pkg/proxy/ipvs/{proxier,ipset}.go and
pkg/proxy/nftables/proxier.go, from 1.19 to 1.36.
"""

from __future__ import annotations

from typing import Final

TABLE: Final = "kube-proxy"
"""Of mode nftables, in families ip and ip6."""
SERVICES: Final = "KUBE-SERVICES"
"""The chain by which modes iptables and ipvs are known: they have it in table nat, whatever Services there are."""
FORWARD: Final = "KUBE-FORWARD"

IPTABLES_TABLES: Final = ("nat", "filter", "mangle")
"""Those that kube-proxy writes to."""

_CHAINS: Final = frozenset(
    {
        SERVICES,
        FORWARD,
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-POSTROUTING",
        "KUBE-MARK-MASQ",
        "KUBE-MARK-DROP",
        "KUBE-PROXY-FIREWALL",
        "KUBE-PROXY-CANARY",
        "KUBE-LOAD-BALANCER",
        "KUBE-NODE-PORT",
        "KUBE-SOURCE-RANGES-FIREWALL",
        "KUBE-IPVS-FILTER",
        "KUBE-IPVS-OUT-FILTER",
    }
)
_PER_SERVICE: Final = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-", "KUBE-SEP-")
_FIREWALL: Final = "KUBE-FIREWALL"  # in table nat kube-proxy's, of mode ipvs before 1.27; in table filter kubelet's

_SETS_OF_BOTH_FAMILIES: Final = (
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
)
_SET_NAME_MAXIMUM: Final = 31  # IPSET_MAXNAMELEN - 1; kube-proxy cuts what is longer
_SETS: Final = frozenset(
    f"{prefix}{name}"[:_SET_NAME_MAXIMUM] for prefix in ("KUBE-", "KUBE-6-") for name in _SETS_OF_BOTH_FAMILIES
)


def is_chain(table: str, name: str) -> bool:
    """Whether an iptables chain of this name in this table is kube-proxy's."""
    return name in _CHAINS or name.startswith(_PER_SERVICE) or (name == _FIREWALL and table == "nat")


def is_set(name: str) -> bool:
    """Whether an ipset of this name is kube-proxy's; those for IPv6 have a 6 in it."""
    return name in _SETS
