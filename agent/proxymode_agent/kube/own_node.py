"""The node this agent runs on, as the API server has it: watched once, read by everybody who needs it."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import msgspec

from proxymode_agent.cell import Cell
from proxymode_agent.kube.listwatch import Changed, Deleted, ListWatch
from proxymode_agent.kube.objects import Node, decode_node
from proxymode_api.labels import ZONE_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_agent.kube.client import KubeClient
    from proxymode_agent.kube.restarts import RestartReason
    from proxymode_agent.services.model import Network

BEING_DELETED_TAINT = "ToBeDeletedByClusterAutoscaler"
"""Taint of a node that the cluster autoscaler is about to remove."""


class NodeView(msgspec.Struct, frozen=True):
    """The node at one moment. `known` is false until the first list; `node` None: the cluster has no such Node."""

    known: bool = False
    node: Node | None = None

    @property
    def eligible(self) -> bool:
        """Whether load balancers should send new traffic to this node (kube-proxy: KEP-3836)."""
        if self.node is None:
            return True
        leaving = any(taint.key == BEING_DELETED_TAINT for taint in self.node.spec.taints or ())
        return not leaving and self.node.metadata.deletion_timestamp is None


def host_ips(node: Node) -> tuple[bytes, ...]:
    """The node's primary addresses, packed: the first of each family in status.addresses, an InternalIP before an
    ExternalIP, as kube-proxy has them (GetNodeHostIPs of k8s.io/component-helpers); what is no address is left out."""
    first: dict[int, bytes] = {}
    for kind in ("InternalIP", "ExternalIP"):
        for address in node.status.addresses or ():
            if address.type == kind:
                try:
                    packed = ipaddress.ip_address(address.address).packed
                except ValueError:
                    continue
                first.setdefault(len(packed), packed)
    return tuple(first.values())


def keeping_addresses(node: Node, before: Node | None) -> Node:
    """The node, with the addresses that it had `before` if it has none now: they are still the machine's, and its
    NodePorts answer on, while whoever writes them (kubelet, a cloud's controller) has yet to. kube-proxy does the same
    (pkg/proxy/node.go)."""
    return node if before is None or host_ips(node) else msgspec.structs.replace(node, status=before.status)


def pod_networks(node: Node) -> tuple[Network, ...]:
    """The networks of the node's own pods; what is no network is left out."""
    networks = []
    for text in node.spec.pod_cidrs or ():
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            continue
    return tuple(networks)


def zone(node: Node) -> str:
    """The zone that the node is in; empty where nobody says."""
    return (node.metadata.labels or {}).get(ZONE_LABEL, "")


class OwnNode:
    """Watches the Node called `name`. `run` for ever in a task; read `view`."""

    def __init__(
        self,
        client: KubeClient,
        name: str,
        *,
        restarted: Callable[[RestartReason], None] = lambda reason: None,
    ) -> None:
        self.view: Cell[NodeView] = Cell(NodeView())
        self._watch = ListWatch(
            client,
            "/api/v1/nodes",
            decode_node,
            field_selector=f"metadata.name={name}",
            restarted=restarted,
        )

    async def run(self) -> None:
        """Keep `view` fresh; ends only by cancellation."""
        node: Node | None = None
        last: Node | None = None
        async for event in self._watch.events():
            match event:
                case Changed(_, changed):
                    node = last = keeping_addresses(changed, last)
                case Deleted():
                    node = None
            # A change within the first list is not shown before the list is complete, and after it at once.
            if self.view.value.known or not isinstance(event, Changed | Deleted):
                self.view.set(NodeView(known=True, node=node))
