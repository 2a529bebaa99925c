"""The ipvs mode's decisions: what is wanted, and in which order the kernel is brought there."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.ipvs import sysctls, timeouts
from proxymode_agent.dataplane.ipvs.diff import Changes, diff, draining, rerouted
from proxymode_agent.dataplane.ipvs.drain import Drain
from proxymode_agent.dataplane.ipvs.model import (
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    DeleteRealServer,
    DeleteVirtualServer,
    Element,
    Hashing,
    IpvsState,
    RealServer,
    RealServerName,
    ReleaseAddress,
    Scheduling,
    ServerChange,
    Set,
    SetScheduling,
    SetWeight,
    Verdict,
    VirtualServer,
    frontend_key,
)
from proxymode_agent.dataplane.ipvs.refusals import by_port, instead
from proxymode_agent.dataplane.ipvs.wanted import NodeAddresses, Wanted
from proxymode_agent.services.model import (
    Endpoint,
    Family,
    Frontend,
    IpvsTimeouts,
    Network,
    Protocol,
    ServicePort,
    ServicePortName,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NODE_IPS = (bytes((192, 168, 50, 1)), bytes((10, 0, 2, 15)), bytes(15) + b"\x01")
NODE = NodeAddresses(node_ports=frozenset(NODE_IPS), sources={4: NODE_IPS[0]}, own=frozenset(NODE_IPS))
RR = Scheduling("rr")
LOCAL, REMOTE = (100, 101), (102, 103)
"""Last bytes of the addresses of pods on this node, and of others."""


def network(text: str) -> Network:
    return ipaddress.ip_network(text)


@st.composite
def service_ports(draw: st.DrawFn) -> ServicePort:
    """Ports over few addresses and few endpoints, so that they share them. Some external addresses are the node's."""
    family = draw(st.sampled_from(Family))
    protocol = draw(st.sampled_from((Protocol.TCP, Protocol.UDP)))
    number = draw(st.integers(1, 4))

    def address(last: int) -> bytes:
        return bytes(family - 1) + bytes((last,))

    def endpoints(*last: int) -> tuple[Endpoint, ...]:
        one = st.builds(Endpoint, st.sampled_from(list(map(address, last))), st.integers(1, 2))
        return tuple(sorted(draw(st.sets(one, max_size=3))))

    port = draw(st.integers(1, 2))
    local, remote = endpoints(*LOCAL), endpoints(*REMOTE)
    cluster = tuple(sorted({*remote, *(local if draw(st.booleans()) else ())}))
    external = st.lists(st.sampled_from([address(200 + number), address(220), address(1)]), unique=True, max_size=2)
    ranges = st.lists(st.sampled_from(RANGES[family]), unique=True, max_size=3)
    return ServicePort(
        ServicePortName("ns", f"s{number}", str(port), protocol, family),
        Frontend(address(10 + number), protocol, port),
        cluster,
        node_port=draw(st.none() | st.just(30000 + 10 * number + port)),
        local_endpoints=local,
        elsewhere=draw(st.booleans()),
        internal_local=draw(st.booleans()),
        external_local=draw(st.booleans()),
        external_ips=tuple(draw(external)),
        load_balancer_ips=tuple(draw(external)),
        source_ranges=tuple(map(network, draw(ranges))),
        affinity_seconds=draw(st.sampled_from((None, 60, 10800))),
        ipvs_scheduler=draw(st.sampled_from((None, "mh"))),
        hairpin=tuple(sorted({endpoint.address for endpoint in local})),
    )


RANGES = {
    Family.IPV4: ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "192.168.50.0/24", "0.0.0.0/0"),
    Family.IPV6: ("fd00::/8", "fd00:1::/32", "::/0"),
}


