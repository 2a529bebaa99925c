"""A conntrack dump's messages: taken apart alike whether their shape is known, and whatever else is in them."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from proxymode_agent.dataplane.conntrack.entries import LAYOUTS, Entry, Path, Tcp, entry_of, parse, translated_open
from proxymode_agent.dataplane.conntrack.messages import original_of, reply_of
from proxymode_agent.dataplane.conntrack.shapes import Shapes, learn
from proxymode_agent.dataplane.nfnetlink.attributes import encode

if TYPE_CHECKING:
    from proxymode_agent.dataplane.conntrack.entries import Layout
    from proxymode_agent.dataplane.nfnetlink.attributes import Attributes

u32 = st.integers(0, 2**32 - 1)
ports = st.integers(0, 65535)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    length = draw(st.sampled_from([4, 16]))
    address = st.binary(min_size=length, max_size=length)
    original, reply = (Path(draw(address), draw(ports), draw(address), draw(ports)) for _ in range(2))
    tcp = draw(st.none() | st.builds(Tcp, *(st.integers(0, 255) for _ in range(5))))
    protocol = socket.IPPROTO_UDP if tcp is None else socket.IPPROTO_TCP
    ident = draw(st.binary(min_size=4, max_size=4))
    return Entry(protocol, original, reply, draw(u32), draw(u32), draw(u32), ident, tcp)


def layout_of(entry: Entry) -> Layout:
    return LAYOUTS[len(entry.original.source) == 16]


def message(entry: Entry, *, usual: bool = True, zone: bool = False) -> bytes:
    """As ctnetlink_fill_info writes it; not `usual`: in another order and with more in it."""
    numbers: Attributes = (
        (3, entry.status.to_bytes(4, "big")),
        (8, entry.mark.to_bytes(4, "big")),
        (12, entry.id),
        (11, bytes(4)),
        (7, entry.timeout.to_bytes(4, "big")),
    )
    info: Attributes = ()
    if entry.tcp is not None:
        flags = [(kind, bytes([value, 0])) for kind, value in zip((4, 5), entry.tcp[3:], strict=True)]
        info = (
            (
                4,
                (
                    (
                        1,
                        tuple((kind, bytes([value])) for kind, value in zip((1, 2, 3), entry.tcp[:3], strict=True))
                        + tuple(flags),
                    ),
                ),
            ),
        )
    if not usual:
        numbers = (*reversed(numbers), (20, bytes(8)))
    rest: Attributes = (*(((18, bytes(2)),) if zone else ()), *numbers, *info)
    return layout_of(entry).header + original_of(entry) + reply_of(entry) + encode(rest)


@given(st.lists(entries(), min_size=1, max_size=6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_entries_are_what_was_sent_in_any_company(sent: list[Entry], usual: list[bool]) -> None:
    for entry, plain in zip(sent, usual, strict=False):
        body = message(entry, usual=plain)
        found, once_more = (parse(layout_of(entry), memoryview(body), translated_only=False) for _ in range(2))
        assert found is not None
        assert found == once_more
        assert found._replace(tuples=b"") == entry
        assert found.tuples == original_of(entry) + reply_of(entry)
        open_ = entry.by_nftables and (entry.tcp is None or entry.established)
        assert translated_open(layout_of(entry), body) is open_
        again = entry_of(found.tuples, entry.status, entry.timeout, entry.mark, entry.tcp)
        assert again == found._replace(id=b"")


@given(entries())
def test_the_usual_message_is_unpacked_at_once_and_others_are_not(entry: Entry) -> None:
    shapes = Shapes()
    body = message(entry)
    assert shapes.values(body) is None
    shapes.learn(len(entry.original.source), body)
    values = shapes.values(body)
    assert values is not None
    assert values[9] == entry.status
    assert learn(len(entry.original.source), message(entry, usual=False)) is None
    spoilt = bytearray(body)
    spoilt[len(layout_of(entry).header) + 2 * layout_of(entry).tuple_bytes + 2] ^= 1  # another attribute's number
    assert shapes.values(bytes(spoilt)) is None


@given(entries())
def test_entries_in_zones_are_left_out(entry: Entry) -> None:
    assert parse(layout_of(entry), memoryview(message(entry, zone=True)), translated_only=False) is None


@given(entries())
def test_what_nobody_translates_can_be_left_out(entry: Entry) -> None:
    original = entry.original
    plain = entry._replace(
        reply=Path(original.destination, original.destination_port, original.source, original.source_port)
    )
    for _ in range(2):
        assert parse(layout_of(plain), memoryview(message(plain)), translated_only=True) is None
        assert parse(layout_of(plain), memoryview(message(plain)), translated_only=False) is not None
