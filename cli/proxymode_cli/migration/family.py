"""How a node handles Services, whoever programs it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from proxymode_api.modes import ObservedMode


class Family(StrEnum):
    """How a node handles Services, whoever programs it."""

    IPVS = "ipvs"
    IPTABLES = "iptables"
    NFTABLES = "nftables"


FAMILIES: Final = {
    ObservedMode.IPVS: Family.IPVS,
    ObservedMode.KUBE_PROXY_IPVS: Family.IPVS,
    ObservedMode.KUBE_PROXY_IPTABLES: Family.IPTABLES,
    ObservedMode.NFTABLES: Family.NFTABLES,
    ObservedMode.KUBE_PROXY_NFTABLES: Family.NFTABLES,
}
