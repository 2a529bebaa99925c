"""How long what a watch brings is collected before it is read.

Solves: most of what a heartbeat costs is to wake up for it, and 5,000 agents send 83 a second. While a rollout is under
way reports are waited for, and little is collected; while none is, nothing that an agent or a kubelet says is urgent.
Deliberately does not know what is under way: who waits says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

COLLECT_SECONDS: Final = 0.15
"""While somebody waits."""
CALM_SECONDS: Final = 1.0
"""While nobody does. Longer would fill the socket's buffers, and the API server ends a watch that does not take what it
sends."""


class Pace:
    """Of all watches of one process."""

    def __init__(self) -> None:
        self._waiting: set[str] = set()
        self._wanted = asyncio.Event()

    @property
    def quick(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def wait_for(self, who: str) -> None:
        """Who waits for what the watches bring, from now until `rest`."""
        self._waiting.add(who)
        self._wanted.set()

    def rest(self, who: str) -> None:
        """Who waits no longer."""
        self._waiting.discard(who)
        if not self.quick:
            self._wanted.clear()

    async def pause(self) -> None:
        """While a watch collects."""
        await asyncio.sleep(COLLECT_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CALM_SECONDS - COLLECT_SECONDS):
                await self._wanted.wait()
