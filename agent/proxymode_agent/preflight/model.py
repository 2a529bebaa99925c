"""What preflight knows about a node, as plain data.

`facts` fills it from the kernel, `checks` judges it. Nothing here reads anything, so a check is tested by writing down
a node instead of having one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxymode_agent.services.model import Network
    from proxymode_api.nodeproxymode import Verdict


class ModuleState(StrEnum):
    """How the kernel has a module. UNKNOWN: neither modules.dep nor the kernel's configuration is readable here."""

    LOADED = "loaded"
    BUILTIN = "built in"
    LOADABLE = "loadable"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class NatChain:
    """An nft base chain of type nat; the kernel runs lower priorities first."""

    family: str
    table: str
    chain: str
    hook: str
    priority: int

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.chain} ({self.hook}, priority {self.priority})"


@dataclass(frozen=True, slots=True)
class KubeProxyFound:
    """Traces of kube-proxy in this network namespace.

    `running`: how a live one was noticed, empty: none was. `mode`: what it calls its mode, empty: unknown.
    `rules`: what it has in the kernel, also when it is gone.
    """

    running: str = ""
    mode: str = ""
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IpvsTable:
    """Summary of /proc/net/ip_vs: counts of virtual servers by scheduler, of real servers by forwarding method."""

    schedulers: Mapping[str, int] = field(default_factory=dict)
    forwarding: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NftProbe:
    """Expressions that nf_tables refused in a transaction that was rolled back; `error`: why it could not be asked."""

    missing: frozenset[str] = frozenset()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """One node, as found at one time. Sysctls are in dotted form; one that the kernel lacks is absent.

    `api_server`: host, and port where it was given, at which the agent reaches the API server. `kubernetes_service`:
    the address of the Service kubernetes, as kubelet tells it to every Pod; empty: this is no Pod. `pod_networks`: the
    Node's podCIDRs.
    """

    kernel: str
    architecture: str = ""
    modules: Mapping[str, ModuleState] = field(default_factory=dict)
    sysctls: Mapping[str, int] = field(default_factory=dict)
    conntrack_count: int | None = None
    nft: NftProbe = field(default_factory=NftProbe)
    ipvs_reachable: bool = False
    ipvs: IpvsTable = field(default_factory=IpvsTable)
    interfaces: frozenset[str] = frozenset()
    bpf_pins: frozenset[str] = frozenset()
    nat_chains: tuple[NatChain, ...] = ()
    kube_proxy: KubeProxyFound = field(default_factory=KubeProxyFound)
    api_server: str = ""
    kubernetes_service: str = ""
    pod_networks: tuple[Network, ...] = ()


class Finding(NamedTuple):
    """One check's answer: the verdict, what was found, what to do about it (empty: nothing)."""

    verdict: Verdict
    found: str
    remedy: str = ""