@dataclass
class Kernel:
    """The kernel as far as the ipvs mode uses it; it refuses what the real one refuses."""

    servers: dict[Frontend, tuple[Scheduling, dict[Endpoint, int]]] = field(default_factory=dict)
    addresses: dict[bytes, bytes | None] = field(default_factory=dict)
    elements: dict[Element, Verdict | None] = field(default_factory=dict)

    def state(self) -> IpvsState:
        return IpvsState(
            {
                frontend: VirtualServer(scheduling, {e: RealServer(weight, 0) for e, weight in real.items()})
                for frontend, (scheduling, real) in self.servers.items()
            },
            dict(self.addresses),
            dict(self.elements),
        )

    def apply(self, changes: Changes) -> None:
        self.delete(changes.outdated)
        self.put(changes, changes.close)
        self.check()
        self.each(changes.servers)
        self.put(changes, changes.open)
        self.check()
        self.each(changes.bind)
        self.delete(changes.forget)
        self.check()
        self.each((*changes.delete_servers, *changes.release))
        self.delete(changes.delete)
        self.each(changes.sweep)
        self.check()

    def put(self, changes: Changes, elements: Mapping[Element, Verdict | None]) -> None:
        for element, value in elements.items():
            assert (element in self.elements) is (element in changes.there)
            assert element not in self.elements or self.elements[element] is not value
            if element.set is Set.SOURCE_RANGES:
                assert not any(overlap(element, other) for other in self.elements)
            self.elements[element] = value

    def delete(self, elements: Iterable[Element]) -> None:
        for element in elements:
            del self.elements[element]

    def each(self, changes: tuple[ServerChange | BindAddress | ReleaseAddress, ...]) -> None:
        for change in changes:
            self.one(change)
            self.check()

    def one(self, change: ServerChange | BindAddress | ReleaseAddress) -> None:
        match change:
            case AddVirtualServer(frontend, scheduling):
                assert frontend not in self.servers
                self.servers[frontend] = (scheduling, {})
            case SetScheduling(frontend, scheduling):
                self.servers[frontend] = (scheduling, self.servers[frontend][1])
            case DeleteVirtualServer(frontend):
                del self.servers[frontend]
            case AddRealServer(frontend, endpoint):
                self.servers[frontend][1][endpoint] = 1
            case SetWeight(frontend, endpoint, weight):
                assert endpoint in self.servers[frontend][1]
                self.servers[frontend][1][endpoint] = weight
            case DeleteRealServer(frontend, endpoint):
                del self.servers[frontend][1][endpoint]
            case BindAddress(address, source):
                self.addresses[address] = source
            case ReleaseAddress(address):
                del self.addresses[address]

    def check(self) -> None:
        """What holds at every instant."""
        for frontend in self.servers:
            if frontend.address in NODE.own:
                assert self.has(Set.NODE_FRONTENDS, frontend), "it would not be known as ours"
        for address in self.addresses:
            assert Element(Set.ADDRESSES, len(address), address) in self.elements, "unknown ports would be open"
        for element, value in self.elements.items():
            if element.set is not Set.FRONTENDS or value is not Verdict.ACCEPT:
                continue
            frontend = frontend_of(element)
            if frontend.address in self.addresses:
                assert frontend in self.servers, "a process of the node would answer"
            if self.has(Set.EXTERNAL_LOCAL, frontend) and not self.has(Set.EXTERNAL, frontend):
                taking = {endpoint for endpoint, weight in self.servers[frontend][1].items() if weight}
                assert all(endpoint.address[-1] in LOCAL for endpoint in taking), "answers would not come back"

    def has(self, kind: Set, frontend: Frontend) -> bool:
        return Element(kind, len(frontend.address), frontend_key(frontend)) in self.elements


def frontend_of(element: Element) -> Frontend:
    address, rest = element.key[: element.family], element.key[element.family :]
    return Frontend(address, Protocol(rest[0]), int.from_bytes(rest[4:6], "big"))


def overlap(one: Element, other: Element) -> bool:
    if other.set is not Set.SOURCE_RANGES or one.family != other.family:
        return False
    (key, first, last), (other_key, other_first, other_last) = (parts(element) for element in (one, other))
    return key == other_key and first <= other_last and other_first <= last


def parts(source_range: Element) -> tuple[bytes, bytes, bytes]:
    half, family = len(source_range.key) // 2, source_range.family
    first, last = source_range.key[:half], source_range.key[half:]
    assert first[:-family] == last[:-family]
    return first[:-family], first[-family:], last[-family:]


def by_name(ports: list[ServicePort]) -> dict[ServicePortName, ServicePort]:
    return {port.name: port for port in ports}


lists = st.lists(service_ports(), max_size=8).map(by_name)


def without_drained(state: IpvsState) -> IpvsState:
    servers = {
        frontend: VirtualServer(server.scheduling, {e: s for e, s in server.real_servers.items() if s.weight})
        for frontend, server in state.virtual_servers.items()
    }
    return IpvsState(servers, state.addresses, state.elements)


