"""Affinity in the kernel's maps: clients' elements are theirs, a full map serves all the same, ids are for good."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import msgspec
import pytest

from nftables_bed import dataplane, node_config, service, shared_fleet, state
from proxymode_agent.dataplane.nfnetlink import Connection
from proxymode_agent.dataplane.nftables import layout as layout_module
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
    return msgspec.structs.replace(service("web", WEB[family], 80, endpoints), affinity_seconds=3600)


def servers(topology: Topology, family: Family, client: str, times: int = 10) -> set[str]:
    """Who answers to a client."""

    def repeatedly() -> set[str]:
        return {ask(WEB[family], 80, "tcp").server for _ in range(times)}

    return topology.call(client, repeatedly)


def remembered(topology: Topology, family: Family) -> int:
    """Number of clients in the kernel's maps."""

    def read() -> int:
        with Connection() as kernel:
            memories = layout(family, DataplaneConfig(), "0").memories.values()
            return sum(len(list(kernel.elements(memory.clients))) for memory in memories)

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


SERVICES = 8  # so that all of them meet one endpoint by chance once in 3**24 times
NODE = {Family.IPV4: "192.168.50.1", Family.IPV6: "fd50::1"}
OUTSIDE = {Family.IPV4: "10.96.200.{}", Family.IPV6: "fd96::c8{}"}  # within reach of client1


@FAMILIES
@pytest.mark.parametrize("local", [False, True], ids=["policy Cluster", "policy Local"])
def test_a_client_meets_the_same_endpoint_by_every_address(
    shared_fleet: Topology, made: NftablesDataplane, family: Family, local: bool
) -> None:
    """As of kube-proxy, a client is remembered by Service port."""
    ports = [everywhere(family, number, local=local) for number in range(SERVICES)]
    made.sync(state(*ports[1:]))
    made.sync(state(*ports), frozenset([ports[0].name]))
    for client in ("node1-pod2", "client1"):
        chosen = [met(shared_fleet, family, client, number) for number in range(SERVICES)]
        assert [len(servers) for servers in chosen] == [1] * SERVICES
        assert len(set.union(*chosen)) > 1
    with dataplane(shared_fleet, node_config(shared_fleet)) as restarted:
        assert restarted.sync(state(*ports)).written == 0
    assert [met(shared_fleet, family, "client1", number) for number in range(SERVICES)] == chosen


@FAMILIES
def test_policy_local_leads_a_client_to_the_endpoint_that_it_knows_if_that_is_here(
    shared_fleet: Topology, made: NftablesDataplane, family: Family
) -> None:
    ports = [everywhere(family, number, local=True) for number in range(SERVICES)]
    made.sync(state(*ports))
    known = [asked_once(shared_fleet, "client1", _cluster_ip(family, number), 80) for number in range(SERVICES)]
    here = {one for one in known if one.startswith("node1-")}
    assert here < set(known), "some are here, some are not"
    for number, endpoint in enumerate(known):
        [met_outside] = met(shared_fleet, family, "client1", number, cluster_ip=False)
        assert met_outside == endpoint if endpoint in here else met_outside.startswith("node1-")
        assert asked_once(shared_fleet, "client1", _cluster_ip(family, number), 80) == endpoint


@FAMILIES
def test_a_cluster_ip_of_policy_local_shares_its_clients_too(
    shared_fleet: Topology, made: NftablesDataplane, family: Family
) -> None:
    ports = [
        msgspec.structs.replace(everywhere(family, number, local=True), external_local=False, internal_local=True)
        for number in range(SERVICES)
    ]
    made.sync(state(*ports))
    for number in range(SERVICES):
        known = asked_once(shared_fleet, "client1", _cluster_ip(family, number), 80)
        assert known.startswith("node1-")
        assert met(shared_fleet, family, "client1", number) == {known}


@FAMILIES
def test_a_node_port_that_comes_later_leads_to_the_endpoint_that_the_client_knows(
    shared_fleet: Topology, made: NftablesDataplane, family: Family
) -> None:
    ports = [everywhere(family, number) for number in range(SERVICES)]
    inner = [msgspec.structs.replace(port, node_port=None, external_ips=(), load_balancer_ips=()) for port in ports]
    made.sync(state(*inner))
    known = [asked_once(shared_fleet, "client1", _cluster_ip(family, number), 80) for number in range(SERVICES)]
    made.sync(state(*ports), frozenset(port.name for port in ports))
    assert [{one} for one in known] == [met(shared_fleet, family, "client1", n) for n in range(SERVICES)]


def everywhere(family: Family, number: int, *, local: bool = False) -> ServicePort:
    """A sticky Service port with every kind of frontend, and more than one endpoint on each node."""
    pods = [*PODS[family].values(), str(ipaddress.ip_address(PODS[family]["node1-pod1"]) + 1)]
    made = service(
        f"web{number}", _cluster_ip(family, number), 80, [(pod, 8080) for pod in pods], node_port=31000 + number
    )
    here = [one for one in made.cluster_endpoints if one.address[:-1] == made.hairpin[0][:-1]]
    external_ip, balancer = (ipaddress.ip_address(OUTSIDE[family].format(n + number)).packed for n in (10, 30))
    return msgspec.structs.replace(
        made,
        affinity_seconds=3600,
        external_ips=(external_ip,),
        load_balancer_ips=(balancer,),
        external_local=local,
        local_endpoints=tuple(here) if local else (),
    )


def _cluster_ip(family: Family, number: int) -> str:
    return str(ipaddress.ip_address(WEB[family]) + 16 + number)


def asked_once(topology: Topology, client: str, address: str, port: int) -> str:
    return topology.call(client, ask, address, port, "tcp").server


def met(topology: Topology, family: Family, client: str, number: int, *, cluster_ip: bool = True) -> set[str]:
    """Who answers a client by the addresses of one Service."""
    frontends = [(OUTSIDE[family].format(n + number), 80) for n in (10, 30)] + [(NODE[family], 31000 + number)]
    if cluster_ip:
        frontends.append((_cluster_ip(family, number), 80))
    return {asked_once(topology, client, *frontend) for frontend in frontends for _ in range(2)}


@FAMILIES
def test_where_no_more_clients_can_be_remembered_they_are_served_all_the_same(
    shared_fleet: Topology, monkeypatch: pytest.MonkeyPatch, family: Family
) -> None:
    monkeypatch.setattr(layout_module, "CLIENTS", 1)
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
