"""Netlink attributes to bytes and back (struct nlattr, include/uapi/linux/netlink.h).

An attribute is (type, value); a value is bytes, or a tuple of attributes (nested). Whoever builds an attribute gives
the value its format with :func:`u32` or :func:`text`; nothing here knows nf_tables.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Union

from proxymode_agent.dataplane.nfnetlink.uapi import NLA_F_NESTED, NLA_TYPE_MASK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Attribute = tuple[int, Union[bytes, "Attributes"]]
Attributes = tuple[Attribute, ...]

HEADER = struct.Struct("=HH")  # nla_len, nla_type: host byte order
_U32 = struct.Struct(">I")


def u32(value: int) -> bytes:
    """A big-endian 32-bit attribute value; negative numbers as two's complement."""
    return _U32.pack(value & 0xFFFFFFFF)


def text(value: str) -> bytes:
    """A NUL-terminated string value."""
    return value.encode() + b"\0"


def to_u32(value: bytes | memoryview) -> int:
    """The number in a value made by :func:`u32`."""
    return int(_U32.unpack(value)[0])


def to_text(value: bytes | memoryview) -> str:
    """The string in a value made by :func:`text`. Others may have made it of any bytes: those that are no text are
    escaped."""
    return bytes(value).rstrip(b"\0").decode(errors="backslashreplace")


def encode(attributes: Iterable[Attribute]) -> bytes:
    """Attributes one after another, each padded to four bytes. Raises ValueError above the 65,535 bytes of nla_len."""
    parts: list[bytes] = []
    for kind, value in attributes:
        if isinstance(value, tuple):
            value = encode(value)
            kind |= NLA_F_NESTED
        length = HEADER.size + len(value)
        if length > 0xFFFF:
            raise ValueError(f"netlink attribute {kind & NLA_TYPE_MASK} has {len(value)} bytes; at most 65,531 fit")
        parts += (HEADER.pack(length, kind), value, bytes(-length % 4))
    return b"".join(parts)


def parse(buffer: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """The attributes in a buffer as (type without flags, value); a nested value is parsed by calling this again.

    The kernel mostly leaves NLA_F_NESTED out of what it dumps: the reader has to know what is nested.
    """
    view = memoryview(buffer)
    offset = 0
    while offset + HEADER.size <= len(view):
        length, kind = HEADER.unpack_from(view, offset)
        if length < HEADER.size:
            raise ValueError(f"netlink attribute at byte {offset} has length {length}, below the header's 4")
        yield kind & NLA_TYPE_MASK, view[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def fields(buffer: bytes | memoryview) -> dict[int, memoryview]:
    """:func:`parse` as a dictionary, for attributes that occur once."""
    return dict(parse(buffer))


def matches(expected: Attributes, dumped: bytes | memoryview) -> bool:
    """Whether what the kernel dumps is what `expected` would create.

    Order does not count, and an attribute that only one side has must be zero: the kernel dumps defaults that were
    not sent, and leaves some out that were.
    """
    actual = fields(dumped)
    for kind, value in expected:
        found = actual.pop(kind, None)
        if found is None:
            if isinstance(value, tuple) or any(value):
                return False
        elif isinstance(value, tuple):
            if not matches(value, found):
                return False
        elif value != found:
            return False
    return not any(any(value) for value in actual.values())
