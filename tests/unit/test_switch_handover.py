"""Which connections are carried over, how their packets are caught meanwhile, and what is put back."""

from __future__ import annotations

import struct
from socket import IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conntrack_oracle import SEEN, Entry, Path, entry_of, flow, message, path
from proxymode_agent.dataplane.conntrack import messages
from proxymode_agent.dataplane.conntrack.flow import Status
from proxymode_agent.dataplane.conntrack.table import Checked
from proxymode_agent.dataplane.nfnetlink.attributes import fields
from proxymode_agent.services.model import Protocol
from proxymode_agent.switch.connections import Frontends, compare, found, held_by, upright
from proxymode_agent.switch.handover import flows, remembered
from proxymode_agent.switch.handover.notes import Notes
from proxymode_api.modes import Mode

if TYPE_CHECKING:
    from pathlib import Path as File

CLIENT, VIP, POD, GATEWAY = (bytes((10, 0, 0, last)) for last in (1, 2, 3, 4))
FRONTEND, NODE_PORT = (VIP, Protocol.TCP, 80), (Protocol.TCP, 30080)
SERVICES = Frontends.of([FRONTEND], [NODE_PORT])


def entry(
    port: int, *, status: int = 0, masqueraded: int | None = None, state: int = 3, to: tuple[bytes, int] = (VIP, 80)
) -> Entry:
    """From a client to a Service, answered by the pod; `masqueraded`: the port from which the pod sees it come."""
    seen_as = (CLIENT, port) if masqueraded is None else (GATEWAY, masqueraded)
    return Entry(6, Path(CLIENT, port, *to), Path(POD, 8080, *seen_as), SEEN | status, info=(state, 7, 8, 0, 0))


def backwards(forward: Entry) -> Entry:
    """The same connection as conntrack notes it when the pod's packet came first."""
    state, scale, back_scale, flags, back_flags = forward.info
    return forward._replace(
        original=forward.reply, reply=forward.original, info=(state, back_scale, scale, back_flags, flags)
    )


def key(of: Entry) -> bytes:
    return messages.original_of(flow(of))


def replies(*entries: Entry) -> dict[bytes, bytes]:
    return {key(one): messages.reply_of(flow(one)) for one in entries}


def on_ipvs(*entries: Entry) -> list[Entry]:
    return [entry_of(one) for one in (flows.on_ipvs(flow(each), SERVICES) for each in entries) if one]


def on_nat(*entries: Entry) -> list[Entry]:
    return [entry_of(one) for one in (flows.on_nat(flow(each), SERVICES) for each in entries) if one]


def test_a_connection_that_the_endpoint_s_packet_made_anew_is_still_one() -> None:
    sent = entry(1, status=Status.DST_NAT)
    made = backwards(entry(1))._replace(status=SEEN | Status.SRC_NAT)
    assert entry_of(upright(flow(made), SERVICES))[:3] == sent[:3]
    assert on_nat(made)[0][:3] == sent[:3]
    assert held_by(Mode.NFTABLES, [flow(made)], SERVICES) == replies(sent)
    masqueraded = flow(entry(2, masqueraded=9, status=Status.SRC_NAT))
    assert upright(masqueraded, SERVICES) is masqueraded
    elsewhere = flow(made._replace(reply=made.reply._replace(destination_port=81)))
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
        Entry(6, Path(CLIENT, 8, VIP, 80), Path(VIP, 80, CLIENT, 8), info=(3, 0, 0, 0, 0)),
    ]
    assert on_ipvs(*carried, backwards(turned), *others) == [*carried, turned]
    assert on_nat(*carried, *others, entry(9, status=Status.DST_NAT, state=7)) == others[:1]


def test_sctp_associations_and_udp_flows_are_carried_too() -> None:
    services = Frontends.of(((VIP, protocol, 80) for protocol in (Protocol.SCTP, Protocol.UDP)), [])
    sctp = entry(1)._replace(protocol=IPPROTO_SCTP, info=(4, 0xAABBCCDD, 0x01020304))
    udp = entry(1)._replace(protocol=IPPROTO_UDP, info=())
    for one in (sctp, udp):
        carried = flows.on_ipvs(flow(one), services)
        assert carried is not None
        assert carried.open
    assert held_by(Mode.IPVS, [flow(sctp), flow(udp)], services) == replies(sctp)
    assert not flow(sctp._replace(info=(5, 0, 0))).open  # SCTP_CONNTRACK_SHUTDOWN_SENT


def caught(*entries: Entry) -> flows.Catches:
    catches = flows.nothing_caught()
    for one in entries:
        flows.catch(flow(one), catches)
    assert catches[16] == flows.Catches({}, {})
    return catches[4]


