"""Which connections are carried over, how their packets are caught meanwhile, and what is put back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxymode_agent.dataplane.conntrack import messages
from proxymode_agent.dataplane.conntrack.entries import (
    LAYOUTS,
    Entry,
    Key,
    Path,
    Status,
    Tcp,
    forwards,
    key_of,
    parse,
)
from proxymode_agent.services.model import Frontend, Protocol
from proxymode_agent.switch.connections import Frontends, compare, found, held_by, upright
from proxymode_agent.switch.handover import flows
from proxymode_api.modes import Mode

CLIENT, VIP, POD, GATEWAY = (bytes((10, 0, 0, last)) for last in (1, 2, 3, 4))
SERVICES = Frontends(frozenset({Frontend(VIP, Protocol.TCP, 80)}), frozenset({(6, 30080)}))
SEEN = Status.SEEN_REPLY | Status.ASSURED | Status.CONFIRMED


def entry(
    port: int, *, status: int = 0, masqueraded: int | None = None, state: int = 3, to: tuple[bytes, int] = (VIP, 80)
) -> Entry:
    """From a client to a Service, answered by the pod; `masqueraded`: the port from which the pod sees it come."""
    seen_as = (CLIENT, port) if masqueraded is None else (GATEWAY, masqueraded)
    return Entry(
        6, Path(CLIENT, port, *to), Path(POD, 8080, *seen_as), SEEN | status, 100, 0, b"id42", Tcp(state, 7, 8, 0, 0)
    )


def backwards(forward: Entry) -> Entry:
    """The same connection as conntrack notes it when the pod's packet came first."""
    return forwards(forward)


def test_a_connection_that_the_endpoint_s_packet_made_anew_is_still_one() -> None:
    sent = entry(1, status=Status.DST_NAT)
    made = Entry(6, sent.reply, sent.original, SEEN | Status.SRC_NAT, 100, 0, b"id42", Tcp(3, 8, 7, 0, 0))
    assert upright(made, SERVICES)[:3] == sent[:3]
    assert flows.on_nat([made], SERVICES)[0][:3] == sent[:3]
    assert set(held_by(Mode.NFTABLES, [made], SERVICES)) == {key_of(sent)}
    masqueraded = entry(2, masqueraded=9, status=Status.SRC_NAT)
    assert upright(masqueraded, SERVICES) is masqueraded
    elsewhere = made._replace(reply=made.reply._replace(destination_port=81))
    assert upright(elsewhere, SERVICES) is elsewhere


def test_what_is_carried_is_ipvs_s_and_a_services_whichever_end_spoke_first() -> None:
    carried = [
        entry(1),
        entry(2, masqueraded=9, status=Status.SRC_NAT),
        entry(3, to=(GATEWAY, 30080)),
        entry(4, state=1),
    ]
    turned = entry(5)
    others = [
        entry(6, status=Status.DST_NAT),
        entry(7, to=(VIP, 81)),
        Entry(6, Path(CLIENT, 8, VIP, 80), Path(VIP, 80, CLIENT, 8), SEEN, 1, 0, b"", None),
    ]
    assert flows.on_ipvs([*carried, backwards(turned), *others], SERVICES) == [*carried, turned]
    assert flows.on_nat([*carried, *others, entry(9, status=Status.DST_NAT, state=7)], SERVICES) == others[:1]


def test_a_packet_of_either_end_is_translated_as_ipvs_did() -> None:
    client, pod = flows.catches(entry(1, masqueraded=9))
    assert client == (6, Path(CLIENT, 1, VIP, 80), (POD, 8080), (GATEWAY, 9))
    assert pod == (6, Path(POD, 8080, GATEWAY, 9), (CLIENT, 1), (VIP, 80))
    client, pod = flows.catches(entry(1))
    assert client == (6, Path(CLIENT, 1, VIP, 80), (POD, 8080), None)
    assert pod == (6, Path(POD, 8080, CLIENT, 1), None, (VIP, 80))


def test_one_client_port_to_two_frontends_of_one_pod_makes_no_key_twice() -> None:
    both = [entry(1, masqueraded=8), entry(1, masqueraded=9, to=(GATEWAY, 30080))]
    keys = [(catch.protocol, catch.packet) for one in both for catch in flows.catches(one)]
    assert len(set(keys)) == 4


