"""Clients that the nftables mode is told to remember, as a switch from ipvs does."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import msgspec
import pytest

from nftables_bed import dataplane, node_config, packed_endpoints, service, shared_fleet, state
from proxymode_agent.dataplane.affinity import Remembered
from proxymode_agent.services.model import Endpoint, Family
from proxymode_testbeds.traffic.ask import ask

if TYPE_CHECKING:
    from proxymode_testbeds.topology import Topology

__all__ = ["shared_fleet"]

WEB = {Family.IPV4: "10.96.0.40", Family.IPV6: "fd96::40"}
PODS = {
    Family.IPV4: {"node1-pod1": "10.244.1.11", "node2-pod1": "10.244.2.11", "node2-pod2": "10.244.2.12"},
    Family.IPV6: {"node1-pod1": "fd44:0:0:1::11", "node2-pod1": "fd44:0:0:2::11", "node2-pod2": "fd44:0:0:2::12"},
}
NODE_PORT = 30940


@pytest.mark.parametrize("family", Family)
def test_a_client_meets_the_endpoint_that_it_is_remembered_with_by_every_frontend(
    shared_fleet: Topology, family: Family
) -> None:
    port = msgspec.structs.replace(
        service("web", WEB[family], 80, [(pod, 8080) for pod in PODS[family].values()], node_port=NODE_PORT),
        affinity_seconds=3600,
    )
    one, other = (
        ipaddress.ip_address(address).packed
        for address in (_address(shared_fleet, "node1-pod2", family), _address(shared_fleet, "client1", family))
    )
    node = next(str(a) for a in shared_fleet.fleet.node("node1").addresses if len(a.packed) == family)
    for pod, address in PODS[family].items():
        (endpoint,) = packed_endpoints([(address, 8080)])
        with dataplane(shared_fleet, node_config(shared_fleet)) as made:
            shared_fleet.call("node1", made.remove)
            shared_fleet.call("node1", made.sync, state(port))
            known = [Remembered(port.name, one, endpoint), Remembered(port.name, other, endpoint)]
            assert shared_fleet.call("node1", made.remember, state(port), known) == 2
            assert shared_fleet.call("node1", made.remember, state(port), known) == 0
            assert set(shared_fleet.call("node1", made.remembered, state(port))) == set(known)
            for client, to, number in (
                ("node1-pod2", WEB[family], 80),
                ("client1", WEB[family], 80),
                ("client1", node, NODE_PORT),
            ):
                assert {shared_fleet.call(client, ask, to, number, "tcp").server for _ in range(6)} == {pod}
            assert shared_fleet.call("node1", made.sync, state(port)).written == 0, "the clients' elements are theirs"
            stranger = Remembered(port.name, one, Endpoint(endpoint.address, 1))
            assert shared_fleet.call("node1", made.remember, state(port), [stranger]) == 0, "not an endpoint"


@pytest.mark.parametrize("order", [tuple(Family), tuple(reversed(Family))], ids=["IPv4 first", "IPv6 first"])
def test_one_node_port_of_both_families_is_remembered_for_both(
    shared_fleet: Topology, order: tuple[Family, ...]
) -> None:
    """As every dual-stack Service of type NodePort or LoadBalancer has one."""
    ports = [
        msgspec.structs.replace(
            service("web", WEB[family], 80, [(pod, 8080) for pod in PODS[family].values()], node_port=NODE_PORT),
            affinity_seconds=3600,
        )
        for family in order
    ]
    known = {
        Remembered(port.name, ipaddress.ip_address(_address(shared_fleet, "client1", family)).packed, endpoint)
        for family, port in zip(order, ports, strict=True)
        for endpoint in packed_endpoints([(PODS[family]["node2-pod2"], 8080)])
    }
    with dataplane(shared_fleet, node_config(shared_fleet)) as made:
        shared_fleet.call("node1", made.remove)
        shared_fleet.call("node1", made.sync, state(*ports))
        assert shared_fleet.call("node1", made.remember, state(*ports), known) == len(known)
        assert set(shared_fleet.call("node1", made.remembered, state(*ports))) == known


def _address(topology: Topology, name: str, family: Family) -> str:
    part = next(part for part in topology.fleet.parts() if part.name == name)
    return next(str(address) for address in part.addresses if len(address.packed) == family)
