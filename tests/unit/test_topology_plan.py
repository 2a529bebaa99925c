"""A fleet's description: what it refuses, and what becomes of it."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxymode_testbeds.topology import Fleet, make_fleet
from proxymode_testbeds.topology.plan import plan

FLEETS = st.builds(
    make_fleet, nodes=st.integers(1, 6), pods=st.integers(0, 4), clients=st.integers(0, 3), dual_stack=st.booleans()
)


@given(FLEETS)
def test_every_part_gets_a_namespace_and_every_link_joins_two_of_them(fleet: Fleet) -> None:
    made = plan(fleet, "x-")
    assert set(made.setups) == {part.name for part in fleet.parts()} | {"router"}
    for line in made.links:
        words = line.split()
        ends = [words[at + 1] for at, word in enumerate(words) if word == "netns"]
        assert len(ends) == 2
        assert {end.removeprefix("x-") for end in ends} <= set(made.setups)


@given(FLEETS)
def test_every_part_but_the_router_has_its_addresses_and_a_way_out(fleet: Fleet) -> None:
    made = plan(fleet, "x-")
    for part in fleet.parts():
        lines = made.setups[part.name].lines
        for address in part.addresses:
            assert any(line.startswith(f"address add {address}/") for line in lines)
        defaults = [line for line in lines if line.startswith("route add default via ")]
        assert len(defaults) == len(part.addresses)


@given(FLEETS)
def test_a_node_knows_the_way_to_every_pod(fleet: Fleet) -> None:
    made = plan(fleet, "x-")
    for node in fleet.nodes:
        routes = [
            ipaddress.ip_network(line.split()[2])
            for line in made.setups[node.name].lines
            if line.startswith("route add ") and "default" not in line
        ]
        for other in fleet.nodes:
            for pod in other.pods:
                for address in pod.addresses:
                    assert sum(address in route for route in routes) == 1


def test_a_link_is_up_before_routes_go_through_it() -> None:
    for setup in plan(make_fleet(nodes=2, pods=2, dual_stack=True), "x-").setups.values():
        up: set[str] = set()
        for line in setup.lines:
            words = line.split()
            if line.startswith("link set "):
                up.add(words[2])
            if line.startswith("route add ") and "dev" in words:
                assert words[words.index("dev") + 1] in up


def test_clients_spread_over_the_nodes() -> None:
    fleet = make_fleet(nodes=2, pods=0, clients=3)
    assert [client.gateway for client in fleet.clients] == ["node1", "node2", "node1"]
    assert all(a.address != b.address for a, b in pairwise(fleet.clients))


def test_what_does_not_fit_is_refused_by_name_and_value() -> None:
    with pytest.raises(ValueError, match=r"nodes=100: must be 1 to 99"):
        make_fleet(nodes=100, pods=1)
    with pytest.raises(ValueError, match=r"nodes=0: must be 1 to 99"):
        make_fleet(nodes=0, pods=1)
    fleet = make_fleet(nodes=2, pods=1)
    first, second = fleet.nodes
    with pytest.raises(ValueError, match=r"name 'node1': used 2 times"):
        replace(fleet, nodes=(first, replace(second, name="node1")))
    with pytest.raises(ValueError, match=r"address '192.168.50.1': used 2 times"):
        replace(fleet, nodes=(first, replace(second, addresses=first.addresses)))
    outside = (ipaddress.ip_address("10.0.0.1"),)
    with pytest.raises(ValueError, match=r"node2: 10.0.0.1 is outside of 192.168.50.0/24"):
        replace(fleet, nodes=(first, replace(second, addresses=outside)))
    with pytest.raises(ValueError, match=r"node1-pod1: 10.0.0.1 is outside of 10.244.1.0/24"):
        replace(fleet, nodes=(replace(first, pods=(replace(first.pods[0], addresses=outside),)), second))
    with pytest.raises(ValueError, match=r"client1: its gateway 'node9' is no node of this fleet"):
        replace(fleet, clients=(replace(fleet.clients[0], gateway="node9"),))
    with pytest.raises(ValueError, match=r"192.168.50.254 is the router's address"):
        replace(fleet, nodes=(first, replace(second, addresses=(ipaddress.ip_address("192.168.50.254"),))))
