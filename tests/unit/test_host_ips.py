"""Which of a Node's addresses are its primary ones, on which NodePorts answer where nothing else is said."""

from __future__ import annotations

import ipaddress

import pytest

from proxymode_agent.kube.objects import Node, NodeAddress, NodeStatus, ObjectMeta
from proxymode_agent.kube.own_node import host_ips


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["Hostname node-a", "InternalIP 10.0.0.1"], ["10.0.0.1"]),
        (
            ["InternalIP 10.0.0.1", "InternalIP 10.1.0.1", "InternalIP fd00::1", "InternalIP fd01::1"],
            ["10.0.0.1", "fd00::1"],
        ),
        (["InternalIP fd00::1", "InternalIP 10.0.0.1"], ["fd00::1", "10.0.0.1"]),
        (["ExternalIP 203.0.113.7", "InternalIP 10.0.0.1"], ["10.0.0.1"]),
        (["ExternalIP 203.0.113.7", "ExternalDNS a.example.org"], ["203.0.113.7"]),
        (["ExternalIP 2001:db8::7", "InternalIP 10.0.0.1"], ["10.0.0.1", "2001:db8::7"]),
        (["InternalIP not-an-address", "InternalIP 10.0.0.1"], ["10.0.0.1"]),
        (["Hostname node-a"], []),
    ],
)
def test_the_first_of_each_family_and_the_clusters_own_before_external_ones(
    addresses: list[str], expected: list[str]
) -> None:
    listed = [NodeAddress(*one.split()) for one in addresses]
    node = Node(metadata=ObjectMeta(name="node-a"), status=NodeStatus(addresses=listed))
    assert [str(ipaddress.ip_address(one)) for one in host_ips(node)] == expected
