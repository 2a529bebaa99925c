"""Options that change while the dataplane is in the kernel: who is masqueraded, where NodePorts answer.

Where packets go otherwise is the table's matter (tests/packets). node1 has the dataplane, node2 has none.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest

from nftables_bed import dataplane, node_config, service, shared_fleet, state
from proxymode_testbeds.traffic.ask import ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_agent.dataplane.nftables import NftablesDataplane
    from proxymode_agent.services.model import ServiceState
    from proxymode_testbeds.topology import Topology

__all__ = ["shared_fleet"]

ASKED = 25  # times; one of two endpoints is not drawn in 25 times with a probability of 6e-8
NOBODY = "refused"


class Addresses(NamedTuple):
    """The fleet's addresses in one family, and the Services' that the tests make."""

    web: str
    node: str
    other_address: str
    loopback: str
    pods: dict[str, str]


V4 = Addresses(
    "10.96.0.10",
    "192.168.50.1",
    "10.244.1.1",
    "127.0.0.1",
    {"node1-pod1": "10.244.1.11", "node1-pod2": "10.244.1.12", "node2-pod1": "10.244.2.11"},
)
V6 = Addresses(
    "fd96::10",
    "fd50::1",
    "fd44:0:0:1::1",
    "::1",
    {"node1-pod1": "fd44:0:0:1::11", "node1-pod2": "fd44:0:0:1::12", "node2-pod1": "fd44:0:0:2::11"},
)
FAMILIES = pytest.mark.parametrize("to", [V4, V6], ids=["IPv4", "IPv6"])

BOTH = {"node1-pod1", "node2-pod1"}


def services() -> ServiceState:
    """A Service with two endpoints and a node port, in each family."""
    return state(
        *(
            service("web", to.web, 80, [(to.pods[pod], 8080) for pod in sorted(BOTH)], node_port=30080)
            for to in (V4, V6)
        )
    )


@pytest.fixture(scope="module", autouse=True)
def programmed(shared_fleet: Topology) -> Iterator[NftablesDataplane]:
    with dataplane(shared_fleet, node_config(shared_fleet)) as made:
        assert made.sync(services()).refused == ()
        yield made


class Outcome(NamedTuple):
    """Who answered, and which addresses they saw."""

    servers: set[str]
    sources: set[str]


def outcome(topology: Topology, source: str, address: str, port: int, times: int = ASKED) -> Outcome:
    """What happens to questions over TCP from the namespace of `source`; a refusal counts as an answer by NOBODY."""

    def repeatedly() -> Outcome:
        seen = Outcome(set(), set())
        for _ in range(times):
            try:
                answer = ask(address, port, "tcp")
            except ConnectionRefusedError:
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
def test_masquerade_all_with_another_mark_bit(
    shared_fleet: Topology, programmed: NftablesDataplane, to: Addresses
) -> None:
    config = msgspec.structs.replace(node_config(shared_fleet), masquerade_all=True, masquerade_bit=31)
    both = services()
    with dataplane(shared_fleet, config) as changed:
        assert changed.sync(both).written > 0
        assert outcome(shared_fleet, "node1-pod2", to.web, 80).sources <= {to.node, to.other_address}
        assert outcome(shared_fleet, "client1", to.node, 30080).servers == BOTH
    assert programmed.sync(both).written > 0
    assert outcome(shared_fleet, "node1-pod2", to.web, 80).sources == own(shared_fleet, "node1-pod2", to)


@FAMILIES
def test_node_ports_on_networks(shared_fleet: Topology, programmed: NftablesDataplane, to: Addresses) -> None:
    """Every local address in a network, but no address of others, and never the loopback."""
    everything = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    config = msgspec.structs.replace(node_config(shared_fleet), node_port_addresses=everything)
    both = services()
    with dataplane(shared_fleet, config) as changed:
        assert changed.sync(both).written > 0
        assert outcome(shared_fleet, "node1-pod2", to.other_address, 30080).servers == BOTH
        assert outcome(shared_fleet, "node1", to.loopback, 30080, times=2).servers == {NOBODY}
        [other_node] = own(shared_fleet, "node2", to)
        assert outcome(shared_fleet, "node1-pod2", other_node, 30080, times=2).servers == {NOBODY}
    assert programmed.sync(both).written > 0
