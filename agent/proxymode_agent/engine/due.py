"""When each thing that the engine does may be done next: at what pace, and when what failed is tried again.

Times are seconds of one monotonic clock, -inf is at once. What of it is done then is decided in `decide`.
"""

from __future__ import annotations

import math

import msgspec

from proxymode_agent.backoff import Backoff
from proxymode_agent.engine.decide import rest_after


class Pace(msgspec.Struct, frozen=True):
    """How often, in seconds. `sync_period`: between two read-backs of the kernel where others write, at least;
    `look_period`: between two looks whether they do. `drift_shown`: so long a repair is told. The others bound retries.
    """

    sync_period: float = 30.0
    look_period: float = 1.0
    drift_shown: float = 300.0
    retry_first: float = 0.5
    retry_cap: float = 60.0
    switch_retry_first: float = 5.0
    switch_retry_cap: float = 300.0


class Due:
    """Tell it what was done and how it ended. Not before `full_at` the kernel is read back and all is written, not
    before `pending_at` changes are, not before `switch_at` a switch is tried, and not before `leave_at` a hand-back."""

    def __init__(self, pace: Pace) -> None:
        self.full_at = self.pending_at = self.switch_at = self.leave_at = -math.inf
        self._look_period = pace.look_period
        self._rest_seconds = 0.0
        self._retry = Backoff(pace.retry_first, pace.retry_cap)
        self._refused_retry = Backoff(pace.retry_first, pace.retry_cap)
        self._switch_retry = Backoff(pace.switch_retry_first, pace.switch_retry_cap)
        self._sync_error = self._switch_error = ""

    @property
    def error(self) -> str:
        """What failed last and is tried again; empty: nothing."""
        return self._switch_error or self._sync_error

    def anew(self) -> None:
        """The kernel is to be compared with all that is wanted, at once."""
        self.full_at = -math.inf

    def opened(self) -> None:
        """The dataplane was opened with another configuration."""
        self.anew()
        self._sync_error = ""

    def synced(self, *, full: bool, ended: float, seconds: float, since: float | None) -> None:
        """A sync succeeded, which took so many seconds. `since`: when its first change came, if any."""
        waited = self._rest_seconds if since is not None and since < self.pending_at else 0.0
        self.worked()
        # A full sync has its own pace; a change that comes after one need not wait for it.
        if full:
            self.full_at = math.inf
            self.pending_at = -math.inf
        else:
            self._rest_seconds = rest_after(seconds, waited)
            self.pending_at = ended + self._rest_seconds

    def worked(self) -> None:
        """What may have failed before has worked now."""
        self._retry.reset()
        self._sync_error = ""

    def failed(self, error: str, now: float, *, wanted: bool) -> float:
        """Something did not work; after how many seconds it is tried again, if it is still `wanted` so. What is wanted
        instead is tried at once."""
        delay = self._retry.next()
        self.full_at = self.pending_at = now + delay if wanted else -math.inf
        self._sync_error = error
        return delay

    def switch_anew(self) -> None:
        """Another switch is wanted, or the same once more: whatever failed before, at once."""
        self.switch_at = -math.inf
        self.switched()

    def switched(self) -> None:
        """A switch ended well."""
        self._switch_retry.reset()
        self._switch_error = ""

    def switch_failed(self, error: str, now: float, *, wanted: bool) -> float:
        """As of `failed`, for a switch."""
        delay = self._switch_retry.next()
        if wanted:
            self.switch_at = now + delay
            self._switch_error = error
        return delay

    def stays(self, now: float) -> None:
        """kube-proxy, to which the node is handed back, has not programmed everything yet."""
        self.leave_at = now + self._look_period

    def leave_failed(self) -> None:
        """A hand-back did not work, as was told to `failed`."""
        self.leave_at = self.full_at

    def refused(self) -> float:
        """The kernel has refused Service ports; after how many seconds they are tried again."""
        return self._refused_retry.next()

    def none_refused(self) -> None:
        """The kernel takes all Service ports."""
        self._refused_retry.reset()
