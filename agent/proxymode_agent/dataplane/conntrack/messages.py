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
)
from proxymode_agent.dataplane.netlink import NLM_F_CREATE, NLM_F_EXCL, request_header

CT_NEW: Final = 0x100  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW
_CT_DELETE: Final = 0x102
_CTA_NAT_SRC: Final = 6
_CTA_NAT_DST: Final = 13
_CTA_NAT_PROTO: Final = 3
_CTA_PROTONAT_PORT_MIN: Final = 1
_TCP: Final = bytes((socket.IPPROTO_TCP, 0, 0, 0))
_TCP_BE_LIBERAL: Final = 0x08
_TCP_FLAGS: Final = (STATE + 24, STATE + 32)  # of the original direction and of the reply
_NO_TIME, _SECOND = (ATTRIBUTE.pack(8, CTA_TIMEOUT) + bytes((0, 0, 0, seconds)) for seconds in (0, 1))


class _Heads(NamedTuple):
    """What is the same in the requests for all entries of one address family and protocol, or of one family."""

    header: bytes
    original: bytes
    reply: bytes
    destination: bytes
    source_port: bytes
    destination_port: bytes
    nat_source: bytes
    nat_destination: bytes
    nat_port: bytes
    tuple_bytes: int
    nat_bytes: int


@cache
def _heads(length: int, protocol: bytes) -> _Heads:
    """`source_port`: what lies between addresses and ports, the protocol's number among it."""
    layout = BY_LENGTH[length]
    original, addresses, destination, number, *ports = layout.headers(CTA_TUPLE_ORIG)
    nat_bytes = 4 + 4 + length + 12
    least = ATTRIBUTE.pack(4 + length, 1 if length == 4 else 4)  # CTA_NAT_V4_MINIP, CTA_NAT_V6_MINIP
    return _Heads(
        header=layout.header,
        original=original + addresses,
        reply=layout.headers(CTA_TUPLE_REPLY)[0] + addresses,
        destination=destination,
        source_port=number + protocol + ports[0],
        destination_port=ports[1],
        nat_source=ATTRIBUTE.pack(nat_bytes, NESTED | _CTA_NAT_SRC) + least,
        nat_destination=ATTRIBUTE.pack(nat_bytes, NESTED | _CTA_NAT_DST) + least,
        nat_port=ATTRIBUTE.pack(12, NESTED | _CTA_NAT_PROTO) + ATTRIBUTE.pack(6, _CTA_PROTONAT_PORT_MIN),
        tuple_bytes=layout.parts.size,
        nat_bytes=nat_bytes,
    )


def original_of(flow: Flow) -> bytes:
    """CTA_TUPLE_ORIG: what names an entry."""
    source, destination, protocol, source_port, destination_port, *_ = flow
    heads = _heads(len(source), protocol)
    ports = (heads.source_port, source_port, heads.destination_port, destination_port)
    return b"".join((heads.original, source, heads.destination, destination, *ports))


def reply_of(flow: Flow) -> bytes:
    """CTA_TUPLE_REPLY: from whom answers come, and to whom."""
    heads = _heads(len(flow.source), flow.protocol)
    ports = (heads.source_port, flow.back_port, heads.destination_port, flow.seen_as_port)
    return b"".join((heads.reply, flow.back, heads.destination, flow.seen_as, *ports))


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


class Move(NamedTuple):
    """What it takes to move one entry from IPVS to netfilter's NAT: CTA_TUPLE_REPLY, by which it is known again, and
    the two requests."""

    reply: bytes
    delete: bytes
    create: bytes


def move(flow: Flow, original: bytes) -> Move:
    """`original` is the flow's CTA_TUPLE_ORIG."""
    return Move(reply_of(flow), delete(original, flow.id), create(flow, original))


def delete(original: bytes, ident: bytes) -> bytes:
    """Delete the entry with this CTA_TUPLE_ORIG and CTA_ID: a successor is spared. ENOENT where it is gone already."""
    return _delete_head(len(original)) + original + ident


def create(flow: Flow, original: bytes) -> bytes:
    """Create the entry with netfilter's NAT; EEXIST where one has its addresses and ports in whichever direction.

    `original` is the flow's CTA_TUPLE_ORIG.
    """
    (source, destination, protocol, source_port, destination_port,
     back, seen_as, back_port, seen_as_port, status, mark, _, timeout, info) = flow  # fmt: skip
    heads = _heads(len(source), protocol)
    masqueraded = seen_as != source or seen_as_port != source_port
    return b"".join(
        (
            _create_head(len(source), protocol, masqueraded, len(info)),
            original,
            heads.reply,
            destination,
            heads.destination,
            source,
            heads.source_port,
            destination_port,
            heads.destination_port,
            source_port,
            heads.nat_destination,
            back,
            heads.nat_port,
            back_port,
            *((heads.nat_source, seen_as, heads.nat_port, seen_as_port) if masqueraded else ()),
            _status(status),
            timeout if timeout != _NO_TIME else _SECOND,
            mark,
            _liberal(info) if protocol == _TCP else info,
        )
    )


@cache
def _delete_head(original: int) -> bytes:
    layout = next(layout for layout in LAYOUTS if layout.parts.size == original)
    return request_header(_CT_DELETE, 0, len(layout.header) + original + 8) + layout.header


@cache
def _create_head(length: int, protocol: bytes, masqueraded: bool, info: int) -> bytes:
    heads = _heads(length, protocol)
    size = len(heads.header) + 2 * heads.tuple_bytes + (1 + masqueraded) * heads.nat_bytes + 3 * 8 + info
    return request_header(CT_NEW, NLM_F_CREATE | NLM_F_EXCL, size) + heads.header


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
