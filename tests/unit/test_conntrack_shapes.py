"""A conntrack dump's messages: taken apart alike whether their shape is known, and whatever else is in them."""

from __future__ import annotations

from socket import IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP

from hypothesis import given
from hypothesis import strategies as st

from conntrack_oracle import Entry, Path, entry_of, flow, message
from proxymode_agent.dataplane.conntrack.layout import BY_FAMILY
from proxymode_agent.dataplane.conntrack.messages import dumped, original_of, reply_of
from proxymode_agent.dataplane.conntrack.shapes import Shapes, learn, walk

u8, u32, ports = st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 65535)
infos = {
    IPPROTO_TCP: st.tuples(*[u8] * 5),
    IPPROTO_UDP: st.just(()),
    IPPROTO_SCTP: st.tuples(u8, u32, u32),
}


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    length = draw(st.sampled_from([4, 16]))
    address = st.binary(min_size=length, max_size=length)
    original, reply = (Path(draw(address), draw(ports), draw(address), draw(ports)) for _ in range(2))
    protocol = draw(st.sampled_from(sorted(infos)))
    ident = draw(st.binary(min_size=4, max_size=4))
    return Entry(protocol, original, reply, draw(u32), draw(u32), draw(u32), ident, draw(infos[protocol]))


@given(st.lists(entries(), min_size=1, max_size=6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_entries_are_what_was_sent_in_any_company(sent: list[Entry], usual: list[bool]) -> None:
    shapes = Shapes()
    for _ in range(2):
        for entry, plain in zip(sent, usual, strict=False):
            body = message(entry, usual=plain)
            found = shapes.parse(body)
            assert found is not None
            assert entry_of(found) == entry
            layout = BY_FAMILY[body[0]]
            assert (original_of(found), reply_of(found)) == (body[layout.original], body[layout.reply])
            assert shapes.parse(dumped(found)) == found
            assert shapes.open_by_nftables(body) is (found.by_nftables and found.open)


@given(entries())
def test_the_usual_message_is_unpacked_at_once_and_others_are_not(entry: Entry) -> None:
    body = message(entry)
    shape = learn(body)
    assert shape is not None
    assert shape.fits(body)
    assert shape.pieces.unpack(body) == walk(body)
    assert learn(message(entry, usual=False)) is None
    spoilt = bytearray(body)
    spoilt[BY_FAMILY[body[0]].reply.stop + 2] ^= 1  # another attribute's number
    assert not shape.fits(bytes(spoilt))


@given(entries())
def test_of_one_length_a_few_shapes_are_known_at_a_time(entry: Entry) -> None:
    """Labels, timestamps and security contexts come and go with the entry."""
    shapes = Shapes()
    bodies = [message(entry) + bytes((8, 0, kind, 0)) + bytes(4) for kind in range(30, 37)]
    for body in bodies:
        assert shapes.parse(body) == walk(body)
    assert [len(known) for known in shapes._known.values()] == [4]


@given(entries())
def test_entries_in_zones_and_of_other_protocols_are_left_out(entry: Entry) -> None:
    assert Shapes().parse(message(entry, zone=True)) is None
    assert Shapes().parse(message(entry._replace(protocol=1, info=()))) is None
    assert Shapes().parse(message(entry)[:40]) is None


@given(entries())
def test_turned_round_is_what_the_other_end_s_packet_would_have_made(entry: Entry) -> None:
    state, *pairs = entry.info or (0,)
    swapped = [value for at in range(0, len(pairs), 2) for value in (pairs[at + 1], pairs[at])]
    info = (state, *swapped) if entry.info else ()
    turned = flow(entry).turned()
    assert entry_of(turned) == entry._replace(original=entry.reply, reply=entry.original, info=info)
    assert turned.turned() == flow(entry)
