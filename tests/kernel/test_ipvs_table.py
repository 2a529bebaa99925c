"""The nf_tables table of the ipvs mode, on a kernel that need not have IPVS: written, read back, listed, replaced."""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from proxymode_agent.dataplane.ipvs.diff import diff
from proxymode_agent.dataplane.ipvs.layout import FAMILIES
from proxymode_agent.dataplane.ipvs.model import IpvsState, Set
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

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    assert table.intact() == set(FAMILIES)
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
