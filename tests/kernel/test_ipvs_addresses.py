"""The addresses of the ipvs mode, on a kernel that need not have dummy devices: what kind it is matters to none."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from typing import TYPE_CHECKING

import pytest

from proxymode_agent.dataplane.ipvs.addresses import DEVICE, Addresses
from proxymode_agent.dataplane.ipvs.model import BindAddress, ReleaseAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxymode_testbeds.fixtures import FleetMaker
    from proxymode_testbeds.topology import Topology

NODE = "node1"
DEADLINE_SECONDS = 60.0


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


VIPS, VIPS6 = ([packed(f"{start}{number}") for number in range(10, 90)] for start in ("10.96.0.", "fd96::"))


@pytest.fixture
def topology(node_fleet: FleetMaker) -> Topology:
    made = node_fleet(nodes=1, pods=1, dual_stack=True)
    made.run(NODE, ["ip", "link", "add", DEVICE, "type", "bridge"])
    deadline = time.monotonic() + DEADLINE_SECONDS
    while made.run(NODE, ["ip", "-6", "address", "show", "tentative", "scope", "global"]).stdout:
        assert time.monotonic() < deadline, "no address may be a route's source before it is known to be the only one"
        time.sleep(0.02)
    return made


@pytest.fixture
def addresses(topology: Topology) -> Iterator[Addresses]:
    with contextlib.closing(topology.call(NODE, Addresses)) as made:
        yield made


@pytest.fixture
def call(topology: Topology) -> Callable[..., object]:
    """In the node's namespace, where devices have their numbers."""
    return lambda function, *args: topology.call(NODE, function, *args)


def sources(topology: Topology) -> dict[int, bytes]:
    return {len(address.packed): address.packed for address in topology.fleet.node(NODE).addresses}


def changes(topology: Topology) -> list[BindAddress]:
    source = sources(topology)
    return [BindAddress(address, source[len(address)]) for address in (*VIPS, *VIPS6)]


def source_of(topology: Topology, address: bytes) -> str:
    """The source of a connection of the node itself, as the kernel chooses it."""
    route = topology.run(NODE, ["ip", "route", "get", str(ipaddress.ip_address(address))]).stdout.split()
    return route[route.index("src") + 1]


def test_a_device_that_is_there_becomes_ours(addresses: Addresses, call: Callable[..., object]) -> None:
    assert call(addresses.device_is_ours) is False
    assert call(addresses.claim_device) is True
    assert call(addresses.device_is_ours) is True
    assert call(addresses.claim_device) is False


def test_bound_and_routed_and_gone_again(topology: Topology, addresses: Addresses, call: Callable[..., object]) -> None:
    before = topology.call(NODE, addresses.read)
    wanted = changes(topology)
    assert call(addresses.bind, wanted) == []
    found = topology.call(NODE, addresses.read)
    assert found.bound == {change.address: change.source for change in wanted}
    assert (found.local, found.elsewhere, found.stray) == (before.local, before.elsewhere, frozenset())
    assert packed(source_of(topology, VIPS[0])) == sources(topology)[4]
    assert packed(source_of(topology, VIPS6[0])) == sources(topology)[16]
    assert call(addresses.bind, wanted) == []
    assert topology.call(NODE, addresses.read) == found
    assert call(addresses.unbind, [ReleaseAddress(change.address) for change in wanted]) == []
    assert topology.call(NODE, addresses.read) == before


@pytest.mark.parametrize(
    "before",
    [
        "ip address add 10.96.0.10/32 dev kube-ipvs0; ip address add fd96::10/128 dev kube-ipvs0 nodad",
        "ip route add local 10.96.0.10 dev lo table local proto 201 src 127.0.0.1",
        "ip route add local 10.96.0.10 dev lo table local proto 201 src 127.0.0.1;"
        "ip route add local 10.96.0.10 dev lo table local proto 201 metric 5 src 127.0.0.1",
        "ip -6 route add local fd96::10 dev lo table local proto 201 src ::1;"
        "ip -6 route add local fd96::10 dev lo table local proto 201 metric 5 src ::1",
        "ip address add 10.96.0.10/32 dev kube-ipvs0;"
        "ip route prepend local 10.96.0.10 dev lo table local proto 201 src 127.0.0.1",
    ],
)
def test_whatever_is_there_before_the_source_is_the_nodes(
    topology: Topology, addresses: Addresses, call: Callable[..., object], before: str
) -> None:
    topology.run(NODE, ["sh", "-ec", before])
    until_routed(topology)
    wanted = changes(topology)
    assert call(addresses.bind, wanted) == []
    assert topology.call(NODE, addresses.read).bound == {change.address: change.source for change in wanted}
    assert packed(source_of(topology, VIPS[0])) == sources(topology)[4]
    assert packed(source_of(topology, VIPS6[0])) == sources(topology)[16]


def until_routed(topology: Topology) -> None:
    """Until the kernel has made its own routes to the IPv6 addresses of the device, which a work queue does."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        bound = topology.run(NODE, ["ip", "-6", "-brief", "address", "show", "dev", DEVICE, "scope", "global"]).stdout
        addresses = {word.partition("/")[0] for word in bound.split() if "/" in word}
        routes = topology.run(NODE, ["ip", "-6", "route", "show", "table", "local", "dev", DEVICE]).stdout
        if addresses <= set(routes.split()):
            return
        assert time.monotonic() < deadline, (bound, routes)
        time.sleep(0.02)


def test_routes_outlive_released_addresses_and_are_known_as_ours(
    topology: Topology, addresses: Addresses, call: Callable[..., object]
) -> None:
    call(addresses.bind, changes(topology))
    call(addresses.release, [*VIPS, *VIPS6])
    found = topology.call(NODE, addresses.read)
    assert (found.bound, found.stray) == ({}, frozenset((*VIPS, *VIPS6)))
    assert topology.call(NODE, addresses.stray_routes) == found.stray, "no socket speaks from them"
    call(addresses.delete_routes, found.stray)
    assert topology.call(NODE, addresses.read).stray == frozenset()


def test_what_the_kernel_refuses_is_told_and_leaves_nothing_behind(
    topology: Topology, addresses: Addresses, call: Callable[..., object]
) -> None:
    refused = [BindAddress(VIPS[0], packed("192.0.2.1")), BindAddress(VIPS6[0], packed("2001:db8::1"))]
    good = BindAddress(VIPS[1], sources(topology)[4])
    found = topology.call(NODE, addresses.bind, [refused[0], good, refused[1]])
    assert sorted(found) == sorted((change, "Invalid argument") for change in refused)
    assert topology.call(NODE, addresses.read).bound == {good.address: good.source}
    assert topology.call(NODE, addresses.read).stray == frozenset()


def test_without_a_source_the_kernel_chooses(
    topology: Topology, addresses: Addresses, call: Callable[..., object]
) -> None:
    call(addresses.bind, changes(topology))
    assert call(addresses.bind, [BindAddress(VIPS[0], None)]) == []
    found = topology.call(NODE, addresses.read)
    assert found.bound[VIPS[0]] is None
    assert found.bound[VIPS[1]] == sources(topology)[4]
    assert packed(source_of(topology, VIPS[0])) == VIPS[0]
