"""The nf_tables table of the ipvs mode, on a kernel that need not have IPVS: written, read back, listed, replaced."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from proxymode_agent.dataplane.ipvs.diff import diff
from proxymode_agent.dataplane.ipvs.layout import FAMILIES, Layout
from proxymode_agent.dataplane.ipvs.model import Element, IpvsState, Set
from proxymode_agent.dataplane.ipvs.table import SideTable
from proxymode_agent.dataplane.ipvs.wanted import NodeAddresses, Wanted
from proxymode_agent.services.model import (
    DataplaneConfig,
    Endpoint,
    Family,
    Frontend,
    PodInterface,
    PodNetworks,
    Protocol,
    ServicePort,
    ServicePortName,
)
from proxymode_testbeds.traffic.ask import knock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_testbeds.fixtures import Traffic
    from proxymode_testbeds.topology import Topology

NETWORKS = tuple(map(ipaddress.ip_network, ("10.244.0.0/16", "fd44::/30")))
CIDRS = tuple(map(ipaddress.ip_network, ("10.96.0.0/15", "fd96::/112")))
CONFIGS = {
    "networks": DataplaneConfig(pods=PodNetworks(NETWORKS), service_cidrs=CIDRS),
    "interface": DataplaneConfig(pods=PodInterface("cni0"), masquerade_bit=31),
    "prefix": DataplaneConfig(pods=PodInterface("veth", prefix=True)),
    "all": DataplaneConfig(masquerade_all=True),
    "nobody": DataplaneConfig(),
}


PODS = {Family.IPV4: ("10.244.1.1", "10.244.2.1"), Family.IPV6: ("fd44::1", "fd44::2")}


def ports(family: Family) -> list[ServicePort]:
    """A port for each kind of element."""
    four = family is Family.IPV4
    pod, other = (ipaddress.ip_address(text).packed for text in PODS[family])
    vips = [ipaddress.ip_address(f"10.96.0.{n}" if four else f"fd96::{n}").packed for n in range(1, 9)]
    ranges = ("10.0.0.0/8", "192.168.7.0/24") if four else ("fd00::/8", "2001:db8::/33")
    full = ServicePort(
        ServicePortName("ns", "full", "", Protocol.TCP, family),
        Frontend(vips[0], Protocol.TCP, 80),
        (Endpoint(pod, 8080), Endpoint(other, 8080)),
        30080,
        local_endpoints=(Endpoint(pod, 8080),),
        external_ips=(vips[1],),
        load_balancer_ips=(vips[2],),
        source_ranges=tuple(map(ipaddress.ip_network, ranges)),
        hairpin=(pod,),
    )
    others = {
        "local": replace(full, external_local=True, node_port=30081, local_endpoints=()),
        "empty": replace(full, cluster_endpoints=(), local_endpoints=(), node_port=30082),
        "away": replace(full, cluster_endpoints=(), local_endpoints=(), elsewhere=True, node_port=30083),
    }
    made = [full]
    for number, (name, port) in enumerate(others.items(), 3):
        address = vips[number]
        made.append(
            replace(
                port,
                name=full.name._replace(service=name),
                cluster_ip=Frontend(address, Protocol.UDP, 53),
                external_ips=(),
                load_balancer_ips=(),
            )
        )
    return made


NODE = NodeAddresses(node_ports=frozenset(ipaddress.ip_address(text).packed for text in ("192.168.50.1", "fd50::1")))


def wanted(*, ranges: tuple[str, ...] = ()) -> IpvsState:
    made = Wanted("rr", NODE)
    every = [port for family in Family for port in ports(family)]
    if ranges:
        networks = tuple(map(ipaddress.ip_network, ranges))
        every = [replace(port, source_ranges=networks) if port.name.family == 4 else port for port in every]
    made.replace({port.name: port for port in every})
    return made.state()


@pytest.fixture(params=CONFIGS)
def table(request: pytest.FixtureRequest, one_node: Topology) -> Iterator[SideTable]:
    with contextlib.closing(one_node.call("node1", SideTable, CONFIGS[request.param])) as made:
        yield made


def test_what_is_written_is_read_back_and_can_be_listed(table: SideTable, one_node: Topology) -> None:
    state = wanted()
    assert {element.set for element in state.elements} == set(Set) - {Set.NODE_FRONTENDS}
    assert not table.present()
    for length in FAMILIES:
        table.create(length, {e: value for e, value in state.elements.items() if e.family == length})
    assert table.mend() == (0, frozenset(FAMILIES))
    assert table.elements() == state.elements
    listed = one_node.run("node1", ["nft", "list", "ruleset"]).stdout
    for line in ("10.96.0.1 . tcp . 80 : accept", "goto insiders", "goto no-endpoints", "192.168.7.0/24"):
        assert line in listed
    one_node.run("node1", ["nft", "-c", "-f", "-"], input=f"flush ruleset\n{listed}")
    table.remove()
    assert not table.present()


def test_changes_of_every_kind_are_made_in_place(one_node: Topology) -> None:
    with contextlib.closing(one_node.call("node1", SideTable, CONFIGS["networks"])) as table:
        states = [wanted(), wanted(ranges=("10.1.0.0/16", "10.0.0.0/16")), wanted(ranges=("10.0.0.0/7",)), IpvsState()]
        for length in FAMILIES:
            table.create(length, {})
        before = IpvsState()
        for after in (*states, *reversed(states)):
            changes = diff(before, after)
            table.put(changes.close, changes.there, changes.outdated)
            table.put(changes.open, changes.there)
            table.delete(changes.forget)
            table.delete(changes.delete)
            assert table.elements() == after.elements
            before = after


@pytest.mark.parametrize(
    "damage",
    [
        "flush chain ip proxymode-ipvs refuse",
        "delete chain ip proxymode-ipvs nat-postrouting",
        "insert rule ip proxymode-ipvs filter-input accept",
        "add chain ip proxymode-ipvs theirs; add rule ip proxymode-ipvs theirs drop;"
        "insert rule ip proxymode-ipvs refuse jump theirs",
        "add table ip proxymode-ipvs { flags dormant; }",
        "delete chain ip proxymode-ipvs filter-output;"
        "add chain ip proxymode-ipvs filter-output { type filter hook output priority 7; }",
    ],
)
def test_chains_and_rules_are_mended_over_the_elements(one_node: Topology, damage: str) -> None:
    with contextlib.closing(one_node.call("node1", SideTable, CONFIGS["networks"])) as table:
        state = wanted()
        for length in FAMILIES:
            table.create(length, {e: value for e, value in state.elements.items() if e.family == length})
        assert table.mend() == (0, frozenset(FAMILIES))
        before = one_node.run("node1", ["nft", "-s", "list", "set", "ip", "proxymode-ipvs", "addresses"]).stdout
        handle = one_node.run("node1", ["nft", "-a", "list", "sets", "ip"]).stdout
        one_node.run("node1", ["nft", damage])
        assert table.mend() == (1, frozenset(FAMILIES))
        assert table.mend() == (0, frozenset(FAMILIES))
        assert table.elements() == state.elements
        assert one_node.run("node1", ["nft", "-s", "list", "set", "ip", "proxymode-ipvs", "addresses"]).stdout == before
        assert one_node.run("node1", ["nft", "-a", "list", "sets", "ip"]).stdout == handle, "the same sets as before"


def test_what_cannot_be_mended_is_made_anew(one_node: Topology) -> None:
    """An element leads to somebody's chain, which cannot go as long as it does."""
    with contextlib.closing(one_node.call("node1", SideTable, CONFIGS["networks"])) as table:
        state = wanted()
        v4 = {e: value for e, value in state.elements.items() if e.family == 4}
        table.create(4, v4)
        one_node.run(
            "node1",
            [
                "nft",
                "add chain ip proxymode-ipvs theirs;"
                "add element ip proxymode-ipvs frontends { 10.96.9.9 . tcp . 99 : goto theirs }",
            ],
        )
        assert table.mend() == (0, frozenset())
        table.create(4, v4)
        assert table.mend() == (0, frozenset({4}))
        assert table.elements() == v4


