"""What a rule says, and what it may look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from proxymode_api.common import DataplaneOptions

if TYPE_CHECKING:
    from proxymode_api.deprecation import Minor
    from proxymode_api.modes import Mode
    from proxymode_cli.migration.family import Family
    from proxymode_cli.migration.objects import Calico, DaemonSet, KubeProxyConfig, NodeFacts, ServiceFacts


class Severity(StrEnum):
    """BLOCK: do not begin before it is mended. WARN: somebody may notice. INFO: good to know."""

    BLOCK = "block"
    WARN = "warn"
    INFO = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that will be different for one subject: `Service shop/web`, `Node n1`, `DaemonSet …` or `Cluster`.

    `detail`: what is particular to this subject; `why`, `do` and `link` are the same for all subjects of a rule.
    """

    rule: str
    severity: Severity
    subject: str
    why: str
    do: str
    link: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings about going `to` a mode. `moving`: nodes that do not run it.

    `notes`: what could not be looked at.
    """

    to: Mode
    moving: tuple[str, ...]
    nodes: int
    services: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    def count(self, severity: Severity) -> int:
        return sum(finding.severity is severity for finding in self.findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """A cluster before the move. `options`: those of the ProxyMode that will decide, else the defaults.

    `kube_proxy` None: there is none, or its ConfigMap could not be read.
    """

    to: Mode
    nodes: tuple[NodeFacts, ...]
    services: tuple[ServiceFacts, ...] = ()
    options: DataplaneOptions = field(default_factory=DataplaneOptions)
    kube_proxy: KubeProxyConfig | None = None
    daemon_sets: tuple[DaemonSet, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    """Of ConfigMaps of CNI plugins: `cilium-config/KEY`, `antrea-config/FILE`."""
    calico: Calico | None = None
    metallb_l2: bool = False
    cluster: Minor | None = None

    @property
    def moving(self) -> tuple[NodeFacts, ...]:
        """Nodes that do not run the wanted mode yet."""
        return tuple(node for node in self.nodes if node.family.value != self.to.value)

    def moving_from(self, *families: Family) -> tuple[NodeFacts, ...]:
        return tuple(node for node in self.moving if node.family in families)

    def daemon_set(self, *names: str) -> DaemonSet | None:
        """The first DaemonSet with one of these names, in whatever namespace."""
        return next((found for found in self.daemon_sets if found.name in names), None)

    def image(self, part: str) -> DaemonSet | None:
        """The first DaemonSet one of whose images has `part` in its name."""
        return next((found for found in self.daemon_sets if any(part in image for image in found.images)), None)
