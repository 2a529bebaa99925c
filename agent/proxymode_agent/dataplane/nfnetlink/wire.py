"""What goes over an nf_tables socket: how it is opened, and the messages of a datagram. It joins no multicast group."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.nfnetlink.uapi import (
    NETLINK_CAP_ACK,
    NETLINK_EXT_ACK,
    NETLINK_NETFILTER,
    SO_RCVBUFFORCE,
    SO_SNDBUFFORCE,
    SOL_NETLINK,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

SEND_BUFFER = 1 << 26  # bytes: the largest transaction
RECEIVE_BUFFER = 1 << 22  # bytes: errors of one transaction
DATAGRAM = 1 << 17  # bytes: the kernel's dumps come in datagrams of at most 32 KB

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr


def messages(datagram: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    """(type, flags, sequence, body) of each netlink message in a datagram. Pure."""
    view = memoryview(datagram)
    offset = 0
    while offset + HEADER.size <= len(datagram):
        length, kind, flags, sequence, _ = HEADER.unpack_from(datagram, offset)
        yield kind, flags, sequence, view[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def opened() -> socket.socket:
    """A socket in the network namespace of the calling thread. Raises DataplaneError."""
    try:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    except OSError as error:
        raise DataplaneError(f"nf_tables: no netlink socket: {error}; is CONFIG_NETFILTER_NETLINK there?") from error
    try:
        made.bind((0, 0))
        made.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        made.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        made.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    except OSError as error:
        made.close()
        raise DataplaneError(f"nf_tables: netlink socket: {error}; CAP_NET_ADMIN is needed") from error
    return made
