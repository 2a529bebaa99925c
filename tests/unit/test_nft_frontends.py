"""Who answers on which address: the first by name, whatever the order of events; nonsense is refused with a reason."""

from __future__ import annotations

import ipaddress
import pickle
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxymode_agent.dataplane.nftables.draws import Draw, Kind
from proxymode_agent.dataplane.nftables.elements import nodeport_key, service_key
from proxymode_agent.dataplane.nftables.frontends import Frontends
from proxymode_agent.dataplane.nftables.wants import (
    MAX_STICKY_ENDPOINTS,
    Refusal,
    Role,
    Wanted,
    frontends_of,
)
from proxymode_agent.dataplane.nftables.wants import wanted as wanted_of
from proxymode_agent.services.model import Endpoint, Family, Frontend, Protocol, ServicePort, ServicePortName

VIP = bytes([10, 96, 0, 1])
LB, EXTERNAL = bytes([203, 0, 113, 1]), bytes([203, 0, 113, 2])
PODS = tuple(Endpoint(bytes([10, 244, 0, pod]), 8080) for pod in range(3))


def port(name: str, *, vip: bytes = VIP, number: int = 80, pods: int = 1, node_port: int | None = None) -> ServicePort:
    identity = ServicePortName("default", name, "", Protocol.TCP, Family.IPV4)
    return ServicePort(identity, Frontend(vip, Protocol.TCP, number), PODS[:pods], node_port)


def ports(*made: ServicePort) -> dict[ServicePortName, ServicePort]:
    return {one.name: one for one in made}


WEB = port("web", node_port=30080)


def internal(*pods: Endpoint, refusal: Refusal | None = None) -> Wanted:
    return Wanted(Kind.INTERNAL, pods, (), None, refusal, (), WEB.name)


def external(*pods: Endpoint, refusal: Refusal | None = None) -> Wanted:
    return Wanted(Kind.EXTERNAL, pods, (), None, refusal, (), WEB.name)


def test_keys_and_values_are_padded_fields() -> None:
    assert service_key(WEB.cluster_ip) == bytes([10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0])
    assert nodeport_key(Protocol.UDP, 30080) == bytes([17, 0, 0, 0, 117, 128, 0, 0])
    assert PODS[1] == bytes([10, 244, 0, 1, 31, 144, 0, 0])


@pytest.mark.parametrize("number", [-1, 65536])
def test_an_endpoint_has_a_port(number: int) -> None:
    with pytest.raises(ValueError, match=f"port is {number}; ports are 0 to 65535"):
        Endpoint(VIP, number)
    with pytest.raises(ValueError, match=f"port is {number}; ports are 0 to 65535"):
        Endpoint.all_at([], number)


@pytest.mark.parametrize("address", [VIP, bytes(15) + b"\1"])
def test_an_endpoint_tells_its_parts(address: bytes) -> None:
    for port in (0, 1, 65535):
        one = Endpoint(address, port)
        assert (one.address, one.port) == (address, port)
    assert [one] == Endpoint.all_at([address], 65535) == [pickle.loads(pickle.dumps(one))]


def test_affinity_is_for_as_many_endpoints_as_there_are_numbers_for() -> None:
    pods = tuple(Endpoint(n.to_bytes(4, "big"), 80) for n in range(MAX_STICKY_ENDPOINTS + 1))
    for count, sticky in ((MAX_STICKY_ENDPOINTS, 60), (MAX_STICKY_ENDPOINTS + 1, None)):
        many = msgspec.structs.replace(WEB, cluster_endpoints=pods[:count], affinity_seconds=60)
        assert wanted(many, Role.CLUSTER_IP).sticky == wanted(many, Role.NODE_PORT).sticky == sticky


def test_which_pool_a_frontend_draws_from_and_whose_it_is() -> None:
    web = msgspec.structs.replace(WEB, cluster_endpoints=PODS, local_endpoints=PODS[:1], affinity_seconds=60)
    for internal_local, draw in ((False, Draw(Kind.INTERNAL, 3, 60)), (True, Draw(Kind.HERE, 1, 60))):
        made = msgspec.structs.replace(web, internal_local=internal_local)
        assert wanted(made, Role.CLUSTER_IP).draw == draw
        assert wanted(made, Role.NODE_PORT).draw == Draw(Kind.EXTERNAL, 3, 60)
        assert wanted(made, Role.CLUSTER_IP).group == wanted(made, Role.NODE_PORT).group == web.name


