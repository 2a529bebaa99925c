"""Where packets go in the ipvs mode: source, destination, port -> who answers and whom it sees."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import TYPE_CHECKING, Final, Literal

import pytest
from msgspec.structs import replace

from proxymode_agent.services.model import PodInterface, Protocol
from proxymode_agent.switch.probes.connect import answering
from proxymode_agent.switch.probes.sample import Target
from proxymode_testbeds.traffic.ask import knock
from service_node import ANSWER_SECONDS, VIP, VIP6, packed, service, state

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
            raw.settimeout(ANSWER_SECONDS)
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


def test_trying_a_service_leaves_the_nodes_connections_to_its_other_addresses_alone(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic
) -> None:
    """Few ports to choose from: what the kernel may choose once in thousands of times, it has to choose here."""
    traffic.serve(one_node, "node1-pod1")
    node = service_node(one_node)
    external = packed("10.96.200.9")
    node.call(node.ipvs().sync, state(service(VIP, 80, node.pods()[:1], external_ips=(external,))))
    node.sh("sysctl -qw net.ipv4.ip_local_port_range='40000 40015'")
    first, second = ((Target(address, 80)) for address in (packed(VIP), external))
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(one_node.call("node1", socket.create_connection, (VIP, 80), ANSWER_SECONDS))
            for _ in range(8)
        ]
        assert node.call(answering, [first, second]) == {first, second}
        for connection in connections:
            connection.sendall(b"?\n")
            assert connection.recv(1024)


BALANCER = "10.96.200.1"
EVERYWHERE = ("client1", "node1", "node1-pod2")


def servers(traffic: Traffic, topology: Topology, client: str, address: str, tries: int = 4) -> set[str]:
    return {traffic.ask(topology, client, address, 80).server for _ in range(tries)}


def dropped(topology: Topology, client: str, address: str, port: int = 80) -> bool:
    """Whether nothing comes back, not even a refusal."""
    try:
        topology.call(client, knock, address, port, timeout=3.0)
    except TimeoutError:
        return True
    except OSError:
        return False
    return False


def test_external_addresses_of_policy_cluster_and_local(
    service_node: NodeMaker, node_fleet: FleetMaker, traffic: Traffic
) -> None:
    """Outsiders keep their address with policy Local; where there is no endpoint, they are dropped and pods are not."""
    topology = node_fleet(nodes=2, pods=2)
    traffic.serve_all(topology)
    node = service_node(topology)
    dataplane = node.ipvs()
    here, _, there, _ = node.pods()
    client = topology.fleet.clients[0].address
    cluster = service(VIP, 80, [here, there], load_balancer_ips=(packed(BALANCER),), external_local=False)
    node.call(dataplane.sync, state(cluster))
    answers = [traffic.ask(topology, "client1", BALANCER, 80) for _ in range(4)]
    assert {answer.server for answer in answers} == {"node1-pod1", "node2-pod1"}
    assert client not in {answer.source for answer in answers}
    assert traffic.ask(topology, "node1-pod2", BALANCER, 80).source != node.pods()[1]

    local = replace(cluster, external_local=True, local_endpoints=cluster.endpoints[:1])
    node.call(dataplane.sync, state(local), frozenset({local.name}))
    for name in EVERYWHERE:
        assert servers(traffic, topology, name, BALANCER) == {"node1-pod1"}
    assert traffic.ask(topology, "client1", BALANCER, 80).source == client
    assert servers(traffic, topology, "client1", VIP) == {"node1-pod1", "node2-pod1"}

    away = replace(local, local_endpoints=(), cluster_endpoints=local.cluster_endpoints[1:])
    node.call(dataplane.sync, state(away), frozenset({away.name}))
    assert dropped(topology, "client1", BALANCER)
    for name in EVERYWHERE[1:]:
        assert servers(traffic, topology, name, BALANCER) == {"node2-pod1"}
    assert node.call(node.ipvs().sync, state(away)).written <= 1, "only the drained real server may go, once it is idle"


def test_source_ranges_of_a_load_balancer(service_node: NodeMaker, one_node: Topology, traffic: Traffic) -> None:
    traffic.serve(one_node, "node1-pod1")
    node = service_node(one_node)
    dataplane = node.ipvs()
    web = service(VIP, 80, node.pods()[:1], load_balancer_ips=(packed(BALANCER),))
    pods, client = ipaddress.ip_network("10.244.0.0/16"), ipaddress.ip_network(one_node.fleet.clients[0].address)
    for allowed, expected in (((pods,), {"node1-pod2"}), ((client, pods), {"client1", "node1-pod2"})):
        port = replace(web, source_ranges=allowed)
        node.call(dataplane.sync, state(port))
        assert {name for name in EVERYWHERE if not dropped(one_node, name, BALANCER)} == expected
    assert node.call(node.ipvs().sync, state(port)).written == 0
    assert traffic.ask(one_node, "node1", VIP, 80).server == "node1-pod1"


def test_a_client_stays_with_its_endpoint(service_node: NodeMaker, one_node: Topology, traffic: Traffic) -> None:
    traffic.serve_all(one_node)
    node = service_node(one_node)
    dataplane = node.ipvs()
    web = service(VIP, 80, node.pods()[1:], affinity_seconds=600)
    node.call(dataplane.sync, state(web))
    (first,) = servers(traffic, one_node, "client1", VIP, 6)
    removed = web.endpoints[0 if first == "node1-pod2" else 1]
    one = replace(web, cluster_endpoints=tuple(e for e in web.endpoints if e != removed))
    node.call(dataplane.sync, state(one), frozenset({one.name}))
    (second,) = servers(traffic, one_node, "client1", VIP, 3)
    assert second != first
    node.call(dataplane.sync, state(replace(web, affinity_seconds=None)), frozenset({web.name}))
    assert servers(traffic, one_node, "client1", VIP, 6) == {"node1-pod2", "node1-pod3"}


def test_pods_told_by_their_interface_are_not_masqueraded(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic
) -> None:
    traffic.serve(one_node, "node1-pod1")
    node = service_node(one_node, pods=PodInterface("veth", prefix=True))
    node.call(node.ipvs().sync, state(service(VIP, 80, node.pods()[:1])))
    seen = {name: traffic.ask(one_node, name, VIP, 80).source for name in EVERYWHERE}
    assert seen["node1-pod2"] == node.pods()[1]
    assert seen["client1"] == seen["node1"] == "10.244.1.1"


def test_an_address_of_the_service_networks_that_no_service_has_is_dropped(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic
) -> None:
    traffic.serve(one_node, "node1-pod1")
    node = service_node(one_node, service_cidrs=(ipaddress.ip_network("10.96.0.0/16"),))
    # Without the rule these packets leave the node, and whoever has the address refuses.
    one_node.run("client1", ["ip", "address", "add", "10.96.0.99/32", "dev", "lo"])
    node.sh(f"ip route replace 10.96.0.0/16 via {one_node.fleet.clients[0].address}")
    node.call(node.ipvs().sync, state(service(VIP, 80, node.pods()[:1])))
    for name in EVERYWHERE[1:]:
        assert traffic.ask(one_node, name, VIP, 80).server == "node1-pod1"
        assert dropped(one_node, name, "10.96.0.99"), name
