"""Packets through the nftables dataplane: who sends what where, who answers, and whom the answerer sees.

node1 has the dataplane, node2 has none; pods 1 and 2 of node1 and pod 1 of node2 are on either side of a node's edge.
client1 is outside of the cluster and sends Service traffic to node1.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest

from nftables_bed import dataplane, node_config, service, shared_fleet, state
from proxymode_agent.services.model import Protocol, ServiceState
from proxymode_testbeds.traffic.ask import ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_agent.dataplane.nftables import NftablesDataplane
    from proxymode_testbeds.topology import Topology

__all__ = ["shared_fleet"]

ASKED = 25  # times; one of two endpoints is not drawn in 25 times with a probability of 6e-8
NOBODY = "refused"

Transport = Literal["tcp", "udp"]


class Addresses(NamedTuple):
    """The fleet's addresses in one family, and the Services' that the tests make."""

    web: str
    empty: str
    loop: str
    node: str
    other_address: str
    loopback: str
    pods: dict[str, str]


V4 = Addresses(
    "10.96.0.10",
    "10.96.0.20",
    "10.96.0.30",
    "192.168.50.1",
    "10.244.1.1",
    "127.0.0.1",
    {"node1-pod1": "10.244.1.11", "node1-pod2": "10.244.1.12", "node2-pod1": "10.244.2.11"},
)
V6 = Addresses(
    "fd96::10",
    "fd96::20",
    "fd96::30",
    "fd50::1",
    "fd44:0:0:1::1",
    "::1",
    {"node1-pod1": "fd44:0:0:1::11", "node1-pod2": "fd44:0:0:1::12", "node2-pod1": "fd44:0:0:2::11"},
)
FAMILIES = pytest.mark.parametrize("to", [V4, V6], ids=["IPv4", "IPv6"])

BOTH = {"node1-pod1", "node2-pod1"}


def services(to: Addresses) -> ServiceState:
    """web: two endpoints, TCP and UDP on one port, a node port; empty: none; loop: one pod, which also calls itself."""
    tcp = [(to.pods[pod], 8080) for pod in sorted(BOTH)]
    udp = [(to.pods[pod], 5353) for pod in sorted(BOTH)]
    return state(
        service("web", to.web, 80, tcp, node_port=30080),
        service("web-udp", to.web, 80, udp, protocol=Protocol.UDP, node_port=30080),
        service("empty", to.empty, 80, [], node_port=30020),
        service("empty-udp", to.empty, 80, [], protocol=Protocol.UDP, node_port=30020),
        service("loop", to.loop, 80, tcp[:1]),
        service("loop-udp", to.loop, 80, udp[:1], protocol=Protocol.UDP),
    )


@pytest.fixture(scope="module", autouse=True)
def programmed(shared_fleet: Topology) -> Iterator[NftablesDataplane]:
    with dataplane(shared_fleet, node_config(shared_fleet)) as made:
        both = {**services(V4).ports, **services(V6).ports}
        assert made.sync(ServiceState(both)).refused == ()
        yield made


class Outcome(NamedTuple):
    """Who answered, and which addresses they saw."""

    servers: set[str]
    sources: set[str]


def outcome(
    topology: Topology, source: str, address: str, port: int, protocol: Transport, times: int = ASKED
) -> Outcome:
    """What happens to questions from the namespace of `source`; a refusal counts as an answer by NOBODY."""

    def repeatedly() -> Outcome:
        seen = Outcome(set(), set())
        for _ in range(times):
            try:
                answer = ask(address, port, protocol)
            except (ConnectionRefusedError, PermissionError):  # the latter: UDP rejected in the sender's own output
                seen.servers.add(NOBODY)
            else:
                seen.servers.add(answer.server)
                seen.sources.add(answer.source)
        return seen

    return topology.call(source, repeatedly)


def own(topology: Topology, name: str, to: Addresses) -> set[str]:
    """The addresses of a node, pod or client, in the family of `to`."""
    part = next(part for part in topology.fleet.parts() if part.name == name)
    version = ipaddress.ip_address(to.node).version
    return {str(address) for address in part.addresses if address.version == version}


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("source", ["node1-pod1", "node1-pod2", "node1", "client1"])
def test_a_cluster_ip_reaches_all_endpoints(
    shared_fleet: Topology, to: Addresses, protocol: Transport, source: str
) -> None:
    assert outcome(shared_fleet, source, to.web, 80, protocol).servers == BOTH


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_pods_keep_their_address(shared_fleet: Topology, to: Addresses, protocol: Transport) -> None:
    seen = outcome(shared_fleet, "node1-pod2", to.web, 80, protocol)
    assert seen.sources == {to.pods["node1-pod2"]}


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_who_comes_from_outside_is_masqueraded(shared_fleet: Topology, to: Addresses, protocol: Transport) -> None:
    seen = outcome(shared_fleet, "client1", to.web, 80, protocol)
    assert seen.sources <= {to.node, to.other_address}


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_pod_that_reaches_itself_is_masqueraded(shared_fleet: Topology, to: Addresses, protocol: Transport) -> None:
    seen = outcome(shared_fleet, "node1-pod1", to.loop, 80, protocol, times=3)
    assert seen.servers == {"node1-pod1"}
    assert seen.sources <= {to.node, to.other_address}


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("source", ["node1-pod2", "node1", "client1"])
@pytest.mark.parametrize("service_and_port", [("empty", 80), ("web", 81)], ids=["no endpoints", "unknown port"])
def test_what_nobody_serves_is_refused(
    shared_fleet: Topology, to: Addresses, protocol: Transport, source: str, service_and_port: tuple[str, int]
) -> None:
    name, port = service_and_port
    assert outcome(shared_fleet, source, getattr(to, name), port, protocol, times=2) == ({NOBODY}, set())


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("source", ["node1-pod2", "node1", "client1"])
def test_a_node_port_reaches_all_endpoints_masqueraded(
    shared_fleet: Topology, to: Addresses, protocol: Transport, source: str
) -> None:
    seen = outcome(shared_fleet, source, to.node, 30080, protocol)
    assert seen.servers == BOTH
    assert seen.sources <= {to.node, to.other_address}


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("source", ["node1-pod2", "node1", "client1"])
def test_a_node_port_without_endpoints_is_refused(
    shared_fleet: Topology, to: Addresses, protocol: Transport, source: str
) -> None:
    assert outcome(shared_fleet, source, to.node, 30020, protocol, times=2) == ({NOBODY}, set())


@FAMILIES
@pytest.mark.parametrize("where", ["other_address", "loopback"])
def test_a_node_port_answers_on_the_primary_addresses_only(shared_fleet: Topology, to: Addresses, where: str) -> None:
    assert outcome(shared_fleet, "node1", getattr(to, where), 30080, "tcp", times=2).servers == {NOBODY}


@FAMILIES
def test_other_traffic_is_left_alone(shared_fleet: Topology, to: Addresses) -> None:
    for name, address in to.pods.items():
        seen = outcome(shared_fleet, "node1-pod2", address, 8080, "tcp", times=1)
        assert seen == ({name}, {to.pods["node1-pod2"]})
    assert outcome(shared_fleet, "client1", to.node, 30081, "tcp", times=1).servers == {NOBODY}


@FAMILIES
def test_masquerade_all_with_another_mark_bit(
    shared_fleet: Topology, programmed: NftablesDataplane, to: Addresses
) -> None:
    config = dataclasses.replace(node_config(shared_fleet), masquerade_all=True, masquerade_bit=31)
    both = ServiceState({**services(V4).ports, **services(V6).ports})
    with dataplane(shared_fleet, config) as changed:
        assert changed.sync(both).written > 0
        assert outcome(shared_fleet, "node1-pod2", to.web, 80, "tcp").sources <= {to.node, to.other_address}
        assert outcome(shared_fleet, "client1", to.node, 30080, "tcp").servers == BOTH
    assert programmed.sync(both).written > 0
    assert outcome(shared_fleet, "node1-pod2", to.web, 80, "tcp").sources == own(shared_fleet, "node1-pod2", to)


@FAMILIES
def test_node_ports_on_networks(shared_fleet: Topology, programmed: NftablesDataplane, to: Addresses) -> None:
    """Every local address in a network, but no address of others, and never the loopback."""
    everything = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    config = dataclasses.replace(node_config(shared_fleet), node_port_addresses=everything)
    both = ServiceState({**services(V4).ports, **services(V6).ports})
    with dataplane(shared_fleet, config) as changed:
        assert changed.sync(both).written > 0
        assert outcome(shared_fleet, "node1-pod2", to.other_address, 30080, "tcp").servers == BOTH
        assert outcome(shared_fleet, "node1", to.loopback, 30080, "tcp", times=2).servers == {NOBODY}
        [other_node] = own(shared_fleet, "node2", to)
        assert outcome(shared_fleet, "node1-pod2", other_node, 30080, "tcp", times=2).servers == {NOBODY}
    assert programmed.sync(both).written > 0
