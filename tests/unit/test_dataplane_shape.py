"""Telling other people's commits from our own, and what they did by the shape of our tables."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxymode_agent.dataplane.nfnetlink import (
    IP_DADDR,
    Chain,
    NfProto,
    Set,
    Table,
    Transaction,
    add_elements,
    delete_elements,
)
from proxymode_agent.dataplane.nfnetlink.ledger import Activity, Ledger, SetName
from proxymode_agent.dataplane.shape import Shape, differences, differing_elements

TABLE = Table(NfProto.IPV4, "ours")
IPS = Set(TABLE, "ips", (IP_DADDR,))
NAME = SetName(NfProto.IPV4, "ours", "ips")


def elements(*numbers: int) -> list[tuple[bytes, bytes]]:
    return [(bytes([10, 0, 0, number]), b"") for number in numbers]


def test_commits_that_we_did_not_make_are_others() -> None:
    ledger = Ledger()
    assert ledger.balance(7) == Activity(0, False, {}), "of the time before nothing is known"
    ledger.note(Transaction(tuple(add_elements(IPS, elements(1, 2, 3)))))
    ledger.note(Transaction(tuple(delete_elements(IPS, [key for key, _ in elements(1)]))))
    assert ledger.balance(9) == Activity(0, False, {NAME: 2})
    ledger.note(Transaction.of(Chain(TABLE, "chain").add()))
    assert ledger.balance(12) == Activity(2, True, {})
    assert ledger.balance(12) == Activity(0, False, {})


def test_adding_a_table_that_exists_is_no_commit_to_the_kernel() -> None:
    ledger = Ledger()
    ledger.balance(7)
    ledger.note(Transaction.of(TABLE.add()))
    assert ledger.balance(8).others == 1, "so the one that happened is somebody's"


@given(st.lists(st.booleans(), max_size=50), st.integers(0, 2**32 - 1))
def test_others_are_counted_whatever_the_order_and_wherever_the_number_is(ours: list[bool], start: int) -> None:
    ledger = Ledger()
    ledger.balance(start)
    for mine in ours:
        if mine:
            ledger.note(Transaction(tuple(add_elements(IPS, elements(1)))))
    activity = ledger.balance((start + len(ours)) % 2**32)
    assert activity.others == ours.count(False)
    assert activity.grown.get(NAME, 0) == ours.count(True)


SHAPE = Shape({"table ip ours": b"\0", "chain ip ours a": b"rules"}, {NAME: 3})


def test_what_differs_is_said_in_words() -> None:
    assert differences(SHAPE, SHAPE) == ""
    assert differences(SHAPE, Shape({"table ip ours": b"\0"}, {NAME: 3})) == "chain ip ours a is gone"
    assert differences(SHAPE, Shape(SHAPE.parts, {NAME: 2})) == "ip ours ips has 1 element less"
    assert differences(SHAPE, Shape(SHAPE.parts, {NAME: 5})) == "ip ours ips has 2 elements more"
    theirs = Shape({**SHAPE.parts, "chain ip ours a": b"other", "chain ip ours b": b""}, {NAME: 3})
    assert differences(SHAPE, theirs) == "chain ip ours a was changed; chain ip ours b was added"


def test_elements_that_differ_are_counted() -> None:
    left = {b"a": b"1", b"b": b"2", b"c": b"3"}
    assert list(differing_elements("map ip ours m", left, dict(left))) == []
    found = {b"a": b"1", b"b": b"9", b"x": b"0", b"y": b"0"}
    assert list(differing_elements("m", left, found)) == [
        "m has 1 element less",
        "m has 2 elements more",
        "m has 1 element changed",
    ]


def test_what_we_added_ourselves_is_expected() -> None:
    assert differences(SHAPE.grown({NAME: -1}), Shape(SHAPE.parts, {NAME: 2})) == ""
    assert SHAPE.grown({SetName(NfProto.IPV6, "ours", "ips"): 9}) == SHAPE


def test_a_table_in_ruins_is_told_in_one_line() -> None:
    many = Shape({f"chain ip ours {number}": b"" for number in range(9)})
    assert differences(many, Shape()).endswith("chain ip ours 4 is gone; and 4 more")
