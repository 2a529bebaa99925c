"""Where a node stands between kube-proxy and this agent. Pure.

While kube-proxy runs nothing of ours is put into the kernel: there is never more than one writer. So a node that is
told to take over says that it is ready and waits. kube-proxy has left when the Node has the label that keeps its
DaemonSet away and no kube-proxy is seen; without the label it may only be restarting. Its rules stay meanwhile and do
what they did last. On the way back it is the other way round: this agent goes on until kube-proxy has programmed
everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_api.labels import SERVICE_PROXY_AGENT, SERVICE_PROXY_LABEL
from proxymode_api.modes import KUBE_PROXY_MODES, KubeProxyPolicy, ObservedMode
from proxymode_api.reasons.codes import Reason

if TYPE_CHECKING:
    from proxymode_agent.kube.objects import Node
    from proxymode_agent.preflight.model import KubeProxyFound
    from proxymode_api.nodeproxymode import NodeProxyModeSpec


class Stand(NamedTuple):
    """`reason` and `message` of the condition KubeProxyPresent; None: it says what was found, and no more. `waits`: the
    mode that was asked for is not to be set yet. `soon`: what it depends on may change at any moment."""

    reason: Reason | None = None
    message: str = ""
    waits: bool = False
    soon: bool = False


NOWHERE: Final = Stand()
"""kube-proxy has no part in what the node is to do."""


def stand(spec: NodeProxyModeSpec, node: Node | None, found: KubeProxyFound, observed: ObservedMode) -> Stand:
    """Where the node stands, while `observed` is in the kernel."""
    if spec.mode is None:
        return NOWHERE
    match spec.kube_proxy.policy:
        case KubeProxyPolicy.TAKE_OVER:
            return _taken_over(node, found, observed)
        case KubeProxyPolicy.HAND_BACK:
            return _handed_back(node, found, observed)
        case KubeProxyPolicy.IGNORE:
            return NOWHERE


def _taken_over(node: Node | None, found: KubeProxyFound, observed: ObservedMode) -> Stand:
    unseen = observed is ObservedMode.NONE and (found.running or found.rules)  # it came after the last look
    if observed not in KUBE_PROXY_MODES and not unseen:
        return NOWHERE
    waits_for = []
    if not _labelled(node):
        waits_for.append(f"the label {SERVICE_PROXY_LABEL}={SERVICE_PROXY_AGENT} on the Node")
    if found.running:
        by_hand = "" if waits_for else "; a static Pod, or one in k3s or RKE2, has to be stopped by hand"
        waits_for.append(f"kube-proxy to leave ({found.running}{by_hand})")
    if not waits_for:
        return NOWHERE
    return Stand(
        Reason.READY_TO_TAKE_OVER,
        f"The node is ready to be taken over from {observed}, and waits for {' and for '.join(waits_for)}.",
        waits=True,
        soon=True,
    )


def _handed_back(node: Node | None, found: KubeProxyFound, observed: ObservedMode) -> Stand:
    theirs = observed in KUBE_PROXY_MODES
    if not theirs and observed is not ObservedMode.NFTABLES:
        return NOWHERE
    if theirs and found.running and not _labelled(node):
        return Stand(Reason.HANDED_BACK, f"kube-proxy handles this node's Services again ({found.running}).")
    if theirs:
        state = "its rules are there" + ("" if found.running else ", it is not")
    elif found.running:
        state = f"it runs ({found.running}) and has not programmed every Service yet"
    else:
        state = "it is not here"
    return Stand(Reason.READY_TO_HAND_BACK, f"The node is ready to be handed back to kube-proxy: {state}.", soon=True)


def _labelled(node: Node | None) -> bool:
    labels = (node.metadata.labels if node is not None else None) or {}
    return labels.get(SERVICE_PROXY_LABEL) == SERVICE_PROXY_AGENT
