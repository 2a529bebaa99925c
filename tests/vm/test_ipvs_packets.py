"""Where packets go in the ipvs mode: source, destination, port -> who answers and whom it sees."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, Literal

import pytest

from proxymode_agent.services.model import Protocol
from service_node import VIP, VIP6, service, state

if TYPE_CHECKING:
    from collections.abc import Collection

    from proxymode_agent.services.model import ServicePort
    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from proxymode_testbeds.topology import Topology
    from service_node import NodeMaker

PROTOCOLS: Final[tuple[tuple[int, Literal["tcp", "udp"]], ...]] = ((80, "tcp"), (53, "udp"))


def dns(vip: str, backends: Collection[str]) -> ServicePort:
    return service(vip, 53, backends, target=5353, protocol=Protocol.UDP)


def test_every_client_reaches_every_backend_and_only_outsiders_are_masqueraded(
    service_node: NodeMaker, node_fleet: FleetMaker, traffic: Traffic
) -> None:
    topology = node_fleet(nodes=2, pods=2, dual_stack=True)
    traffic.serve_all(topology)
    node = service_node(topology)
    v4, v6 = node.pods(4), node.pods(6)
    backends = {"node1-pod1", "node2-pod1"}
    with_backends = {VIP: (v4[0], v4[2]), VIP6: (v6[0], v6[2])}
    ports = [service(vip, 80, pods) for vip, pods in with_backends.items()]
    ports += [dns(vip, pods) for vip, pods in with_backends.items()]
    node.call(node.ipvs().sync, state(*ports))
    client_pod = topology.fleet.nodes[0].pods[1]
    for vip, version in ((VIP, 4), (VIP6, 6)):
        for port, protocol in PROTOCOLS:
            from_pod = [traffic.ask(topology, client_pod.name, vip, port, protocol) for _ in range(4)]
            assert {answer.server for answer in from_pod} == backends
            assert {answer.source for answer in from_pod} == {str(client_pod.addresses[version == 6])}
            outside = [traffic.ask(topology, "client1", vip, port, protocol) for _ in range(4)]
            assert {answer.server for answer in outside} == backends
            assert not {answer.source for answer in outside} & {str(a) for a in topology.fleet.clients[0].addresses}
            local = [traffic.ask(topology, "node1", vip, port, protocol) for _ in range(4)]
            assert {answer.server for answer in local} == backends
            assert vip not in {answer.source for answer in local}


def test_a_pod_reaches_itself_through_its_service(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic
) -> None:
    traffic.serve(one_node, "node1-pod1")
    node = service_node(one_node)
    pod = node.pods()[0]
    node.call(node.ipvs().sync, state(service(VIP, 80, [pod])))
    answer = traffic.ask(one_node, "node1-pod1", VIP, 80)
    assert answer.server == "node1-pod1"
    assert answer.source != pod


@pytest.mark.parametrize("everything", [False, True])
def test_masquerading_of_pods_only_when_all_is_asked_for(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic, everything: bool
) -> None:
    traffic.serve(one_node, "node1-pod1")
    node = service_node(one_node, masquerade_all=everything)
    node.call(node.ipvs().sync, state(service(VIP, 80, [node.pods()[0]])))
    source = traffic.ask(one_node, "node1-pod2", VIP, 80).source
    assert (source != node.pods()[1]) is everything


def test_without_cluster_cidrs_nobody_is_masqueraded(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic
) -> None:
    traffic.serve(one_node, "node1-pod1")
    node = service_node(one_node, pods=None)
    node.call(node.ipvs().sync, state(service(VIP, 80, [node.pods()[0]])))
    assert traffic.ask(one_node, "client1", VIP, 80).source == one_node.fleet.clients[0].address
    assert traffic.ask(one_node, "node1", VIP, 80).source == node.address()


def test_without_node_addresses_the_nodes_own_connections_are_masqueraded(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic
) -> None:
    """Their source is then the Service's address, which a pod elsewhere could not answer."""
    traffic.serve(one_node, "node1-pod1")
    node = service_node(one_node, pods=None, node_ips=())
    node.call(node.ipvs().sync, state(service(VIP, 80, [node.pods()[0]])))
    answer = traffic.ask(one_node, "node1", VIP, 80)
    assert (answer.server, answer.source != VIP) == ("node1-pod1", True)


