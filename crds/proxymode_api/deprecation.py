"""What Kubernetes does to kube-proxy's modes, and when: the one table, and what it means for a cluster's version.

Solves: agent, operator, plugin and admission policy say the same dates in the same words. The table is about
upstream's kube-proxy; proxymode's own ipvs dataplane works on after upstream removes theirs, so nothing here blocks a
switch. Not solved here: finding out a cluster's version (that is I/O), and whether a kernel can run a mode (preflight).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from proxymode_api.modes import Mode


class Minor(NamedTuple):
    """A Kubernetes minor release; ordered."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    def next(self) -> Minor:
        """The minor that follows: a control plane is upgraded one minor at a time."""
        return Minor(self.major, self.minor + 1)


_VERSION: Final = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?:\D.*)?", re.ASCII | re.DOTALL)


def parse_minor(version: str) -> Minor:
    """`v1.36.2`, `1.36+` or `v1.36.0-gke.100` to Minor(1, 36).

    Takes what an API server answers on /version: gitVersion, or major and minor joined with a dot.
    Raises ValueError that says what would be right.
    """
    match = _VERSION.fullmatch(version.strip())
    if match is None:
        raise ValueError(f"{version!r} is not a Kubernetes version: expected major.minor as in v1.36.2 or 1.36+")
    return Minor(int(match[1]), int(match[2]))


def minor_if_any(version: str) -> Minor | None:
    """As `parse_minor`; None where it is no version: what depends on the cluster's age is then left unsaid."""
    try:
        return parse_minor(version)
    except ValueError:
        return None


class KubeProxyMode(StrEnum):
    """Every value that kube-proxy's --proxy-mode takes or took."""

    USERSPACE = "userspace"
    IPTABLES = "iptables"
    IPVS = "ipvs"
    NFTABLES = "nftables"
    KERNELSPACE = "kernelspace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retirement:
    """The releases in which upstream gives a mode up; None: it skipped that step."""

    deprecated: Minor | None
    off_by_default: Minor | None
    removed: Minor
    replacement: Mode
    kep: str
    gate: str


RETIREMENTS: Final[dict[KubeProxyMode, Retirement]] = {
    # Release notes of Kubernetes 1.26.
    KubeProxyMode.USERSPACE: Retirement(
        deprecated=None, off_by_default=None, removed=Minor(1, 26), replacement=Mode.NFTABLES, kep="", gate=""
    ),
    # KEP-5495 as merged in June 2026. Older texts that say "removed in 1.38" quote a draft.
    KubeProxyMode.IPVS: Retirement(
        deprecated=Minor(1, 35),
        off_by_default=Minor(1, 40),
        removed=Minor(1, 43),
        replacement=Mode.NFTABLES,
        kep="KEP-5495",
        gate="KubeProxyIPVS",
    ),
}
"""The modes that upstream gave up or has merged that it will. nftables becomes the default in 1.40 (KEP-5343), which
makes iptables the legacy mode, but no removal of iptables is decided."""

_NFTABLES_BY_DEFAULT: Final = Minor(1, 40)


def default_mode(cluster: Minor | None) -> KubeProxyMode:
    """What kube-proxy runs on Linux where its configuration names no mode (KEP-5343); None: a version before 1.40."""
    return KubeProxyMode.IPTABLES if cluster is None or cluster < _NFTABLES_BY_DEFAULT else KubeProxyMode.NFTABLES


class DeprecationState(StrEnum):
    """How far upstream has gone with a mode, seen from one cluster's version."""

    ANNOUNCED = "Announced"
    DEPRECATED = "Deprecated"
    OFF_BY_DEFAULT = "OffByDefault"
    REMOVED = "Removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deprecation:
    """A mode that upstream gives up, as seen from one cluster. `cluster` is None where its version is not known."""

    mode: KubeProxyMode
    retirement: Retirement
    cluster: Minor | None

    @property
    def state(self) -> DeprecationState:
        """Where the cluster stands. An unknown version counts as deprecated: better warned too early than too late."""
        plan = self.retirement
        if self.cluster is None:
            return DeprecationState.DEPRECATED
        if self.cluster >= plan.removed:
            return DeprecationState.REMOVED
        if plan.off_by_default is not None and self.cluster >= plan.off_by_default:
            return DeprecationState.OFF_BY_DEFAULT
        if plan.deprecated is not None and self.cluster >= plan.deprecated:
            return DeprecationState.DEPRECATED
        return DeprecationState.ANNOUNCED

    @property
    def in_effect(self) -> bool:
        """Whether this cluster's own kube-proxy warns about the mode, or has it no more."""
        return self.state is not DeprecationState.ANNOUNCED

    @property
    def message(self) -> str:
        """One sentence for people: since when, by when, what to do.

        `ipvs is deprecated since 1.35, off by default from 1.40 (the next minor of this cluster), removed in 1.43
        (KEP-5495): move to nftables`
        """
        plan, source = self.retirement, f" ({self.retirement.kep})" if self.retirement.kep else ""
        if self.state is DeprecationState.REMOVED:
            what = f"was removed from kube-proxy in {plan.removed}{source}, and this cluster runs {self.cluster}"
            return f"{self.mode} {what}: move to {plan.replacement}"
        steps = [f"removed in {self._dated(plan.removed)}"]
        if plan.off_by_default is not None:
            steps.insert(0, self._off_by_default(plan.off_by_default))
        if plan.deprecated is not None:
            reached = self.cluster is None or self.cluster >= plan.deprecated
            steps.insert(0, f"deprecated {'since' if reached else 'from'} {self._dated(plan.deprecated)}")
        return f"{self.mode} is {', '.join(steps)}{source}: move to {plan.replacement}"

    def _off_by_default(self, minor: Minor) -> str:
        if self.state is DeprecationState.OFF_BY_DEFAULT:
            return f"off by default since {minor} (feature gate {self.retirement.gate} turns it on)"
        return f"off by default from {self._dated(minor)}"

    def _dated(self, minor: Minor) -> str:
        is_next = self.cluster is not None and self.cluster.next() == minor
        return f"{minor} (the next minor of this cluster)" if is_next else str(minor)


def deprecation(mode: Mode | KubeProxyMode, cluster: Minor | None) -> Deprecation | None:
    """What a user of `mode` on a cluster of this minor must know; None: upstream has no plan to give the mode up.

    `cluster` None means that the cluster's version is not known.
    """
    name = KubeProxyMode(mode.value)
    retirement = RETIREMENTS.get(name)
    return None if retirement is None else Deprecation(mode=name, retirement=retirement, cluster=cluster)
