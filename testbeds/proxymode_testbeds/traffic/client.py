"""A client: long-lived connections of several kinds, new ones at a rate, and datagrams; everything is counted.

What a failure is: a long-lived connection is lost with a reset, an end of file, or an answer later than the timeout;
a new connection failed unless it got its answer within the timeout; a datagram is lost unless answered within it. The
measurement begins when all long-lived connections are established; until then they are tried again and again. What is
under way at the end gets its time to end well. Time in which the client itself did not run, since its machine stood
still, counts for no timeout: it could not have seen an answer.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_testbeds.traffic.exchange import Exchange
from proxymode_testbeds.traffic.loop import Loop, now
from proxymode_testbeds.traffic.report import Tally, say
from proxymode_testbeds.traffic.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

SWEEP_SECONDS = 0.25  # how exactly timeouts are kept
AWAY_SECONDS = 1.0  # a sweep that comes so much later than planned: the client was not running
RETRY_SECONDS = 0.2
STREAM_RATE = 4.0


class Flavour(NamedTuple):
    """What a long-lived connection does: `more` is said with every question; see Exchange."""

    more: str
    repeats: bool


TALK: Final = Flavour("", repeats=False)
BULK: Final = Flavour(" bulk 50000", repeats=False)
PUSH: Final = Flavour(" push 500", repeats=True)


@dataclass(frozen=True, slots=True)
class Load:
    """What one client does. Rates are per second, times seconds; `seconds` None means until SIGTERM."""

    address: str
    tcp: int | None
    udp: int | None
    established: int
    new_rate: float
    udp_rate: float
    interval: float
    timeout: float
    ready_timeout: float
    seconds: float | None
    reopen: bool
    bulk: int = 0
    push: int = 0
    udp_streams: int = 0

    @property
    def long_lived(self) -> int:
        return self.established + self.bulk + self.push

    def __post_init__(self) -> None:
        if (self.long_lived or self.new_rate) and self.tcp is None:
            raise ValueError("--established, --bulk, --push and --new-rate need --tcp PORT")
        if (self.udp_rate or self.udp_streams) and self.udp is None:
            raise ValueError("--udp-rate and --udp-streams need --udp PORT")
        if not (self.long_lived or self.new_rate or self.udp_rate or self.udp_streams):
            raise ValueError("nothing to do: give --established, --new-rate, --udp-rate or another a number above 0")


class Client:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._loop = Loop()
        self._tally = Tally()
        self._open: set[Exchange] = set()
        self._streams: list[Stream] = []
        self._began: float | None = None
        self._began_unix = 0.0
        self._ending = False
        self._last_error = "no attempt has ended yet"

    def run(self) -> bool:
        """Does it all and prints the result; False where the measurement never began."""
        self._loop.on_stop_signal(self._finish)
        self._sweep_later()
        self._loop.after(self._load.ready_timeout, self._ready_deadline)
        for flavour, number in ((TALK, self._load.established), (BULK, self._load.bulk), (PUSH, self._load.push)):
            for _ in range(number):
                self._open_long_lived(flavour)
        if self._load.long_lived == 0:
            self._begin()
        self._loop.run()
        if self._began is None:
            say(
                "error",
                message=f"{self._tally.alive} of {self._load.long_lived} connections to {self._load.address}"
                f" port {self._load.tcp} were established when this ended; the last failure: {self._last_error}",
            )
            return False
        say("result", started=round(self._began_unix, 3), seconds=round(self._t(), 1), **self._tally.result())
        return True

    def _t(self) -> float:
        """Seconds since the measurement began."""
        return now() - (self._began if self._began is not None else now())

    def _begin(self) -> None:
        self._began, self._began_unix = now(), time.time()
        self._tally.established = self._tally.alive
        say("ready", established=self._tally.established)
        self._loop.after(1.0, self._second)
        if self._load.new_rate:
            self._next_new()
        if self._load.udp_rate:
            self._next_datagram()
        for _ in range(self._load.udp_streams):
            assert self._load.udp is not None  # by Load
            peer = (self._load.address, self._load.udp)
            self._streams.append(Stream(self._loop, self._tally, peer, STREAM_RATE, self._load.timeout))
        if self._load.seconds is not None:
            self._loop.after(self._load.seconds, self._finish)

    def _second(self) -> None:
        if not self._ending:
            say("second", t=round(self._t(), 1), **self._tally.running())
            self._loop.after(1.0, self._second)

    def _ready_deadline(self) -> None:
        if self._began is None:
            self._loop.stop()

    def _finish(self) -> None:
        """Nothing new from here on; the loop ends when nothing is under way."""
        self._ending = True
        for stream in self._streams:
            stream.finish()
        if self._began is None:
            self._loop.stop()

    def _sweep_later(self) -> None:
        self._sweep_at = now() + SWEEP_SECONDS
        self._loop.after(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        moment = now()
        away = moment - self._sweep_at
        if away > AWAY_SECONDS:
            self._tally.away += away
            for exchange in self._open:
                exchange.extend(away)
            for stream in self._streams:
                stream.extend(away)
        for exchange in [e for e in self._open if e.deadline is not None and e.deadline < moment]:
            exchange.fail("stall" if exchange.answers else "timeout")
        for stream in self._streams:
            stream.sweep()
        if self._ending and not any(self._awaits(exchange) for exchange in self._open) and not self._streaming():
            self._loop.stop()
        else:
            self._sweep_later()

    def _awaits(self, exchange: Exchange) -> bool:
        """Whether an answer is due that must come before the end; one that is pushed may."""
        return exchange.deadline is not None and not (exchange.repeats and exchange.backend)

    def _streaming(self) -> bool:
        return any(stream.waiting for stream in self._streams)

    def _start(
        self,
        kind: socket.SocketKind,
        port: int | None,
        on_answer: Callable[[Exchange, str], None],
        on_end: Callable[[Exchange, str], None],
        flavour: Flavour,
    ) -> None:
        assert port is not None  # by Load
        peer = (self._load.address, port)
        timeout, (more, repeats) = self._load.timeout, flavour
        self._open.add(Exchange(self._loop, kind, peer, timeout, on_answer, on_end, more=more, repeats=repeats))

    # Long-lived connections

    def _open_long_lived(self, flavour: Flavour) -> None:
        if not self._ending:
            ended = partial(self._long_lived_end, flavour)
            self._start(socket.SOCK_STREAM, self._load.tcp, self._long_lived_answer, ended, flavour)

    def _long_lived_answer(self, exchange: Exchange, backend: str) -> None:
        if exchange.answers == 1:
            self._tally.alive += 1
            if self._began is None and self._tally.alive == self._load.long_lived:
                self._begin()
            elif self._began is not None:
                self._tally.reopened += 1
        if self._began is not None:
            self._tally.answered("established", backend)
            self._tally.waited(now() - max(exchange.asked_at, self._began), self._t())
        if not self._ending and not exchange.repeats:
            self._loop.after(self._load.interval, exchange.ask)

    def _long_lived_end(self, flavour: Flavour, exchange: Exchange, reason: str) -> None:
        self._open.discard(exchange)
        if exchange.backend:
            self._tally.alive -= 1
            if self._began is not None:
                said = flavour.more.split()[0] if flavour.more else "talk"
                answers = exchange.answers
                self._tally.lost.add(reason, self._t(), backend=exchange.backend, answers=answers, kind=said)
                if self._load.reopen:
                    self._open_long_lived(flavour)
                return
        self._last_error = reason
        self._loop.after(RETRY_SECONDS, partial(self._open_long_lived, flavour))

    # New connections

    def _next_new(self) -> None:
        if self._ending:
            return
        self._loop.after(1 / self._load.new_rate, self._next_new)
        self._tally.new += 1
        self._start(socket.SOCK_STREAM, self._load.tcp, self._new_answer, self._new_end, TALK)

    def _new_answer(self, exchange: Exchange, backend: str) -> None:
        assert exchange.handshake is not None
        self._tally.handshakes.append(exchange.handshake)
        self._tally.answered("new", backend)
        self._open.discard(exchange)
        exchange.close()

    def _new_end(self, exchange: Exchange, reason: str) -> None:
        self._open.discard(exchange)
        stage = "connecting" if exchange.handshake is None else "asking"
        self._tally.failed.add(reason, self._t(), stage=stage)

    # Datagrams

    def _next_datagram(self) -> None:
        if self._ending:
            return
        self._loop.after(1 / self._load.udp_rate, self._next_datagram)
        self._tally.udp_sent += 1
        self._start(socket.SOCK_DGRAM, self._load.udp, self._datagram_answer, self._datagram_end, TALK)

    def _datagram_answer(self, exchange: Exchange, backend: str) -> None:
        self._tally.udp_answered += 1
        self._tally.answered("udp", backend)
        self._open.discard(exchange)
        exchange.close()

    def _datagram_end(self, exchange: Exchange, reason: str) -> None:
        self._open.discard(exchange)
        self._tally.udp_lost.add(reason, self._t())