def test_a_service_port_wants_its_frontends_and_gives_them_back() -> None:
    frontends = Frontends(Family.IPV4, ())
    service, nodeport = service_key(WEB.cluster_ip), nodeport_key(Protocol.TCP, 30080)
    assert frontends.update(ports(WEB), [WEB.name]) == (
        {service: internal(PODS[0]), nodeport: external(PODS[0])},
        ([VIP], []),
        ([], []),
    )
    assert (frontends.services, frontends.endpoints) == (1, 1)
    assert frontends.owner(nodeport) == WEB.name

    moved = msgspec.structs.replace(WEB, node_port=30081, hairpin=(PODS[0].address,))
    assert frontends.update(ports(moved), [WEB.name]) == (
        {service: internal(PODS[0]), nodeport: None, nodeport_key(Protocol.TCP, 30081): external(PODS[0])},
        ([VIP], [VIP]),
        ([PODS[0].address * 2], []),
    )
    gone = frontends.update({}, [WEB.name])
    assert set(gone.frontends.values()) == {None}
    assert (gone.cluster_ips, gone.hairpin) == (([], [VIP]), ([], [PODS[0].address * 2]))
    assert (frontends.services, frontends.endpoints) == (0, 0)


FULL = msgspec.structs.replace(
    WEB,
    cluster_endpoints=PODS[:2],
    local_endpoints=PODS[1:2],
    external_ips=(EXTERNAL, LB),
    load_balancer_ips=(LB,),
    affinity_seconds=60,
)
BOTH, HERE = PODS[:2], PODS[1:2]


def wanted(made: ServicePort, role: Role, *node_ips: str) -> Wanted:
    [key] = [key for key, found in frontends_of(made).items() if found is role]
    return wanted_of(made, key, role, [ipaddress.ip_address(one) for one in node_ips])


def test_an_address_that_is_both_is_the_load_balancers() -> None:
    assert list(frontends_of(FULL).values()) == [
        Role.CLUSTER_IP,
        Role.LOAD_BALANCER,
        Role.EXTERNAL_IP,
        Role.NODE_PORT,
    ]


@pytest.mark.parametrize("role", [Role.EXTERNAL_IP, Role.LOAD_BALANCER, Role.NODE_PORT])
def test_policies_of_external_frontends(role: Role) -> None:
    cluster = wanted(FULL, role)
    assert (cluster.draw, cluster.inside) == (Draw(Kind.EXTERNAL, 2, 60), None)
    local = wanted(msgspec.structs.replace(FULL, external_local=True), role)
    assert (local.draw, local.inside) == (Draw(Kind.LOCAL, 1, 60), Draw(Kind.INSIDE, 2, 60))
    assert (local.cluster, local.local) == (BOTH, HERE)


def test_local_without_endpoints_here_drops_after_the_short_circuit() -> None:
    elsewhere = msgspec.structs.replace(FULL, local_endpoints=(), external_local=True, internal_local=True)
    external_ip, cluster_ip = wanted(elsewhere, Role.EXTERNAL_IP), wanted(elsewhere, Role.CLUSTER_IP)
    assert (external_ip.draw, external_ip.inside) == (Draw(Kind.LOCAL, 0), Draw(Kind.INSIDE, 2, 60))
    assert external_ip.refusal is cluster_ip.refusal is Refusal.DROP
    assert cluster_ip.draw is None


def test_without_any_endpoints_it_rejects() -> None:
    empty = msgspec.structs.replace(FULL, cluster_endpoints=(), local_endpoints=())
    assert [wanted(empty, role).refusal for role in Role] == [None, *[Refusal.REJECT] * 3]
    assert {wanted(empty, role).draw for role in Role} == {None}
    somewhere = msgspec.structs.replace(empty, elsewhere=True, external_local=True)
    there = wanted(somewhere, Role.NODE_PORT)
    assert (there.kind, there.cluster) == (Kind.LOCAL, ())
    assert wanted(somewhere, Role.NODE_PORT).draw is None
    assert [wanted(somewhere, role).refusal for role in Role] == [Refusal.DROP] * 4


def test_source_ranges_hold_for_load_balancers_and_include_them_where_the_node_is() -> None:
    ranges = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "10.1.0.0/16", "192.168.0.0/24", "fd00::/8")))
    made = msgspec.structs.replace(FULL, source_ranges=ranges)
    assert wanted(made, Role.EXTERNAL_IP).sources == wanted(made, Role.NODE_PORT).sources == ()
    key = service_key(Frontend(LB, Protocol.TCP, 80))
    expected = [("10.0.0.0", "10.255.255.255"), ("192.168.0.0", "192.168.0.255")]
    for node, more in (("172.16.0.1", []), ("192.168.0.9", [("203.0.113.1", "203.0.113.1")])):
        assert wanted(made, Role.LOAD_BALANCER, node).sources == tuple(
            key + ipaddress.ip_address(first).packed + key + ipaddress.ip_address(last).packed
            for first, last in expected + more
        )


