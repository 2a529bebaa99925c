"""The names of Service dataplanes, apart from the models so that the agent's hot path need not import pydantic."""

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
