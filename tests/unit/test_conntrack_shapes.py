"""A conntrack dump's messages: taken apart alike whether their shape is known, and whatever else is in them."""

from __future__ import annotations

from socket import IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from conntrack_oracle import Entry, Path, entry_of, flow, message
from proxymode_agent.dataplane.conntrack.layout import BY_FAMILY
from proxymode_agent.dataplane.conntrack.messages import CT_NEW, dumped, original_of, reply_of
from proxymode_agent.dataplane.conntrack.shapes import Block, Shapes, learn, walk
from proxymode_agent.dataplane.netlink import HEADER_BYTES, request_header

if TYPE_CHECKING:
    from proxymode_agent.dataplane.conntrack.flow import Flow

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


def rows_of(bodies: list[bytes]) -> dict[int, bytes]:
    """As a dump has them, by the length of a row."""
    rows = [request_header(CT_NEW, 0, len(body)) + body for body in bodies]
    sizes = {len(row) for row in rows}
    return {size: b"".join(row for row in rows if len(row) == size) for size in sizes}


def sort(shapes: Shapes, *bodies: bytes) -> list[Block | Flow]:
    return [found for size, rows in rows_of(list(bodies)).items() for found in shapes.sort(size, rows)]


def flows_of(found: list[Block | Flow]) -> list[Flow]:
    return [flow for one in found for flow in (one.flows() if isinstance(one, Block) else [one])]


@given(st.lists(entries(), min_size=1, max_size=6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_entries_are_what_was_sent_in_any_company(sent: list[Entry], usual: list[bool]) -> None:
    shapes = Shapes()
    bodies = [message(entry, usual=plain) for entry, plain in zip(sent, usual, strict=False)]
    for _ in range(2):
        found = sort(shapes, *bodies)
        assert sorted(map(entry_of, flows_of(found))) == sorted(sent)
        assert sorted(map(dumped, flows_of(found))) == sorted(dumped(walk(body)) for body in bodies)  # type: ignore[arg-type]


@given(st.lists(entries(), min_size=1, max_size=6))
def test_a_column_says_of_each_entry_what_the_entry_says(sent: list[Entry]) -> None:
    for block in sort(Shapes(), *map(message, sent)):
        assert isinstance(block, Block)
        alike = list(block.flows())
        assert len(block) == len(alike)
        assert list(block.tuples()) == [(original_of(flow), reply_of(flow)) for flow in alike]
        assert list(block.translated()) == [flow.by_nftables for flow in alike]
        assert list(block.open()) == [flow.open for flow in alike]
        assert [time == 0 for time in block.column(block.shape.timeout)] == [
            flow.timeout[4:] == bytes(4) for flow in alike
        ]
        assert [tuple(flow)[:9] for flow in alike] == list(block.ends())
        some = list(range(0, len(block), 2))
        assert list(block.picked(some).flows()) == [alike[at] for at in some]
        kinds = [(kind, list(part.flows())) for kind, part in block.by_kind()]
        assert sorted(flow for _, part in kinds for flow in part) == sorted(alike)
        assert all(len(set(map(decisive, part))) == 1 for _, part in kinds)
        assert len({kind for kind, _ in kinds}) == len({decisive(flow) for flow in alike}) == len(kinds)


def decisive(flow: Flow) -> tuple[int, ...]:
    """What is not copied as it is when an entry is made anew."""
    info = entry_of(flow).info
    return (flow.status, *info[:1], *info[3:])


@given(entries())
def test_the_usual_message_has_a_shape_and_others_have_none(entry: Entry) -> None:
    (row,) = rows_of([message(entry)]).values()
    shape = learn(row)
    assert shape is not None
    assert shape.fits(row)
    assert shape.fits(3 * row)
    assert shape.pieces.unpack(row) == walk(message(entry))
    (unusual,) = rows_of([message(entry, usual=False)]).values()
    assert learn(unusual) is None
    spoilt = bytearray(row)
    spoilt[HEADER_BYTES + BY_FAMILY[row[HEADER_BYTES]].reply.stop + 2] ^= 1  # another attribute's number
    assert not shape.fits(bytes(spoilt))
    assert not shape.fits(row + bytes(spoilt) + row)


@given(entries())
def test_of_one_length_a_few_shapes_are_known_at_a_time(entry: Entry) -> None:
    """Labels, timestamps and security contexts come and go with the entry."""
    shapes = Shapes()
    bodies = [message(entry) + bytes((8, 0, kind, 0)) + bytes(4) for kind in range(30, 37)]
    assert flows_of(sort(shapes, *bodies)) == [walk(body) for body in bodies]
    assert [len(known) for known in shapes._known.values()] == [4]


@given(entries())
def test_entries_in_zones_and_of_other_protocols_are_left_out(entry: Entry) -> None:
    other = message(entry._replace(protocol=1, info=()))
    assert sort(Shapes(), message(entry, zone=True), other, message(entry)[:40]) == []


@given(entries())
def test_turned_round_is_what_the_other_end_s_packet_would_have_made(entry: Entry) -> None:
    state, *pairs = entry.info or (0,)
    swapped = [value for at in range(0, len(pairs), 2) for value in (pairs[at + 1], pairs[at])]
    info = (state, *swapped) if entry.info else ()
    turned = flow(entry).turned()
    assert entry_of(turned) == entry._replace(original=entry.reply, reply=entry.original, info=info)
    assert turned.turned() == flow(entry)