def test_the_other_family_is_none_of_its_business() -> None:
    frontends = Frontends(Family.IPV6, ())
    assert frontends.update(ports(WEB), [WEB.name]) == ({}, ([], []), ([], []))
    assert frontends.services == 0


def test_what_the_kernel_refused_gets_nothing_until_it_changes() -> None:
    frontends = Frontends(Family.IPV4, (), {WEB.name: "the kernel refused it"})
    assert frontends.update(ports(WEB), [WEB.name]).frontends == {}
    assert frontends.refused() == [(WEB.name, "the kernel refused it")]
    frontends.forgive([WEB.name])
    assert len(frontends.update(ports(WEB), [WEB.name]).frontends) == 2
    assert frontends.refused() == []


NONSENSE = [
    (msgspec.structs.replace(WEB, cluster_ip=Frontend(bytes(16), Protocol.TCP, 80)), "cluster IP has 16 bytes, IPV4"),
    (msgspec.structs.replace(WEB, cluster_ip=Frontend(VIP, Protocol.UDP, 80)), "frontend is UDP, the Service port TCP"),
    (port("web", number=0), "port is 0; ports are 1 to 65535"),
    (port("web", node_port=65536), "node port is 65536; ports are 1 to 65535"),
    (msgspec.structs.replace(WEB, cluster_endpoints=(Endpoint(bytes(16), 80),)), "an endpoint's address has 16 bytes"),
    (
        msgspec.structs.replace(WEB, local_endpoints=(*PODS, Endpoint(bytes(3), 80))),
        "an endpoint's address has 3 bytes",
    ),
    (msgspec.structs.replace(WEB, cluster_endpoints=PODS[:1] * 65537), "it has 65537 endpoints; at most 65536"),
    (msgspec.structs.replace(WEB, external_ips=(bytes(16),)), "an external IP is not of 4 bytes"),
    (msgspec.structs.replace(WEB, load_balancer_ips=(bytes(16),)), "a load-balancer address is not of 4 bytes"),
    (msgspec.structs.replace(WEB, hairpin=(bytes(16),)), "a hairpin address is not of 4 bytes"),
    (msgspec.structs.replace(WEB, affinity_seconds=0), "affinity timeout is 0 seconds"),
]


@pytest.mark.parametrize(("broken", "reason"), NONSENSE, ids=[reason for _, reason in NONSENSE])
def test_what_makes_no_sense_is_refused_until_it_does(broken: ServicePort, reason: str) -> None:
    frontends = Frontends(Family.IPV4, ())
    frontends.update(ports(WEB), [WEB.name])
    withdrawn = frontends.update(ports(broken), [WEB.name])
    assert set(withdrawn.frontends.values()) == {None}
    [(name, why)] = frontends.refused()
    assert name == WEB.name
    assert why.startswith(reason)
    frontends.update(ports(WEB), [WEB.name])
    assert frontends.refused() == []


SERVICES = st.builds(
    lambda made, ips: msgspec.structs.replace(made, external_ips=ips),
    st.builds(
        port,
        st.sampled_from("abcd"),
        vip=st.sampled_from([VIP, bytes([10, 96, 0, 2])]),
        number=st.sampled_from([0, 53, 80]),
        pods=st.integers(0, 3),
        node_port=st.sampled_from([None, 30080, 30081]),
    ),
    st.sampled_from([(), (VIP,), (LB, EXTERNAL)]),
)
STATES = st.lists(SERVICES, unique_by=lambda made: made.name).map(lambda made: ports(*made))


@given(st.lists(STATES, min_size=1, max_size=6))
@settings(deadline=None)
def test_the_outcome_does_not_depend_on_history(states: list[dict[ServicePortName, ServicePort]]) -> None:
    """Events one by one, against a fresh start on what they ended with."""
    frontends = Frontends(Family.IPV4, ())
    held: dict[bytes, Wanted | None] = {}
    cluster_ips: Counter[bytes] = Counter()
    before: dict[ServicePortName, ServicePort] = {}
    for now in states:
        changed = [name for name in {*before, *now} if before.get(name) != now.get(name)]
        wants = frontends.update(now, changed)
        held = {key: row for key, row in {**held, **wants.frontends}.items() if row is not None}
        cluster_ips.update(wants.cluster_ips[0])
        cluster_ips.subtract(wants.cluster_ips[1])
        before = now
    fresh = Frontends(Family.IPV4, ())
    all_at_once = fresh.update(before, before)
    assert all_at_once.frontends == held
    assert Counter(all_at_once.cluster_ips[0]) == +cluster_ips
    assert sorted(frontends.refused()) == sorted(fresh.refused())
    assert (frontends.services, frontends.endpoints) == (fresh.services, fresh.endpoints)