@settings(deadline=None)
@given(lists, lists)
def test_changes_lead_from_any_state_to_any_other_and_then_there_are_none(
    before: dict[ServicePortName, ServicePort], after: dict[ServicePortName, ServicePort]
) -> None:
    kernel = Kernel()
    for ports in (before, after):
        wanted = Wanted("rr", NODE)
        wanted.replace(ports)
        kernel.apply(diff(kernel.state(), wanted.state()))
        assert without_drained(kernel.state()) == wanted.state()
    kernel.apply(diff(kernel.state(), wanted.state()))  # real servers that have drained
    assert kernel.state() == wanted.state()
    assert diff(kernel.state(), wanted.state()).count == 0


def _sharing(service: str, number: int, port: int) -> ServicePort:
    """A Service port of IPv6 that has the external address ::1 of the node, like others."""
    return ServicePort(
        ServicePortName("ns", service, str(port), Protocol.TCP, Family.IPV6),
        Frontend(bytes(15) + bytes((10 + number,)), Protocol.TCP, port),
        (Endpoint(bytes(15) + b"\x67", 2),),
        local_endpoints=(Endpoint(bytes(15) + b"\x64", 1),),
        external_local=True,
        external_ips=(bytes(15) + b"\xca", bytes(15) + b"\x01"),
        affinity_seconds=60,
        hairpin=(bytes(15) + b"\x64",),
    )


@settings(deadline=None)
@given(st.lists(lists, min_size=1, max_size=5))
@example([by_name([_sharing("s1", 1, 2), _sharing("s2", 2, 2)]), by_name([_sharing("s2", 2, 2)])])
def test_changes_port_by_port_lead_where_a_fresh_start_does(
    states: list[dict[ServicePortName, ServicePort]],
) -> None:
    kernel, incremental = Kernel(), Wanted("rr", NODE)
    known: dict[ServicePortName, ServicePort] = {}
    for ports in states:
        changed = {name for name in known.keys() | ports.keys() if known.get(name) != ports.get(name)}
        kernel.apply(diff(*incremental.replace({name: ports.get(name) for name in changed})))
        known = ports
    fresh = Wanted("rr", NODE)
    fresh.replace(known)
    assert incremental.state() == fresh.state()
    assert (incremental.services, incremental.endpoints) == (fresh.services, fresh.endpoints)
    assert without_drained(kernel.state()) == fresh.state()


WEB = ServicePort(
    ServicePortName("ns", "web", "", Protocol.TCP, Family.IPV4),
    Frontend(b"\x0a\x60\x00\x0a", Protocol.TCP, 80),
    (Endpoint(b"\x0a\xf4\x00\x0b", 8080), Endpoint(b"\x0a\xf4\x00\x0c", 8080)),
)


def server(weight: int, connections: int, frontend: Frontend = WEB.cluster_ip) -> IpvsState:
    return IpvsState({frontend: VirtualServer(RR, {WEB.endpoints[0]: RealServer(weight, connections)})})


@pytest.mark.parametrize(
    ("weight", "connections", "protocol", "expected"),
    [
        (1, 0, Protocol.TCP, SetWeight),
        (1, 7, Protocol.TCP, SetWeight),
        (0, 7, Protocol.TCP, None),
        (0, 0, Protocol.TCP, DeleteRealServer),
        (1, 7, Protocol.SCTP, SetWeight),
        (1, 7, Protocol.UDP, DeleteRealServer),
    ],
)
def test_how_a_real_server_leaves(
    weight: int, connections: int, protocol: Protocol, expected: type[ServerChange] | None
) -> None:
    frontend = WEB.cluster_ip._replace(protocol=protocol)
    empty = IpvsState({frontend: VirtualServer(RR, {})})
    changes = diff(server(weight, connections, frontend), empty)
    assert [type(change) for change in (*changes.servers, *changes.sweep)] == ([expected] if expected else [])
    assert changes.count == (weight != 0 or protocol is Protocol.UDP), "that one drains is as it should be"


def test_a_real_server_that_has_had_its_time_goes_with_its_connections() -> None:
    empty = IpvsState({WEB.cluster_ip: VirtualServer(RR, {})})
    name = RealServerName(WEB.cluster_ip, WEB.endpoints[0])
    assert list(draining(server(0, 7), empty)) == [name]
    assert diff(server(0, 7), empty).sweep == ()
    assert diff(server(0, 7), empty, {name}).sweep == (DeleteRealServer(*name),)
    assert list(draining(server(0, 7), server(1, 0))) == [], "it is wanted again"


