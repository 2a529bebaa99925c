"""What is counted, and how it is told: one JSON object a line.

`{"event":"ready"}` when every long-lived connection is up: then the measurement begins, and `t` is seconds since;
`{"event":"second", ...}` every second with the counters so far; `{"event":"result", ...}` once, at the end.

established    long-lived connections at the beginning
alive          of these, and of those reopened, still there
lost           long-lived connections that ended: reset, eof, stall (no answer in time) or another error's name
new            short connections begun: connect, one question, one answer, close
failed         of these, the ones that did not get that far: refused, timeout, reset, ...
*_reasons      how often which; *_first: the first ones, with their time
udp_sent       datagrams, each from a port of its own or of streams; udp_answered of them, udp_lost the rest
connect_ms     p50, p99 and max of the new connections' TCP handshake
away_seconds   how long in all the client itself did not run
longest_gap_ms the longest wait for an answer on a long-lived connection, and when it ended (`longest_gap_at`)
backends       how many answers came from which server, by kind of traffic
"""

from __future__ import annotations

import errno
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

FIRST_KEPT = 20

Kind = Literal["established", "new", "udp", "stream"]


@dataclass(slots=True)
class Failures:
    """How many for which reason, and the first ones in detail."""

    reasons: Counter[str] = field(default_factory=Counter)
    first: list[dict[str, Any]] = field(default_factory=list)

    def add(self, reason: str, at: float, **details: Any) -> None:
        """`at` is in seconds since the measurement began."""
        self.reasons[reason] += 1
        if len(self.first) < FIRST_KEPT:
            self.first.append({"t": round(at, 2), "reason": reason, **details})

    def total(self) -> int:
        return self.reasons.total()


@dataclass(slots=True)
class Tally:
    """Counters of one client. Times are seconds since the measurement began, durations are seconds."""

    established: int = 0
    alive: int = 0
    reopened: int = 0
    new: int = 0
    udp_sent: int = 0
    udp_answered: int = 0
    lost: Failures = field(default_factory=Failures)
    failed: Failures = field(default_factory=Failures)
    udp_lost: Failures = field(default_factory=Failures)
    handshakes: list[float] = field(default_factory=list)
    longest_gap: float = 0.0
    longest_gap_at: float = 0.0
    away: float = 0.0
    backends: dict[Kind, Counter[str]] = field(default_factory=dict)

    def answered(self, kind: Kind, backend: str) -> None:
        self.backends.setdefault(kind, Counter())[backend] += 1

    def waited(self, gap: float, at: float) -> None:
        """An answer on a long-lived connection came after `gap`."""
        if gap > self.longest_gap:
            self.longest_gap, self.longest_gap_at = gap, at

    def running(self) -> dict[str, Any]:
        return {
            "established": self.established,
            "alive": self.alive,
            "lost": self.lost.total(),
            "new": self.new,
            "failed": self.failed.total(),
            "udp_sent": self.udp_sent,
            "udp_answered": self.udp_answered,
            "udp_lost": self.udp_lost.total(),
        }

    def result(self) -> dict[str, Any]:
        return self.running() | {
            "reopened": self.reopened,
            "lost_reasons": dict(self.lost.reasons),
            "lost_first": self.lost.first,
            "failed_reasons": dict(self.failed.reasons),
            "failed_first": self.failed.first,
            "udp_lost_reasons": dict(self.udp_lost.reasons),
            "connect_ms": {
                "p50": milliseconds(percentile(self.handshakes, 50)),
                "p99": milliseconds(percentile(self.handshakes, 99)),
                "max": milliseconds(percentile(self.handshakes, 100)),
            },
            "away_seconds": round(self.away, 1),
            "longest_gap_ms": milliseconds(self.longest_gap),
            "longest_gap_at": round(self.longest_gap_at, 1),
            "backends": {kind: dict(counts) for kind, counts in self.backends.items()},
        }


def say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def percentile(samples: list[float], percent: float) -> float | None:
    """The smallest sample that at least `percent` of all do not exceed (nearest rank); None of no samples."""
    if not samples:
        return None
    return sorted(samples)[max(0, math.ceil(len(samples) * percent / 100) - 1)]


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def reason_of(error: OSError) -> str:
    """A word for the errors that matter here, errno's name for others."""
    words = {
        errno.ECONNREFUSED: "refused",
        errno.ECONNRESET: "reset",
        errno.EPIPE: "reset",
        errno.ETIMEDOUT: "timeout",
        errno.EHOSTUNREACH: "unreachable",
        errno.ENETUNREACH: "unreachable",
    }
    number = error.errno or 0
    return words.get(number) or errno.errorcode.get(number, type(error).__name__)
