"""ctnetlink requests that delete and create entries, put together from a Flow's pieces. Pure: values in, bytes out.

An entry is created as netfilter's NAT would have made it: CTA_NAT_DST is the endpoint, CTA_NAT_SRC the address that it
sees if it does not see the client. TCP window checking is told to be liberal, for nobody told the new entry the
windows (IP_CT_TCP_FLAG_BE_LIBERAL, include/uapi/linux/netfilter/nf_conntrack_tcp.h).
"""

from __future__ import annotations

import socket
from functools import cache, lru_cache
from typing import Final, NamedTuple

from proxymode_agent.dataplane.conntrack.flow import STATE, Flow, Status
from proxymode_agent.dataplane.conntrack.layout import (
    ATTRIBUTE,
    BY_LENGTH,
    CTA_STATUS,
    CTA_TIMEOUT,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    LAYOUTS,
    NESTED,
    NFGENMSG,
)
from proxymode_agent.dataplane.netlink import HEADER_BYTES, NLM_F_CREATE, NLM_F_EXCL, request_header

CT_NEW: Final = 0x100  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW
_CT_DELETE: Final = 0x102
_CTA_NAT_SRC: Final = 6
_CTA_NAT_DST: Final = 13
_CTA_NAT_PROTO: Final = 3
_CTA_PROTONAT_PORT_MIN: Final = 1
_ATTRIBUTE_BYTES: Final = 8  # of CTA_STATUS, CTA_MARK, CTA_ID, CTA_TIMEOUT
_ORIGINAL: Final = ATTRIBUTE.pack(0, NESTED | CTA_TUPLE_ORIG)[2:]
_TCP: Final = bytes((socket.IPPROTO_TCP, 0, 0, 0))
_TCP_BE_LIBERAL: Final = 0x08
_TCP_FLAGS: Final = (STATE + 24, STATE + 32)  # of the original direction and of the reply
_NO_TIME, _SECOND = (ATTRIBUTE.pack(8, CTA_TIMEOUT) + bytes((0, 0, 0, seconds)) for seconds in (0, 1))


class _Heads(NamedTuple):
    """What is the same in the messages about all entries of one protocol and address family, masqueraded or not.

    `source_port`: what lies between addresses and ports, the protocol's number among it.
    """

    original: bytes
    reply: bytes
    destination: bytes
    source_port: bytes
    destination_port: bytes
    delete: bytes
    create: bytes
    nat_source: bytes
    nat_destination: bytes
    nat_port: bytes


@cache
def _heads(length: int, protocol: bytes, masqueraded: bool, info: int) -> _Heads:
    layout = BY_LENGTH[length]
    original, addresses, destination, number, *ports = layout.headers(CTA_TUPLE_ORIG)
    tuple_bytes, nat_bytes = layout.parts.size, 4 + 4 + length + 12
    delete_bytes = NFGENMSG + tuple_bytes + _ATTRIBUTE_BYTES
    create_bytes = NFGENMSG + 2 * tuple_bytes + (1 + masqueraded) * nat_bytes + 3 * _ATTRIBUTE_BYTES + info
    least = ATTRIBUTE.pack(4 + length, 1 if length == 4 else 4)  # CTA_NAT_V4_MINIP, CTA_NAT_V6_MINIP
    return _Heads(
        original=original + addresses,
        reply=layout.headers(CTA_TUPLE_REPLY)[0] + addresses,
        destination=destination,
        source_port=number + protocol + ports[0],
        destination_port=ports[1],
        delete=request_header(_CT_DELETE, 0, delete_bytes) + layout.header,
        create=request_header(CT_NEW, NLM_F_CREATE | NLM_F_EXCL, create_bytes) + layout.header,
        nat_source=ATTRIBUTE.pack(nat_bytes, NESTED | _CTA_NAT_SRC) + least,
        nat_destination=ATTRIBUTE.pack(nat_bytes, NESTED | _CTA_NAT_DST) + least,
        nat_port=ATTRIBUTE.pack(12, NESTED | _CTA_NAT_PROTO) + ATTRIBUTE.pack(6, _CTA_PROTONAT_PORT_MIN),
    )


