"""The one reconcile queue: keyed, coalescing, rate-limited, backing off.

Solves: a hundred changes that concern one key make one reconcile; a key that fails is tried again ever more slowly,
whatever else asks for it; keys are worked on one after another, so two reconciles never decide over the same nodes at
one time. Deliberately knows nothing of what a key means.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxymode_operator.kubeapi import ApiError, NotLeaderError
from proxymode_operator.metrics import QUEUED, REACTION_SECONDS, RECONCILE_SECONDS, RECONCILES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 0.2
"""Shortest time between two reconciles of one key."""

_FIRST_BACKOFF_SECONDS: Final = 0.1
_LAST_BACKOFF_SECONDS: Final = 60.0
_LAST_CONFLICT_BACKOFF_SECONDS: Final = 1.0
"""A conflict only says that a node's agent wrote in the same moment; it is no sign of an API server in trouble."""


class ConflictError(Exception):
    """Something changed while it was being decided about: decide again soon. `progress`: but some of it was done."""

    def __init__(self, message: str, *, progress: bool = False) -> None:
        super().__init__(message)
        self.progress = progress


class RefusedError(Exception):
    """The API server will not have one object as it was to be, which says nothing about the others. `progress`: some of
    those were written."""

    def __init__(self, message: str, *, progress: bool) -> None:
        super().__init__(message)
        self.progress = progress


@dataclass(slots=True)
class _Key:
    """Times are the event loop's. `due`: when to reconcile, infinitely far when nothing asks for it. `not_before`:
    rate limit and back-off. `asked_at`: the first request since the last reconcile."""

    due: float = float("inf")
    not_before: float = 0.0
    asked_at: float | None = None
    failures: int = 0

    @property
    def ready_at(self) -> float:
        return max(self.due, self.not_before)


class Queue:
    """`handler(key)` reconciles and returns in how many seconds to do so again at the latest, or None."""

    def __init__(self, handler: Callable[[str], Awaitable[float | None]]) -> None:
        self._handler = handler
        self._keys: dict[str, _Key] = {}
        self._woken = asyncio.Event()

    def add(self, key: str) -> None:
        """Asks for a reconcile of the key as soon as may be."""
        now = asyncio.get_running_loop().time()
        state = self._keys.setdefault(key, _Key())
        state.due = min(state.due, now)
        if state.asked_at is None:
            state.asked_at = now
        self._woken.set()

    async def run(self) -> None:
        """Works until cancelled, or until a write is refused for want of the Lease (NotLeaderError)."""
        loop = asyncio.get_running_loop()
        while True:
            self._woken.clear()
            QUEUED.set(sum(state.due <= loop.time() for state in self._keys.values()))
            name = min(self._keys, key=lambda key: self._keys[key].ready_at, default=None)
            wait = self._keys[name].ready_at - loop.time() if name is not None else float("inf")
            if name is None or wait > 0:
                try:
                    async with asyncio.timeout(None if wait == float("inf") else wait):
                        await self._woken.wait()
                except TimeoutError:
                    pass
                continue
            await self._reconcile(name)

    async def _reconcile(self, name: str) -> None:
        loop, state = asyncio.get_running_loop(), self._keys[name]
        began, asked_at = loop.time(), state.asked_at
        state.due, state.asked_at = float("inf"), None
        try:
            again = await self._handler(name)
        except ConflictError as conflict:
            RECONCILES.labels("conflict").inc()
            logger.debug("conflict", extra={"proxymode": name, "detail": str(conflict)})
            if conflict.progress:
                # Of a hundred nodes that are written one is always just reporting: no reason to go ever more slowly.
                state.failures = 0
            self._back_off(state, loop.time(), asked_at, _LAST_CONFLICT_BACKOFF_SECONDS)
        except NotLeaderError:
            raise
        except (ApiError, RefusedError) as error:
            RECONCILES.labels("error").inc()
            if isinstance(error, RefusedError) and error.progress:
                # One node that is refused for good must not make all others wait for a minute at every turn.
                state.failures = 0
            delay = self._back_off(state, loop.time(), asked_at)
            logger.warning(
                "reconcile failed", extra={"proxymode": name, "error": str(error), "again_in": round(delay, 1)}
            )
        except Exception:
            RECONCILES.labels("error").inc()
            delay = self._back_off(state, loop.time(), asked_at)
            logger.exception("reconcile failed", extra={"proxymode": name, "again_in": round(delay, 1)})
        else:
            RECONCILES.labels("done").inc()
            state.failures = 0
            state.not_before = began + INTERVAL_SECONDS
            if again is not None:
                state.due = min(state.due, loop.time() + again)
            if asked_at is not None:
                REACTION_SECONDS.observe(loop.time() - asked_at)
        finally:
            RECONCILE_SECONDS.observe(loop.time() - began)

    def _back_off(
        self, state: _Key, now: float, asked_at: float | None, longest: float = _LAST_BACKOFF_SECONDS
    ) -> float:
        state.failures += 1
        delay = min(_FIRST_BACKOFF_SECONDS * 2.0 ** min(state.failures - 1, 20), longest)
        delay *= random.uniform(0.75, 1.25)
        state.due, state.not_before = now, now + delay
        state.asked_at = asked_at if asked_at is not None else now
        return delay
