"""What the agent takes from its own Node object: kube-proxy's cases of proxy_health_test.go and node_test.go."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

import pytest

from proxymode_agent.kube.objects import Node, decode_node
from proxymode_agent.kube.own_node import NodeView, pod_networks


def node(metadata: dict[str, Any] | None = None, **spec: Any) -> Node:
    body = {"metadata": {"name": "node1"} | (metadata or {}), "spec": spec}
    return decode_node(json.dumps(body))


@pytest.mark.parametrize(
    ("of_cluster", "eligible"),
    [
        (node(), True),
        (node(taints=[{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]), True),
        (node(taints=[{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]), False),
        (node(taints=[{"key": "other"}, {"key": "ToBeDeletedByClusterAutoscaler", "value": "1700000000"}]), False),
        (node(metadata={"deletionTimestamp": "2026-01-02T03:04:05Z"}), False),
        (node(unschedulable=True), True),
        (None, True),
    ],
    ids=["plain", "another taint", "autoscaler", "autoscaler and another", "being deleted", "cordoned", "no Node"],
)
def test_a_node_that_is_about_to_go_takes_no_new_traffic(of_cluster: Node | None, eligible: bool) -> None:
    assert NodeView(known=True, node=of_cluster).eligible == eligible


@pytest.mark.parametrize(
    ("pod_cidrs", "expected"),
    [
        (["10.0.0.0/24", "fd00:1::/64"], ["10.0.0.0/24", "fd00:1::/64"]),
        (["fd00:1::/64"], ["fd00:1::/64"]),
        (["10.0.0.0/24", "none"], ["10.0.0.0/24"]),
        (None, []),
    ],
)
def test_networks_of_the_nodes_pods(pod_cidrs: list[str] | None, expected: list[str]) -> None:
    assert list(pod_networks(node(podCIDRs=pod_cidrs))) == list(map(ip_network, expected))
