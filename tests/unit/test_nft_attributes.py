"""Netlink attributes: what is encoded is what is parsed, and a dump is compared by meaning."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxymode_agent.dataplane.nfnetlink import userdata
from proxymode_agent.dataplane.nfnetlink.attributes import (
    Attributes,
    encode,
    fields,
    matches,
    parse,
    text,
    to_text,
    to_u32,
    u32,
)
from proxymode_agent.dataplane.nfnetlink.uapi import NLA_F_NESTED

KINDS = st.integers(1, 0x3FFF)
FLAT = st.lists(st.tuples(KINDS, st.binary(max_size=40)), max_size=8)


@given(FLAT)
@settings(deadline=None)
def test_parse_gives_back_what_was_encoded(attributes: list[tuple[int, bytes]]) -> None:
    encoded = encode(attributes)
    assert len(encoded) % 4 == 0
    assert [(kind, bytes(value)) for kind, value in parse(encoded)] == attributes


@given(KINDS, FLAT)
@settings(deadline=None)
def test_nested_attributes_are_flagged_and_parse_in_two_steps(kind: int, inner: list[tuple[int, bytes]]) -> None:
    encoded = encode([(kind, tuple(inner))])
    assert int.from_bytes(encoded[2:4], "little") == kind | NLA_F_NESTED
    [(outer, value)] = parse(encoded)
    assert (outer, [(one, bytes(data)) for one, data in parse(value)]) == (kind, inner)


def test_numbers_are_big_endian_and_text_ends_with_nul() -> None:
    assert (u32(-4), to_u32(u32(7))) == (b"\xff\xff\xff\xfc", 7)
    assert (text("nat"), to_text(memoryview(b"nat\0"))) == (b"nat\0", "nat")


def test_a_name_of_somebody_elses_that_is_no_text_is_no_error() -> None:
    assert to_text(b"Zug\xe4nge\0") == "Zug\\xe4nge"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="attribute 3 has 65532 bytes"):
        encode([(3, bytes(65532))])
    with pytest.raises(ValueError, match="length 2"):
        list(parse(b"\2\0\1\0"))
    with pytest.raises(ValueError, match="at most 128"):
        userdata.comment("x" * 129)


SENT: Attributes = ((1, u32(8)), (2, u32(0)), (3, ((1, b"key"), (2, u32(5)))))


@pytest.mark.parametrize(
    ("dumped", "same"),
    [
        pytest.param(SENT, True, id="as sent"),
        pytest.param(tuple(reversed(SENT)), True, id="other order"),
        pytest.param((SENT[0], SENT[2]), True, id="a zero left out"),
        pytest.param((*SENT, (9, u32(0))), True, id="a default added"),
        pytest.param((*SENT, (9, u32(1))), False, id="something added"),
        pytest.param(SENT[1:], False, id="something left out"),
        pytest.param((*SENT[:2], (3, ((1, b"key"), (2, u32(6))))), False, id="another value inside"),
        pytest.param(SENT[:2], False, id="nested left out"),
    ],
)
def test_a_dump_matches_what_would_create_it(dumped: Attributes, same: bool) -> None:
    assert matches(SENT, encode(dumped)) is same


def test_fields_are_views_and_comments_are_found_behind_other_entries() -> None:
    assert to_text(fields(encode([(1, text("a")), (2, text("b"))]))[2]) == "b"
    assert userdata.comment_of(userdata.tlv(5, b"zz") + userdata.comment("who")) == "who"
    assert userdata.comment_of(None) is None
