"""A conntrack entry in pieces as they lie in netlink messages: there may be tens of thousands. Pure.

Nothing is converted that need not be: addresses are bytes, protocol and ports have the padding to four bytes that they
have in netlink and in the keys of nf_tables maps, and what is sent back as it came is the whole attribute. So requests
and map elements are made by putting pieces together. TCP, UDP and SCTP only.
"""

from __future__ import annotations

import socket
import struct
from functools import cache
from typing import Final, NamedTuple

TCP_ESTABLISHED: Final = 3  # enum tcp_conntrack, TCP_CONNTRACK_ESTABLISHED
ESTABLISHED: Final = {  # states between handshake and end
    socket.IPPROTO_TCP: bytes((TCP_ESTABLISHED,)),
    # enum sctp_conntrack: ESTABLISHED, and HEARTBEAT_SENT and _ACKED of an entry that an idle association made
    socket.IPPROTO_SCTP: bytes((4, 8, 9)),
}
STATE: Final = 12  # where its value lies in CTA_PROTOINFO; the others follow every eight bytes
INFO: Final = {  # CTA_PROTOINFO_*, and how many bytes its values have, which are numbered from 1
    socket.IPPROTO_TCP: (1, (1, 1, 1, 2, 2)),  # state, window scales, flags
    socket.IPPROTO_UDP: (0, ()),
    socket.IPPROTO_SCTP: (3, (1, 4, 4)),  # state, verification tags
}
KIND: Final = {  # how far from the state that lies which decides, beside it, how an entry is created anew
    socket.IPPROTO_TCP: (0, 24, 32),
    socket.IPPROTO_UDP: (),
    socket.IPPROTO_SCTP: (0,),
}
_NESTED: Final = 0x8000
_CTA_PROTOINFO: Final = 4


class Status:
    """Bits IPS_*, enum ip_conntrack_status. Plain numbers: the operators of an IntFlag take 3 us each."""

    SEEN_REPLY: Final = 0x2
    ASSURED: Final = 0x4
    CONFIRMED: Final = 0x8
    SRC_NAT: Final = 0x10
    DST_NAT: Final = 0x20


class Flow(NamedTuple):
    """`source` to `destination_port`: the original direction; `back` to `seen_as_port`: the reply's. Addresses have
    4 or 16 bytes; `protocol` and ports 4, filled up with zeros. `status`: bits of Status. `mark`, `id`, `timeout` and
    `info` (CTA_PROTOINFO) are whole attributes; UDP's `info` is empty."""

    source: bytes
    destination: bytes
    protocol: bytes
    source_port: bytes
    destination_port: bytes
    back: bytes
    seen_as: bytes
    back_port: bytes
    seen_as_port: bytes
    status: int
    mark: bytes
    id: bytes
    timeout: bytes
    info: bytes

    @property
    def established(self) -> bool:
        """A TCP connection or SCTP association whose handshake is done and whose end has not begun."""
        return bool(self.info) and self.info[STATE] in ESTABLISHED[self.protocol[0]]

    @property
    def opening(self) -> bool:
        """A TCP connection whose handshake is not done."""
        return self.protocol[0] == socket.IPPROTO_TCP and self.info[STATE] < TCP_ESTABLISHED

    @property
    def open(self) -> bool:
        """Established, or of a protocol without an end that could be seen."""
        return not self.info or self.established

    @property
    def by_nftables(self) -> bool:
        """Its destination was translated by netfilter's NAT."""
        return bool(self.status & Status.DST_NAT)

    @property
    def by_ipvs(self) -> bool:
        """IPVS chose its real server: another reply source than the original destination, without netfilter's NAT."""
        return not self.status & Status.DST_NAT and (
            self.back != self.destination or self.back_port != self.destination_port
        )

    @property
    def masqueraded(self) -> bool:
        """Replies are sent to another address or port than packets come from."""
        return self.seen_as != self.source or self.seen_as_port != self.source_port

    @property
    def backwards(self) -> bool:
        """IPVS translated it, and the real server's packet came first: so it is noted the wrong way round."""
        return (
            not self.status & (Status.SRC_NAT | Status.DST_NAT)
            and self.back == self.destination
            and self.back_port == self.destination_port
            and self.masqueraded
        )

    def turned(self) -> Flow:
        """The same connection as it would be noted had the other end's packet come first."""
        return self._replace(
            source=self.back,
            destination=self.seen_as,
            source_port=self.back_port,
            destination_port=self.seen_as_port,
            back=self.source,
            seen_as=self.destination,
            back_port=self.source_port,
            seen_as_port=self.destination_port,
            info=_turned(self.info),
        )


@cache
def info_headers(protocol: int) -> tuple[bytes, ...]:
    """What precedes each value, of four bytes, in a protocol's CTA_PROTOINFO."""
    nest, sizes = INFO[protocol]
    size = 8 * len(sizes)
    outer = struct.pack("=HHHH", 8 + size, _NESTED | _CTA_PROTOINFO, 4 + size, _NESTED | nest)
    return tuple(
        (outer if number == 1 else b"") + struct.pack("=HH", 4 + length, number)
        for number, length in enumerate(sizes, 1)
    )


def _turned(info: bytes) -> bytes:
    """CTA_PROTOINFO with the values of both directions swapped: after the state they come in pairs."""
    swapped = bytearray(info)
    for at in range(STATE + 8, len(info), 16):
        swapped[at : at + 4], swapped[at + 8 : at + 12] = info[at + 8 : at + 12], info[at : at + 4]
    return bytes(swapped)
