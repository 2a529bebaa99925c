"""Pure: the cluster's objects that a control plane would have made: Nodes, Services, EndpointSlices, ProxyModes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ZONES = ("zone-a", "zone-b")
WEB = ("10.96.0.10", 80, 8080)
ECHO = ("10.96.0.11", 53, 5300)
"""Cluster IP, Service port and target port of the two Services: TCP and UDP."""


@dataclass(frozen=True, slots=True)
class DemoNode:
    """A node: its name, its address on the nodes' network, its pods' network and its backend pods' addresses."""

    name: str
    address: str
    pod_cidr: str
    backends: tuple[str, ...]


def node(index: int, backends: int) -> DemoNode:
    """The index-th node, counted from 1; it has `backends` pods that serve."""
    return DemoNode(
        name=f"node-{index}",
        address=f"192.168.50.{10 + index}",
        pod_cidr=f"10.244.{index}.0/24",
        backends=tuple(f"10.244.{index}.{10 + pod}" for pod in range(backends)),
    )


def node_object(demo_node: DemoNode, index: int) -> dict[str, Any]:
    """v1 Node as a kubelet would have registered it."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": demo_node.name,
            "labels": {
                "kubernetes.io/os": "linux",
                "kubernetes.io/hostname": demo_node.name,
                "topology.kubernetes.io/zone": ZONES[index % len(ZONES)],
            },
        },
        "spec": {"podCIDR": demo_node.pod_cidr, "podCIDRs": [demo_node.pod_cidr]},
    }


def node_status(demo_node: DemoNode, now: str) -> dict[str, Any]:
    """The status subresource of that Node: its address, and Ready."""
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastTransitionTime": now}
    return {
        "addresses": [
            {"type": "InternalIP", "address": demo_node.address},
            {"type": "Hostname", "address": demo_node.name},
        ],
        "conditions": [ready | {"lastHeartbeatTime": now}],
    }


def service(name: str, protocol: str, cluster_ip: str, port: int, target_port: int) -> dict[str, Any]:
    """v1 Service of type ClusterIP."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "selector": {"app": name},
            "ports": [{"name": name, "protocol": protocol, "port": port, "targetPort": target_port}],
        },
    }


def endpoint_slice(name: str, protocol: str, target_port: int, nodes: list[DemoNode]) -> dict[str, Any]:
    """discovery.k8s.io/v1 EndpointSlice with every backend pod of every node."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": name, "protocol": protocol, "port": target_port}],
        "endpoints": [
            {"addresses": [address], "conditions": {"ready": True, "serving": True}, "nodeName": demo_node.name}
            for demo_node in nodes
            for address in demo_node.backends
        ],
    }


def cluster(nodes: list[DemoNode]) -> list[dict[str, Any]]:
    """Everything but the ProxyMode, in the order in which it is applied."""
    return [
        *(node_object(demo_node, index) for index, demo_node in enumerate(nodes)),
        service("web", "TCP", *WEB),
        endpoint_slice("web", "TCP", WEB[2], nodes),
        service("echo", "UDP", *ECHO),
        endpoint_slice("echo", "UDP", ECHO[2], nodes),
    ]
