"""How long to wait after the n-th failure in a row: exponential, capped, with jitter. Waiting is the caller's part."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Delays in seconds: `first`, doubled each time up to `cap`, each then spread over [1 - jitter, 1] of itself, so
    that a thousand agents that lost the same API server do not come back in step."""

    first: float = 0.2
    cap: float = 30.0
    jitter: float = 0.5
    random: random.Random = field(default_factory=random.Random, repr=False)
    failures: int = field(default=0, init=False)

    def next(self) -> float:
        """Note one more failure; how long to wait before the next try."""
        delay = min(self.cap, self.first * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return delay * (1.0 - self.jitter * self.random.random())

    def reset(self) -> None:
        """Note a success."""
        self.failures = 0