def original_of(flow: Flow) -> bytes:
    """CTA_TUPLE_ORIG: what names an entry."""
    heads = _heads(len(flow.source), flow.protocol, False, 0)
    ports = (heads.source_port, flow.source_port, heads.destination_port, flow.destination_port)
    return b"".join((heads.original, flow.source, heads.destination, flow.destination, *ports))


def reply_of(flow: Flow) -> bytes:
    """CTA_TUPLE_REPLY: from whom answers come, and to whom."""
    heads = _heads(len(flow.source), flow.protocol, False, 0)
    ports = (heads.source_port, flow.back_port, heads.destination_port, flow.seen_as_port)
    return b"".join((heads.reply, flow.back, heads.destination, flow.seen_as, *ports))


def as_original(reply: bytes) -> bytes:
    """A CTA_TUPLE_REPLY as it would be the CTA_TUPLE_ORIG of an entry that the other end's packet made."""
    return reply[:2] + _ORIGINAL + reply[4:]


def dumped(flow: Flow) -> bytes:
    """The entry as the kernel would dump it."""
    return b"".join(
        (
            BY_LENGTH[len(flow.source)].header,
            original_of(flow),
            reply_of(flow),
            ATTRIBUTE.pack(8, CTA_STATUS),
            flow.status.to_bytes(4, "big"),
            flow.mark,
            flow.id,
            flow.timeout,
            flow.info,
        )
    )


def delete(original: bytes, ident: bytes) -> bytes:
    """Delete the entry with this CTA_TUPLE_ORIG and CTA_ID: a successor is spared. ENOENT where it is gone already."""
    layout = next(layout for layout in LAYOUTS if layout.parts.size == len(original))
    size = len(layout.header) + len(original) + len(ident)
    return request_header(_CT_DELETE, 0, size) + layout.header + original + ident


def move(flow: Flow) -> tuple[bytes, bytes]:
    """The flow's CTA_TUPLE_ORIG, and what it takes to move it from IPVS to netfilter's NAT: CTA_TUPLE_REPLY, by which
    it is known again, then the request to delete it, then the one to create it, which is answered EEXIST where an entry
    has its addresses and ports in whichever direction.

    In one piece: there are many, and the garbage collector does not look into bytes.
    """
    (source, destination, protocol, source_port, destination_port,
     back, seen_as, back_port, seen_as_port, status, mark, ident, timeout, info) = flow  # fmt: skip
    masqueraded = seen_as != source or seen_as_port != source_port
    (head, reply_head, to, ports, to_port, delete_head, create_head,
     nat_source, nat_destination, nat_port) = _heads(len(source), protocol, masqueraded, len(info))  # fmt: skip
    original = b"".join((head, source, to, destination, ports, source_port, to_port, destination_port))
    parts = (
        *(reply_head, back, to, seen_as, ports, back_port, to_port, seen_as_port),
        *(delete_head, original, ident),
        *(create_head, original, reply_head, destination, to, source, ports, destination_port, to_port, source_port),
        *(nat_destination, back, nat_port, back_port),
        *((nat_source, seen_as, nat_port, seen_as_port) if masqueraded else ()),
        *(_status(status), timeout if timeout != _NO_TIME else _SECOND, mark),
        _liberal(info) if protocol == _TCP else info,
    )
    return original, b"".join(parts)


def reply_in(move: bytes, original: bytes) -> bytes:
    """The CTA_TUPLE_REPLY in a move of the flow with this CTA_TUPLE_ORIG."""
    return move[: len(original)]


def requests_in(move: bytes, original: bytes) -> bytes:
    """The two requests in it."""
    return move[len(original) :]


def create_in(move: bytes, original: bytes) -> bytes:
    """The second of them."""
    return move[2 * len(original) + HEADER_BYTES + NFGENMSG + _ATTRIBUTE_BYTES :]


@cache
def _status(status: int) -> bytes:
    wanted = status & (Status.SEEN_REPLY | Status.ASSURED) | Status.CONFIRMED
    return ATTRIBUTE.pack(8, CTA_STATUS) + wanted.to_bytes(4, "big")


@lru_cache(maxsize=1024)
def _liberal(info: bytes) -> bytes:
    """TCP's CTA_PROTOINFO with flags, and the masks that say which of them count."""
    changed = bytearray(info)
    for at in _TCP_FLAGS:
        changed[at : at + 2] = changed[at] | _TCP_BE_LIBERAL, 0xFF
    return bytes(changed)
