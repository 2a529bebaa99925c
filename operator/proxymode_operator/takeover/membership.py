"""Which nodes are the agent's, as a label on the Node says it to kube-proxy's DaemonSet. Pure.

The order of the rollout is the planner's: a node gets the label only after it was told its mode, when its agent says
that it is ready and waits for kube-proxy to leave. It loses it only when its agent says that it is ready for kube-proxy
to come. With policy Ignore nothing is changed, also where a label is left from before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_api.labels import SERVICE_PROXY_AGENT, SERVICE_PROXY_LABEL
from proxymode_api.modes import KubeProxyPolicy, ObservedMode
from proxymode_api.reasons.codes import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxymode_operator.rollout.model import Node

_OURS: Final = frozenset({ObservedMode.IPVS, ObservedMode.NFTABLES})


class DaemonSetName(NamedTuple):
    """Where kube-proxy's DaemonSet is."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Labelling(NamedTuple):
    """A Node that gets the label, or loses it."""

    node: str
    uid: str
    labelled: bool


def labelled(node: Node) -> bool:
    """Whether the Node says that it is the agent's."""
    return node.labels.get(SERVICE_PROXY_LABEL) == SERVICE_PROXY_AGENT


def daemon_sets(nodes: Iterable[Node]) -> Mapping[DaemonSetName, bool]:
    """The DaemonSets that are concerned, and whether each has to be kept off labelled nodes: from when the first node
    is told to take over until the last label is gone."""
    wanted: dict[DaemonSetName, bool] = {}
    for node in nodes:
        policy, name = _told(node)
        if name is not None:
            begun = (
                policy is KubeProxyPolicy.TAKE_OVER and node.asked is not None and node.asked.intent.mode is not None
            )
            wanted[name] = wanted.get(name, False) or begun or labelled(node)
    return wanted


def labellings(nodes: Iterable[Node], kept_off: Mapping[DaemonSetName, bool]) -> tuple[Labelling, ...]:
    """The labels to write now. `kept_off`: DaemonSets that respect the label; without that a label would say what is
    not so."""
    changes = []
    for node in nodes:
        policy, name = _told(node)
        report = node.report
        if name is None or report is None or node.asked is None or node.asked.intent.mode is None:
            continue
        current = report.observed_generation >= node.asked.generation
        if policy is KubeProxyPolicy.TAKE_OVER and not labelled(node) and kept_off.get(name, False):
            ready = report.kube_proxy == Reason.READY_TO_TAKE_OVER and current
            if ready or report.mode in _OURS:
                changes.append(Labelling(node.name, node.uid, labelled=True))
        if policy is KubeProxyPolicy.HAND_BACK and labelled(node):
            ready = report.kube_proxy == Reason.READY_TO_HAND_BACK and current
            if ready:
                changes.append(Labelling(node.name, node.uid, labelled=False))
    return tuple(changes)


def _told(node: Node) -> tuple[KubeProxyPolicy, DaemonSetName | None]:
    """The policy that this node was told, and the DaemonSet; None: neither concerns it."""
    if node.asked is None or node.foreign:
        return KubeProxyPolicy.IGNORE, None
    options = node.asked.intent.options.kube_proxy
    if options.policy is KubeProxyPolicy.IGNORE:
        return options.policy, None
    return options.policy, DaemonSetName(options.namespace, options.daemon_set)