def test_how_long_a_real_server_drains() -> None:
    first, second = (RealServerName(WEB.cluster_ip, endpoint) for endpoint in WEB.endpoints)
    drain = Drain(600)
    assert drain.due_in(0.0) is None
    drain.changed([SetWeight(*first, 0)], 100.0)
    drain.seen([first, second], 160.0)
    assert drain.overdue(699.0) == frozenset()
    assert (drain.due_in(160.0), drain.due_in(690.0)) == (60.0, 10.0)
    assert drain.overdue(700.0) == {first}
    drain.gone([first])
    assert drain.overdue(759.9) == frozenset()
    drain.changed([SetWeight(*second, 1)], 400.0)
    assert drain.due_in(400.0) is None
    endless = Drain(0)
    endless.seen([first], 0.0)
    assert (endless.overdue(1e9), endless.due_in(1e9)) == (frozenset(), 60.0)


def test_a_draining_real_server_that_is_wanted_again_takes_connections_again() -> None:
    wanted = IpvsState({WEB.cluster_ip: VirtualServer(RR, {WEB.endpoints[0]: RealServer(1, 0)})})
    assert diff(server(0, 3), wanted).servers == (SetWeight(WEB.cluster_ip, WEB.endpoints[0], 1),)


def test_connections_of_a_real_server_are_no_difference() -> None:
    assert diff(server(1, 55), server(1, 0)).count == 0


def test_new_real_servers_come_before_old_ones_go() -> None:
    old, new = (
        IpvsState({WEB.cluster_ip: VirtualServer(RR, {endpoint: RealServer(1, 0)})}) for endpoint in WEB.endpoints
    )
    assert diff(old, new).servers == (
        AddRealServer(WEB.cluster_ip, WEB.endpoints[1]),
        SetWeight(WEB.cluster_ip, WEB.endpoints[0], 0),
    )


def test_a_frontend_without_endpoints_has_a_virtual_server_and_is_refused() -> None:
    wanted = Wanted("rr", NODE)
    wanted.replace({WEB.name: ServicePort(WEB.name, WEB.cluster_ip, ())})
    state = wanted.state()
    assert state.virtual_servers == {WEB.cluster_ip: VirtualServer(RR, {})}
    assert state.elements == {
        Element(Set.ADDRESSES, 4, WEB.cluster_ip.address): None,
        Element(Set.FRONTENDS, 4, frontend_key(WEB.cluster_ip)): Verdict.NO_ENDPOINTS,
        Element(Set.INTERNAL, 4, frontend_key(WEB.cluster_ip)): None,
    }


def test_a_claim_on_anothers_frontend_is_told_and_goes_when_the_other_goes_for_good() -> None:
    other = ServicePort(WEB.name._replace(service="zzz"), WEB.cluster_ip, ())
    wanted = Wanted("rr", NODE)
    wanted.replace({other.name: other, WEB.name: WEB})
    assert list(wanted.conflicts()) == [(other.name, WEB.name, WEB.cluster_ip)]
    assert wanted.owner(WEB.cluster_ip) == WEB.name
    wanted.replace({other.name: None})
    assert list(wanted.conflicts()) == []


def test_when_the_owner_of_a_frontend_goes_the_next_one_has_it_at_once() -> None:
    first, second, third = (replace(WEB, name=WEB.name._replace(service=name)) for name in "abc")
    kernel, wanted = Kernel(), Wanted("rr", NODE)
    for changes, owner in (
        (by_name([third, first, second]), first),
        ({first.name: None}, second),
        ({second.name: None}, third),
        ({third.name: None}, None),
    ):
        kernel.apply(diff(*wanted.replace(changes)))
        assert wanted.owner(WEB.cluster_ip) == (owner and owner.name)
        assert without_drained(kernel.state()) == wanted.state()
    assert kernel.state() == IpvsState()


POD, OTHER = WEB.endpoints
EXTERNAL_IP, BALANCER = bytes((198, 51, 100, 7)), bytes((203, 0, 113, 7))
FULL = replace(WEB, node_port=30080, external_ips=(EXTERNAL_IP,), load_balancer_ips=(BALANCER,), local_endpoints=(POD,))


def wanted_of(*ports: ServicePort, scheduler: str = "rr") -> IpvsState:
    wanted = Wanted(scheduler, NODE)
    wanted.replace(by_name(list(ports)))
    return wanted.state()


def verdicts(state: IpvsState) -> dict[str, Verdict | None]:
    """By the last byte of the frontend's address, and its port."""
    return {
        f"{frontend.address[-1]}:{frontend.port}": value
        for element, value in state.elements.items()
        if element.set is Set.FRONTENDS
        for frontend in (frontend_of(element),)
    }