def packet(protocol: int, of: Path) -> bytes:
    return struct.pack(">B3x4sH2x4sH2x", protocol, *of)


def at(address: bytes, port: int) -> bytes:
    return struct.pack(">4sH2x", address, port)


def test_a_packet_of_either_end_is_translated_as_ipvs_did() -> None:
    client, masqueraded, plain = Path(CLIENT, 1, VIP, 80), Path(POD, 8080, GATEWAY, 9), Path(POD, 8080, CLIENT, 1)
    assert caught(entry(1, masqueraded=9)) == flows.Catches(
        destinations={packet(6, client): at(POD, 8080), packet(6, masqueraded): at(CLIENT, 1)},
        sources={packet(6, client): at(GATEWAY, 9), packet(6, masqueraded): at(VIP, 80)},
    )
    assert caught(entry(1)) == flows.Catches(
        destinations={packet(6, client): at(POD, 8080)}, sources={packet(6, plain): at(VIP, 80)}
    )


def test_one_client_port_to_two_frontends_of_one_pod_makes_no_key_twice() -> None:
    both = caught(entry(1, masqueraded=8), entry(1, masqueraded=9, to=(GATEWAY, 30080)))
    assert len(both.destinations) == len(both.sources) == 4


def test_missing_wrong_and_ended_entries_are_told_apart() -> None:
    right, made_anew, missing, taken, closing, ipvs = (entry(port, status=Status.DST_NAT) for port in range(1, 7))
    others = [
        backwards(made_anew)._replace(status=SEEN | Status.SRC_NAT),
        taken._replace(reply=Path(GATEWAY, 8080, CLIENT, 4), id=b"new!"),
        entry(5, status=Status.DST_NAT, state=7),
        entry(6)._replace(id=b"ipvs"),
        entry(99, status=Status.DST_NAT),
    ]
    wanted = replies(right, made_anew, missing, taken, closing, ipvs)
    rest = {original: reply for original, reply in wanted.items() if original != key(right)}
    repair = flows.repair(wanted, Checked(rest, [flow(one) for one in others]))
    assert repair.ended == {key(closing)}
    assert repair.missing == [key(missing)]
    ident = struct.pack("=HH", 8, 12)
    assert repair.wrong == {key(taken): ident + b"new!", key(ipvs): ident + b"ipvs"}


def test_a_connection_that_its_pod_made_anew_counts_as_kept_and_so_does_one_that_has_ended() -> None:
    one, other, ended, same = entry(1), entry(2, masqueraded=9), entry(3), entry(4)
    held = replies(one, other, ended, same)
    after = [flow(backwards(each)._replace(status=SEEN | Status.SRC_NAT)) for each in (one, other)]
    after.append(flow(entry(3, status=Status.DST_NAT, state=7)))
    assert compare(held, Checked(replies(one, other, ended), after)).kept == 4
    assert compare(held, Checked(held, [flow(each) for each in (one, other)])).kept == 0  # IPVS's, which forgot them
    assert set(found(held, after)) == {key(each) for each in (one, other, ended)}


addresses = st.sampled_from((4, 16)).flatmap(
    lambda length: st.tuples(*[st.binary(min_size=length, max_size=length)] * 4)
)
ports = st.integers(1, 65535)
u8, u32 = st.integers(0, 255), st.integers(0, 2**32 - 1)
infos = st.tuples(st.just(IPPROTO_TCP), st.tuples(*[u8] * 5)) | st.just((IPPROTO_UDP, ()))
infos |= st.tuples(st.just(IPPROTO_SCTP), st.tuples(u8, u32, u32))


