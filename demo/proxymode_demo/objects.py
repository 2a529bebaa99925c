"""Pure: the cluster's objects that a control plane would have made: Nodes, Services, EndpointSlices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxymode_testbeds.topology import Fleet, NodeSpec, PodSpec

ZONES = ("zone-a", "zone-b")


CLUSTER_IP = "10.96.0.10"
TARGET_PORT = 8080


@dataclass(frozen=True, slots=True)
class DemoPort:
    """A port of the one Service, `web`; its endpoints are TARGET_PORT of every backend pod."""

    name: str
    protocol: str
    port: int


HTTP = DemoPort("http", "TCP", 80)
DNS = DemoPort("dns", "UDP", 53)


def backends(fleet: Fleet) -> list[tuple[NodeSpec, PodSpec]]:
    """Every node's pods but the last, which is the node's client."""
    return [(node, pod) for node in fleet.nodes for pod in node.pods[:-1]]


def node(spec: NodeSpec, zone: str) -> dict[str, Any]:
    """v1 Node as a kubelet would have registered it."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": spec.name,
            "labels": {
                "kubernetes.io/os": "linux",
                "kubernetes.io/hostname": spec.name,
                "topology.kubernetes.io/zone": zone,
            },
        },
        "spec": {"podCIDR": str(spec.pod_cidrs[0]), "podCIDRs": [str(cidr) for cidr in spec.pod_cidrs]},
    }


def node_status(spec: NodeSpec, now: str) -> dict[str, Any]:
    """The status subresource of that Node: its address, and Ready since `now` (RFC 3339)."""
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}
    return {
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": spec.address},
                {"type": "Hostname", "address": spec.name},
            ],
            "conditions": [ready | {"lastHeartbeatTime": now, "lastTransitionTime": now}],
        }
    }


def service() -> dict[str, Any]:
    """v1 Service of type ClusterIP."""
    ports = [
        {"name": port.name, "protocol": port.protocol, "port": port.port, "targetPort": TARGET_PORT}
        for port in (HTTP, DNS)
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": CLUSTER_IP,
            "clusterIPs": [CLUSTER_IP],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "selector": {"app": "web"},
            "ports": ports,
        },
    }


def endpoint_slice(pods: Sequence[tuple[NodeSpec, PodSpec]]) -> dict[str, Any]:
    """discovery.k8s.io/v1 EndpointSlice of that Service with all backend pods, ready."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "web-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": port.name, "protocol": port.protocol, "port": TARGET_PORT} for port in (HTTP, DNS)],
        "endpoints": [
            {
                "addresses": [pod.address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": spec.name,
            }
            for spec, pod in pods
        ],
    }


def cluster(fleet: Fleet) -> list[dict[str, Any]]:
    """Everything but the ProxyMode, in the order in which it is applied."""
    nodes = [node(spec, ZONES[index % len(ZONES)]) for index, spec in enumerate(fleet.nodes)]
    return [*nodes, service(), endpoint_slice(backends(fleet))]
