"""The collector of cyclic garbage, kept from walking what the agent holds for good.

What is known of a cluster is up to millions of small tuples, none of them in a cycle. While they are made the collector
would walk them again and again, a third of the time that a list takes; and later once more, for tenths of a second in
the middle of an update. So it pauses until the first sync, and never looks at what was made until then: that goes by
its reference count. It does not bound memory: what is in no cycle needs no collector.
"""

from __future__ import annotations

import gc
from typing import Final, Protocol

PAUSE_SECONDS: Final = 60.0
"""At most; an agent that may not program anything is never synced."""


class Engine(Protocol):
    """What is needed of the engine."""

    async def until_synced(self, seconds: float) -> None: ...


def pause() -> None:
    """Collect nothing until `resume_once_synced`."""
    gc.disable()


async def resume_once_synced(engine: Engine) -> None:
    """Collect again after the first sync, and only what is made from then on."""
    await engine.until_synced(PAUSE_SECONDS)
    gc.freeze()
    gc.enable()
