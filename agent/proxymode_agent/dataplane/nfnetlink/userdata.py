"""What nft(8) keeps in the kernel's userdata blobs: comments, and of what expressions a set's key is made.

The kernel does not look at them. Without the latter (`typeof`) nft cannot print a map whose key has a random number
in it, and aborts. Format: type, length (one byte each), value; sources: libnftnl include/libnftnl/udata.h and
nftables src/mnl.c, src/payload.c, src/meta.c, src/numgen.c. Integers here are in host byte order.
"""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class _Set(IntEnum):
    """enum nftnl_udata_set_types."""

    KEY_BYTE_ORDER = 0
    DATA_BYTE_ORDER = 1
    KEY_TYPEOF = 3
    DATA_TYPEOF = 4
    DATA_INTERVAL = 6
    COMMENT = 7


class _Expr(IntEnum):
    """enum expr_types of nftables' include/expression.h."""

    VERDICT = 1
    PAYLOAD = 7
    META = 9
    CONCAT = 13
    CT = 12
    NUMGEN = 23


HOST_ENDIAN, BIG_ENDIAN = 1, 2  # enum byteorder of nftables' include/datatype.h
TABLE_COMMENT = 0  # NFTNL_UDATA_TABLE_COMMENT, and the same for chains and rules


def tlv(kind: int, value: bytes) -> bytes:
    """One entry. Raises ValueError above 255 bytes."""
    if len(value) > 0xFF:
        raise ValueError(f"userdata entry {kind} has {len(value)} bytes; at most 255 fit")
    return bytes((kind, len(value))) + value


def comment(text: str) -> bytes:
    """Userdata of a table, chain or rule with a comment. nft takes up to 128 bytes."""
    encoded = text.encode()
    if len(encoded) > 128:
        raise ValueError(f"comment {text!r} has {len(encoded)} bytes; nft prints at most 128")
    return tlv(TABLE_COMMENT, encoded + b"\0")


def comment_of(userdata: bytes | memoryview | None) -> str | None:
    """The comment in the userdata of a table, chain or rule."""
    view = bytes(userdata or b"")
    while len(view) >= 2:
        kind, length = view[0], view[1]
        if kind == TABLE_COMMENT:
            return view[2 : 2 + length].rstrip(b"\0").decode(errors="replace")
        view = view[2 + length :]
    return None


def _u32(kind: int, value: int) -> bytes:
    return tlv(kind, value.to_bytes(4, sys.byteorder))


def _typeof(kind: _Expr, details: bytes) -> bytes:
    """An expression: its kind and what that kind needs to be built again."""
    return _u32(0, kind) + tlv(1, details)


def payload(header: int, template: int) -> bytes:
    """`typeof` of a header field: nft's numbers of the protocol (enum proto_desc_id) and of its field."""
    return _typeof(_Expr.PAYLOAD, _u32(0, header) + _u32(1, template))


def meta(key: int) -> bytes:
    """`typeof meta KEY`."""
    return _typeof(_Expr.META, _u32(0, key))


def ct(key: int, direction: int) -> bytes:
    """`typeof ct original|reply KEY` (src/ct.c)."""
    return _typeof(_Expr.CT, _u32(0, key) + _u32(1, direction))


def numgen_random(modulus: int) -> bytes:
    """`typeof numgen random mod N`."""
    return _typeof(_Expr.NUMGEN, _u32(0, 1) + _u32(1, modulus) + _u32(2, 0))


VERDICT = _typeof(_Expr.VERDICT, b"")
"""`typeof` of the data of a verdict map, as nft 1.0.6 writes it."""


def concat(parts: Iterable[bytes]) -> bytes:
    """`typeof A . B . C`, or just A."""
    numbered = list(parts)
    if len(numbered) == 1:
        return numbered[0]
    return _typeof(_Expr.CONCAT, b"".join(tlv(number, part) for number, part in enumerate(numbered)))


def typeof_set(key: Iterable[bytes], byte_order: int) -> bytes:
    """Userdata of `set … { typeof key; }`."""
    return _u32(_Set.KEY_BYTE_ORDER, byte_order) + tlv(_Set.KEY_TYPEOF, concat(key))


def typeof_map(key: Iterable[bytes], data: Iterable[bytes], key_order: int, data_order: int) -> bytes:
    """Userdata of `map … { typeof key : data; }`."""
    return (
        _u32(_Set.KEY_BYTE_ORDER, key_order)
        + _u32(_Set.DATA_BYTE_ORDER, data_order)
        + tlv(_Set.KEY_TYPEOF, concat(key))
        + tlv(_Set.DATA_TYPEOF, concat(data))
        + _u32(_Set.DATA_INTERVAL, 0)
    )