def test_missing_wrong_and_ended_entries_are_told_apart() -> None:
    right, caught, missing, taken, closing, ipvs = (entry(port, status=Status.DST_NAT) for port in range(1, 7))
    wanted = {key_of(one): one for one in (right, caught, missing, taken, closing, ipvs)}
    dump = [
        right,
        backwards(caught)._replace(status=SEEN | Status.SRC_NAT),
        taken._replace(reply=Path(GATEWAY, 8080, CLIENT, 4), id=b"new!"),
        entry(5, status=Status.DST_NAT, state=7),
        entry(6)._replace(id=b"ipvs"),
        entry(99, status=Status.DST_NAT),
    ]
    seen = found(wanted, dump)
    assert flows.ended(seen) == {key_of(closing)}
    repair = flows.repair(wanted, seen)
    assert repair.missing == [missing]
    assert repair.wrong == [taken._replace(id=b"new!"), ipvs._replace(id=b"ipvs")]


def test_a_connection_that_its_pod_made_anew_counts_as_kept() -> None:
    one, other = entry(1), entry(2, masqueraded=9)
    held = {key_of(each): each.reply for each in (one, other)}
    after = [backwards(each)._replace(status=SEEN | Status.SRC_NAT) for each in (one, other)]
    assert compare(held, after).kept == 2
    assert compare(held, [one, other]).kept == 0  # still IPVS's, which has forgotten them


addresses = st.sampled_from((4, 16)).flatmap(
    lambda length: st.tuples(*[st.binary(min_size=length, max_size=length)] * 4)
)
ports = st.integers(1, 65535)


@settings(deadline=None)
@given(addresses, st.tuples(ports, ports, ports, ports), st.booleans(), st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_what_is_sent_is_what_the_kernel_would_dump(
    ends: tuple[bytes, bytes, bytes, bytes],
    numbers: tuple[int, int, int, int],
    tcp: bool,
    timeout: int,
    small: int,
) -> None:
    """The two tuples, status, timeout, mark and TCP state of a request, read back by the parser of dumps."""
    client, vip, pod, seen_as = ends
    sent = Entry(
        6 if tcp else 17,
        Path(client, numbers[0], vip, numbers[1]),
        Path(pod, numbers[2], seen_as, numbers[3]),
        SEEN,
        timeout,
        small,
        b"id42",
        Tcp(small, small, small, 8, 8) if tcp else None,
    )
    layout = LAYOUTS[len(client) == 16]
    delete, create = messages.replace([sent])
    read = parse(layout, memoryview(create.body), translated_only=False)
    assert read is not None
    assert read.original == sent.original
    assert read.reply == Path(vip, numbers[1], client, numbers[0])  # the kernel makes the rest of CTA_NAT_*
    assert (read.protocol, read.status, read.timeout, read.mark) == (sent.protocol, SEEN, max(1, timeout), small)
    assert read.tcp == sent.tcp
    assert delete.body.endswith(struct.pack("=HH", 8, 12) + b"id42")
    assert pod in create.body
    assert (seen_as in create.body) or (seen_as, numbers[3]) == (client, numbers[0])


@pytest.mark.parametrize("length", [4, 16])
def test_entries_of_other_protocols_and_zones_are_left_out(length: int) -> None:
    layout = LAYOUTS[length == 16]
    one = Entry(
        6, Path(b"a" * length, 1, b"b" * length, 2), Path(b"c" * length, 3, b"a" * length, 1), 0, 1, 0, b"", None
    )
    body = messages.create([one])[0].body
    icmp = bytearray(body)
    icmp[4 + layout.tuple_bytes - 20] = 1
    assert parse(layout, memoryview(bytes(icmp)), translated_only=False) is None
    assert parse(layout, memoryview(body[:40]), translated_only=False) is None
    assert parse(LAYOUTS[length == 4], memoryview(body), translated_only=False) is None


def test_key_is_protocol_and_original_direction() -> None:
    assert key_of(entry(1)) == Key(6, Path(CLIENT, 1, VIP, 80))
