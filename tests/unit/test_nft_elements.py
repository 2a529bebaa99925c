"""Elements in bulk: packed as the kernel wants them, parsed as it dumps them, cut so that each message fits."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxymode_agent.dataplane.nfnetlink import (
    IP6_DADDR,
    IP_DADDR,
    IP_SADDR,
    L4PROTO,
    TH_DPORT,
    Command,
    Element,
    NfProto,
    Set,
    Table,
    Transaction,
    Verdict,
    VerdictCode,
    add_elements,
    add_packed,
    add_rows,
    delete_elements,
    one_by_one,
    pack_elements,
    random_index,
    unpack_elements,
    verdict_element,
)
from proxymode_agent.dataplane.nfnetlink.attributes import encode, fields, parse, text
from proxymode_agent.dataplane.nfnetlink.elements import parse_elements
from proxymode_agent.dataplane.nfnetlink.transaction import HEADERS
from proxymode_agent.dataplane.nfnetlink.uapi import ElemAttr, ElemListAttr, ListAttr

TABLE = Table(NfProto.IPV4, "t")
PORTS = Set(TABLE, "ports", (TH_DPORT,))
ADDRESSES = Set(TABLE, "addresses", (IP_SADDR, IP_DADDR))
ENDPOINTS = Set(TABLE, "endpoints", (IP_DADDR, L4PROTO, TH_DPORT, random_index(2)), (IP_DADDR, TH_DPORT))
ENDPOINTS6 = Set(TABLE, "endpoints6", (IP6_DADDR, L4PROTO, TH_DPORT, random_index(2)), (IP6_DADDR, TH_DPORT))
MARKS = Set(TABLE, "marks", (TH_DPORT,), (TH_DPORT,))
SOURCES = Set(TABLE, "sources", (IP_DADDR, TH_DPORT, IP_SADDR), intervals=True)
VERDICTS = Set(TABLE, "verdicts", (IP_DADDR, L4PROTO, TH_DPORT), Verdict)
SETS = [PORTS, ADDRESSES, ENDPOINTS, ENDPOINTS6, MARKS, SOURCES, VERDICTS]

TARGETS = st.sampled_from([(VerdictCode.GOTO, "one-of-1"), (VerdictCode.JUMP, "longer-name"), (VerdictCode.DROP, None)])


def elements_of(of: Set) -> st.SearchStrategy[list[Element]]:
    data: st.SearchStrategy[bytes]
    if of.data is Verdict:
        data = TARGETS.map(lambda target: verdict_element(*target))
    else:
        data = st.binary(min_size=of.data_length, max_size=of.data_length)
    key_bytes = 2 * of.key_length if of.intervals else of.key_length
    key = st.binary(min_size=key_bytes, max_size=key_bytes)
    return st.lists(st.tuples(key, data), max_size=30)


def parsed(of: Set, commands: list[Command]) -> list[Element]:
    return [element for command in commands for element in parse_elements(of, memoryview(command.body))]


@pytest.mark.parametrize("of", SETS, ids=lambda of: of.name)
@given(data=st.data())
@settings(deadline=None)
def test_what_is_packed_is_what_is_parsed(of: Set, data: st.DataObject) -> None:
    elements = data.draw(elements_of(of))
    commands = list(add_elements(of, elements))
    assert parsed(of, commands) == elements
    assert sum(command.objects for command in commands) == len(elements)


def test_an_element_by_hand() -> None:
    key, value = bytes.fromhex("0a600001 06000000 00500000 03000000"), bytes.fromhex("0a0a0001 1f900000")
    [command] = add_elements(ENDPOINTS, [(key, value)])
    assert command.body[-48:].hex() == (
        "300003802c0001801800018014000100" + key.hex() + "100002800c000100" + value.hex()
    )
    assert str(command) == "add 1 element of map ip t endpoints"


@pytest.mark.parametrize("count", [1, 1487, 1488, 5000])
def test_messages_stay_below_the_length_of_an_attribute(count: int) -> None:
    elements = [(index.to_bytes(16, "big"), bytes(8)) for index in range(count)]
    commands = list(add_elements(ENDPOINTS, elements))
    assert parsed(ENDPOINTS, commands) == elements
    assert all(len(command.body) <= 65_600 for command in commands)
    assert len(commands) == -(-count // 1488)
    pieces = [pack_elements(ENDPOINTS, elements[at : at + 700]) for at in range(0, count, 700)]
    assert [element for piece in pieces for element in unpack_elements(ENDPOINTS, piece)] == elements
    packed = list(add_packed(ENDPOINTS, pieces))
    assert [(one.body, str(one), one.objects) for one in packed] == [
        (one.body, str(one), one.objects) for one in commands
    ]
    assert [len(transaction.commands) for transaction in one_by_one(commands)] == [1] * len(commands)


@pytest.mark.parametrize("of", [ENDPOINTS, ENDPOINTS6], ids=lambda of: of.name)
@given(counts=st.lists(st.sampled_from([0, 1, 2, 50, 700, 900, 2000]), max_size=6))
@settings(deadline=None, max_examples=15)
def test_rows_are_the_elements_that_they_stand_for(of: Set, counts: list[int]) -> None:
    ends = [index.to_bytes(4, sys.byteorder) for index in range(2000)]
    rows = []
    for number, count in enumerate(counts):
        key = number.to_bytes(of.key_length - 4, "big")
        rows.append((key, [(number * 7919 + index).to_bytes(of.data_length, "big") for index in range(count)]))
    commands = list(add_rows(of, rows, ends))
    wanted = [(key + end, value) for key, values in rows for end, value in zip(ends, values, strict=False)]
    assert parsed(of, commands) == wanted
    assert sum(command.objects for command in commands) == len(wanted)
    assert all(len(command.body) <= 65_600 for command in commands)


def test_a_delete_names_keys_only() -> None:
    keys = [index.to_bytes(16, "big") for index in range(3)]
    [command] = delete_elements(ENDPOINTS, keys)
    listed = [element for _, element in parse(fields(command.body)[ElemListAttr.ELEMENTS])]
    assert [bytes(fields(fields(element)[ElemAttr.KEY])[1]) for element in listed] == keys
    assert all(ElemAttr.DATA not in fields(element) for element in listed)
    assert str(command) == "delete 3 elements of map ip t endpoints"


def test_elements_with_more_to_them_are_parsed_too() -> None:
    """As after `nft add element … { … comment "x" }` by somebody: they no longer have all the same size."""

    def element(key: bytes, *more: tuple[int, bytes]) -> tuple[int, tuple[tuple[int, object], ...]]:
        return ListAttr.ELEM, ((ElemAttr.KEY, ((1, key),)), (ElemAttr.DATA, ((1, bytes(8)),)), *more)

    keys = [index.to_bytes(16, "big") for index in range(4)]
    listed = (element(keys[0]), element(keys[1], (6, b"comment!")), element(keys[2]), element(keys[3]))
    body = encode([(ElemListAttr.TABLE, text("t")), (ElemListAttr.ELEMENTS, listed)])  # type: ignore[list-item]
    assert list(parse_elements(ENDPOINTS, memoryview(body))) == [(key, bytes(8)) for key in keys]


def test_an_error_names_the_element() -> None:
    keys = [bytes.fromhex("0a600001 11000000 00500000") + index.to_bytes(4, "little") for index in range(3)]
    [command] = delete_elements(ENDPOINTS, keys)
    assert command.locate is not None
    second = command.body.index(keys[1]) - 12  # its NFTA_LIST_ELEM
    assert command.locate(HEADERS.size + second) == ("endpoints", keys[1], "10.96.0.1 . 17 . 80 . 1")


def test_commands_are_numbered_from_one_between_begin_and_end() -> None:
    batch = Transaction.of(TABLE.add(), TABLE.delete()).encode()
    messages = []
    while batch:
        length, kind, _, sequence, _, family, _, resource = HEADERS.unpack_from(batch)
        messages.append((kind & 0xFF, sequence, family, resource))
        batch = batch[length:]
    assert messages == [(16, 0, 0, 10 << 8), (0, 1, 2, 0), (2, 2, 2, 0), (17, 0, 0, 10 << 8)]
