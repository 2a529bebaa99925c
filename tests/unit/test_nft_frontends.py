"""Who answers on which address: the first by name, whatever the order of events; nonsense is refused with a reason."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxymode_agent.dataplane.nftables.elements import nodeport_key, pack_endpoints, service_key
from proxymode_agent.dataplane.nftables.frontends import Frontends
from proxymode_agent.services.model import Endpoint, Family, Frontend, Protocol, ServicePort, ServicePortName

VIP = bytes([10, 96, 0, 1])
PODS = tuple(Endpoint(bytes([10, 244, 0, pod]), 8080) for pod in range(3))


def port(name: str, *, vip: bytes = VIP, number: int = 80, pods: int = 1, node_port: int | None = None) -> ServicePort:
    identity = ServicePortName("default", name, "", Protocol.TCP, Family.IPV4)
    return ServicePort(identity, Frontend(vip, Protocol.TCP, number), PODS[:pods], node_port)


def ports(*made: ServicePort) -> dict[ServicePortName, ServicePort]:
    return {one.name: one for one in made}


WEB = port("web", node_port=30080)


def test_keys_and_values_are_padded_fields() -> None:
    assert service_key(WEB.cluster_ip) == bytes([10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0])
    assert nodeport_key(Protocol.UDP, 30080) == bytes([17, 0, 0, 0, 117, 128, 0, 0])
    assert pack_endpoints(PODS[1:2]) == (bytes([10, 244, 0, 1, 31, 144, 0, 0]),)


def test_a_service_port_wants_its_frontends_and_gives_them_back() -> None:
    frontends = Frontends(Family.IPV4)
    endpoints = pack_endpoints(WEB.endpoints)
    service, nodeport = service_key(WEB.cluster_ip), nodeport_key(Protocol.TCP, 30080)
    assert frontends.update(ports(WEB), [WEB.name]) == ({service: endpoints}, {nodeport: endpoints})
    assert (frontends.services, frontends.endpoints) == (1, 1)

    moved = dataclasses.replace(WEB, node_port=30081)
    assert frontends.update(ports(moved), [WEB.name]) == (
        {service: endpoints},
        {nodeport: None, nodeport_key(Protocol.TCP, 30081): endpoints},
    )
    assert frontends.update({}, [WEB.name]).services == {service: None}
    assert (frontends.services, frontends.endpoints) == (0, 0)


def test_the_other_family_is_none_of_its_business() -> None:
    frontends = Frontends(Family.IPV6)
    assert frontends.update(ports(WEB), [WEB.name]) == ({}, {})
    assert frontends.services == 0


NONSENSE = [
    (dataclasses.replace(WEB, cluster_ip=Frontend(bytes(16), Protocol.TCP, 80)), "cluster IP has 16 bytes, IPV4"),
    (dataclasses.replace(WEB, cluster_ip=Frontend(VIP, Protocol.UDP, 80)), "frontend is UDP, the Service port TCP"),
    (port("web", number=0), "port is 0; ports are 1 to 65535"),
    (port("web", node_port=65536), "node port is 65536; ports are 1 to 65535"),
    (dataclasses.replace(WEB, cluster_endpoints=(Endpoint(bytes(16), 80),)), "an endpoint's address has 16 bytes"),
    (dataclasses.replace(WEB, cluster_endpoints=(*PODS, Endpoint(VIP, 70000))), "an endpoint's port is 70000"),
]


@pytest.mark.parametrize(("broken", "reason"), NONSENSE, ids=[reason for _, reason in NONSENSE])
def test_what_makes_no_sense_is_refused_until_it_does(broken: ServicePort, reason: str) -> None:
    frontends = Frontends(Family.IPV4)
    frontends.update(ports(WEB), [WEB.name])
    withdrawn = frontends.update(ports(broken), [WEB.name])
    assert set(withdrawn.services.values()) == {None}
    [(name, why)] = frontends.refused()
    assert name == WEB.name
    assert why.startswith(reason)
    frontends.update(ports(WEB), [WEB.name])
    assert frontends.refused() == []


SERVICES = st.builds(
    port,
    st.sampled_from("abcd"),
    vip=st.sampled_from([VIP, bytes([10, 96, 0, 2])]),
    number=st.sampled_from([0, 53, 80]),
    pods=st.integers(0, 3),
    node_port=st.sampled_from([None, 30080, 30081]),
)
STATES = st.lists(SERVICES, unique_by=lambda made: made.name).map(lambda made: ports(*made))


@given(st.lists(STATES, min_size=1, max_size=6))
@settings(deadline=None)
def test_the_outcome_does_not_depend_on_history(states: list[dict[ServicePortName, ServicePort]]) -> None:
    """Events one by one, against a fresh start on what they ended with."""
    frontends = Frontends(Family.IPV4)
    services: dict[bytes, tuple[bytes, ...]] = {}
    nodeports: dict[bytes, tuple[bytes, ...]] = {}
    before: dict[ServicePortName, ServicePort] = {}
    for now in states:
        changed = [name for name in {*before, *now} if before.get(name) != now.get(name)]
        wants = frontends.update(now, changed)
        for held, wanted in ((services, wants.services), (nodeports, wants.nodeports)):
            held |= {key: row for key, row in wanted.items() if row is not None}
            for key in [key for key, row in wanted.items() if row is None]:
                held.pop(key, None)
        before = now
    fresh = Frontends(Family.IPV4)
    assert fresh.update(before, before) == (services, nodeports)
    assert sorted(frontends.refused()) == sorted(fresh.refused())
    assert (frontends.services, frontends.endpoints) == (fresh.services, fresh.endpoints)
