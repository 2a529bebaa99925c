"""Dumped conntrack entries taken apart, by one struct each. Pure: bytes in, a Flow out.

Messages about entries of one protocol nearly always have the same attributes in the same places. Where those are is
learned from one message; that another is alike is told by its length and its attribute headers, compared as one
number. What is not alike is walked through attribute by attribute, which takes several times as long.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.dataplane.conntrack.flow import ESTABLISHED, INFO, STATE, Flow, Status, info_headers
from proxymode_agent.dataplane.conntrack.layout import (
    ATTRIBUTE,
    BY_FAMILY,
    CTA_ID,
    CTA_MARK,
    CTA_PROTOINFO,
    CTA_STATUS,
    CTA_TIMEOUT,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    CTA_ZONE,
    NFGENMSG,
    TYPE_MASK,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_agent.dataplane.conntrack.layout import Layout

_PLAIN: Final = (CTA_STATUS, CTA_MARK, CTA_ID, CTA_TIMEOUT)  # in the kernel's order; eight bytes each
_STATUS: Final = "4xI"
_OF_A_LENGTH: Final = 4  # shapes that are known at a time


class Shape(NamedTuple):
    """Where the pieces of a Flow lie in a message, and where the byte with the bits of NAT and the protocol's state do,
    the latter 0 where there is none; `established`: the values of that state between handshake and end."""

    mask: int
    headers: int
    pieces: struct.Struct
    status: int
    state: int
    established: bytes

    def fits(self, message: bytes) -> bool:
        """Whether the message has the same attributes in the same places."""
        return int.from_bytes(message, "little") & self.mask == self.headers


class Shapes:
    """The shapes seen so far, by the length of their messages."""

    def __init__(self) -> None:
        self._known: dict[int, list[Shape]] = {}

    def parse(self, message: bytes) -> Flow | None:
        """The entry in the body of an IPCTNL_MSG_CT_NEW; None for other protocols and for entries in zones."""
        for shape in self._known.get(len(message), ()):
            if shape.fits(message):
                return Flow._make(shape.pieces.unpack(message))
        return self._unknown(message)

    def open_by_nftables(self, message: bytes) -> bool:
        """Whether netfilter's NAT translates the destination of the entry, and nobody has begun to close it."""
        for shape in self._known.get(len(message), ()):
            if shape.fits(message):
                translated = message[shape.status] & Status.DST_NAT
                return bool(translated) and (not shape.state or message[shape.state] in shape.established)
        flow = self._unknown(message)
        return flow is not None and flow.by_nftables and flow.open

    def _unknown(self, message: bytes) -> Flow | None:
        flow = walk(message)
        new = flow and learn(message)
        if new:
            known = self._known.setdefault(len(message), [])
            known[:] = [new, *known[: _OF_A_LENGTH - 1]]
        return flow


def learn(message: bytes) -> Shape | None:
    """The shape of a message that `walk` understands; None if it is not what the kernel usually writes."""
    layout = BY_FAMILY[message[0]]
    protocol = message[_number_at(layout, layout.original)]
    pieces: list[tuple[int, str, int]] = []
    headers = [(0, NFGENMSG)]
    for where in (layout.original, layout.reply):
        source, number = where.start + 12, _number_at(layout, where)
        pieces += [(at, f"{layout.length}s", layout.length) for at in (source, source + layout.length + 4)]
        headers += [(where.start, 12), (source + layout.length, 4), (number - 8, 8)]
        if where is layout.original:
            pieces.append((number, "4s", 4))
        pieces += [(number + 8, "4s", 4), (number + 16, "4s", 4)]
        headers += [(number, 1), (number + 4, 4), (number + 12, 4)]
    missing = [*_PLAIN]
    info = (len(message), 0)
    for offset, size, kind in _attributes(message, layout.reply.stop):
        headers.append((offset, 4))
        if missing and kind == missing[0]:
            pieces.append((offset, _STATUS if kind == CTA_STATUS else "8s", 8))
            del missing[0]
        elif kind == CTA_PROTOINFO and not missing:
            info = (offset, size)
    there = dict(_headers_of(message, *info))
    if missing or tuple(there.values()) != info_headers(protocol):
        return None
    pieces.append((info[0], f"{info[1]}s", info[1]))
    headers += [(at, len(header)) for at, header in there.items()]
    mask = bytearray(len(message))
    for offset, size in headers:
        mask[offset : offset + size] = b"\xff" * size
    number = int.from_bytes(mask, "little")
    return Shape(
        mask=number,
        headers=int.from_bytes(message, "little") & number,
        pieces=_struct(len(message), pieces),
        status=next(offset + size - 1 for offset, kind, size in pieces if kind == _STATUS),
        state=info[0] + STATE if there else 0,
        established=ESTABLISHED.get(protocol, b""),
    )


def walk(message: bytes) -> Flow | None:
    """The entry in a message with any attributes in any order, as if they were the usual ones."""
    layout = BY_FAMILY.get(message[0])
    if layout is None or len(message) < layout.reply.stop:
        return None
    original, reply = (layout.parts.unpack_from(message, where.start) for where in (layout.original, layout.reply))
    for kind, parts in ((CTA_TUPLE_ORIG, original), (CTA_TUPLE_REPLY, reply)):
        if (parts[0], *parts[1::2]) != layout.headers(kind):
            return None
    source, destination, protocol, source_port, destination_port = original[2::2]
    back, seen_as, _, back_port, seen_as_port = reply[2::2]
    found = {kind: message[at : at + size] for at, size, kind in _attributes(message, layout.reply.stop)}
    if protocol[0] not in INFO or CTA_ZONE in found:
        return None
    status, mark, ident, timeout = (found.get(kind, ATTRIBUTE.pack(8, kind) + bytes(4)) for kind in _PLAIN)
    return Flow(
        source,
        destination,
        protocol,
        source_port,
        destination_port,
        back,
        seen_as,
        back_port,
        seen_as_port,
        int.from_bytes(status[4:], "big"),
        mark,
        ident,
        timeout,
        _usual_info(protocol[0], found.get(CTA_PROTOINFO, b"")),
    )


def _usual_info(protocol: int, attribute: bytes) -> bytes:
    """CTA_PROTOINFO with all values of the protocol in their order; zeros for those that are not there."""
    headers = info_headers(protocol)
    values = {kind: attribute[at + 4 : at + size] for at, size, kind in _attributes(attribute, 8)}
    return b"".join(header + values.get(number, b"").ljust(4, b"\0")[:4] for number, header in enumerate(headers, 1))


def _number_at(layout: Layout, where: slice) -> int:
    """Where a tuple has the protocol's number."""
    start: int = where.start
    return start + 24 + 2 * layout.length


def _headers_of(message: bytes, start: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The headers in CTA_PROTOINFO, each before a value of four bytes: the first has twelve, the others four."""
    for at in range(start, start + size - STATE, 8):
        first = at if at == start else at + 8
        yield first, message[first : at + STATE]


def _attributes(message: bytes, offset: int) -> Iterator[tuple[int, int, int]]:
    """Where each attribute begins, how long it is, and which it is."""
    while offset < len(message):
        size, kind = ATTRIBUTE.unpack_from(message, offset)
        yield offset, size, kind & TYPE_MASK
        offset += max(4, (size + 3) & ~3)


def _struct(length: int, pieces: list[tuple[int, str, int]]) -> struct.Struct:
    form, end = [">"], 0
    for offset, kind, size in pieces:
        form += [f"{offset - end}x", kind]
        end = offset + size
    form.append(f"{length - end}x")
    return struct.Struct("".join(form))