OUTSIDE = ("7:80", "1:30080", "15:30080")


@pytest.mark.parametrize(
    ("changes", "inside", "outside", "servers"),
    [
        ({}, Verdict.ACCEPT, Verdict.ACCEPT, {POD, OTHER}),
        ({"external_local": True}, Verdict.ACCEPT, Verdict.ACCEPT, {POD}),
        ({"external_local": True, "local_endpoints": ()}, Verdict.ACCEPT, Verdict.INSIDERS, {POD, OTHER}),
        (
            {"external_local": True, "local_endpoints": (), "cluster_endpoints": (), "elsewhere": True},
            Verdict.DROP,
            Verdict.DROP,
            set(),
        ),
        ({"local_endpoints": (), "cluster_endpoints": ()}, Verdict.NO_ENDPOINTS, Verdict.NO_ENDPOINTS, set()),
        ({"internal_local": True, "local_endpoints": ()}, Verdict.DROP, Verdict.ACCEPT, {POD, OTHER}),
    ],
)
def test_traffic_policies(changes: dict[str, Any], inside: Verdict, outside: Verdict, servers: set[Endpoint]) -> None:
    state = wanted_of(replace(FULL, **changes))
    found = verdicts(state)
    assert found.pop("10:80") is inside
    assert found == dict.fromkeys(OUTSIDE, outside)
    for frontend, server in state.virtual_servers.items():
        if frontend != WEB.cluster_ip:
            assert set(server.real_servers) == servers


def test_whose_connections_are_masqueraded() -> None:
    for policy, expected in ((False, Set.EXTERNAL), (True, Set.EXTERNAL_LOCAL)):
        elements = wanted_of(replace(FULL, external_local=policy)).elements
        kinds = {
            frontend_of(element): element.set
            for element in elements
            if element.set in (Set.INTERNAL, Set.EXTERNAL, Set.EXTERNAL_LOCAL)
        }
        assert kinds.pop(WEB.cluster_ip) is Set.INTERNAL
        assert set(kinds.values()) == {expected}
        assert len(kinds) == 4


def test_external_addresses_are_bound_but_not_those_that_the_node_has() -> None:
    state = wanted_of(replace(FULL, external_ips=(EXTERNAL_IP, NODE_IPS[0])))
    assert set(state.addresses) == {WEB.cluster_ip.address, EXTERNAL_IP, BALANCER}
    own = {frontend_of(element) for element in state.elements if element.set is Set.NODE_FRONTENDS}
    assert own == {
        Frontend(NODE_IPS[0], Protocol.TCP, 80),
        Frontend(NODE_IPS[0], Protocol.TCP, 30080),
        Frontend(NODE_IPS[1], Protocol.TCP, 30080),
    }


def ranges(state: IpvsState) -> set[tuple[str, str]]:
    return {
        (str(ipaddress.ip_address(first)), str(ipaddress.ip_address(last)))
        for element in state.elements
        if element.set is Set.SOURCE_RANGES
        for _, first, last in (parts(element),)
    }


def test_source_ranges_hold_for_load_balancer_addresses_and_do_not_overlap() -> None:
    state = wanted_of(replace(FULL, source_ranges=(network("10.0.0.0/8"), network("10.1.0.0/16"))))
    assert ranges(state) == {("10.0.0.0", "10.255.255.255")}
    restricted = {frontend_of(element) for element in state.elements if element.set is Set.RESTRICTED}
    assert restricted == {Frontend(BALANCER, Protocol.TCP, 80)}


def test_a_node_within_the_source_ranges_may_speak_from_the_load_balancers_address() -> None:
    state = wanted_of(replace(FULL, source_ranges=(network("192.168.50.0/24"),)))
    assert ranges(state) == {("192.168.50.0", "192.168.50.255"), ("203.0.113.7", "203.0.113.7")}


def test_udp_flows_are_forgotten_where_their_frontend_leads_elsewhere() -> None:
    dns = Frontend(WEB.cluster_ip.address, Protocol.UDP, 53)

    def leads(*endpoints: Endpoint, weight: int = 1, frontend: Frontend = dns) -> IpvsState:
        return IpvsState({frontend: VirtualServer(RR, dict.fromkeys(endpoints, RealServer(weight, 9)))})

    nothing = IpvsState()
    assert dict(rerouted(nothing, leads(POD))) == {dns: {POD}}
    assert dict(rerouted(leads(POD), leads(POD, OTHER))) == {dns: {POD, OTHER}}
    assert dict(rerouted(nothing, leads())) == {dns: frozenset()}
    assert dict(rerouted(leads(POD), nothing)) == {dns: frozenset()}
    assert dict(rerouted(leads(POD), leads(POD))) == {}
    assert dict(rerouted(leads(POD, weight=0), leads(POD))) == {dns: {POD}}
    assert dict(rerouted(nothing, leads(POD, frontend=WEB.cluster_ip))) == {}


