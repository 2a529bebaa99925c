"""Set elements to netlink messages and back, 250,000 at a time.

An element is a (key, data) pair of bytes: data is empty for a set, the value for a map, and what :func:`verdict`
makes for a verdict map. A dump gives the same pairs as were sent, so that kernel and intent compare as dictionaries.
Everything but key and data is the same for all elements of one size, so it is made once (struct nlattr headers).
"""

from __future__ import annotations

import struct
from functools import cache
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.nfnetlink.attributes import (
    HEADER,
    Attributes,
    encode,
    fields,
    parse,
    text,
    to_text,
    to_u32,
)
from proxymode_agent.dataplane.nfnetlink.expressions import verdict_data
from proxymode_agent.dataplane.nfnetlink.fields import show
from proxymode_agent.dataplane.nfnetlink.transaction import HEADERS, Command, Located
from proxymode_agent.dataplane.nfnetlink.uapi import (
    NLA_F_NESTED,
    DataAttr,
    ElemAttr,
    ElemListAttr,
    ListAttr,
    Message,
    MessageFlag,
    VerdictAttr,
    VerdictCode,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from proxymode_agent.dataplane.nfnetlink.objects import Set

Element = tuple[bytes, bytes]

LIST_LIMIT = 0xFFFF - HEADER.size  # nla_len of the nested list of elements


@cache
def verdict(code: VerdictCode, chain: str | None = None) -> bytes:
    """The data of a verdict map's element."""
    return encode(verdict_data(code, chain))


def add_elements(to: Set, elements: Iterable[Element]) -> Iterator[Command]:
    """Commands of up to 64 KB each. An element whose key exists with other data makes a transaction fail (EEXIST)."""
    return _commands(Message.NEWSETELEM, MessageFlag.CREATE, to, _packed(to, elements))


def add_rows(to: Set, rows: Iterable[tuple[bytes, Sequence[bytes]]], ends: Sequence[bytes]) -> Iterator[Command]:
    """As `add_elements`, for many elements of a map whose keys have a beginning in common: each row is such a beginning
    and the values in the order of `ends`, with which the keys end. Keys and values are of whole registers."""
    data = 2 * HEADER.size + to.data_length
    head, middle = _key_header(to, data), _data_header(to)
    ends = [end + middle for end in ends]
    size = len(head) + to.key_length + data
    most = LIST_LIMIT // size
    parts: list[bytes] = []
    number = 0
    for key, values in rows:
        for first in range(0, len(values), most):
            some = values[first : first + most]
            if number + len(some) > most:
                yield _command(Message.NEWSETELEM, MessageFlag.CREATE, to, b"".join(parts), number)
                parts, number = [], 0
            # Three pieces an element, all put together at once: a quarter of the time that adding them up takes.
            row = [head + key] * (3 * len(some))
            row[1::3] = ends[first : first + len(some)]
            row[2::3] = some
            parts.append(b"".join(row))
            number += len(some)
    if parts:
        yield _command(Message.NEWSETELEM, MessageFlag.CREATE, to, b"".join(parts), number)


def pack_elements(to: Set, elements: Iterable[Element]) -> bytes:
    """Elements as they are sent, for `add_packed`."""
    return b"".join(_packed(to, elements))


def unpack_elements(of: Set, packed: bytes) -> Iterator[Element]:
    """The elements, with values, in what `pack_elements` made."""
    return _parse_fixed(of, packed) or iter(())


def add_packed(to: Set, packed: Iterable[bytes]) -> Iterator[Command]:
    """As `add_elements`, for what `pack_elements` made of elements of one size."""
    elements = bytearray()
    for some in packed:
        elements += some
        while len(elements) > LIST_LIMIT:
            yield _packed_command(to, elements)
    if elements:
        yield _packed_command(to, elements)


def _packed_command(to: Set, elements: bytearray) -> Command:
    """As many as there is room for, which are taken away."""
    size = HEADER.unpack_from(elements)[0]
    end = min(len(elements), LIST_LIMIT // size * size)
    part = bytes(elements[:end])
    del elements[:end]
    return _command(Message.NEWSETELEM, MessageFlag.CREATE, to, part, end // size)


def add_expiring(to: Set, elements: Iterable[Element], milliseconds: int) -> Iterator[Command]:
    """As `add_elements`, for elements of a map that the kernel forgets after that time."""
    timeout = milliseconds.to_bytes(8, "big")

    def packed(key: bytes, data: bytes) -> bytes:
        attributes: Attributes = (
            (ElemAttr.KEY, ((DataAttr.VALUE, key),)),
            (ElemAttr.DATA, ((DataAttr.VALUE, data),)),
            (ElemAttr.TIMEOUT, timeout),
        )
        return encode(((ListAttr.ELEM, attributes),))

    return _commands(Message.NEWSETELEM, MessageFlag.CREATE, to, (packed(key, data) for key, data in elements))


def delete_elements(of: Set, keys: Iterable[bytes]) -> Iterator[Command]:
    """Commands of up to 64 KB each. A key that is not there makes a transaction fail (ENOENT)."""
    if of.intervals:
        return _commands(Message.DELSETELEM, MessageFlag(0), of, map(_interval, keys))
    head = _key_header(of, 0)
    padding = bytes(-of.key_length % 4)
    return _commands(Message.DELSETELEM, MessageFlag(0), of, (head + key + padding for key in keys))


def get_elements(of: Set, keys: Iterable[bytes]) -> Command:
    """A request for the elements with these keys; each is answered with a message of its own (see `values_in`)."""
    head = _key_header(of, 0)
    padding = bytes(-of.key_length % 4)
    (command,) = _commands(Message.GETSETELEM, MessageFlag(0), of, (head + key + padding for key in keys))
    return command


def values_in(of: Set, request: Command, answers: Sequence[bytes]) -> list[bytes] | None:
    """The values in the answers to `get_elements`; None where one is not an element with key and value and no more."""
    value = (of.data_length + 3) & ~3
    key = len(_key_header(of, 0)) + ((of.key_length + 3) & ~3)
    size = len(request.encode(0)) - (request.objects - 1) * key + 2 * HEADER.size + value
    if len(answers) != request.objects or any(len(answer) != size for answer in answers):
        return None
    start, end = size - value, size - value + of.data_length
    return [answer[start:end] for answer in answers]


def parse_elements(of: Set, buffer: memoryview) -> Iterator[Element]:
    """The elements in one NFT_MSG_NEWSETELEM of a dump."""
    elements = fields(buffer).get(ElemListAttr.ELEMENTS)
    if elements is None:
        return iter(())
    if of.intervals:
        return _parse_intervals(elements)
    if of.data_length and not isinstance(of.data, tuple):
        return _parse_verdicts(elements)
    return _parse_fixed(of, bytes(elements)) or _parse_values(elements)


def _key_header(of: Set, data_bytes: int) -> bytes:
    """The attribute headers before a key, in an element with `data_bytes` after it."""
    value = HEADER.size + of.key_length
    key = HEADER.size + value
    padded = (key + 3) & ~3
    return struct.pack(
        "=HHHHHH",
        HEADER.size + padded + data_bytes,
        ListAttr.ELEM | NLA_F_NESTED,
        key,
        ElemAttr.KEY | NLA_F_NESTED,
        value,
        DataAttr.VALUE,
    )


def _data_header(of: Set) -> bytes:
    """The attribute headers before a value."""
    value = HEADER.size + of.data_length
    return struct.pack("=HHHH", HEADER.size + value, ElemAttr.DATA | NLA_F_NESTED, value, DataAttr.VALUE)


def _interval(key: bytes) -> bytes:
    """An element of a set of intervals."""
    half = len(key) // 2
    ends: Attributes = (
        (ElemAttr.KEY, ((DataAttr.VALUE, key[:half]),)),
        (ElemAttr.KEY_END, ((DataAttr.VALUE, key[half:]),)),
    )
    return encode(((ListAttr.ELEM, ends),))


def _packed(of: Set, elements: Iterable[Element]) -> Iterator[bytes]:
    if of.intervals:
        return (_interval(key) for key, _ in elements)
    key_padding = bytes(-of.key_length % 4)
    if of.data is None:
        head = _key_header(of, 0)
        return (head + key + key_padding for key, _ in elements)
    if isinstance(of.data, tuple):
        tail = bytes(-of.data_length % 4)
        middle = key_padding + _data_header(of)
        head = _key_header(of, 2 * HEADER.size + of.data_length + len(tail))
        if not tail:
            return (head + key + middle + data for key, data in elements)
        return (head + key + middle + data + tail for key, data in elements)
    return _packed_verdicts(of, key_padding, elements)


_VERBS = {Message.NEWSETELEM: "add", Message.DELSETELEM: "delete", Message.GETSETELEM: "get"}


def _packed_verdicts(of: Set, key_padding: bytes, elements: Iterable[Element]) -> Iterator[bytes]:
    frames: dict[bytes, tuple[bytes, bytes]] = {}
    for key, data in elements:
        frame = frames.get(data)
        if frame is None:
            size = HEADER.size + len(data)
            frame = frames[data] = (
                _key_header(of, size),
                key_padding + HEADER.pack(size, ElemAttr.DATA | NLA_F_NESTED) + data,
            )
        yield frame[0] + key + frame[1]


def _commands(message: Message, flags: MessageFlag, of: Set, packed: Iterable[bytes]) -> Iterator[Command]:
    parts: list[bytes] = []
    size = 0
    for part in packed:
        if size + len(part) > LIST_LIMIT:
            yield _command(message, flags, of, b"".join(parts), len(parts))
            parts, size = [], 0
        parts.append(part)
        size += len(part)
    if parts:
        yield _command(message, flags, of, b"".join(parts), len(parts))


def _command(message: Message, flags: MessageFlag, of: Set, elements: bytes, number: int) -> Command:
    head = encode(((ElemListAttr.TABLE, text(of.table.name)), (ElemListAttr.SET, text(of.name))))
    header = HEADER.pack(HEADER.size + len(elements), ElemListAttr.ELEMENTS | NLA_F_NESTED)
    body = head + header + elements

    def locate(offset: int) -> Located | None:
        return _element_at(of, body, offset)

    what = "1 element" if number == 1 else f"{number} elements"
    return Command(message, flags, of.table.family, body, f"{_VERBS[message]} {what} of", of, number, locate)


def _element_at(of: Set, body: bytes, offset: int) -> Located | None:
    """The element that begins at a byte of a message (nlmsghdr included, as the kernel counts)."""
    _, element = next(parse(memoryview(body)[offset - HEADERS.size :]))
    attribute = fields(element).get(ElemAttr.KEY)
    if attribute is None:
        return None
    key = bytes(fields(attribute)[DataAttr.VALUE])
    return Located(of.name, key, show(of.key, key))


def _parse_fixed(of: Set, elements: bytes) -> Iterator[Element] | None:
    """Elements that all have key and value and nothing else; None if they do not look so."""
    layout = f"12x{of.key_length}s{-of.key_length % 4}x"
    if of.data is not None:
        layout += f"8x{of.data_length}s{-of.data_length % 4}x"
    size = struct.calcsize("=" + layout)
    count, rest = divmod(len(elements), size)
    if rest or not count:
        return None
    key_end = 12 + ((of.key_length + 3) & ~3)
    headers = (*range(12), *(range(key_end, key_end + 8) if of.data is not None else ()))
    first = elements[:size]
    if HEADER.unpack_from(first)[0] != size:
        return None
    if any(elements[at::size] != first[at : at + 1] * count for at in headers):
        return None
    unpacked = struct.iter_unpack("=" + layout, elements)
    if of.data is None:
        return ((key, b"") for (key,) in unpacked)
    return unpacked


def _parse_values(elements: memoryview) -> Iterator[Element]:
    for _, element in parse(elements):
        parts = fields(element)
        key = fields(parts[ElemAttr.KEY])[DataAttr.VALUE]
        data = fields(parts[ElemAttr.DATA])[DataAttr.VALUE] if ElemAttr.DATA in parts else b""
        yield bytes(key), bytes(data)


def _parse_intervals(elements: memoryview) -> Iterator[Element]:
    for _, element in parse(elements):
        parts = fields(element)
        first = bytes(fields(parts[ElemAttr.KEY])[DataAttr.VALUE])
        last = bytes(fields(parts[ElemAttr.KEY_END])[DataAttr.VALUE]) if ElemAttr.KEY_END in parts else first
        yield first + last, b""


def _parse_verdicts(elements: memoryview) -> Iterator[Element]:
    known: dict[bytes, bytes] = {}
    for _, element in parse(elements):
        parts = fields(element)
        raw = bytes(parts[ElemAttr.DATA])
        data = known.get(raw)
        if data is None:
            data = known[raw] = _verdict_of(raw)
        yield bytes(fields(parts[ElemAttr.KEY])[DataAttr.VALUE]), data


def _verdict_of(raw: bytes) -> bytes:
    attributes = fields(fields(raw)[DataAttr.VERDICT])
    code = to_u32(attributes[VerdictAttr.CODE])
    chain = attributes.get(VerdictAttr.CHAIN)
    signed = VerdictCode(code - (1 << 32) if code >> 31 else code)
    return verdict(signed, None if chain is None else to_text(chain))
