"""Names of Service dataplanes and of their options, apart from the models: the agent's hot path needs no pydantic."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """A Service dataplane that proxymode can program."""

    IPVS = "ipvs"
    NFTABLES = "nftables"


class ObservedMode(StrEnum):
    """The Service dataplane found in the kernel, whoever made it."""

    NONE = "none"
    IPVS = "ipvs"
    NFTABLES = "nftables"
    KUBE_PROXY_IPTABLES = "kube-proxy-iptables"
    KUBE_PROXY_IPVS = "kube-proxy-ipvs"
    KUBE_PROXY_NFTABLES = "kube-proxy-nftables"


KUBE_PROXY_MODES = frozenset(
    {ObservedMode.KUBE_PROXY_IPTABLES, ObservedMode.KUBE_PROXY_IPVS, ObservedMode.KUBE_PROXY_NFTABLES}
)


class ConnectionPolicy(StrEnum):
    """What a switch does with connections that the old mode holds."""

    HANDOVER = "Handover"
    DRAIN = "Drain"
    CUT = "Cut"


class DetectLocalMode(StrEnum):
    """How a packet's source is recognised as a pod of this node (kube-proxy: --detect-local-mode)."""

    NODE_CIDR = "NodeCIDR"
    CLUSTER_CIDR = "ClusterCIDR"
    INTERFACE_PREFIX = "InterfaceNamePrefix"
    BRIDGE = "BridgeInterface"


class IpvsScheduler(StrEnum):
    """Schedulers of Linux IPVS (net/netfilter/ipvs); each is a kernel module ip_vs_NAME."""

    RR = "rr"
    WRR = "wrr"
    LC = "lc"
    WLC = "wlc"
    LBLC = "lblc"
    LBLCR = "lblcr"
    SH = "sh"
    DH = "dh"
    SED = "sed"
    NQ = "nq"
    FO = "fo"
    OVF = "ovf"
    MH = "mh"


class KubeProxyPolicy(StrEnum):
    """What becomes of a kube-proxy that handles a node's Services."""

    IGNORE = "Ignore"
    TAKE_OVER = "TakeOver"
    HAND_BACK = "HandBack"
