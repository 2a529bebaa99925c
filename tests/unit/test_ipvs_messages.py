"""What is packed as a whole is what the general encoder writes attribute by attribute; and what the kernel answers."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from proxymode_agent.dataplane.ipvs.messages import (
    LIST_SERVICES,
    body,
    list_dests,
    parse_dest,
    parse_service,
    probe,
    set_timeouts,
)
from proxymode_agent.dataplane.ipvs.model import (
    AddRealServer,
    AddVirtualServer,
    DeleteRealServer,
    DeleteVirtualServer,
    Hashing,
    RealServer,
    Scheduling,
    SetScheduling,
    SetWeight,
)
from proxymode_agent.dataplane.nfnetlink.attributes import Attributes, encode
from proxymode_agent.services.model import Endpoint, Frontend, IpvsTimeouts, Protocol

NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE, NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = range(1, 9)
PERSISTENT, HASHED = 1, 2

ports = st.integers(1, 65535)
addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
frontends = st.builds(Frontend, addresses, st.sampled_from(Protocol), ports)
endpoints = st.builds(Endpoint, addresses, ports)
schedulings = st.builds(
    Scheduling,
    st.sampled_from(("rr", "mh", "lblcr")),
    st.none() | st.integers(1, 86400),
    st.sampled_from((Hashing.PLAIN, Hashing.FALLBACK, Hashing.FALLBACK | Hashing.PORT)),
)


def u16(value: int) -> bytes:
    return struct.pack("=H", value)


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def family(address: bytes) -> bytes:
    return u16(socket.AF_INET if len(address) == 4 else socket.AF_INET6)


def service(frontend: Frontend) -> Attributes:
    """The attributes by which the kernel finds a virtual server (IPVS_SVC_ATTR_*)."""
    return (
        (1, family(frontend.address)),
        (2, u16(frontend.protocol)),
        (3, frontend.address.ljust(16, b"\0")),
        (4, frontend.port.to_bytes(2, "big")),
    )


def options(frontend: Frontend, scheduling: Scheduling) -> Attributes:
    sticky = scheduling.affinity_seconds
    flags = scheduling.hashing | (PERSISTENT if sticky is not None else 0)
    netmask = b"\xff\xff\xff\xff" if len(frontend.address) == 4 else u32(128)
    return (
        (6, scheduling.scheduler.encode() + b"\0"),
        (7, u32(flags) + u32(0xFFFFFFFF)),
        (8, u32(sticky or 0)),
        (9, netmask),
    )


def dest(endpoint: Endpoint) -> Attributes:
    """The attributes by which the kernel finds a real server (IPVS_DEST_ATTR_*)."""
    return (
        (11, family(endpoint.address)),
        (1, endpoint.address.ljust(16, b"\0")),
        (2, endpoint.port.to_bytes(2, "big")),
    )


def weighing(weight: int) -> Attributes:
    return ((3, u32(0)), (4, u32(weight)), (5, u32(0)), (6, u32(0)))


def message(command: int, *attributes: tuple[int, Attributes]) -> bytes:
    return bytes((command, 1, 0, 0)) + encode(attributes)


@given(frontends, endpoints, st.integers(0, 65535), schedulings)
def test_every_change_is_one_message(
    frontend: Frontend, endpoint: Endpoint, weight: int, scheduling: Scheduling
) -> None:
    name, chosen = service(frontend), service(frontend) + options(frontend, scheduling)
    assert body(AddVirtualServer(frontend, scheduling)) == message(NEW_SERVICE, (1, chosen))
    assert body(SetScheduling(frontend, scheduling)) == message(SET_SERVICE, (1, chosen))
    assert body(DeleteVirtualServer(frontend)) == message(DEL_SERVICE, (1, name))
    full = dest(endpoint) + weighing(1)
    assert body(AddRealServer(frontend, endpoint)) == message(NEW_DEST, (1, name), (2, full))
    full = dest(endpoint) + weighing(weight)
    assert body(SetWeight(frontend, endpoint, weight)) == message(SET_DEST, (1, name), (2, full))
    assert body(DeleteRealServer(frontend, endpoint)) == message(DEL_DEST, (1, name), (2, dest(endpoint)))
    assert list_dests(frontend) == message(GET_DEST, (1, name))


def test_a_scheduler_is_tried_on_a_virtual_server_that_gets_no_packet() -> None:
    mark: Attributes = ((1, u16(socket.AF_INET)), (5, u32(0x70724D6F)))
    made, deleted = probe("mh")
    anything = Frontend(bytes(4), Protocol.TCP, 0)
    assert made == message(NEW_SERVICE, (1, mark + options(anything, Scheduling("mh"))))
    assert deleted == message(DEL_SERVICE, (1, mark))


def test_timeouts() -> None:
    assert set_timeouts(IpvsTimeouts(900, 120, 300)) == bytes((12, 1, 0, 0)) + encode(
        ((4, u32(900)), (5, u32(120)), (6, u32(300)))
    )


@given(frontends, schedulings)
def test_a_virtual_server_as_the_kernel_lists_it(frontend: Frontend, scheduling: Scheduling) -> None:
    """With statistics after it, a flag that is the kernel's own (hashed), and a netmask that says nothing."""
    sched, _, timeout, netmask = options(frontend, scheduling)
    sticky = PERSISTENT if scheduling.affinity_seconds is not None else 0
    flags = u32(scheduling.hashing | sticky | HASHED) + u32(0xFFFFFFFF)
    listed = (*service(frontend), sched, (7, flags), timeout, netmask, (10, ((1, bytes(4)),)))
    assert parse_service(message(GET_SERVICE, (1, listed))) == (frontend, scheduling)


def test_virtual_servers_that_are_no_services_frontends() -> None:
    common = options(Frontend(bytes(4), Protocol.TCP, 0), Scheduling("rr"))
    by_mark: Attributes = ((1, u16(socket.AF_INET)), (5, u32(7)), *common)
    esp: Attributes = ((1, u16(socket.AF_INET)), (2, u16(50)), (3, bytes(16)), (4, bytes(2)), *common)
    assert parse_service(message(GET_SERVICE, (1, by_mark))) is None
    assert parse_service(message(GET_SERVICE, (1, esp))) is None


@given(endpoints, st.integers(0, 65535), st.integers(0, 1000), st.integers(0, 1000))
def test_a_real_server_as_the_kernel_lists_it(endpoint: Endpoint, weight: int, active: int, inactive: int) -> None:
    named = (*dest(endpoint)[1:], *weighing(weight))
    counts: Attributes = ((7, u32(active)), (8, u32(inactive)), (9, u32(3)))
    listed = (*named, *counts, dest(endpoint)[0])
    assert parse_dest(message(NEW_DEST, (2, listed))) == (endpoint, RealServer(weight, active + inactive))


def test_the_question_for_all() -> None:
    assert message(GET_SERVICE) == LIST_SERVICES
