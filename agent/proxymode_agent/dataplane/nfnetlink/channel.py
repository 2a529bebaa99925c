"""I/O: the nf_tables socket, which never takes what is left of one answer for the next request's.

Where an answer could not be read to its end (the kernel was short of memory) the dump that it belongs to goes on, and
the kernel says EBUSY to another; so the next request goes out by a new socket, opened in the network namespace of the
thread that asks. What is sent and what answers mean is `connection`'s business. It joins no multicast group.
"""

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


class Channel:
    """One request at a time: `ask`, then either all of `come`, or `receive` until the end, and say so by `ended`.
    Opening raises DataplaneError, all else OSError."""

    def __init__(self) -> None:
        self._socket = _opened()
        self._unread = False  # more of an answer may come

    def close(self) -> None:
        self._socket.close()

    def ask(self, request: bytes) -> None:
        """Send a request: the kernel has worked off a transaction when this returns. Raises DataplaneError too."""
        if self._unread:
            self._socket.close()
            self._socket = _opened()
        self._unread = True
        self._socket.send(request)

    def come(self) -> Iterator[bytes]:
        """The datagrams that have come, up to the last one."""
        receive, flags = self._socket.recv, socket.MSG_DONTWAIT
        while True:
            try:
                datagram = receive(DATAGRAM, flags)
            except BlockingIOError:
                self.ended()
                return
            yield datagram

    def receive(self) -> bytes:
        """The next datagram; waits for it."""
        return self._socket.recv(DATAGRAM)

    def ended(self) -> None:
        """The whole answer has been read."""
        self._unread = False


def messages(datagram: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    """(type, flags, sequence, body) of each netlink message in a datagram. Pure."""
    view = memoryview(datagram)
    offset = 0
    while offset + HEADER.size <= len(datagram):
        length, kind, flags, sequence, _ = HEADER.unpack_from(datagram, offset)
        yield kind, flags, sequence, view[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _opened() -> socket.socket:
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    except OSError as error:
        raise DataplaneError(f"nf_tables: no netlink socket: {error}; is CONFIG_NETFILTER_NETLINK there?") from error
    try:
        opened.bind((0, 0))
        opened.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        opened.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        opened.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    except OSError as error:
        opened.close()
        raise DataplaneError(f"nf_tables: netlink socket: {error}; CAP_NET_ADMIN is needed") from error
    return opened
