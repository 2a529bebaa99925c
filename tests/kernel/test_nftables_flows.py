"""UDP flows leave endpoints that are gone and stay with those that are not, though a client sends from one port."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest

from nftables_bed import dataplane, node_config, service, shared_fleet, state
from proxymode_agent.dataplane.conntrack import stale
from proxymode_agent.dataplane.conntrack.layout import LAYOUTS, Layout
from proxymode_agent.dataplane.conntrack.table import ConntrackTable
from proxymode_agent.services.model import Family, Protocol, ServicePort, ServiceState
from proxymode_testbeds.traffic.ask import ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_agent.dataplane.nftables import NftablesDataplane
    from proxymode_testbeds.topology import Topology

__all__ = ["shared_fleet"]


class Frontend(NamedTuple):
    """What the client asks; the pods that can answer, by name."""

    address: str
    port: int
    service: str
    pods: dict[str, str]


PODS4 = {"node1-pod1": "10.244.1.11", "node2-pod1": "10.244.2.11", "node2-pod2": "10.244.2.12"}
PODS6 = {"node1-pod1": "fd44:0:0:1::11", "node2-pod1": "fd44:0:0:2::11", "node2-pod2": "fd44:0:0:2::12"}
FRONTENDS = {
    "ClusterIP": Frontend("10.96.0.53", 53, "10.96.0.53", PODS4),
    "ClusterIP, IPv6": Frontend("fd96::53", 53, "fd96::53", PODS6),
    "external IP": Frontend("203.0.113.1", 53, "10.96.0.53", PODS4),
    "load balancer, IPv6": Frontend("fdee::2", 53, "fd96::53", PODS6),
    "node port": Frontend("192.168.50.1", 30053, "10.96.0.53", PODS4),
    "node port, IPv6": Frontend("fd50::1", 30053, "fd96::53", PODS6),
}

EXTERNAL = {True: ("203.0.113.1", "203.0.113.2"), False: ("fdee::1", "fdee::2")}

ports_used = iter(range(40000, 41000))


@pytest.fixture
def made(shared_fleet: Topology) -> Iterator[NftablesDataplane]:
    with dataplane(shared_fleet, node_config(shared_fleet)) as fresh:
        fresh.remove()
        yield fresh


def dns(frontend: Frontend, *pods: str) -> ServicePort:
    endpoints = [(frontend.pods[pod], 5353) for pod in pods]
    made = service("dns", frontend.service, 53, endpoints, protocol=Protocol.UDP, node_port=30053)
    v4 = made.name.family == Family.IPV4
    external_ip, load_balancer = (ipaddress.ip_address(one).packed for one in EXTERNAL[v4])
    return msgspec.structs.replace(made, external_ips=(external_ip,), load_balancer_ips=(load_balancer,))


def asked(topology: Topology, frontend: Frontend, source_port: int, source: str = "node1-pod2") -> str:
    """Who answers to that one source port; `nobody` if it is refused."""

    def once() -> str:
        try:
            return ask(frontend.address, frontend.port, "udp", source_port=source_port).server
        except ConnectionRefusedError:
            return "nobody"

    return topology.call(source, once)


@pytest.mark.parametrize("frontend", FRONTENDS.values(), ids=FRONTENDS)
def test_a_flow_goes_with_the_service(shared_fleet: Topology, made: NftablesDataplane, frontend: Frontend) -> None:
    source_port = next(ports_used)
    answers = []
    for pods in (["node1-pod1"], ["node2-pod1"], [], ["node2-pod2"]):
        port = dns(frontend, *pods)
        made.sync(state(port), frozenset([port.name]))
        answers.append(asked(shared_fleet, frontend, source_port))
    assert answers == ["node1-pod1", "node2-pod1", "nobody", "node2-pod2"]


@pytest.mark.parametrize("name", ["external IP", "load balancer, IPv6", "node port"])
@pytest.mark.parametrize("affinity", [None, 3600], ids=["not sticky", "sticky"])
def test_a_flow_goes_with_the_endpoints_of_policy_local(
    shared_fleet: Topology, made: NftablesDataplane, name: str, affinity: int | None
) -> None:
    """The client is a pod, so it is short-circuited to all endpoints."""
    frontend, source_port = FRONTENDS[name], next(ports_used)
    answers = []
    for pods in (["node2-pod1"], ["node1-pod1"], [], ["node2-pod2"]):
        port = dns(frontend, *pods)
        here = tuple(one for one in port.cluster_endpoints if one.address in _addresses(frontend, "node1-pod1"))
        port = msgspec.structs.replace(port, external_local=True, local_endpoints=here, affinity_seconds=affinity)
        made.sync(state(port), frozenset([port.name]))
        answers.append(asked(shared_fleet, frontend, source_port))
    assert answers == ["node2-pod1", "node1-pod1", "nobody", "node2-pod2"]


def _addresses(frontend: Frontend, *pods: str) -> set[bytes]:
    return {ipaddress.ip_address(frontend.pods[pod]).packed for pod in pods}


@pytest.mark.parametrize("frontend", FRONTENDS.values(), ids=FRONTENDS)
def test_a_restart_finds_flows_that_became_stale_meanwhile(
    shared_fleet: Topology, made: NftablesDataplane, frontend: Frontend
) -> None:
    source_port = next(ports_used)
    made.sync(state(dns(frontend, "node1-pod1")))
    assert asked(shared_fleet, frontend, source_port) == "node1-pod1"
    with dataplane(shared_fleet, node_config(shared_fleet)) as restarted:
        restarted.sync(state(dns(frontend, "node2-pod1")))
    assert asked(shared_fleet, frontend, source_port) == "node2-pod1"


@pytest.mark.parametrize("frontend", FRONTENDS.values(), ids=FRONTENDS)
def test_a_flow_stays_with_its_endpoint_while_that_is_there(
    shared_fleet: Topology, made: NftablesDataplane, frontend: Frontend
) -> None:
    made.sync(state(dns(frontend, "node1-pod1", "node2-pod1")))
    flows_of = {port: asked(shared_fleet, frontend, port) for port in (next(ports_used) for _ in range(12))}
    staying = [port for port, pod in flows_of.items() if pod == "node1-pod1"]
    name = dns(frontend).name
    for pods in (["node1-pod1", "node2-pod2"], ["node1-pod1"], ["node1-pod1", "node2-pod1", "node2-pod2"]):
        made.sync(state(dns(frontend, *pods)), frozenset([name]))
        assert {asked(shared_fleet, frontend, port) for port in staying} <= {"node1-pod1"}


@pytest.mark.parametrize("frontend", FRONTENDS.values(), ids=FRONTENDS)
def test_a_flow_stays_with_an_endpoint_that_is_about_to_end(
    shared_fleet: Topology, made: NftablesDataplane, frontend: Frontend
) -> None:
    """As TCP connections do: only when the endpoint does not serve any more, its flows go elsewhere."""
    source_port = next(ports_used)
    old, new = dns(frontend, "node1-pod1"), dns(frontend, "node2-pod1")
    about_to_end = msgspec.structs.replace(new, lingering_endpoints=old.cluster_endpoints)
    made.sync(state(old))
    assert asked(shared_fleet, frontend, source_port) == "node1-pod1"
    made.sync(state(about_to_end), frozenset([old.name]))
    assert asked(shared_fleet, frontend, source_port) == "node1-pod1"
    assert asked(shared_fleet, frontend, next(ports_used)) == "node2-pod1"
    with dataplane(shared_fleet, node_config(shared_fleet)) as restarted:
        restarted.sync(state(about_to_end))
        assert asked(shared_fleet, frontend, source_port) == "node1-pod1"
        restarted.sync(state(new), frozenset([old.name]))
        assert asked(shared_fleet, frontend, source_port) == "node2-pod1"


def test_a_restart_finds_flows_of_an_endpoint_that_had_been_about_to_end(
    shared_fleet: Topology, made: NftablesDataplane
) -> None:
    frontend, source_port = FRONTENDS["ClusterIP"], next(ports_used)
    old, new = dns(frontend, "node1-pod1"), dns(frontend, "node2-pod1")
    made.sync(state(old))
    assert asked(shared_fleet, frontend, source_port) == "node1-pod1"
    made.sync(state(msgspec.structs.replace(new, lingering_endpoints=old.cluster_endpoints)), frozenset([old.name]))
    with dataplane(shared_fleet, node_config(shared_fleet)) as restarted:
        assert restarted.sync(state(new)).written == 0
        assert asked(shared_fleet, frontend, source_port) == "node2-pod1"


def test_a_flow_that_was_there_before_the_service_is_taken_in(shared_fleet: Topology, made: NftablesDataplane) -> None:
    """It was let through to nowhere, and conntrack remembers that it was not translated."""
    frontend, source_port = FRONTENDS["ClusterIP"], next(ports_used)
    made.sync(ServiceState())
    with pytest.raises(OSError, match=r"unreachable|timed out|No route"):
        shared_fleet.call("client1", ask, frontend.address, frontend.port, "udp", timeout=1.0, source_port=source_port)
    port = dns(frontend, "node1-pod1")
    made.sync(state(port), frozenset([port.name]))
    assert asked(shared_fleet, frontend, source_port, "client1") == "node1-pod1"


@pytest.mark.parametrize("name", ["node port", "node port, IPv6"])
def test_a_flow_that_was_there_before_the_node_port_is_taken_in(
    shared_fleet: Topology, made: NftablesDataplane, name: str
) -> None:
    """The node itself refused it, and conntrack remembers that it was not translated."""
    frontend, source_port = FRONTENDS[name], next(ports_used)
    made.sync(ServiceState())
    assert asked(shared_fleet, frontend, source_port, "client1") == "nobody"
    port = dns(frontend, "node1-pod1")
    made.sync(state(port), frozenset([port.name]))
    assert asked(shared_fleet, frontend, source_port, "client1") == "node1-pod1"


def test_many_ports_at_once(shared_fleet: Topology, made: NftablesDataplane) -> None:
    """More ports than are asked for singly: one dump of all UDP flows."""
    frontends = [Frontend("10.96.1.1", 53 + n, "10.96.1.1", PODS4) for n in range(stale.ASKED_SINGLY + 4)]

    def services(pod: str) -> ServiceState:
        endpoints = [(PODS4[pod], 5353)]
        return state(
            *(service(f"dns{one.port}", one.service, one.port, endpoints, protocol=Protocol.UDP) for one in frontends)
        )

    source_port = next(ports_used)
    made.sync(services("node1-pod1"))
    assert {asked(shared_fleet, frontend, source_port) for frontend in frontends} == {"node1-pod1"}
    made.sync(services("node2-pod1"))
    assert {asked(shared_fleet, frontend, source_port) for frontend in frontends} == {"node2-pod1"}


@pytest.mark.parametrize("layout", LAYOUTS, ids=["IPv4", "IPv6"])
def test_the_kernel_picks_the_flows_itself(shared_fleet: Topology, made: NftablesDataplane, layout: Layout) -> None:
    """The criteria are understood: only flows to one port come, or all UDP flows and no others."""
    frontend = FRONTENDS["ClusterIP" if layout.length == 4 else "ClusterIP, IPv6"]
    web = service("web", frontend.service, 80, [(frontend.pods["node1-pod1"], 8080)])
    other = service("other", frontend.service, 54, [(frontend.pods["node1-pod1"], 5353)], protocol=Protocol.UDP)
    made.sync(state(dns(frontend, "node1-pod1"), web, other))
    asked(shared_fleet, frontend, next(ports_used))
    asked(shared_fleet, frontend._replace(port=54), next(ports_used))
    shared_fleet.call("node1-pod2", ask, frontend.address, 80)

    def selected(port: int | None) -> set[tuple[int, int]]:
        with contextlib.closing(ConntrackTable()) as table:
            found = table.select(layout, stale.criteria(port))
            return {(flow.protocol[0], int.from_bytes(flow.destination_port[:2], "big")) for flow in found}

    assert shared_fleet.call("node1", selected, 54) == {(Protocol.UDP, 54)}
    assert shared_fleet.call("node1", selected, None) >= {(Protocol.UDP, 53), (Protocol.UDP, 54)}
    assert {protocol for protocol, _ in shared_fleet.call("node1", selected, None)} == {Protocol.UDP}
