"""One socket that asks one question at a time, and knows what became of it."""

from __future__ import annotations

import errno
import os
import socket
from functools import partial
from typing import TYPE_CHECKING

from proxymode_testbeds.traffic.loop import READ, WRITE, now
from proxymode_testbeds.traffic.report import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_testbeds.traffic.loop import Loop


class Exchange:
    """Connects, asks a first question and reports.

    `more` goes with every question, as in the server's words; `repeats`: one question has answers without end.
    `on_answer(exchange, backend)` may ask again later; `on_end(exchange, reason)` comes at most once, never from
    within the constructor and not after :meth:`close`. Who owns it keeps the deadline, by calling :meth:`fail`.
    """

    def __init__(
        self,
        loop: Loop,
        kind: socket.SocketKind,
        peer: tuple[str, int],
        timeout: float,
        on_answer: Callable[[Exchange, str], None],
        on_end: Callable[[Exchange, str], None],
        *,
        more: str = "",
        repeats: bool = False,
    ) -> None:
        self.sequence = 0  # of the last question
        self.answers = 0
        self.backend = ""  # who answered last; empty before the first answer
        self.handshake: float | None = None  # seconds; None until connected
        self.began_at = self.asked_at = now()
        self.deadline: float | None = self.began_at + timeout  # None while no answer is due
        self._loop = loop
        self._timeout = timeout
        self._on_answer = on_answer
        self._on_end = on_end
        self._more = more.encode()
        self.repeats = repeats
        self._received = bytearray()
        self._open = True
        family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
        self._socket = socket.socket(family, kind)
        self._socket.setblocking(False)
        if kind == socket.SOCK_STREAM:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.bind(("", 0))  # a port of its own: IPVS mixes up two of one port to one endpoint, switch or no
        loop.watch(self._socket, WRITE, self._connected)
        number = self._socket.connect_ex(peer)
        if number not in (0, errno.EINPROGRESS):
            loop.after(0, partial(self.fail, reason_of(OSError(number, os.strerror(number)))))

    def ask(self) -> None:
        if not self._open:
            return
        self.sequence += 1
        self.asked_at = now()
        self.deadline = self.asked_at + self._timeout
        try:
            self._socket.send(b"%d%b\n" % (self.sequence, self._more))
        except OSError as error:
            self.fail(reason_of(error))

    def extend(self, seconds: float) -> None:
        """An answer that is due may come so much later."""
        if self.deadline is not None:
            self.deadline += seconds

    def close(self) -> None:
        if self._open:
            self._open = False
            self.deadline = None
            self._loop.forget(self._socket)
            self._socket.close()

    def fail(self, reason: str) -> None:
        if self._open:
            self.close()
            self._on_end(self, reason)

    def _connected(self) -> None:
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self.fail(reason_of(OSError(number, os.strerror(number))))
            return
        self.handshake = now() - self.began_at
        self._loop.watch(self._socket, READ, self._readable)
        self.ask()

    def _readable(self) -> None:
        try:
            chunk = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(reason_of(error))
            return
        if not chunk:
            self.fail("eof")
            return
        self._received += chunk
        if not chunk.endswith(b"\n"):
            return
        backend, _source, echo = self._received.rsplit(b"\n", 2)[-2].decode().split(maxsplit=3)[:3]
        self._received.clear()
        if echo != str(self.sequence):
            self.fail("mismatch")
            return
        self.backend = backend
        self.answers += 1
        self.deadline = now() + self._timeout if self.repeats else None
        self._on_answer(self, self.backend)
        if self.repeats:
            self.asked_at = now()
