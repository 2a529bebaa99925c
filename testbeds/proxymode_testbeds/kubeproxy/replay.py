"""The rules of kube-proxy's three modes as text for iptables-restore, ipset, ipvsadm and nft. Pure.

Chains, their order and what they match are those of k8s.io/kubernetes pkg/proxy/{iptables,ipvs,nftables}/proxier.go,
1.36. Each script can be run again over what is there, as kube-proxy itself syncs.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from proxymode_testbeds.kubeproxy.iptables import iptables
from proxymode_testbeds.kubeproxy.ipvs import ipvs
from proxymode_testbeds.kubeproxy.model import Family, ProxyMode, Service, Variant
from proxymode_testbeds.kubeproxy.nftables import nftables

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def script(
    mode: ProxyMode,
    services: Iterable[Service],
    *,
    node_ips: Sequence[str],
    cluster_cidrs: Sequence[str],
    variant: Variant = Variant.NFT,
) -> str:
    """A shell script that brings a node's network namespace into this mode, for `sh -e`; may be run again and again."""
    services = tuple(services)
    parts = []
    for version in (4, 6):
        family = Family(
            version,
            variant,
            tuple(service for service in services if service.version == version),
            tuple(ip for ip in node_ips if ipaddress.ip_address(ip).version == version),
            tuple(cidr for cidr in cluster_cidrs if ipaddress.ip_network(cidr).version == version),
        )
        match mode:
            case ProxyMode.IPTABLES:
                parts.append(iptables(family))
            case ProxyMode.IPVS:
                parts.append(ipvs(family))
            case ProxyMode.NFTABLES:
                parts.append(nftables(family))
    return "\n".join(parts)
