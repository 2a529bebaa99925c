"""What the agent takes from its own Node object: kube-proxy's cases of proxy_health_test.go and node_test.go."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from proxymode_agent.kube.objects import Node, decode_node
from proxymode_agent.kube.own_node import NodeView, host_ips, keeping_addresses, pod_networks


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


def addressed(*addresses: str) -> Node:
    body = {
        "metadata": {"name": "node1", "labels": {"of": " ".join(addresses)}},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
    }
    return decode_node(json.dumps(body))


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, [], []),
        (["192.168.0.1"], [], ["192.168.0.1"]),
        (["192.168.0.1"], ["none"], ["192.168.0.1"]),
        (["192.168.0.1"], ["192.168.0.2"], ["192.168.0.2"]),
        (["192.168.0.1", "fd00::1"], ["fd00::1"], ["fd00::1"]),
    ],
    ids=["never had any", "lost", "unreadable", "others", "one family"],
)
def test_a_node_that_has_lost_its_addresses_keeps_them(
    before: list[str] | None, now: list[str], expected: list[str]
) -> None:
    found = keeping_addresses(addressed(*now), None if before is None else addressed(*before))
    assert [str(ip_address(packed)) for packed in host_ips(found)] == expected
    assert found.metadata.labels == {"of": " ".join(now)}, "all but the addresses is as it is now"
