"""A small event loop: sockets, timers and SIGTERM, in one thread.

asyncio would do, but its import alone takes a second under emulation, and every message several times as long.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import signal
import socket
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

now = time.monotonic


class HasDescriptor(Protocol):
    def fileno(self) -> int: ...


class Loop:
    """Calls back until :meth:`stop`. SIGTERM and SIGINT call what :meth:`on_stop_signal` was given."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._running = True

    def watch(self, source: HasDescriptor, events: int, callback: Callable[[], None]) -> None:
        """Also changes what a source already watched is watched for."""
        try:
            self._selector.register(source, events, callback)
        except KeyError:
            self._selector.modify(source, events, callback)

    def forget(self, source: HasDescriptor) -> None:
        self._selector.unregister(source)

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Timers are never cancelled: a callback looks whether it is still wanted."""
        heapq.heappush(self._timers, (now() + seconds, next(self._order), callback))

    def on_stop_signal(self, callback: Callable[[], None]) -> None:
        # A signal by itself does not end select(); the byte that Python writes for it does.
        woken, wakes = socket.socketpair()
        for end in (woken, wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

        def wake() -> None:
            wakes.fileno()  # keeps that end open as long as this callback is known
            woken.recv(64)
            callback()

        self.watch(woken, READ, wake)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        while self._running:
            wait = max(0.0, self._timers[0][0] - now()) if self._timers else None
            for key, _ in self._selector.select(wait):
                # An earlier callback of this round may have closed a later one's socket.
                if key.fd in self._selector.get_map():
                    key.data()
            while self._timers and self._timers[0][0] <= now():
                heapq.heappop(self._timers)[2]()
