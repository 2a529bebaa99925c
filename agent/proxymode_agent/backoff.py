"""How long to wait after the n-th failure in a row: exponential, capped, with jitter. Waiting is the caller's part."""

from __future__ import annotations

import os


class Backoff:
    """Delays in seconds: `first`, doubled each time up to `cap`, each then spread over [1 - jitter, 1] of itself, so
    that a thousand agents that lost the same API server do not come back in step."""

    def __init__(self, first: float = 0.2, cap: float = 30.0, jitter: float = 0.5) -> None:
        self._first = first
        self._cap = cap
        self._jitter = jitter
        self.failures = 0

    def next(self) -> float:
        """Note one more failure; how long to wait before the next try."""
        delay = min(self._cap, self._first * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return delay * (1.0 - self._jitter * chance())

    def reset(self) -> None:
        """Note a success."""
        self.failures = 0


def chance() -> float:
    """A random number within [0, 1). The module `random` takes longer to import than all that is here."""
    return int.from_bytes(os.urandom(4), "big") / (1 << 32)
