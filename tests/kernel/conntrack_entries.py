"""Conntrack entries as IPVS leaves them, made over ctnetlink: for a kernel without IPVS."""

from __future__ import annotations

from socket import IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.conntrack import messages
from proxymode_agent.dataplane.conntrack.flow import Flow, Status, info_headers
from proxymode_agent.dataplane.conntrack.layout import ATTRIBUTE, CTA_ID, CTA_MARK, CTA_TIMEOUT
from proxymode_agent.dataplane.netlink import NLM_F_CREATE, NLM_F_EXCL, NetlinkSocket, request_header

if TYPE_CHECKING:
    from collections.abc import Iterable

SEEN = Status.SEEN_REPLY | Status.ASSURED | Status.CONFIRMED
INFO = {
    IPPROTO_TCP: (3, 7, 8, 0, 0),
    IPPROTO_UDP: (),
    IPPROTO_SCTP: (4, 0xAABBCCDD, 0x01020304),
}


def padded(number: int) -> bytes:
    return number.to_bytes(2, "big") + bytes(2)


def through_ipvs(protocol: int, length: int, *, masqueraded: bool) -> Flow:
    client, vip, pod, gateway = (bytes(length - 4) + bytes((10, 1, 0, last)) for last in range(1, 5))
    info = b"".join(
        head + (value.to_bytes(4, "big") if value > 255 else bytes((value, 0, 0, 0)))
        for head, value in zip(info_headers(protocol), INFO[protocol], strict=True)
    )
    number, timeout = (7).to_bytes(4, "big"), (3000).to_bytes(4, "big")
    return Flow(
        client, vip, bytes((protocol, 0, 0, 0)), padded(1000), padded(80),
        pod, gateway if masqueraded else client, padded(8080), padded(2000 if masqueraded else 1000),
        SEEN, ATTRIBUTE.pack(8, CTA_MARK) + number, ATTRIBUTE.pack(8, CTA_ID) + bytes(4),
        ATTRIBUTE.pack(8, CTA_TIMEOUT) + timeout, info,
    )  # fmt: skip


def leave(flows: Iterable[Flow]) -> None:
    """Entries as IPVS leaves them."""
    netlink = NetlinkSocket(12)
    try:
        entries = map(messages.dumped, flows)
        assert not netlink.submit(
            request_header(messages.CT_NEW, NLM_F_CREATE | NLM_F_EXCL, len(one)) + one for one in entries
        )
    finally:
        netlink.close()
