"""When a watch is begun anew: why, how soon, and whether from where it stopped or with a list. Pure, but for chance.

A failure is answered with capped exponential back-off and jitter, or after what the server asks for. A watch that has
stood for a while ends the back-off, however it ended: something between us and the server cuts connections every hour.
Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from proxymode_agent.backoff import Backoff

if TYPE_CHECKING:
    from proxymode_agent.kube.errors import ApiError

SHORT_WATCH_SECONDS: Final = 1.0
"""A watch that ends sooner counts as a failure, so that a server that closes at once is not asked in a tight loop."""
RETRY_AFTER_CAP: Final = 60.0
"""No API server asks for more (its longest is half of that); something in front of it, down for maintenance, may."""


class RestartReason(StrEnum):
    """Why a watch was begun anew."""

    ENDED = "ended"  # the server closed it: its time was up, or the connection was closed in good order
    EXPIRED = "expired"  # 410: the resourceVersion is too old
    THROTTLED = "throttled"  # 429
    REFUSED = "refused"  # any other answer of the server
    CONNECTION = "connection"  # could not be reached, or fell silent
    INVALID = "invalid"  # the answer was not what the API promises
    RESYNC = "resync"  # the consumer asked for a list now and then
    RESTORED = "restored"  # the server knows less than we do: its etcd was restored


class Timing(msgspec.Struct, frozen=True):
    """Clocks of a ListWatch, in seconds. A watch is asked to end after a random time between `watch` and twice that,
    as client-go does, so that load spreads over API servers; None: never list again without need."""

    watch: float = 300.0
    resync: float | None = None
    backoff_first: float = 0.2
    backoff_cap: float = 30.0


class Restart(NamedTuple):
    """What comes next: after so many `seconds`; `relist`: with a list; `whole`: in one page."""

    reason: RestartReason
    seconds: float
    relist: bool = False
    whole: bool = False


class Restarts:
    """Tell it when a request goes out, when a watch stands, and how that ended; it says what comes next."""

    def __init__(self, timing: Timing) -> None:
        self._resync = timing.resync
        self._backoff = Backoff(timing.backoff_first, timing.backoff_cap)
        self._stands_since: float | None = None
        self.unreached = False
        """Whether a request got no answer at all since `reached`: what answers next may be a server with another
        history."""

    def asked(self) -> None:
        """A request goes out."""
        self._stands_since = None

    def stands(self, now: float) -> None:
        """The server has begun to answer a watch."""
        self._stands_since = now

    def reached(self) -> None:
        """A server answers, and it goes on where we were."""
        self.unreached = False

    def ended(self, now: float, listed_at: float) -> Restart:
        """The server has ended the watch in good order; `listed_at`: when all was listed last."""
        seconds = 0.0 if self._stood(now) else self._backoff.next()
        due = self._resync is not None and now - listed_at >= self._resync
        return Restart(RestartReason.RESYNC if due else RestartReason.ENDED, seconds, relist=due)

    def restored(self) -> Restart:
        """The server's history is another one."""
        return Restart(RestartReason.RESTORED, self._backoff.next(), relist=True)

    def failed(self, error: ApiError, now: float, *, listing: bool) -> Restart:
        """A watch failed, or, with `listing`, a list."""
        self._stood(now)
        seconds = max(self._backoff.next(), min(error.retry_after or 0.0, RETRY_AFTER_CAP))
        match error.status:
            case 410:  # a list that outlived the server's snapshot is asked for in one page
                return Restart(RestartReason.EXPIRED, seconds, relist=True, whole=listing)
            case 429:
                return Restart(RestartReason.THROTTLED, seconds)
            case 0 if error.reason == "InvalidResponse":
                return Restart(RestartReason.INVALID, seconds, relist=True)
            case 0:
                self.unreached |= self._stands_since is None and error.reason == "ConnectionError"
                return Restart(RestartReason.CONNECTION, seconds)
            case status:
                return Restart(RestartReason.REFUSED, seconds, relist=status < 500)

    def _stood(self, now: float) -> bool:
        """Whether a watch stood for a while; if so, failures are counted anew."""
        stood = self._stands_since is not None and now - self._stands_since >= SHORT_WATCH_SECONDS
        if stood:
            self._backoff.reset()
        return stood
