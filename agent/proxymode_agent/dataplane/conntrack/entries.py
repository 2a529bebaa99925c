"""Conntrack entries as values, and what a dump says about who translated them. Pure: bytes in, values out.

Attribute numbers and status bits from include/uapi/linux/netfilter/{nfnetlink_conntrack,nf_conntrack_common,
nf_conntrack_tcp}.h. TCP and UDP only; entries in conntrack zones are left out.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from proxymode_agent.dataplane.conntrack.shapes import Shapes

CTA_TUPLE_ORIG: Final = 1
CTA_TUPLE_REPLY: Final = 2
CTA_STATUS: Final = 3
CTA_PROTOINFO: Final = 4
CTA_TIMEOUT: Final = 7
CTA_MARK: Final = 8
CTA_ID: Final = 12
_CTA_ZONE: Final = 18
_NESTED: Final = 0x8000
_TYPE_MASK: Final = 0x3FFF
_CTA_TUPLE_IP: Final = 1
_CTA_TUPLE_PROTO: Final = 2
_NFGENMSG: Final = 4
_ATTRIBUTE: Final = struct.Struct("=HH")
_U32: Final = struct.Struct(">I")

TCP_ESTABLISHED: Final = 3  # enum tcp_conntrack, TCP_CONNTRACK_ESTABLISHED


class Status:
    """Bits IPS_*, enum ip_conntrack_status. Plain numbers: the operators of an IntFlag take 3 us each."""

    SEEN_REPLY: Final = 0x2
    ASSURED: Final = 0x4
    CONFIRMED: Final = 0x8
    SRC_NAT: Final = 0x10
    DST_NAT: Final = 0x20


class Path(NamedTuple):
    """One direction's addresses, packed, and ports."""

    source: bytes
    source_port: int
    destination: bytes
    destination_port: int


class Tcp(NamedTuple):
    """CTA_PROTOINFO_TCP: state, window scales and flags (IP_CT_TCP_FLAG_*), original direction first."""

    state: int
    scale_original: int
    scale_reply: int
    flags_original: int
    flags_reply: int


class Entry(NamedTuple):
    """One conntrack entry. `timeout` in seconds; `id` as the kernel gave it, opaque. `tuples`: CTA_TUPLE_ORIG and
    CTA_TUPLE_REPLY as the kernel wrote them, to compare with and to send back; empty: not from a dump."""

    protocol: int
    original: Path
    reply: Path
    status: int
    timeout: int
    mark: int
    id: bytes
    tcp: Tcp | None
    tuples: bytes = b""

    @property
    def established(self) -> bool:
        """A TCP connection whose handshake is done and whose end has not begun."""
        return self.tcp is not None and self.tcp.state == TCP_ESTABLISHED

    @property
    def by_nftables(self) -> bool:
        """Its destination was translated by netfilter's NAT."""
        return bool(self.status & Status.DST_NAT)

    @property
    def backwards(self) -> bool:
        """IPVS translated it, and the real server's packet came first: so it is noted the wrong way round."""
        return (
            not self.status & (Status.SRC_NAT | Status.DST_NAT)
            and self.reply.source == self.original.destination
            and self.reply.source_port == self.original.destination_port
            and self.reply[2:] != self.original[:2]
        )

    @property
    def by_ipvs(self) -> bool:
        """IPVS chose its real server: another reply source than the original destination, without netfilter's NAT."""
        return not self.status & Status.DST_NAT and (
            self.reply.source != self.original.destination or self.reply.source_port != self.original.destination_port
        )


def forwards(entry: Entry) -> Entry:
    """A `backwards` entry as it would be had the client's packet come first."""
    tcp = entry.tcp and Tcp(
        entry.tcp.state,
        entry.tcp.scale_reply,
        entry.tcp.scale_original,
        entry.tcp.flags_reply,
        entry.tcp.flags_original,
    )
    return entry._replace(original=entry.reply, reply=entry.original, tcp=tcp, tuples=b"")


class Key(NamedTuple):
    """What names an entry: protocol and original direction."""

    protocol: int
    original: Path


def key_of(entry: Entry) -> Key:
    return Key(entry.protocol, entry.original)


@dataclass(frozen=True)
class Layout:
    """How one address family's tuples lie in a message. `length`: of an address, 4 or 16."""

    length: int

    @cached_property
    def family(self) -> int:
        return socket.AF_INET if self.length == 4 else socket.AF_INET6

    @cached_property
    def header(self) -> bytes:
        """struct nfgenmsg."""
        return struct.pack("=BBH", self.family, 0, 0)

    @cached_property
    def tuple_bytes(self) -> int:
        """Length of CTA_TUPLE_ORIG and CTA_TUPLE_REPLY with their headers."""
        return 4 + self._ip_bytes + 28

    @cached_property
    def original_head(self) -> bytes:
        """The header of CTA_TUPLE_ORIG."""
        return struct.pack("=HH", self.tuple_bytes, _NESTED | CTA_TUPLE_ORIG)

    @cached_property
    def _ip_bytes(self) -> int:
        return 4 + 2 * (4 + self.length)

    @cached_property
    def body(self) -> struct.Struct:
        """A tuple after its header: headers and addresses, headers and protocol, ports (network order)."""
        return struct.Struct(f">8s{self.length}s4s{self.length}s8sB7xH6xH2x")

    @cached_property
    def ip_head(self) -> bytes:
        source = 1 if self.length == 4 else 3  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
        return struct.pack("=HHHH", self._ip_bytes, _NESTED | _CTA_TUPLE_IP, 4 + self.length, source)

    @cached_property
    def ip_middle(self) -> bytes:
        return struct.pack("=HH", 4 + self.length, 2 if self.length == 4 else 4)

    @cached_property
    def protocol_head(self) -> bytes:
        return struct.pack("=HHHH", 28, _NESTED | _CTA_TUPLE_PROTO, 5, 1)  # CTA_PROTO_NUM


