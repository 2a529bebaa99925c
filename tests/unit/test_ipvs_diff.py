"""The ipvs mode's decisions: what is wanted, and in which order the kernel is brought there."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxymode_agent.dataplane.ipvs import sysctls
from proxymode_agent.dataplane.ipvs.diff import Changes, diff
from proxymode_agent.dataplane.ipvs.model import (
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    DeleteRealServer,
    DeleteVirtualServer,
    Element,
    IpvsState,
    RealServer,
    ReleaseAddress,
    ServerChange,
    Set,
    SetScheduler,
    SetWeight,
    VirtualServer,
    frontend_key,
)
from proxymode_agent.dataplane.ipvs.wanted import NodeAddresses, Wanted
from proxymode_agent.services.model import (
    Endpoint,
    Family,
    Frontend,
    Protocol,
    ServicePort,
    ServicePortName,
)

NODE = NodeAddresses(
    node_ports=frozenset({bytes((192, 168, 50, 1)), bytes((10, 0, 2, 15)), bytes(15) + b"\x01"}),
    sources={4: bytes((192, 168, 50, 1))},
)


@st.composite
def service_ports(draw: st.DrawFn) -> ServicePort:
    """Ports over few addresses and few endpoints, so that they share them."""
    family = draw(st.sampled_from(Family))
    protocol = draw(st.sampled_from((Protocol.TCP, Protocol.UDP)))
    number = draw(st.integers(1, 4))
    address = bytes(family - 1) + bytes((number,))
    endpoints = draw(
        st.sets(
            st.builds(
                Endpoint, st.sampled_from([bytes(family - 1) + bytes((100 + n,)) for n in range(3)]), st.integers(1, 2)
            )
        )
    )
    port = draw(st.integers(1, 2))
    return ServicePort(
        ServicePortName("ns", f"s{number}", str(port), protocol, family),
        Frontend(address, protocol, port),
        tuple(sorted(endpoints)),
        draw(st.none() | st.just(30000 + 10 * number + port)),
    )


@dataclass
class Kernel:
    """The kernel as far as the ipvs mode uses it; it refuses what the real one refuses."""

    servers: dict[Frontend, tuple[str, dict[Endpoint, int]]] = field(default_factory=dict)
    addresses: dict[bytes, bytes | None] = field(default_factory=dict)
    elements: set[Element] = field(default_factory=set)

    def state(self) -> IpvsState:
        return IpvsState(
            {
                frontend: VirtualServer(scheduler, {e: RealServer(weight, 0) for e, weight in real.items()})
                for frontend, (scheduler, real) in self.servers.items()
            },
            dict(self.addresses),
            frozenset(self.elements),
        )

    def apply(self, changes: Changes) -> None:
        assert not changes.add_elements & self.elements
        self.elements |= changes.add_elements
        self.check()
        for change in (*changes.servers, *changes.bind, *changes.delete_servers, *changes.release):
            self.one(change)
            self.check()
        assert changes.delete_elements <= self.elements
        self.elements -= changes.delete_elements

    def one(self, change: ServerChange | BindAddress | ReleaseAddress) -> None:
        match change:
            case AddVirtualServer(frontend, scheduler):
                assert frontend not in self.servers
                self.servers[frontend] = (scheduler, {})
            case SetScheduler(frontend, scheduler):
                self.servers[frontend] = (scheduler, self.servers[frontend][1])
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
        """What holds at every instant: a NodePort's virtual server is known as ours, and a bound address is named in
        the set that refuses what no virtual server takes."""
        for frontend in self.servers:
            if frontend.port >= 30000:
                assert Element(Set.NODE_PORTS, len(frontend.address), frontend_key(frontend)) in self.elements
        for address in self.addresses:
            assert Element(Set.ADDRESSES, len(address), address) in self.elements


def by_name(ports: list[ServicePort]) -> dict[ServicePortName, ServicePort]:
    return {port.name: port for port in ports}


lists = st.lists(service_ports(), max_size=8).map(by_name)


def without_drained(state: IpvsState) -> IpvsState:
    servers = {
        frontend: VirtualServer(server.scheduler, {e: s for e, s in server.real_servers.items() if s.weight})
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


@settings(deadline=None)
@given(st.lists(lists, min_size=1, max_size=5))
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
    return IpvsState({frontend: VirtualServer("rr", {WEB.endpoints[0]: RealServer(weight, connections)})})


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
    empty = IpvsState({frontend: VirtualServer("rr", {})})
    changes = diff(server(weight, connections, frontend), empty).servers
    assert [type(change) for change in changes] == ([expected] if expected else [])


def test_a_draining_real_server_that_is_wanted_again_takes_connections_again() -> None:
    wanted = IpvsState({WEB.cluster_ip: VirtualServer("rr", {WEB.endpoints[0]: RealServer(1, 0)})})
    assert diff(server(0, 3), wanted).servers == (SetWeight(WEB.cluster_ip, WEB.endpoints[0], 1),)


def test_connections_of_a_real_server_are_no_difference() -> None:
    assert diff(server(1, 55), server(1, 0)).count == 0


def test_new_real_servers_come_before_old_ones_go() -> None:
    old, new = (
        IpvsState({WEB.cluster_ip: VirtualServer("rr", {endpoint: RealServer(1, 0)})}) for endpoint in WEB.endpoints
    )
    assert diff(old, new).servers == (
        AddRealServer(WEB.cluster_ip, WEB.endpoints[1]),
        SetWeight(WEB.cluster_ip, WEB.endpoints[0], 0),
    )


def test_a_frontend_without_endpoints_has_a_virtual_server_and_is_not_served() -> None:
    wanted = Wanted("rr", NODE)
    wanted.replace({WEB.name: ServicePort(WEB.name, WEB.cluster_ip, ())})
    state = wanted.state()
    assert state.virtual_servers == {WEB.cluster_ip: VirtualServer("rr", {})}
    assert state.elements == {Element(Set.ADDRESSES, 4, WEB.cluster_ip.address)}


def test_a_claim_on_anothers_frontend_is_told_and_goes_when_the_other_goes_for_good() -> None:
    other = ServicePort(WEB.name._replace(service="zzz"), WEB.cluster_ip, ())
    wanted = Wanted("rr", NODE)
    wanted.replace({other.name: other, WEB.name: WEB})
    assert list(wanted.conflicts()) == [(other.name, WEB.name, WEB.cluster_ip)]
    assert wanted.owner(WEB.cluster_ip) == WEB.name
    wanted.replace({other.name: None})
    assert list(wanted.conflicts()) == []


@pytest.mark.parametrize(
    ("release", "touched"),
    [("4.19.0-27-amd64", True), ("5.8.18", True), ("5.9.0", False), ("6.1.0-41-amd64", False), ("6.12.48", False)],
)
def test_conn_reuse_mode_is_left_alone_where_the_kernel_does_it_right(release: str, touched: bool) -> None:
    assert ("net/ipv4/vs/conn_reuse_mode" in sysctls.wanted(release, strict_arp=False)) is touched
