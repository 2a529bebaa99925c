"""Which frontends a switch tries, what their answers mean, and the connecting itself over loopback."""

from __future__ import annotations

import ipaddress
import socket

from proxymode_agent.services.model import (
    DataplaneConfig,
    Endpoint,
    Family,
    Frontend,
    Protocol,
    ServicePort,
    ServicePortName,
    ServiceState,
)
from proxymode_agent.switch.probes.connect import answering, still_answering
from proxymode_agent.switch.probes.sample import PER_KIND, Probe, Target, failure, judge, sample
from proxymode_agent.switch.record import Probes

NODE, NODE6 = (ipaddress.ip_address(text).packed for text in ("192.0.2.1", "2001:db8::1"))
CONFIG = DataplaneConfig(node_ips=(NODE, NODE6))
POD = Endpoint(bytes((10, 244, 0, 1)), 8080)


def port(
    number: int, *, protocol: Protocol = Protocol.TCP, endpoints: tuple[Endpoint, ...] = (POD,), **more: object
) -> ServicePort:
    name = ServicePortName("ns", f"service-{number:03}", "", protocol, Family.IPV4)
    return ServicePort(name, Frontend(bytes((10, 96, 0, number)), protocol, 80), endpoints, **more)  # type: ignore[arg-type]


def state(*ports: ServicePort) -> ServiceState:
    return ServiceState({one.name: one for one in ports})


def test_every_kind_of_frontend_is_tried() -> None:
    external, balancer = bytes((198, 51, 100, 1)), bytes((203, 0, 113, 1))
    probes = sample(state(port(1, node_port=30080, external_ips=(external,), load_balancer_ips=(balancer,))), CONFIG)
    assert {(probe.kind, probe.target) for probe in probes} == {
        ("ClusterIP", Target(bytes((10, 96, 0, 1)), 80)),
        ("ExternalIP", Target(external, 80)),
        ("LoadBalancerIP", Target(balancer, 80)),
        ("NodePort", Target(NODE, 30080)),
    }
    assert {probe.endpoints for probe in probes} == {(Target(POD.address, POD.port),)}


def test_what_has_no_endpoint_or_no_handshake_is_not_tried() -> None:
    assert sample(state(port(1, endpoints=(), node_port=30080), port(2, protocol=Protocol.UDP)), CONFIG) == ()
    here = port(3, endpoints=(), local_endpoints=(POD,), external_local=True, node_port=30080)
    assert [probe.kind for probe in sample(state(here), CONFIG)] == ["NodePort"]
    assert sample(state(here), DataplaneConfig()) == (), "the node's own address is not known"


def test_of_many_a_few_from_the_first_to_the_last_are_tried() -> None:
    probes = sample(state(*(port(number) for number in range(200))), CONFIG)
    assert len(probes) == PER_KIND
    assert probes[0].service == "ns/service-000"
    assert probes[-1].service == "ns/service-199"


def probe(last: int) -> Probe:
    return Probe("ClusterIP", f"ns/{last}", Target(bytes((10, 96, 0, last)), 80), (Target(POD.address, POD.port),))


def test_only_what_answered_before_and_whose_endpoints_answer_can_fail() -> None:
    probes = [probe(1), probe(2), probe(3)]
    one, two, three = (item.target for item in probes)
    direct = frozenset({Target(POD.address, POD.port)})
    assert judge(probes, {one, two}, {one, two}, frozenset()) == (Probes("ClusterIP", 3, 2, 2, ()),)
    assert judge(probes, {one, two}, {one}, frozenset()) == (Probes("ClusterIP", 3, 2, 1, ()),), (
        "its application is down"
    )
    found = judge(probes, {one, two}, {one, three}, direct)
    assert found == (Probes("ClusterIP", 3, 2, 1, ("ClusterIP 10.96.0.2:80 of ns/2",)),)
    assert "ClusterIP 10.96.0.2:80 of ns/2" in failure(found)
    assert failure(judge(probes, {one}, {one}, direct)) == ""


def test_connections_tell_who_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        there = Target(bytes((127, 0, 0, 1)), listener.getsockname()[1])
        refused = Target(bytes((127, 0, 0, 1)), closed.getsockname()[1])
        assert answering([there, refused, there]) == {there}
        assert still_answering([there, refused], tries=2) == {there}
        assert answering([]) == frozenset()
