"""A NodeProxyMode's options, resolved for a node."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network
from typing import TYPE_CHECKING, Any

import pytest

from proxymode_agent.kube.objects import Node, NodeAddress, NodeSpec, NodeStatus, ObjectMeta
from proxymode_agent.node.config import OptionsError, dataplane_config
from proxymode_agent.node.memory import Memory, recall, remember
from proxymode_agent.services.model import IpvsTimeouts, PodInterface, PodNetworks
from proxymode_api.nodeproxymode import NodeProxyModeSpec

if TYPE_CHECKING:
    from pathlib import Path

NODE = Node(
    metadata=ObjectMeta(name="node-a"),
    spec=NodeSpec(pod_cidrs=["10.244.3.0/24", "fd00:244:3::/64"]),
    status=NodeStatus(addresses=[NodeAddress("Hostname", "node-a"), NodeAddress("InternalIP", "192.168.50.1")]),
)


def spec(**wire: Any) -> NodeProxyModeSpec:
    return NodeProxyModeSpec.model_validate(wire)


def test_options_become_the_dataplanes_configuration() -> None:
    config = dataplane_config(
        spec(
            ipvs={
                "scheduler": "lc",
                "strictARP": True,
                "excludeCIDRs": ["203.0.113.0/24"],
                "timeouts": {"tcp": "2h", "tcpFin": "45s"},
                "drainTimeout": "10m",
            },
            nftables={"masqueradeBit": 9},
            masqueradeAll=True,
            localhostNodePorts=True,
            detectLocal={"mode": "ClusterCIDR", "clusterCIDRs": ["10.244.0.0/16"]},
        ),
        NODE,
    )
    assert config.ipvs_scheduler == "lc"
    assert config.ipvs_strict_arp
    assert config.ipvs_exclude_cidrs == (ip_network("203.0.113.0/24"),)
    assert config.ipvs_timeouts == IpvsTimeouts(tcp=7200, tcp_fin=45, udp=0)
    assert config.ipvs_drain_seconds == 600
    assert config.masquerade_bit == 9
    assert config.masquerade_all
    assert config.localhost_node_ports
    assert config.pods == PodNetworks((ip_network("10.244.0.0/16"),))
    assert config.node_ips == (IPv4Address("192.168.50.1").packed,)


@pytest.mark.parametrize(
    ("addresses", "networks"),
    [
        ([], None),
        (["primary"], (ip_network("192.168.50.1/32"),)),
        (["192.168.0.0/16"], (ip_network("192.168.0.0/16"),)),
        (["primary", "10.0.0.0/8"], (ip_network("192.168.50.1/32"), ip_network("10.0.0.0/8"))),
    ],
)
def test_node_port_addresses(addresses: list[str], networks: object) -> None:
    assert dataplane_config(spec(nodePortAddresses=addresses), NODE).node_port_addresses == networks


def test_local_traffic_by_the_nodes_own_pod_networks() -> None:
    config = dataplane_config(spec(detectLocal={"mode": "NodeCIDR"}), NODE)
    assert config.pods == PodNetworks((ip_network("10.244.3.0/24"), ip_network("fd00:244:3::/64")))


@pytest.mark.parametrize(
    ("mode", "interface", "pods"),
    [
        ("BridgeInterface", "cni0", PodInterface("cni0")),
        ("InterfaceNamePrefix", "veth", PodInterface("veth", prefix=True)),
    ],
)
def test_local_traffic_by_interface(mode: str, interface: str, pods: PodInterface) -> None:
    config = dataplane_config(spec(detectLocal={"mode": mode, "interface": interface}), NODE)
    assert config.pods == pods


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"detectLocal": {"mode": "BridgeInterface"}}, "detectLocal.interface: mode Bridge"),
        ({"detectLocal": {"clusterCIDRs": ["10.244.0.0/33"]}}, "detectLocal.clusterCIDRs: '10.244.0.0/33'"),
        ({"nodePortAddresses": ["eth0"]}, "nodePortAddresses: 'eth0'"),
        ({"ipvs": {"excludeCIDRs": ["x"]}}, "ipvs.excludeCIDRs: 'x'"),
    ],
)
def test_what_cannot_be_followed_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionsError, match=text.replace(".", r"\.")):
        dataplane_config(spec(**options), NODE)


def test_a_node_without_pod_networks_cannot_use_them() -> None:
    with pytest.raises(OptionsError, match="podCIDRs"):
        dataplane_config(spec(detectLocal={"mode": "NodeCIDR"}), Node(metadata=ObjectMeta(name="node-a")))


def test_memory_survives_a_restart(tmp_path: Path) -> None:
    kept = Memory(spec=spec(mode="nftables", revision=7))
    remember(tmp_path / "state", kept)
    assert recall(tmp_path / "state") == kept


@pytest.mark.parametrize("content", ["", "{", '{"spec": {"mode": "userspace"}}'])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, content: str) -> None:
    (tmp_path / "node.json").write_text(content)
    assert recall(tmp_path) == Memory()


def test_no_memory_at_first(tmp_path: Path) -> None:
    assert recall(tmp_path) == Memory()
