"""The collector of cyclic garbage, kept from walking what the agent holds for good.

What is known of a cluster is up to millions of small tuples, none of them in a cycle. While they are made the collector
would walk them again and again, a third of the time that a list takes; and later once more, for tenths of a second in
the middle of an update. So it pauses until the first sync, and never looks at what was made until then: that goes by
its reference count. It does not bound memory: what is in no cycle needs no collector.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from proxymode_agent.engine.snapshot import EngineSnapshot

PAUSE_SECONDS: Final = 60.0
"""At most; an agent that may not program anything is never synced."""


class Engine(Protocol):
    """What is needed of the engine."""

    def snapshot(self) -> EngineSnapshot: ...
    async def changed(self, seen: EngineSnapshot) -> EngineSnapshot: ...


def pause() -> None:
    """Collect nothing until `resume_once_synced`."""
    gc.disable()


async def resume_once_synced(engine: Engine) -> None:
    """Collect again after the first sync, and only what is made from then on."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PAUSE_SECONDS):
            snapshot = engine.snapshot()
            while not snapshot.synced:
                snapshot = await engine.changed(snapshot)
    gc.freeze()
    gc.enable()
