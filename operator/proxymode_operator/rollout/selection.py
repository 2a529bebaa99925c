"""Which ProxyMode decides about which node.

Solves: label selectors as metav1 defines them, and who wins where several ProxyModes select one node: the highest
priority, then the oldest, then the name that sorts first. Deliberately knows nothing of stages or of a node's state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from proxymode_api.selector import SelectorOperator

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxymode_api.proxymode import ProxyMode
    from proxymode_api.selector import LabelSelector, LabelSelectorRequirement

OS_LABEL: Final = "kubernetes.io/os"
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether the labels meet every requirement; an empty selector takes everything (metav1.LabelSelector)."""
    if any(labels.get(key) != value for key, value in selector.match_labels.items()):
        return False
    return all(_meets(requirement, labels) for requirement in selector.match_expressions)


def _meets(requirement: LabelSelectorRequirement, labels: Mapping[str, str]) -> bool:
    match requirement.operator:
        case SelectorOperator.EXISTS:
            return requirement.key in labels
        case SelectorOperator.DOES_NOT_EXIST:
            return requirement.key not in labels
        case SelectorOperator.IN:
            return labels.get(requirement.key) in requirement.values
        case SelectorOperator.NOT_IN:
            return labels.get(requirement.key) not in requirement.values


def runs_linux(labels: Mapping[str, str]) -> bool:
    """IPVS and nftables are Linux's; a node without the label (no kubelet sets none) counts as Linux."""
    return labels.get(OS_LABEL, "linux") == "linux"


@dataclass(frozen=True, slots=True)
class Selection:
    """`decided`: node to ProxyMode. `overridden`: ProxyMode to the nodes it lost, each with the winner.

    `held`: nodes in the hands of a ProxyMode that could not be read; nobody else may take them meanwhile. `members`:
    ProxyMode to the nodes that it decides about, sorted.
    """

    decided: Mapping[str, str] = field(default_factory=dict)
    overridden: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def precedence(proxy_mode: ProxyMode) -> tuple[int, datetime, str]:
    """Sort key: who comes first decides."""
    meta = proxy_mode.metadata
    return (-proxy_mode.spec.priority, meta.creation_timestamp or _EARLIEST, meta.name)


def select(
    proxy_modes: Iterable[ProxyMode],
    labels: Mapping[str, Mapping[str, str]],
    *,
    holders: Mapping[str, str] | None = None,
    unreadable: frozenset[str] = frozenset(),
) -> Selection:
    """Decides over all nodes (name to labels) at once.

    `holders` says which ProxyMode each NodeProxyMode names now. A node whose holder is `unreadable` is left alone: a
    ProxyMode that this version cannot parse must not hand its nodes to one of lower priority.
    """
    ranked = sorted(proxy_modes, key=precedence)
    held = frozenset(node for node, name in (holders or {}).items() if name in unreadable)
    decided: dict[str, str] = {}
    overridden: dict[str, dict[str, str]] = {}
    for node, node_labels in labels.items():
        if node in held or not runs_linux(node_labels):
            continue
        for proxy_mode in ranked:
            if not matches(proxy_mode.spec.node_selector, node_labels):
                continue
            winner = decided.setdefault(node, proxy_mode.metadata.name)
            if winner != proxy_mode.metadata.name:
                overridden.setdefault(proxy_mode.metadata.name, {})[node] = winner
    members: dict[str, list[str]] = {}
    for node in sorted(decided):
        members.setdefault(decided[node], []).append(node)
    return Selection(
        decided=decided,
        overridden=overridden,
        held=held,
        members={name: tuple(nodes) for name, nodes in members.items()},
    )


def holds(known: Selection, proxy_modes: Iterable[ProxyMode], node: str, labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels is in the hands that it is in, and wanted by the same others. Most labels change
    nothing: to select all nodes anew for each that is taken over from kube-proxy, and labelled, would cost most of a
    decision."""
    found = select(proxy_modes, {node: labels})

    def given(selection: Selection) -> tuple[str | None, set[str]]:
        losers = {loser for loser, nodes in selection.overridden.items() if node in nodes}
        return selection.decided.get(node), losers

    return given(found) == given(known)
