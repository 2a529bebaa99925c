"""What was found of a kube-proxy. Pure."""

from __future__ import annotations

from typing import NamedTuple

from proxymode_api.modes import ObservedMode


class Found(NamedTuple):
    """`mode`: how the kube-proxy handled Services; NONE: it does not. `rules`: chains, tables or sets of its are left.
    `device`: kube-ipvs0 is there, and not this agent's; with it virtual servers are not this agent's either."""

    mode: ObservedMode = ObservedMode.NONE
    rules: bool = False
    device: bool = False
