"""Fields: what a set's key or value is made of, each with how a rule loads it and how nft(8) calls it.

A key is the concatenation of its fields, each padded to four bytes, in consecutive 32-bit registers from 0.
"""

from __future__ import annotations

import ipaddress
import sys
from typing import TYPE_CHECKING, Final

import msgspec

from proxymode_agent.dataplane.nfnetlink import userdata
from proxymode_agent.dataplane.nfnetlink.expressions import Expression, bitwise, cmp, meta, numgen_random, payload
from proxymode_agent.dataplane.nfnetlink.uapi import MetaKey, PayloadBase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


class DataType:
    """enum datatypes of nftables' include/datatype.h: what NFTA_SET_KEY_TYPE means to nft(8)."""

    INTEGER: Final = 4
    IPV4_ADDR: Final = 7
    IPV6_ADDR: Final = 8
    INET_PROTOCOL: Final = 12
    INET_SERVICE: Final = 13
    CLASSID: Final = 23


class Field(msgspec.Struct, frozen=True):
    """One field. `length` in bytes, unpadded; `typeof`: nft's userdata for the expression `text`."""

    text: str
    type: int
    length: int
    typeof: bytes
    load: Callable[[int], Expression]

    @property
    def padded(self) -> int:
        """Bytes in a key or value."""
        return (self.length + 3) & ~3

    def show(self, value: bytes) -> str:
        """A value of this field for people."""
        raw = value[: self.length]
        if self.type in (DataType.IPV4_ADDR, DataType.IPV6_ADDR):
            return str(ipaddress.ip_address(raw))
        return str(int.from_bytes(raw, "big" if self.type == DataType.INET_SERVICE else sys.byteorder))


class AddressField(Field, frozen=True):
    """An address in the network header, `offset` bytes into it."""

    offset: int

    def in_network(self, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> tuple[Expression, ...]:
        """`ip saddr 10.0.0.0/8`: go on if the address is in the network. Whole bytes are compared without a mask."""
        length, odd_bits = -(-network.prefixlen // 8), network.prefixlen % 8
        if not length:
            return ()
        if odd_bits:
            masked = bitwise(0, network.netmask.packed, bytes(self.length))
            return self.load(0), masked, cmp(0, network.network_address.packed)
        prefix = payload(PayloadBase.NETWORK_HEADER, self.offset, length, 0)
        return prefix, cmp(0, network.network_address.packed[:length])


def _address(text: str, kind: int, offset: int, length: int, typeof: bytes) -> AddressField:
    def load(register: int) -> Expression:
        return payload(PayloadBase.NETWORK_HEADER, offset, length, register)

    return AddressField(text, kind, length, typeof, load, offset)


# nft's proto_desc_id (0x0c ip, 0x0d ip6, 0x0b th) and the fields' places in its protocol tables (src/proto.c).
IP_SADDR: Final = _address("ip saddr", DataType.IPV4_ADDR, 12, 4, userdata.payload(0x0C, 11))
IP_DADDR: Final = _address("ip daddr", DataType.IPV4_ADDR, 16, 4, userdata.payload(0x0C, 12))
IP6_SADDR: Final = _address("ip6 saddr", DataType.IPV6_ADDR, 8, 16, userdata.payload(0x0D, 8))
IP6_DADDR: Final = _address("ip6 daddr", DataType.IPV6_ADDR, 24, 16, userdata.payload(0x0D, 9))
L4PROTO: Final = Field(
    "meta l4proto",
    DataType.INET_PROTOCOL,
    1,
    userdata.meta(MetaKey.L4PROTO),
    lambda reg: meta(MetaKey.L4PROTO, reg),
)
TH_DPORT: Final = Field(
    "th dport",
    DataType.INET_SERVICE,
    2,
    userdata.payload(0x0B, 2),
    lambda reg: payload(PayloadBase.TRANSPORT_HEADER, 2, 2, reg),
)
META_PRIORITY: Final = Field(
    "meta priority",
    DataType.CLASSID,
    4,
    userdata.meta(MetaKey.PRIORITY),
    lambda reg: meta(MetaKey.PRIORITY, reg),
)


def random_index(modulus: int, offset: int = 0) -> Field:
    """`numgen random mod N offset K`: K to K + N - 1 in host byte order. For a set's declaration any numbers do; nft
    uses mod 2."""
    return Field(
        f"numgen random mod {modulus}" + (f" offset {offset}" if offset else ""),
        DataType.INTEGER,
        4,
        userdata.numgen_random(modulus),
        lambda reg: numgen_random(modulus, reg, offset),
    )


def load(fields: Iterable[Field], register: int = 0) -> tuple[Expression, ...]:
    """Load fields into consecutive registers, from 32-bit register `register`."""
    expressions: list[Expression] = []
    for field in fields:
        expressions.append(field.load(register))
        register += field.padded // 4
    return tuple(expressions)


def show(fields: Iterable[Field], value: bytes) -> str:
    """A key or value for people: `10.96.0.1 . 6 . 80`."""
    parts: list[str] = []
    for field in fields:
        parts.append(field.show(value))
        value = value[field.padded :]
    return " . ".join(parts)


def concatenated_type(fields: Iterable[Field]) -> int:
    """NFTA_SET_KEY_TYPE of a concatenation: six bits a field (nftables include/datatype.h, TYPE_BITS)."""
    kind = 0
    for field in fields:
        kind = kind << 6 | field.type
    return kind


def concatenated_byte_order(fields: Sequence[Field]) -> int:
    """What nft(8) notes as the byte order of a key or value: none for a concatenation."""
    if len(fields) > 1:
        return 0
    return userdata.HOST_ENDIAN if fields[0].type == DataType.CLASSID else userdata.BIG_ENDIAN
