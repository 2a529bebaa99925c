"""What Service dataplane is in the kernel, whoever made it: a handful of small dumps, a millisecond.

kube-proxy's iptables rules are seen where iptables is the nf_tables variant, as on every current distribution; rules of
iptables-legacy are not.
"""

from __future__ import annotations

import socket
from typing import Final

from proxymode_agent.dataplane.ipvs.addresses import DEVICE
from proxymode_agent.dataplane.nfnetlink import Connection, NfProto, Table
from proxymode_api.modes import ObservedMode

_FAMILIES: Final = (NfProto.IPV4, NfProto.IPV6)
_KUBE_PROXY_TABLE: Final = "kube-proxy"
_SERVICES_CHAIN: Final = "KUBE-SERVICES"


def kube_proxy() -> ObservedMode:
    """kube-proxy's mode, from what it leaves in the kernel; NONE if there is nothing of it. Raises DataplaneError."""
    with Connection() as kernel:
        names = {family: {dumped.table.name for dumped in kernel.tables(family)} for family in _FAMILIES}
        if any(_KUBE_PROXY_TABLE in found for found in names.values()):
            return ObservedMode.KUBE_PROXY_NFTABLES
        services = any(
            chain.name == _SERVICES_CHAIN
            for family in _FAMILIES
            if "nat" in names[family]
            for chain in kernel.chains(Table(family, "nat"))
        )
    if not services:
        return ObservedMode.NONE
    return ObservedMode.KUBE_PROXY_IPVS if _device_exists() else ObservedMode.KUBE_PROXY_IPTABLES


def _device_exists() -> bool:
    try:
        socket.if_nametoindex(DEVICE)
    except OSError:
        return False
    return True
