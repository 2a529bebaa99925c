"""How conntrack's tuples lie in ctnetlink messages. Pure: numbers, headers, structs.

Attribute numbers from include/uapi/linux/netfilter/nfnetlink_conntrack.h. Every attribute begins with struct nlattr
(length, type, both in host byte order) and is filled up to four bytes.
"""

from __future__ import annotations

import socket
import struct
from functools import cached_property
from typing import Final

CTA_TUPLE_ORIG: Final = 1
CTA_TUPLE_REPLY: Final = 2
CTA_STATUS: Final = 3
CTA_PROTOINFO: Final = 4
CTA_TIMEOUT: Final = 7
CTA_MARK: Final = 8
CTA_ID: Final = 12
CTA_ZONE: Final = 18
NESTED: Final = 0x8000
TYPE_MASK: Final = 0x3FFF
NFGENMSG: Final = 4  # bytes of struct nfgenmsg, with which every message begins
ATTRIBUTE: Final = struct.Struct("=HH")
_CTA_TUPLE_IP: Final = 1
_CTA_TUPLE_PROTO: Final = 2
_PORTS: Final = tuple(ATTRIBUTE.pack(6, kind) for kind in (2, 3))  # CTA_PROTO_SRC_PORT, _DST_PORT


class Layout:
    """One address family's tuples. `length`: of an address, 4 or 16."""

    def __init__(self, length: int) -> None:
        self.length: Final = length

    @cached_property
    def header(self) -> bytes:
        """struct nfgenmsg."""
        return struct.pack("=BBH", socket.AF_INET if self.length == 4 else socket.AF_INET6, 0, 0)

    @cached_property
    def original(self) -> slice:
        """Where a dump's message has CTA_TUPLE_ORIG."""
        return slice(NFGENMSG, NFGENMSG + self._tuple_bytes)

    @cached_property
    def reply(self) -> slice:
        """Where a dump's message has CTA_TUPLE_REPLY."""
        return slice(self.original.stop, self.original.stop + self._tuple_bytes)

    @cached_property
    def parts(self) -> struct.Struct:
        """Headers and, after each but the first two, a value: source, destination, protocol, source and destination
        port."""
        return struct.Struct(f"4s8s{self.length}s4s{self.length}s8s4s4s4s4s4s")

    def headers(self, kind: int) -> tuple[bytes, ...]:
        """The headers in a tuple of that kind, CTA_TUPLE_*."""
        source, destination = (1, 2) if self.length == 4 else (3, 4)  # CTA_IP_V4_SRC ..., CTA_IP_V6_SRC ...
        address = 4 + self.length
        return (
            ATTRIBUTE.pack(self._tuple_bytes, NESTED | kind),
            struct.pack("=HHHH", 4 + 2 * address, NESTED | _CTA_TUPLE_IP, address, source),
            ATTRIBUTE.pack(address, destination),
            struct.pack("=HHHH", 28, NESTED | _CTA_TUPLE_PROTO, 5, 1),  # CTA_PROTO_NUM
            *_PORTS,
        )

    @cached_property
    def _tuple_bytes(self) -> int:
        return 4 + 4 + 2 * (4 + self.length) + 28


LAYOUTS: Final = (Layout(4), Layout(16))
BY_FAMILY: Final = {layout.header[0]: layout for layout in LAYOUTS}
BY_LENGTH: Final = {layout.length: layout for layout in LAYOUTS}
