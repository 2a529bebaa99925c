"""The ipvs mode: what may be asked of it, what the kernel will not take, and whose connections it ends."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from proxymode_agent.services.model import Endpoint, IpvsTimeouts, Protocol
from service_node import ANSWER_SECONDS, VIP, packed, service, state

if TYPE_CHECKING:
    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from proxymode_testbeds.topology import Topology
    from service_node import NodeMaker


def test_timeouts_are_set_as_asked_for_and_put_back(service_node: NodeMaker, one_node: Topology) -> None:
    plain = service_node(one_node)
    plain.call(plain.ipvs().sync, state())
    before = plain.sh("ipvsadm -L --timeout")
    node = service_node(one_node, ipvs_timeouts=IpvsTimeouts(tcp=3600, tcp_fin=0, udp=77))
    dataplane = node.ipvs()
    assert node.call(dataplane.sync, state()).written == 2
    found = node.sh("ipvsadm -L --timeout").split()[-3:]
    assert found == ["3600", before.split()[-2], "77"]
    assert node.call(node.ipvs().sync, state()).written == 0
    node.sh("ipvsadm --set 0 0 5")
    assert node.call(dataplane.sync, state()).written == 1
    assert node.sh("ipvsadm -L --timeout").split()[-3:] == found


def test_an_endpoint_that_has_had_its_time_loses_its_connections(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic
) -> None:
    traffic.serve(one_node, "node1-pod1")
    traffic.serve(one_node, "node1-pod2")
    node = service_node(one_node, ipvs_drain_seconds=600)
    dataplane = node.ipvs()
    both = service(VIP, 80, node.pods()[:2])
    node.call(dataplane.sync, state(both))
    client = traffic.talk(one_node, "node1-pod3", VIP, tcp=80, established=4)
    one = replace(both, cluster_endpoints=both.endpoints[1:])
    now = time.monotonic()
    dataplane._clock = lambda: now
    result = node.call(dataplane.sync, state(one), frozenset({one.name}))
    assert result.read_back_in == 60.0
    now += 599.0
    result = node.call(dataplane.sync, state(one))
    assert (result.written, result.read_back_in) == (0, 1.0)
    assert "10.244.1.11:8080 -m -w 0" in node.sh("ipvsadm -Sn")
    client.wait_for("second", lambda counters: counters["alive"] == 4)
    now += 1.0
    result = node.call(dataplane.sync, state(one))
    assert (result.written, result.read_back_in) == (0, None), "its end was due; nobody else's work is put right"
    assert "10.244.1.11" not in node.sh("ipvsadm -Sn")
    counters = client.wait_for("second", lambda counters: counters["alive"] < 4)
    assert counters["alive"] == 2, "only those of the other endpoint are left"


def test_what_the_kernel_refuses_of_one_service_port_holds_up_no_other(
    service_node: NodeMaker, node_fleet: FleetMaker, traffic: Traffic
) -> None:
    one_node = node_fleet(nodes=1, pods=2, dual_stack=True)
    traffic.serve_all(one_node)
    node = service_node(one_node)
    dataplane = node.ipvs()
    pods = node.pods()
    good = service(VIP, 80, pods)
    # No unicast address: IPVS takes it for no real server, the kernel for none of its own.
    half = service("10.96.0.11", 81, [pods[0], "224.0.0.7"], name="half")
    none = service("fd96::12", 82, node.pods(6), name="none", external_ips=(packed("ff0e::9"),))
    for changed in (None, frozenset({half.name}), None):
        result = node.call(dataplane.sync, state(good, half, none), changed)
        reasons = dict(result.refused)
        assert reasons.keys() == {half.name, none.name}
        assert "add real server 224.0.0.7:8080" in reasons[half.name]
        assert "ff0e::9" in reasons[none.name]
        assert traffic.ask(one_node, "client1", VIP, 80).server.startswith("node1-pod")
        assert traffic.ask(one_node, "client1", "10.96.0.11", 81).server == "node1-pod1"
        assert traffic.ask(one_node, "client1", "fd96::12", 82).server.startswith("node1-pod")
    assert result.written == 0, "what was refused again is nobody else's doing"
    mended = replace(half, cluster_endpoints=(Endpoint(packed(pods[1]), 8080),))
    result = node.call(dataplane.sync, state(good, mended, replace(none, external_ips=())))
    assert result.refused == ()
    assert traffic.ask(one_node, "client1", "10.96.0.11", 81).server == "node1-pod2"


def test_somebody_elses_virtual_server_in_an_excluded_network_goes_on_serving(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic
) -> None:
    traffic.serve(one_node, "node1-pod1")
    traffic.serve(one_node, "node1-pod2")
    theirs = "203.0.113.5"
    node = service_node(one_node, ipvs_exclude_cidrs=(ipaddress.ip_network("203.0.113.0/24"),))
    node.call(node.ipvs().sync, state())  # brings the kernel's module and settings
    node.sh(
        f"ip address add {theirs}/32 dev kube-ipvs0; ipvsadm -A -t {theirs}:80 -s rr;"
        f"ipvsadm -a -t {theirs}:80 -r {node.pods()[0]}:8080 -m"
    )
    dataplane = node.ipvs()
    web = service(VIP, 80, node.pods()[1:2])

    def answers(address: str) -> str:
        return traffic.ask(one_node, "node1-pod3", address, 80).server

    for ports, changed in (((web,), None), ((), frozenset({web.name})), ((web,), None)):
        node.call(dataplane.sync, state(*ports), changed)
        assert answers(theirs) == "node1-pod1"
    assert answers(VIP) == "node1-pod2"
    node.call(dataplane.remove)
    assert answers(theirs) == "node1-pod1"


def test_while_a_real_server_drains_the_clients_whose_hash_leads_to_it_get_another_but_for_dh(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic
) -> None:
    traffic.serve_all(one_node)
    for scheduler, served in (("sh", True), ("mh", True), ("dh", False)):
        node = service_node(one_node, ipvs_scheduler=scheduler)
        dataplane = node.ipvs()
        both = service(VIP, 80, node.pods()[:2])
        node.call(dataplane.sync, state(both))
        first = ("node1-pod1", "node1-pod2").index(traffic.ask(one_node, "node1-pod3", VIP, 80).server)
        with one_node.call("node1-pod3", socket.create_connection, (VIP, 80), ANSWER_SECONDS):  # keeps it draining
            left = replace(both, cluster_endpoints=(both.endpoints[1 - first],))
            node.call(dataplane.sync, state(left), frozenset({left.name}))
            with contextlib.nullcontext() if served else pytest.raises(ConnectionRefusedError):
                for _ in range(8):
                    assert traffic.ask(one_node, "node1-pod3", VIP, 80).server == f"node1-pod{2 - first}", scheduler


def test_a_client_that_asked_by_udp_before_there_was_a_service_is_served_once_there_is(
    service_node: NodeMaker, two_nodes: Topology, traffic: Traffic
) -> None:
    """conntrack has an entry of its flow, by which its packets would go on untranslated, or come unmasqueraded to a
    pod that cannot answer it so."""
    pod = "node2-pod1"
    traffic.serve(two_nodes, pod, tcp=None)
    node = service_node(two_nodes)
    dataplane = node.ipvs()
    web = service(VIP, 80, node.pods())
    node.call(dataplane.sync, state(web))
    external = "10.96.200.9"  # on the client's way to Services
    dns = service(
        VIP, 53, node.pods()[2:3], target=5353, protocol=Protocol.UDP, node_port=30053, external_ips=(packed(external),)
    )
    with contextlib.ExitStack() as stack:
        clients = []
        for to in ((node.address(), 30053), (external, 53)):
            client = stack.enter_context(two_nodes.call("client1", socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
            clients.append(client)
            client.settimeout(1.0)
            client.connect(to)
            for _ in range(2):
                with contextlib.suppress(OSError):
                    client.send(b"?\n")
                    client.recv(100)
        node.call(dataplane.sync, state(web, dns), frozenset({dns.name}))
        for client in clients:
            client.settimeout(ANSWER_SECONDS)
            with contextlib.suppress(ConnectionRefusedError):
                client.send(b"?\n")  # tells of an earlier refusal, if there was one
            client.send(b"?\n")
            assert pod.encode() in client.recv(100), client.getpeername()


def test_a_udp_flow_whose_endpoint_goes_is_answered_by_another_at_the_next_packet(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic
) -> None:
    for pod in ("node1-pod1", "node1-pod2"):
        traffic.serve(one_node, pod, tcp=None)
    node = service_node(one_node)
    dataplane = node.ipvs()
    web = service(VIP, 80, node.pods())
    endpoints = [Endpoint(packed(pod), 5353) for pod in node.pods()[:2]]
    dns = service(VIP, 53, (), target=5353, protocol=Protocol.UDP)
    node.call(dataplane.sync, state(web, dns))
    with one_node.call("node1-pod3", socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(ANSWER_SECONDS)
        client.connect((VIP, 53))
        for turn in range(6):
            dns = replace(dns, cluster_endpoints=(endpoints[turn % 2],))
            node.call(dataplane.sync, state(web, dns), frozenset({dns.name}))
            client.send(b"?\n")
            assert f"node1-pod{turn % 2 + 1}".encode() in client.recv(100)