def test_node_ports_answer_on_every_address_of_the_node(
    service_node: NodeMaker, node_fleet: FleetMaker, traffic: Traffic
) -> None:
    topology = node_fleet(nodes=1, pods=2, dual_stack=True)
    traffic.serve_all(topology)
    node = service_node(topology)
    v4, v6 = node.pods(4), node.pods(6)
    ports = state(service(VIP, 80, v4[:1], node_port=30080), service(VIP6, 80, v6[:1], node_port=30080))
    node.call(node.ipvs().sync, ports)
    for version, gateway in ((4, "10.244.1.1"), (6, "fd44:0:0:1::1")):
        for client in ("client1", "node1-pod2"):
            for address in (node.address(version), gateway):
                if client == "client1" and address == gateway:
                    continue  # no route from outside
                answer = traffic.ask(topology, client, address, 30080)
                assert answer.server == "node1-pod1"
                assert answer.source == gateway  # masqueraded, so that the answer comes back this way


def test_node_ports_answer_on_chosen_addresses_only(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic
) -> None:
    traffic.serve(one_node, "node1-pod1")
    segment = one_node.fleet.node_networks[0]
    node = service_node(one_node, node_port_addresses=(segment,))
    node.call(node.ipvs().sync, state(service(VIP, 80, node.pods()[:1], node_port=30080)))
    assert traffic.ask(one_node, "node1-pod2", node.address(), 30080).server == "node1-pod1"
    with pytest.raises(ConnectionRefusedError):
        traffic.ask(one_node, "node1-pod2", "10.244.1.1", 30080)


@pytest.mark.parametrize("client", ["client1", "node1", "node1-pod1"])
def test_without_endpoints_connections_are_refused(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic, client: str
) -> None:
    node = service_node(one_node)
    ports = state(service(VIP, 80, (), node_port=30080), dns(VIP, ()))
    node.call(node.ipvs().sync, ports)
    for port, protocol in PROTOCOLS:
        # The kernel tells the sender on the node itself that its datagram was not sent: EPERM.
        refused = PermissionError if (client, protocol) == ("node1", "udp") else ConnectionRefusedError
        with pytest.raises(refused):
            traffic.ask(one_node, client, VIP, port, protocol)
    with pytest.raises(ConnectionRefusedError):
        traffic.ask(one_node, client, node.address(), 30080)


def test_a_port_that_no_service_has_is_refused_even_if_the_node_listens_on_it(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic
) -> None:
    traffic.serve(one_node, "node1", tcp=9999, udp=None)
    traffic.serve(one_node, "node1-pod1")
    node = service_node(one_node)
    node.call(node.ipvs().sync, state(service(VIP, 80, node.pods()[:1])))
    assert traffic.ask(one_node, "client1", node.address(), 9999).server == "node1"
    for client in ("client1", "node1", "node1-pod1"):
        with pytest.raises(ConnectionRefusedError):
            traffic.ask(one_node, client, VIP, 9999)


def test_an_address_of_a_service_answers_ping(service_node: NodeMaker, one_node: Topology) -> None:
    node = service_node(one_node)
    node.call(node.ipvs().sync, state(service(VIP, 80, node.pods()[:1])))

    def ping() -> int:
        """The type of the ICMP message that comes back from the Service's address; 0 is an echo reply (RFC 792)."""
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.settimeout(6.0)
            raw.sendto(bytes((8, 0, 0xF7, 0xFF, 0, 0, 0, 0)), (VIP, 0))
            packet = raw.recv(1024)
            return packet[(packet[0] & 0xF) * 4]

    assert one_node.call("client1", ping) == 0


def test_strict_arp_keeps_the_node_from_answering_for_service_addresses(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic
) -> None:
    traffic.serve(one_node, "node1-pod1")
    on_the_segment = "192.168.50.77"
    node = service_node(one_node, ipvs_strict_arp=True)
    node.call(node.ipvs().sync, state(service(on_the_segment, 80, node.pods()[:1])))
    with pytest.raises(OSError, match="No route to host"):
        traffic.ask(one_node, "client1", on_the_segment, 80)
    node.sh("sysctl -qw net.ipv4.conf.all.arp_ignore=0")
    assert traffic.ask(one_node, "client1", on_the_segment, 80).server == "node1-pod1"


def test_the_nodes_own_connections_come_from_its_own_address(service_node: NodeMaker, node_fleet: FleetMaker) -> None:
    """With kube-proxy they come from the Service's address, and stall when that goes."""
    topology = node_fleet(nodes=1, pods=1, dual_stack=True)
    node = service_node(topology)
    ports = state(dns(VIP, node.pods(4)), dns(VIP6, node.pods(6)))
    node.call(node.ipvs().sync, ports)

    def source(vip: str) -> str:
        with socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((vip, 53))
            return str(probe.getsockname()[0])

    assert node.call(source, VIP) == node.address(4)
    assert node.call(source, VIP6) == node.address(6)
