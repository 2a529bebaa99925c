"""Whatever the history of changes, the kernel ends where a fresh start on the final Services would have put it."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from nftables_bed import dataplane, held, node_config, packed_endpoints, regardless_of_order, service
from proxymode_agent.services.model import Protocol, ServiceState
from proxymode_testbeds.topology import build, make_fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_agent.services.model import ServicePort, ServicePortName
    from proxymode_testbeds.topology import Topology

ADDRESSES = {"ip": ["10.96.0.1", "10.96.0.2"], "ip6": ["fd96::1", "fd96::2"]}
EXTERNAL = {
    "ip": [bytes([203, 0, 113, number]) for number in (1, 2)],
    "ip6": [ipaddress.ip_address(f"fdee::{number}").packed for number in (1, 2)],
}
RANGES = {
    "ip": [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "10.1.0.0/16", "192.168.50.0/24", "0.0.0.0/0")],
    "ip6": [ipaddress.ip_network(text) for text in ("fd00::/8", "fd01::/32", "fd50::/64", "::/0")],
}
PODS = {"ip": "10.244.1.{}", "ip6": "fd44::{}"}


class Step(NamedTuple):
    """The Services from now on, and what the agent does about it."""

    state: ServiceState
    restart: bool
    damage: str | None


@st.composite
def service_ports(draw: st.DrawFn) -> ServicePort:
    family = draw(st.sampled_from(["ip", "ip6"]))
    pods = draw(st.sets(st.integers(1, 9), max_size=6))
    here = draw(st.sets(st.sampled_from(sorted(pods)))) if pods else set()
    made = service(
        draw(st.sampled_from("abcde")),
        draw(st.sampled_from(ADDRESSES[family])),
        draw(st.sampled_from([53, 80])),
        [(PODS[family].format(pod), draw(st.sampled_from([8080, 8081]))) for pod in pods],
        protocol=draw(st.sampled_from(Protocol)),
        node_port=draw(st.sampled_from([None, 30053, 30080])),
    )
    external, ranges = EXTERNAL[family], RANGES[family]
    return msgspec.structs.replace(
        made,
        local_endpoints=packed_endpoints([(PODS[family].format(pod), 8080) for pod in here]),
        elsewhere=draw(st.booleans()),
        internal_local=draw(st.booleans()),
        external_local=draw(st.booleans()),
        external_ips=tuple(draw(st.sets(st.sampled_from(external)))),
        load_balancer_ips=tuple(draw(st.sets(st.sampled_from(external)))),
        source_ranges=tuple(draw(st.sets(st.sampled_from(ranges)))),
        affinity_seconds=draw(st.sampled_from([None, 60, 10800])),
    )


STATES = st.lists(service_ports(), unique_by=lambda port: port.name, max_size=8).map(
    lambda ports: ServiceState({port.name: port for port in ports})
)
DAMAGE = st.sampled_from(
    [None] * 7
    + [
        "flush map ip proxymode endpoints",
        "flush map ip6 proxymode services",
        "flush map ip proxymode endpoints-by-id",
        "flush map ip6 proxymode sticky-ids",
        "flush map ip proxymode nodeports-from-inside",
        "flush set ip proxymode allowed-sources",
        "flush set ip6 proxymode restricted",
        "delete table ip proxymode",
        "flush chain ip proxymode nat-postrouting",
    ]
)
STEPS = st.lists(st.builds(Step, STATES, st.booleans(), DAMAGE), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Topology]:
    with build(make_fleet(nodes=2, pods=0, clients=0)) as topology:
        yield topology


def changes(old: ServiceState, new: ServiceState) -> frozenset[ServicePortName]:
    return frozenset(name for name in {*old.ports, *new.ports} if old.ports.get(name) != new.ports.get(name))


@given(steps=STEPS)
@settings(max_examples=40, deadline=None)
def test_any_history_ends_as_a_fresh_start(fleet: Topology, steps: list[Step]) -> None:
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(dataplane(fleet, node_config(fleet), "node1"))
        made.remove()
        before: ServiceState | None = None
        for step in steps:
            if step.damage is not None and made.present():
                fleet.run("node1", ["nft", "-f", "-"], input=step.damage + "\n", check=False)
                before = None
            if step.restart:
                made = stack.enter_context(dataplane(fleet, node_config(fleet), "node1"))
                before = None
            made.sync(step.state, None if before is None else changes(before, step.state))
            before = step.state

        fresh = stack.enter_context(dataplane(fleet, node_config(fleet), "node2"))
        fresh.remove()
        result = fresh.sync(steps[-1].state)
        assert regardless_of_order(held(fleet, "node1")) == regardless_of_order(held(fleet, "node2"))

        again = stack.enter_context(dataplane(fleet, node_config(fleet), "node1"))
        assert again.sync(steps[-1].state) == structs.replace(result, written=0)