def test_however_many_elements_there_are_no_transaction_is_large() -> None:
    layout = Layout(4, CONFIGS["networks"])
    elements = {Element(Set.INTERNAL, 4, number.to_bytes(4, "big") + bytes(8)): None for number in range(50_000)}
    first, *bulk, last = layout.create(elements)
    assert max(len(transaction.encode()) for transaction in bulk) <= 72 << 10
    assert sum(transaction.objects for transaction in bulk) >= len(elements)
    assert "nat-postrouting" in str(first), "some nat chain is there from the beginning"
    assert "filter-input" not in str(first)
    assert "filter-input" in str(last), "who refuses comes when all are known who are accepted"


def reached(topology: Topology, client: str, address: str, port: int) -> str:
    """What becomes of a TCP connection."""
    try:
        topology.call(client, knock, address, port, timeout=1.5)
    except TimeoutError:
        return "dropped"
    except ConnectionRefusedError:
        return "refused"
    return "accepted"


@pytest.mark.parametrize("pods", [PodNetworks(NETWORKS), PodInterface("veth", prefix=True)])
def test_what_becomes_of_new_connections_before_ipvs_would_see_them(
    one_node: Topology, traffic: Traffic, pods: PodNetworks | PodInterface
) -> None:
    """Addresses on the loopback and a process that listens on every address stand for kube-ipvs0 and IPVS."""
    here, there = Endpoint(bytes((10, 244, 1, 1)), 8080), Endpoint(bytes((10, 244, 2, 1)), 8080)
    (client,) = one_node.fleet.clients[0].addresses

    def port(last: int, **fields: Any) -> ServicePort:
        name = ServicePortName("ns", f"s{last}", "", Protocol.TCP, Family.IPV4)
        external = (bytes((10, 96, 100, last)),)
        cluster_ip = Frontend(bytes((10, 96, 0, last)), Protocol.TCP, 80)
        defaults: dict[str, Any] = {"cluster_endpoints": (here, there), "local_endpoints": (here,)}
        return ServicePort(name, cluster_ip, **(defaults | {"load_balancer_ips": external} | fields))

    none: dict[str, Any] = {"cluster_endpoints": (), "local_endpoints": ()}
    services = {
        1: port(1),
        2: port(2, **none),
        3: port(3, **none, elsewhere=True),
        4: port(4, external_local=True, local_endpoints=()),
        5: port(5, source_ranges=(ipaddress.ip_network(client),)),
    }
    wanted = Wanted("rr", NodeAddresses())
    wanted.replace({port.name: port for port in services.values()})
    traffic.serve(one_node, "node1", tcp=80, udp=None)
    traffic.serve(one_node, "node1", tcp=81, udp=None)
    for address in wanted.state().addresses:
        one_node.run("node1", ["ip", "address", "add", f"{ipaddress.ip_address(address)}/32", "dev", "lo"])
    unallocated = "10.96.0.99"
    one_node.run("client1", ["ip", "address", "add", f"{unallocated}/32", "dev", "lo"])
    one_node.run("node1", ["ip", "route", "replace", f"{unallocated}/32", "via", str(client)])
    everybody = ("client1", "node1-pod1", "node1")
    expected = {
        "10.96.0.1:80": ("accepted", "accepted", "accepted"),
        "10.96.0.1:81": ("refused", "refused", "refused"),
        "10.96.100.1:80": ("accepted", "accepted", "accepted"),
        "10.96.100.1:81": ("refused", "refused", "refused"),
        "10.96.0.2:80": ("refused", "refused", "refused"),
        "10.96.100.2:80": ("refused", "refused", "refused"),
        "10.96.0.3:80": ("dropped", "dropped", "dropped"),
        "10.96.0.4:80": ("accepted", "accepted", "accepted"),
        "10.96.100.4:80": ("dropped", "accepted", "accepted"),
        "10.96.0.5:80": ("accepted", "accepted", "accepted"),
        "10.96.100.5:80": ("accepted", "dropped", "dropped"),
    }
    config = DataplaneConfig(pods=pods, service_cidrs=CIDRS)
    with contextlib.closing(one_node.call("node1", SideTable, config)) as table:
        assert reached(one_node, "node1", unallocated, 80) == "refused"
        for length in FAMILIES:
            table.create(length, {e: value for e, value in wanted.state().elements.items() if e.family == length})
        assert reached(one_node, "node1", unallocated, 80) == "dropped"
        for frontend, outcomes in expected.items():
            host, number = frontend.split(":")
            found = tuple(reached(one_node, name, host, int(number)) for name in everybody)
            assert found == outcomes, frontend
