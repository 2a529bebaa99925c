"""A UDP flow: numbered datagrams at a rate from one port, whatever becomes of them, as a game sends them."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from proxymode_testbeds.traffic.loop import READ, now
from proxymode_testbeds.traffic.report import reason_of

if TYPE_CHECKING:
    from proxymode_testbeds.traffic.loop import Loop
    from proxymode_testbeds.traffic.report import Tally


class Stream:
    """Sends until :meth:`finish`; who owns it calls :meth:`sweep` now and then, which counts what was not answered."""

    def __init__(self, loop: Loop, tally: Tally, peer: tuple[str, int], rate: float, timeout: float) -> None:
        self._loop = loop
        self._tally = tally
        self._rate = rate
        self._timeout = timeout
        self._began = now()
        self._sending = True
        self._number = 0
        self._unanswered: dict[int, float] = {}
        self._socket = socket.socket(socket.AF_INET6 if ":" in peer[0] else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(peer)
        loop.watch(self._socket, READ, self._readable)
        self._send()

    @property
    def waiting(self) -> bool:
        """Whether an answer may still come."""
        return bool(self._unanswered)

    def finish(self) -> None:
        """Send no more."""
        self._sending = False

    def extend(self, seconds: float) -> None:
        """Answers that are due may come so much later."""
        self._unanswered = {number: sent + seconds for number, sent in self._unanswered.items()}

    def sweep(self) -> None:
        """Give up answers that are too late."""
        moment = now()
        for number in [number for number, sent in self._unanswered.items() if moment - sent > self._timeout]:
            del self._unanswered[number]
            self._tally.udp_lost.add("timeout", moment - self._began, stream=True)

    def _send(self) -> None:
        if not self._sending:
            return
        self._loop.after(1 / self._rate, self._send)
        self._number += 1
        self._tally.udp_sent += 1
        self._unanswered[self._number] = now()
        try:
            self._socket.send(b"%d\n" % self._number)
        except OSError as error:
            del self._unanswered[self._number]
            self._tally.udp_lost.add(reason_of(error), now() - self._began, stream=True)

    def _readable(self) -> None:
        with contextlib.suppress(OSError):  # an ICMP error: its datagram stays unanswered
            while True:
                backend, _source, number = self._socket.recv(2048).decode().split()
                if self._unanswered.pop(int(number), None) is not None:
                    self._tally.udp_answered += 1
                    self._tally.answered("stream", backend)
