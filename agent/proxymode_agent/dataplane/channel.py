"""I/O: a netlink socket that never takes what is left of one answer for the next request's.

Where an answer could not be read to its end (the kernel was short of memory, or whoever read it failed) the dump that
it belongs to goes on, and the kernel says EBUSY to another; so the next request goes out by a new socket, opened in the
network namespace of the thread that asks. What is sent, and what answers mean, is not known here.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Channel:
    """One request at a time: `ask`, then either all of `come`, or `receive` until the end, and say so by `ended`.

    `opened`: a new socket. Raises OSError, and what that raises.
    """

    def __init__(self, opened: Callable[[], socket.socket]) -> None:
        self._opened = opened
        self._socket = opened()
        self._unread = False  # more of an answer may come

    def close(self) -> None:
        self._socket.close()

    def ask(self, request: bytes) -> None:
        """Send a request: the kernel has worked it off when this returns, but for what of a dump had no room."""
        if self._unread:
            self._socket.close()
            self._socket = self._opened()
        self._unread = True
        self._socket.send(request)

    def come(self, size: int) -> Iterator[bytes]:
        """The datagrams, of so many bytes at most, that have come, up to the last one."""
        receive, flags = self._socket.recv, socket.MSG_DONTWAIT
        while True:
            try:
                datagram = receive(size, flags)
            except BlockingIOError:
                self.ended()
                return
            yield datagram

    def receive(self, size: int) -> bytes:
        """The next datagram, of so many bytes at most; waits for it."""
        return self._socket.recv(size)

    def receive_into(self, buffer: bytearray) -> int:
        """The next datagram, whose length is returned; waits for it."""
        return self._socket.recv_into(buffer)

    def ended(self) -> None:
        """The whole answer has been read."""
        self._unread = False
