"""Dumped conntrack entries taken apart, many at a time. Pure: bytes in, blocks and Flows out.

Messages about entries of one protocol nearly always have the same attributes in the same places. Where those are is
learned from one message. Whether others are alike is told by what is left of them without their values, of all that
came together at once; from then on they are a table, of which only the columns are looked at that matter. What is not
alike is walked through attribute by attribute, which takes ten times as long.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.dataplane.conntrack.flow import ESTABLISHED, INFO, KIND, STATE, Flow, Status, info_headers
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
from proxymode_agent.dataplane.netlink import HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_agent.dataplane.conntrack.layout import Layout

_PLAIN: Final = (CTA_STATUS, CTA_MARK, CTA_ID, CTA_TIMEOUT)  # in the kernel's order; eight bytes each
_STATUS: Final = "4xI"
_OF_A_LENGTH: Final = 4  # shapes that are known at a time
_TRANSLATED: Final = bytes(bool(low & Status.DST_NAT) for low in range(256))


class Shape(NamedTuple):
    """Where the pieces of a Flow lie in a message with its header, which is `size` bytes long and counted in words of
    four.

    `frame`: a message with zeros for its values; `values`: which words those are. `pieces`: a Flow's fields, in their
    order; `ends`: those nine of them that say who talks to whom; `tuples`: CTA_TUPLE_ORIG and CTA_TUPLE_REPLY. `kind`:
    the words that decide what becomes of the entry, its status and the protocol's state and flags; `timeout`: that one.
    `status`, `state`: the byte with the bits of NAT, and that of the state, 0 where there is none. `length`: of an
    address; `protocol`: its number.
    """

    size: int
    frame: bytes
    values: tuple[int, ...]
    pieces: struct.Struct
    ends: struct.Struct
    tuples: struct.Struct
    kind: tuple[int, ...]
    timeout: int
    status: int
    state: int
    length: int
    protocol: int

    def fits(self, rows: bytes) -> bool:
        """Whether all these messages, each as long as this shape, have the same attributes in the same places."""
        number = len(rows) // self.size
        without_values = bytearray(rows)
        words, zeros = memoryview(without_values).cast("I"), memoryview(bytes(4 * number)).cast("I")
        for at in self.values:
            words[at :: self.size // 4] = zeros
        return without_values == self.frame * number


class Block(NamedTuple):
    """Messages of one shape, one after the other: a table with a row for each entry."""

    shape: Shape
    rows: bytes

    def __len__(self) -> int:
        return len(self.rows) // self.shape.size

    def flows(self) -> Iterator[Flow]:
        """The entries."""
        return map(Flow._make, self.shape.pieces.iter_unpack(self.rows))

    def tuples(self) -> Iterator[tuple[bytes, bytes]]:
        """Each entry's CTA_TUPLE_ORIG and CTA_TUPLE_REPLY."""
        return self.shape.tuples.iter_unpack(self.rows)

    def ends(self) -> Iterator[tuple[bytes, ...]]:
        """The first nine fields of each entry's Flow."""
        return self.shape.ends.iter_unpack(self.rows)

    def by_kind(self) -> Iterator[tuple[tuple[int, ...], Block]]:
        """The words that decide what becomes of an entry, and those entries that have the same ones."""
        kinds = list(zip(*map(self.column, self.shape.kind), strict=True))
        if kinds.count(kinds[0]) == len(kinds):
            yield kinds[0], self
            return
        alike: dict[tuple[int, ...], list[int]] = {}
        for at, kind in enumerate(kinds):
            alike.setdefault(kind, []).append(at)
        for kind, some in alike.items():
            yield kind, self.picked(some)

    def column(self, word: int) -> list[int]:
        """One word of each row; not as a number that means something, but equal ones are equal."""
        return memoryview(self.rows).cast("I")[word :: self.shape.size // 4].tolist()

    def translated(self) -> bytes:
        """For each entry whether netfilter's NAT translates its destination: 1 or 0."""
        return self.rows[self.shape.status :: self.shape.size].translate(_TRANSLATED)

    def open(self) -> bytes:
        """For each entry whether nobody has begun to close it, and it has been opened: 1 or 0."""
        if not self.shape.state:
            return b"\1" * len(self)
        established = ESTABLISHED[self.shape.protocol]
        table = bytes(state in established for state in range(256))
        return self.rows[self.shape.state :: self.shape.size].translate(table)

    def picked(self, at: list[int]) -> Block:
        """Some of the rows, by their numbers in rising order."""
        if len(at) == len(self):
            return self
        size = self.shape.size
        return Block(self.shape, b"".join([self.rows[size * one : size * (one + 1)] for one in at]))


class Shapes:
    """The shapes seen so far, by the length of their messages."""

    def __init__(self) -> None:
        self._known: dict[int, list[Shape]] = {}

    def sort(self, size: int, rows: bytes) -> Iterator[Block | Flow]:
        """The entries in some IPCTNL_MSG_CT_NEW with their headers, each `size` bytes long: in blocks those of usual
        shapes, one by one the others. Left out: other protocols, and entries in zones."""
        for shape in self._known.get(size, ()):
            if shape.fits(rows):
                yield Block(shape, rows)
                return
        alike: dict[bytes, tuple[Shape, list[bytes]]] = {}
        for start in range(0, len(rows), size):
            row = rows[start : start + size]
            found = self._shape(row)
            if isinstance(found, Shape):
                alike.setdefault(found.frame, (found, []))[1].append(row)
            elif found is not None:
                yield found
        for shape, some in alike.values():
            yield Block(shape, b"".join(some))

    def _shape(self, row: bytes) -> Shape | Flow | None:
        for shape in self._known.get(len(row), ()):
            if shape.fits(row):
                return shape
        flow = walk(row[HEADER_BYTES:])
        new = flow and learn(row)
        if not new:
            return flow
        known = self._known.setdefault(len(row), [])
        known[:] = [new, *known[: _OF_A_LENGTH - 1]]
        return new


def learn(row: bytes) -> Shape | None:
    """The shape of a message that `walk` understands; None if it is not what the kernel usually writes."""
    message = row[HEADER_BYTES:]
    layout = BY_FAMILY[message[0]]
    protocol = message[_number_at(layout, layout.original)]
    pieces: list[tuple[int, str, int]] = []
    headers = [(0, NFGENMSG)]
    tuples = (layout.original, layout.reply)
    for where in tuples:
        source, number = where.start + 12, _number_at(layout, where)
        pieces += [(at, f"{layout.length}s", layout.length) for at in (source, source + layout.length + 4)]
        headers += [(where.start, 12), (source + layout.length, 4), (number - 8, 8)]
        if where is layout.original:
            pieces.append((number, "4s", 4))
        pieces += [(number + 8, "4s", 4), (number + 16, "4s", 4)]
        headers += [(number, 4), (number + 4, 4), (number + 12, 4)]
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
    if missing or len(row) % 4 or tuple(there.values()) != info_headers(protocol):
        return None
    pieces.append((info[0], f"{info[1]}s", info[1]))
    headers += [(at, len(header)) for at, header in there.items()]
    named = {(HEADER_BYTES + at) // 4 for offset, size in headers for at in range(offset, offset + size, 4)}
    values = tuple(word for word in range(len(row) // 4) if word not in named)
    frame = bytearray(row)
    for word in values:
        frame[4 * word : 4 * word + 4] = bytes(4)
    status, timeout = (HEADER_BYTES + pieces[field][0] + 4 for field in (9, 12))
    state = HEADER_BYTES + info[0] + STATE if there else 0
    return Shape(
        size=len(row),
        frame=bytes(frame),
        values=values,
        pieces=_struct(len(message), pieces),
        ends=_struct(len(message), pieces[:9]),
        tuples=_struct(len(message), [(of.start, f"{of.stop - of.start}s", of.stop - of.start) for of in tuples]),
        kind=(status // 4, *((state + at) // 4 for at in KIND[protocol])),
        timeout=timeout // 4,
        status=status + 3,
        state=state,
        length=layout.length,
        protocol=protocol,
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
    """For a message of that length after its header."""
    form, end = [f">{HEADER_BYTES}x"], 0
    for offset, kind, size in pieces:
        form += [f"{offset - end}x", kind]
        end = offset + size
    form.append(f"{length - end}x")
    return struct.Struct("".join(form))
