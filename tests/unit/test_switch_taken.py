"""What is made of flows many at a time is what is made of them one by one."""

from __future__ import annotations

from socket import IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from conntrack_oracle import SEEN, Entry, Path, flow, message
from proxymode_agent.dataplane.conntrack.flow import Status
from proxymode_agent.dataplane.conntrack.messages import CT_NEW
from proxymode_agent.dataplane.conntrack.shapes import Block, Shapes
from proxymode_agent.dataplane.netlink import request_header
from proxymode_agent.dataplane.nfnetlink import unpack_elements
from proxymode_agent.switch.connections import Frontends, concerning
from proxymode_agent.switch.handover.flows import on_ipvs, on_nat
from proxymode_agent.switch.handover.maps import MAPS
from proxymode_agent.switch.handover.taken import Taken

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.dataplane.conntrack.flow import Flow

VIP, POD, GATEWAY = (bytes((10, 0, 0, last)) for last in (2, 3, 4))
PROTOCOLS = (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP)
SERVICES = Frontends.of(
    ((address, protocol, 80) for protocol in PROTOCOLS for address in (VIP, VIP.rjust(16, b"\0"))),
    ((protocol, 30080) for protocol in PROTOCOLS),
)
u8, u32 = st.integers(0, 255), st.integers(0, 2**32 - 1)
same = {  # what decides: TCP's state and flags, SCTP's state
    IPPROTO_TCP: st.tuples(st.sampled_from([3, 3, 3, 1, 7]), st.sampled_from([3, 35]), st.sampled_from([3, 11])),
    IPPROTO_UDP: st.just(()),
    IPPROTO_SCTP: st.tuples(st.sampled_from([4, 4, 9, 5])),
}
own = {  # what does not: window scales, verification tags
    IPPROTO_TCP: st.tuples(u8, u8),
    IPPROTO_UDP: st.just(()),
    IPPROTO_SCTP: st.tuples(u32, u32),
}


@st.composite
def many(draw: st.DrawFn) -> list[Entry]:
    """Up to twenty connections that differ in who made them and in what their hosts said, and little else."""
    protocol, length = draw(st.sampled_from(PROTOCOLS)), draw(st.sampled_from([4, 16]))
    vip, pod, gateway = (address.rjust(length, b"\0") for address in (VIP, POD, GATEWAY))
    masqueraded, port = draw(st.booleans()), draw(st.sampled_from([80, 80, 30080, 81]))
    status = SEEN | draw(st.sampled_from([0, 0, 0, Status.SRC_NAT, Status.DST_NAT, Status.DST_NAT | Status.SRC_NAT]))
    backwards = draw(st.integers(0, 4)) == 0
    decisive = draw(same[protocol])
    timeouts = draw(st.sampled_from([st.integers(1, 2**32 - 1), st.integers(0, 100)]))
    entries = []
    for number in range(draw(st.integers(6, 20))):
        client = draw(st.binary(min_size=length, max_size=length))
        there = Path(client, 1000 + number, vip, port)
        seen_as = (gateway, 2000 + number) if masqueraded else (client, 1000 + number)
        back = Path(pod, 8080, *seen_as)
        if draw(st.integers(0, 20)) == 0:
            back = there.back()  # to what is no Service
        if backwards:
            there, back = back, there
        timeout, mark = draw(timeouts), draw(u32)
        ident = draw(st.binary(min_size=4, max_size=4))
        if draw(st.integers(0, 20)) == 0:
            decisive = draw(same[protocol])
        info = (*decisive[:1], *draw(own[protocol]), *decisive[1:])
        entries.append(Entry(protocol, there, back, status, timeout, mark, ident, info))
    return entries


def blocks(entries: Iterable[Entry]) -> list[Block | Flow]:
    rows: dict[int, bytes] = {}
    for entry in entries:
        body = message(entry)
        row = request_header(CT_NEW, 0, len(body)) + body
        rows[len(row)] = rows.get(len(row), b"") + row
    shapes = Shapes()
    return [found for size, some in rows.items() for found in shapes.sort(size, some)]


def told(taken: Taken) -> tuple[object, ...]:
    packed = taken.packed()
    elements = [
        dict(element for piece in pieces for element in unpack_elements(of, bytes(piece)))
        for length, maps in MAPS.items()
        for of, pieces in zip(maps, packed[length], strict=True)
    ]
    return taken.moves, sorted(taken.moving), taken.held, taken.not_open, elements


@given(st.lists(many(), min_size=1, max_size=3))
def test_many_at_a_time_are_taken_as_they_are_one_by_one(groups: list[list[Entry]]) -> None:
    entries: list[Entry] = []
    tuples: set[tuple[int, Path]] = set()
    for entry in (one for group in groups for one in group):
        its = {(entry.protocol, entry.original), (entry.protocol, entry.reply)}
        if tuples.isdisjoint(its):  # as in conntrack
            entries.append(entry)
        tuples |= its
    together, singly = Taken(SERVICES, {}), Taken(SERVICES, {})
    together.take(blocks(entries))
    singly.take(map(flow, entries))
    assert told(together) == told(singly)
    some = set(concerning(blocks(entries), SERVICES))
    for carried in (on_ipvs, on_nat):
        assert {one for one in map(flow, entries) if carried(one, SERVICES)} <= some


def test_most_are_taken_many_at_a_time() -> None:
    entries = [
        Entry(6, Path(VIP, number, VIP, 80), Path(POD, 8080, VIP, number), info=(3, 7, 7, 3, 3)) for number in range(50)
    ]
    together = Taken(SERVICES, {})
    together.take(blocks(entries))
    assert [len(pieces) for pieces in together.packed()[4]] == [1, 1]
    assert len(together.moves) == len(together.moving) == len(together.held) == 50