LAYOUTS: Final = (Layout(4), Layout(16))
_shapes: Final = Shapes()


def parse(layout: Layout, message: memoryview, *, translated_only: bool) -> Entry | None:
    """One IPCTNL_MSG_CT_NEW of a dump; None for what is left out.

    `translated_only`: also leave out entries whose replies simply come back from where the packets went.
    """
    body = bytes(message)
    values = _shapes.values(body)
    if values is None:
        found = _walk(layout, message)
        if found is not None:
            _shapes.learn(layout.length, body)
        return None if found is None or (translated_only and found.reply == mirrored(found.original)) else found
    source, destination, protocol, source_port, port, back, seen_as, back_port, seen_as_port = values[:9]
    if translated_only and (back, back_port, seen_as, seen_as_port) == (destination, port, source, source_port):
        return None
    status, mark, ident, timeout, *tcp = values[9:]
    return Entry(
        protocol,
        Path(source, source_port, destination, port),
        Path(back, back_port, seen_as, seen_as_port),
        status,
        timeout,
        mark,
        ident,
        Tcp(*tcp) if tcp else None,
        body[_NFGENMSG : _NFGENMSG + 2 * layout.tuple_bytes],
    )


def translated_open(layout: Layout, message: bytes) -> bool:
    """Whether netfilter's NAT translates the destination of the entry in a dump's message, and nobody has closed it."""
    values = _shapes.values(message)
    if values is None:
        found = parse(layout, memoryview(message), translated_only=False)
        return found is not None and found.by_nftables and (found.tcp is None or found.established)
    return bool(values[9] & Status.DST_NAT) and (len(values) <= 13 or values[13] == TCP_ESTABLISHED)


def entry_of(tuples: bytes, status: int, timeout: int, mark: int, tcp: Tcp | None) -> Entry:
    """An entry that is not in a dump, from its `tuples`."""
    layout = LAYOUTS[len(tuples) != 2 * LAYOUTS[0].tuple_bytes]
    _, source, _, destination, _, protocol, source_port, port = layout.body.unpack_from(tuples, 4)
    _, back, _, seen_as, _, _, back_port, seen_as_port = layout.body.unpack_from(tuples, 4 + layout.tuple_bytes)
    original, reply = Path(source, source_port, destination, port), Path(back, back_port, seen_as, seen_as_port)
    return Entry(protocol, original, reply, status, timeout, mark, b"", tcp, tuples)


def mirrored(path: Path) -> Path:
    """The way back of a packet that nobody translates."""
    return Path(path.destination, path.destination_port, path.source, path.source_port)


def _walk(layout: Layout, message: memoryview) -> Entry | None:
    """A message with any attributes in any order."""
    offset = _NFGENMSG + 4
    if len(message) < _NFGENMSG + 2 * layout.tuple_bytes:
        return None
    head, source, _, destination, kind, protocol, source_port, port = layout.body.unpack_from(message, offset)
    if head != layout.ip_head or kind != layout.protocol_head or protocol not in (socket.IPPROTO_TCP, 17):
        return None
    offset += layout.tuple_bytes
    head, back_source, _, back_destination, kind, _, back_source_port, back_port = layout.body.unpack_from(
        message, offset
    )
    if head != layout.ip_head or kind != layout.protocol_head:
        return None
    original = Path(source, source_port, destination, port)
    reply = Path(back_source, back_source_port, back_destination, back_port)
    status = timeout = mark = 0
    ident = b""
    tcp: Tcp | None = None
    offset = _NFGENMSG + 2 * layout.tuple_bytes
    end = len(message)
    while offset < end:
        size, kind_ = _ATTRIBUTE.unpack_from(message, offset)
        kind_ &= _TYPE_MASK
        if kind_ == CTA_STATUS:
            status = _U32.unpack_from(message, offset + 4)[0]
        elif kind_ == CTA_TIMEOUT:
            timeout = _U32.unpack_from(message, offset + 4)[0]
        elif kind_ == CTA_MARK:
            mark = _U32.unpack_from(message, offset + 4)[0]
        elif kind_ == _CTA_ZONE:
            return None
        elif kind_ == CTA_ID:
            ident = bytes(message[offset + 4 : offset + 8])
        elif kind_ == CTA_PROTOINFO and protocol == socket.IPPROTO_TCP:
            tcp = _parse_tcp(message[offset + 8 : offset + size])
        offset += (size + 3) & ~3
    tuples = bytes(message[_NFGENMSG : _NFGENMSG + 2 * layout.tuple_bytes])
    return Entry(protocol, original, reply, status, timeout, mark, ident, tcp, tuples)


def _parse_tcp(attributes: memoryview) -> Tcp:
    """CTA_PROTOINFO_TCP_STATE, _WSCALE_ORIGINAL, _WSCALE_REPLY, _FLAGS_ORIGINAL, _FLAGS_REPLY: 1 to 5."""
    values = [0] * 6
    offset = 0
    while offset < len(attributes):
        size, kind = _ATTRIBUTE.unpack_from(attributes, offset)
        if 1 <= kind <= 5:
            values[kind] = attributes[offset + 4]
        offset += (size + 3) & ~3
    return Tcp(*values[1:])
