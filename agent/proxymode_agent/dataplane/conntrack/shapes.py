"""Dumped conntrack entries by one struct each. Pure.

Messages about entries of one protocol nearly always have the same attributes in the same places. Where those are is
learned from one message; that another is alike is told by its length and its attribute headers, compared as one
number. What is not alike has to be walked through attribute by attribute, which takes three times as long.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, Final, NamedTuple

_NFGENMSG: Final = 4
_HEADER: Final = struct.Struct("=HH")
_TYPE_MASK: Final = 0x3FFF
_FORMS: Final = {4: "4s", 16: "16s"}
_CTA_PROTOINFO: Final = 4
_IN_ORDER: Final = {3: ("I", 4), 8: ("I", 4), 12: ("4s", 4), 7: ("I", 4)}  # CTA_STATUS, _MARK, _ID, _TIMEOUT
_TCP_FIELDS: Final = 5  # CTA_PROTOINFO_TCP_STATE to _FLAGS_REPLY, each the first byte of eight


class Shape(NamedTuple):
    """`values`: source, destination, protocol, ports; back: the same without the protocol; status, mark, id, timeout;
    of TCP state, window scales, flags. Addresses and id are bytes."""

    mask: int
    headers: int
    values: struct.Struct

    def fits(self, message: bytes) -> bool:
        """Whether the message has the same attributes in the same places."""
        return int.from_bytes(message, "little") & self.mask == self.headers


def learn(length: int, message: bytes) -> Shape | None:
    """The shape of a message with addresses of `length` bytes; None if it is not what the kernel usually writes."""
    fields: list[tuple[int, str, int]] = []
    fixed: list[tuple[int, int]] = [(0, _NFGENMSG)]
    offset = _NFGENMSG
    protocol = 0
    for original in (True, False):
        number = offset + 24 + 2 * length
        fields += [(offset + 12, _FORMS[length], length), (offset + 16 + length, _FORMS[length], length)]
        if original:
            fields.append((number, "B", 1))
            protocol = message[number]
        fields += [(number + 8, "H", 2), (number + 16, "H", 2)]
        fixed += [(offset, 12), (offset + 12 + length, 4), (number - 8, 9), (number + 4, 4), (number + 12, 4)]
        offset = number + 20
    wanted = [*_IN_ORDER]
    while offset < len(message):
        size, kind = _HEADER.unpack_from(message, offset)
        kind &= _TYPE_MASK
        fixed.append((offset, 4))
        if wanted and kind == wanted[0]:
            fields.append((offset + 4, *_IN_ORDER[wanted.pop(0)]))
        elif kind == _CTA_PROTOINFO and protocol == socket.IPPROTO_TCP:
            if wanted or size != 8 + 8 * _TCP_FIELDS:
                return None
            fixed.append((offset + 4, 4))
            fields += [(offset + 12 + 8 * number, "B", 1) for number in range(_TCP_FIELDS)]
            fixed += [(offset + 8 + 8 * number, 4) for number in range(_TCP_FIELDS)]
        offset += max(4, (size + 3) & ~3)
    if wanted or offset != len(message) or protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        return None
    return _shape(message, fields, fixed)


def _shape(message: bytes, fields: list[tuple[int, str, int]], fixed: list[tuple[int, int]]) -> Shape:
    form, end = [">"], 0
    for offset, kind, size in fields:
        form += [f"{offset - end}x", kind]
        end = offset + size
    form.append(f"{len(message) - end}x")
    mask = bytearray(len(message))
    for offset, size in fixed:
        mask[offset : offset + size] = b"\xff" * size
    number = int.from_bytes(mask, "little")
    return Shape(number, int.from_bytes(message, "little") & number, struct.Struct("".join(form)))


class Shapes:
    """The shapes seen so far, by the length of their messages."""

    def __init__(self) -> None:
        self._known: dict[int, Shape] = {}

    def values(self, message: bytes) -> tuple[Any, ...] | None:
        """A message's values, see Shape; None where none is like it."""
        shape = self._known.get(len(message))
        return None if shape is None or not shape.fits(message) else shape.values.unpack(message)

    def learn(self, length: int, message: bytes) -> None:
        """From now on messages like this one are known, and others of its length are not."""
        shape = learn(length, message)
        if shape is not None:
            self._known[len(message)] = shape
