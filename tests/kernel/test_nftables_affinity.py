"""Affinity in the kernel's maps: clients' elements are theirs, a full map serves all the same, ids are for good."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from nftables_bed import dataplane, node_config, service, shared_fleet, state
from proxymode_agent.dataplane.nfnetlink import Connection
from proxymode_agent.dataplane.nftables import draws
from proxymode_agent.dataplane.nftables.layout import layout
from proxymode_agent.services.model import DataplaneConfig, Family
from proxymode_testbeds.traffic.ask import ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_agent.dataplane.nftables import NftablesDataplane
    from proxymode_agent.services.model import ServicePort
    from proxymode_testbeds.topology import Topology

__all__ = ["shared_fleet"]

WEB = {Family.IPV4: "10.96.0.10", Family.IPV6: "fd96::10"}
PODS = {
    Family.IPV4: {"node1-pod1": "10.244.1.11", "node2-pod1": "10.244.2.11", "node2-pod2": "10.244.2.12"},
    Family.IPV6: {"node1-pod1": "fd44:0:0:1::11", "node2-pod1": "fd44:0:0:2::11", "node2-pod2": "fd44:0:0:2::12"},
}
CLIENTS = ("node1-pod2", "node1-pod1", "client1")
FAMILIES = pytest.mark.parametrize("family", Family)


@pytest.fixture
def made(shared_fleet: Topology) -> Iterator[NftablesDataplane]:
    with dataplane(shared_fleet, node_config(shared_fleet)) as fresh:
        fresh.remove()
        yield fresh


def web(family: Family, *pods: str) -> ServicePort:
    endpoints = [(PODS[family][pod], 8080) for pod in pods]
    return dataclasses.replace(service("web", WEB[family], 80, endpoints), affinity_seconds=3600)


def servers(topology: Topology, family: Family, client: str, times: int = 10) -> set[str]:
    """Who answers to a client."""

    def repeatedly() -> set[str]:
        return {ask(WEB[family], 80, "tcp").server for _ in range(times)}

    return topology.call(client, repeatedly)


def remembered(topology: Topology, family: Family) -> int:
    """Number of clients in the kernel's map."""

    def read() -> int:
        with Connection() as kernel:
            return len(list(kernel.elements(layout(family, DataplaneConfig(), "0").services.affinity)))

    return topology.call("node1", read)


@FAMILIES
def test_a_client_stays_over_unrelated_changes_and_a_restart(
    shared_fleet: Topology, made: NftablesDataplane, family: Family
) -> None:
    made.sync(state(web(family, "node1-pod1", "node2-pod1")))
    [mine] = servers(shared_fleet, family, "node1-pod2")
    [other] = {"node1-pod1", "node2-pod1"} - {mine}
    name = web(family).name
    for pods in ({mine, other, "node2-pod2"}, {mine, "node2-pod2"}, {mine}, {mine, other}):
        made.sync(state(web(family, *sorted(pods))), frozenset([name]))
        assert servers(shared_fleet, family, "node1-pod2", 3) == {mine}
    with dataplane(shared_fleet, node_config(shared_fleet)) as restarted:
        assert restarted.sync(state(web(family, "node1-pod1", "node2-pod1"))).written == 0
        assert servers(shared_fleet, family, "node1-pod2", 3) == {mine}
        restarted.sync(state(web(family, other)), frozenset([name]))
        assert servers(shared_fleet, family, "node1-pod2", 3) == {other}
        # It came back, but the client is another endpoint's now.
        restarted.sync(state(web(family, mine, other)), frozenset([name]))
        assert servers(shared_fleet, family, "node1-pod2", 3) == {other}


@FAMILIES
def test_where_no_more_clients_can_be_remembered_they_are_served_all_the_same(
    shared_fleet: Topology, monkeypatch: pytest.MonkeyPatch, family: Family
) -> None:
    monkeypatch.setattr(draws, "AFFINITY_SIZE", 1)
    with dataplane(shared_fleet, node_config(shared_fleet)) as small:
        small.remove()
        small.sync(state(web(family, "node1-pod1", "node2-pod1")))
        first, *others = (servers(shared_fleet, family, client, 25) for client in CLIENTS)
        assert len(first) == 1
        assert others == [{"node1-pod1", "node2-pod1"}] * 2
        assert remembered(shared_fleet, family) == 1
        small.remove()


@FAMILIES
def test_each_client_is_remembered_once(shared_fleet: Topology, made: NftablesDataplane, family: Family) -> None:
    made.sync(state(web(family, "node1-pod1", "node2-pod1")))
    for client in CLIENTS:
        assert len(servers(shared_fleet, family, client)) == 1
    assert remembered(shared_fleet, family) == len(CLIENTS)
    assert made.sync(state(web(family, "node1-pod1", "node2-pod1"))).written == 0