def test_affinity_changes_in_place() -> None:
    sticky = wanted_of(replace(WEB, affinity_seconds=600))
    assert diff(wanted_of(WEB), sticky).servers == (SetScheduling(WEB.cluster_ip, Scheduling("rr", 600)),)
    assert diff(sticky, wanted_of(WEB)).servers == (SetScheduling(WEB.cluster_ip, RR),)


def test_maglev_hashes_the_port_too_as_kube_proxy_has_it() -> None:
    state = wanted_of(WEB, scheduler="mh")
    assert state.virtual_servers[WEB.cluster_ip].scheduling == Scheduling("mh", hashing=Hashing.FALLBACK | Hashing.PORT)


def test_a_service_may_have_a_scheduler_of_its_own_and_gets_another_where_the_kernel_lacks_it() -> None:
    wanted = Wanted("wlc", NODE, {"lblc": "rr"})
    named = {
        asked: replace(
            WEB, name=WEB.name._replace(service=f"s{number}"), cluster_ip=WEB.cluster_ip._replace(port=number)
        )
        for number, asked in enumerate((None, "sh", "lblc"), 1)
    }
    wanted.replace(by_name([replace(port, ipvs_scheduler=asked) for asked, port in named.items()]))
    found = {asked: wanted.state().virtual_servers[port.cluster_ip].scheduling for asked, port in named.items()}
    assert found == {None: Scheduling("wlc"), "sh": Scheduling("sh", hashing=Hashing.FALLBACK), "lblc": RR}
    assert wanted.replaced_schedulers() == {"lblc": [named["lblc"].name]}
    assert instead(wanted) == "the kernel has no IPVS scheduler lblc (module ip_vs_lblc): rr serves ns/s3"
    assert instead(Wanted("wlc", NODE)) == ""


def test_of_what_the_kernel_refused_each_port_learns_the_first_reason() -> None:
    wanted = Wanted("rr", NODE)
    wanted.replace(by_name([WEB]))
    address = BindAddress(WEB.cluster_ip.address, None)
    refused: list[tuple[ServerChange | BindAddress | ReleaseAddress, str]] = [
        (AddVirtualServer(WEB.cluster_ip, RR), "no"),
        (AddRealServer(WEB.cluster_ip, POD), "so"),
        (address, "x"),
    ]
    assert by_port(wanted, refused) == {WEB.name: "cannot add virtual server 10.96.0.10:80/TCP with scheduler rr: no"}
    with pytest.raises(DataplaneError, match=r"cannot release address 10\.0\.0\.9: no"):
        by_port(wanted, [(ReleaseAddress(bytes((10, 0, 0, 9))), "no")])


@pytest.mark.parametrize(
    ("wanted", "found", "to_set"),
    [
        (IpvsTimeouts(), IpvsTimeouts(900, 120, 300), IpvsTimeouts()),
        (IpvsTimeouts(900, 30, 60), IpvsTimeouts(900, 120, 60), IpvsTimeouts(0, 30, 0)),
    ],
)
def test_only_timeouts_that_differ_are_set(wanted: IpvsTimeouts, found: IpvsTimeouts, to_set: IpvsTimeouts) -> None:
    assert timeouts.differing(wanted, found) == to_set


def test_only_endpoints_that_may_be_here_are_hairpin() -> None:
    state = wanted_of(replace(WEB, hairpin=(POD.address,)))
    hairpin = {element.key for element in state.elements if element.set is Set.HAIRPIN}
    assert hairpin == {POD.address * 2}


@pytest.mark.parametrize(
    ("release", "touched"),
    [("4.19.0-27-amd64", True), ("5.8.18", True), ("5.9.0", False), ("6.1.0-41-amd64", False), ("6.12.48", False)],
)
def test_conn_reuse_mode_is_left_alone_where_the_kernel_does_it_right(release: str, touched: bool) -> None:
    assert ("net/ipv4/vs/conn_reuse_mode" in sysctls.wanted(release, strict_arp=False)) is touched
