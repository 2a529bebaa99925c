"""ctnetlink requests that delete and create entries, packed with one struct a part. Pure: values in, bytes out.

An entry is created as netfilter's NAT would have made it: CTA_NAT_DST is the endpoint, CTA_NAT_SRC the address that it
sees if it does not see the client. TCP window checking is told to be liberal, for nobody told the new entry the
windows (IP_CT_TCP_FLAG_BE_LIBERAL, include/uapi/linux/netfilter/nf_conntrack_tcp.h).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.conntrack.entries import (
    CTA_ID,
    CTA_MARK,
    CTA_PROTOINFO,
    CTA_STATUS,
    CTA_TIMEOUT,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    LAYOUTS,
    Entry,
    Layout,
    Path,
    Status,
    Tcp,
)
from proxymode_agent.dataplane.netlink import NLM_F_CREATE, NLM_F_EXCL, Message

if TYPE_CHECKING:
    from collections.abc import Iterable

_CT_NEW: Final = 0x100  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW
_CT_DELETE: Final = 0x102
_CTA_NAT_SRC: Final = 6
_CTA_NAT_DST: Final = 13
_CTA_NAT_PROTO: Final = 3
_NESTED: Final = 0x8000
_TCP_BE_LIBERAL: Final = 0x08
_ATTRIBUTE: Final = struct.Struct("=HH")
_NUMBER: Final = struct.Struct(">I")
_PROTOINFO_HEAD: Final = struct.pack("=HHHH", 48, _NESTED | CTA_PROTOINFO, 44, _NESTED | 1)  # CTA_PROTOINFO_TCP
_PROTOINFO_BODY: Final = struct.Struct("=4sB3x4sB3x4sB3x4sBBxx4sBBxx")
_STATE, _SCALE_ORIGINAL, _SCALE_REPLY = (_ATTRIBUTE.pack(5, kind) for kind in (1, 2, 3))
_FLAGS_ORIGINAL, _FLAGS_REPLY = (_ATTRIBUTE.pack(6, kind) for kind in (4, 5))
_PORT_SOURCE, _PORT_DESTINATION = (_ATTRIBUTE.pack(6, kind) for kind in (2, 3))  # CTA_PROTO_SRC_PORT, _DST_PORT
_NAT_PORTS: Final = _ATTRIBUTE.pack(20, _NESTED | _CTA_NAT_PROTO)
_PORT_MIN, _PORT_MAX = (_ATTRIBUTE.pack(6, kind) for kind in (1, 2))  # CTA_PROTONAT_PORT_MIN, _MAX
_PORT: Final = struct.Struct(">Hxx")


def delete(entries: Iterable[Entry]) -> list[Message]:
    """Delete each entry; ENOENT where it is gone already."""
    return [_delete(entry) for entry in entries]


def replace(entries: Iterable[Entry]) -> list[Message]:
    """For each entry two requests: delete it, create it with netfilter's NAT."""
    return [message for entry in entries for message in (_delete(entry), _create(entry))]


def create(entries: Iterable[Entry]) -> list[Message]:
    """Create entries with netfilter's NAT; EEXIST where one with the same addresses and ports is."""
    return [_create(entry) for entry in entries]


def _layout(entry: Entry) -> Layout:
    return LAYOUTS[len(entry.original.source) == 16]


def _delete(entry: Entry) -> Message:
    """By both its addresses and its identity, so that a successor with the same addresses is spared."""
    layout = _layout(entry)
    body = layout.header + original_of(entry)
    return Message(_CT_DELETE, 0, body + _ATTRIBUTE.pack(8, CTA_ID) + entry.id)


def _create(entry: Entry) -> Message:
    layout = _layout(entry)
    original, reply = entry.original, entry.reply
    mirrored = Path(original.destination, original.destination_port, original.source, original.source_port)
    parts = [
        layout.header,
        original_of(entry),
        _tuple(layout, CTA_TUPLE_REPLY, entry.protocol, mirrored),
        _nat(layout, _CTA_NAT_DST, reply.source, reply.source_port),
    ]
    if reply[2:] != original[:2]:
        parts.append(_nat(layout, _CTA_NAT_SRC, reply.destination, reply.destination_port))
    status = entry.status & (Status.SEEN_REPLY | Status.ASSURED) | Status.CONFIRMED
    parts.append(_ATTRIBUTE.pack(8, CTA_STATUS) + _NUMBER.pack(status))
    parts.append(_ATTRIBUTE.pack(8, CTA_TIMEOUT) + _NUMBER.pack(max(1, entry.timeout)))
    if entry.mark:
        parts.append(_ATTRIBUTE.pack(8, CTA_MARK) + _NUMBER.pack(entry.mark))
    if entry.tcp is not None:
        parts.append(_protoinfo(entry.tcp))
    return Message(_CT_NEW, NLM_F_CREATE | NLM_F_EXCL, b"".join(parts))


def original_of(entry: Entry) -> bytes:
    """An entry's CTA_TUPLE_ORIG."""
    layout = _layout(entry)
    return entry.tuples[: layout.tuple_bytes] or _tuple(layout, CTA_TUPLE_ORIG, entry.protocol, entry.original)


def reply_of(entry: Entry) -> bytes:
    """An entry's CTA_TUPLE_REPLY."""
    layout = _layout(entry)
    return entry.tuples[layout.tuple_bytes :] or _tuple(layout, CTA_TUPLE_REPLY, entry.protocol, entry.reply)


def _tuple(layout: Layout, kind: int, protocol: int, path: Path) -> bytes:
    return b"".join(
        (
            _ATTRIBUTE.pack(layout.tuple_bytes, _NESTED | kind),
            layout.ip_head,
            path.source,
            layout.ip_middle,
            path.destination,
            layout.protocol_head,
            bytes((protocol, 0, 0, 0)),
            _PORT_SOURCE,
            _PORT.pack(path.source_port),
            _PORT_DESTINATION,
            _PORT.pack(path.destination_port),
        )
    )


def _nat(layout: Layout, kind: int, address: bytes, port: int) -> bytes:
    """CTA_NAT_SRC or CTA_NAT_DST with one address and one port."""
    least, most = (1, 2) if layout.length == 4 else (4, 5)  # CTA_NAT_V4_MINIP ..., CTA_NAT_V6_MINIP ...
    one = 4 + layout.length
    return b"".join(
        (
            _ATTRIBUTE.pack(4 + 2 * one + 20, _NESTED | kind),
            _ATTRIBUTE.pack(one, least),
            address,
            _ATTRIBUTE.pack(one, most),
            address,
            _NAT_PORTS,
            _PORT_MIN,
            _PORT.pack(port),
            _PORT_MAX,
            _PORT.pack(port),
        )
    )


def _protoinfo(tcp: Tcp) -> bytes:
    """State, window scales, and flags with the masks that say which of them count."""
    return _PROTOINFO_HEAD + _PROTOINFO_BODY.pack(
        _STATE,
        tcp.state,
        _SCALE_ORIGINAL,
        tcp.scale_original,
        _SCALE_REPLY,
        tcp.scale_reply,
        _FLAGS_ORIGINAL,
        tcp.flags_original | _TCP_BE_LIBERAL,
        0xFF,
        _FLAGS_REPLY,
        tcp.flags_reply | _TCP_BE_LIBERAL,
        0xFF,
    )