@given(addresses, st.tuples(ports, ports, ports, ports), st.booleans(), infos, u32, u32)
def test_requests_say_what_the_entry_says_attribute_by_attribute(
    ends: tuple[bytes, bytes, bytes, bytes],
    numbers: tuple[int, int, int, int],
    masqueraded: bool,
    info: tuple[int, tuple[int, ...]],
    timeout: int,
    mark: int,
) -> None:
    client, vip, pod, gateway = ends
    original = Path(client, numbers[0], vip, numbers[1])
    seen_as = (gateway, numbers[3]) if masqueraded else (client, numbers[0])
    sent = Entry(info[0], original, Path(pod, numbers[2], *seen_as), 0xFFFF, timeout, mark, b"id42", info[1])

    named, move = messages.move(flow(sent))
    assert (named, messages.reply_in(move, named)) == (key(sent), messages.reply_of(flow(sent)))
    create = messages.create_in(move, named)
    delete = messages.requests_in(move, named)[: -len(create)]
    assert delete == messages.delete(named, flow(sent).id)
    for request in (delete, create):
        assert len(request) % 4 == 0
        assert struct.unpack_from("=IHHII", request)[0] == len(request)
        assert request[16:20] == message(sent)[:4]
    assert struct.unpack_from("=HH", delete, 4) == (0x102, 0x1)
    assert struct.unpack_from("=HH", create, 4) == (0x100, 0x601)  # CREATE, EXCL, REQUEST

    deleted = fields(delete[20:])
    assert path(deleted.pop(1)) == (sent.protocol, original)
    assert {kind: bytes(value) for kind, value in deleted.items()} == {12: b"id42"}

    created = fields(create[20:])
    assert path(created.pop(1)) == (sent.protocol, original)
    assert path(created.pop(2)) == (sent.protocol, original.back())
    least = 1 if len(client) == 4 else 4
    for kind, (address, port) in ((13, (pod, numbers[2])), (6, seen_as)):
        if kind == 13 or seen_as != (client, numbers[0]):
            nat = fields(created.pop(kind))
            assert bytes(nat.pop(least)) == address
            assert int.from_bytes(fields(nat.pop(3))[1], "big") == port
            assert not nat
    assert [int.from_bytes(created.pop(kind), "big") for kind in (3, 7, 8)] == [SEEN, max(1, timeout), mark]
    if info[0] == IPPROTO_TCP:
        values = list(fields(fields(created.pop(4))[1]).values())
        assert [value[0] for value in values[:3]] == list(info[1][:3])
        assert [bytes(value) for value in values[3:]] == [bytes((flags | 8, 0xFF)) for flags in info[1][3:]]
    elif info[0] == IPPROTO_SCTP:
        values = list(fields(fields(created.pop(4))[3]).values())
        assert tuple(int.from_bytes(value, "big") for value in values) == info[1]
    assert not created


def test_what_was_noted_is_read_again_and_what_makes_no_sense_is_told(
    tmp_path: File, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes(tmp_path / "state" / "flows")
    assert (notes.exist(), notes.read()) == (False, {})
    udp6 = Entry(17, Path(bytes(16), 1, bytes(16), 2), Path(bytes(16), 3, bytes(16), 1))
    noted = dict(messages.move(flow(one)) for one in (entry(1), udp6, entry(2, masqueraded=9)))
    notes.write(noted)
    notes.write(noted)
    assert (notes.exist(), Notes(tmp_path / "state" / "flows").read()) == (True, noted)
    whole = (tmp_path / "state" / "flows").read_bytes()
    for content in (whole[:-1], whole[:-210], b"", b"[]", whole + bytes(8)):
        caplog.clear()
        (tmp_path / "state" / "flows").write_bytes(content)
        assert notes.read() == {}
        assert "list of connections ignored" in caplog.text
    notes.remove()
    notes.remove()
    assert list((tmp_path / "state").iterdir()) == []


CONNECTIONS = "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n"
TO_SERVICE = "TCP 0A000001 0001 0A000002 0050 0A000003 1F90 ESTABLISHED     899\n"
ELSEWHERE = "TCP 0A000001 0001 0A000002 0051 0A000003 1F90 ESTABLISHED     899\n"
TO_SERVICE6 = (
    "SCTP [0000:0000:0000:0000:0000:0000:0000:0001] 0001 [fd96:0000:0000:0000:0000:0000:0000:0010] 0050 "
    "[fd44:0000:0000:0000:0000:0000:0000:0001] 1F90 ESTABLISHED     899\n"
)


@pytest.mark.parametrize(
    ("listed", "forgotten"),
    [
        pytest.param(None, True, id="no IPVS"),
        pytest.param("", True, id="nothing"),
        pytest.param(ELSEWHERE + "AH 0A000001 0001 0A000002 0050 0A000003 1F90 NONE 1\n", True, id="not Services'"),
        pytest.param(ELSEWHERE + TO_SERVICE, False, id="a Service's"),
        pytest.param(TO_SERVICE.replace("0050", "7580"), False, id="by NodePort"),
        pytest.param(TO_SERVICE6, False, id="IPv6, SCTP"),
    ],
)
def test_ipvs_has_forgotten_when_it_lists_no_connection_to_a_service(
    tmp_path: File, monkeypatch: pytest.MonkeyPatch, listed: str | None, forgotten: bool
) -> None:
    file = tmp_path / "ip_vs_conn"
    if listed is not None:
        file.write_text(CONNECTIONS + listed)
    monkeypatch.setattr(remembered, "_LIST", file)
    vip6 = bytes.fromhex("fd96" + "0" * 26 + "10")
    services = Frontends.of([FRONTEND, (vip6, Protocol.SCTP, 80)], [NODE_PORT])
    assert remembered.Remembered(services).forgotten(within=0) is forgotten
