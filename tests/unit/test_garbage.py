"""The garbage collector pauses until the first sync, and not for ever."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING

import pytest

from proxymode_agent import garbage

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeEngine:
    """Where things stand, as far as it is asked for."""

    def __init__(self) -> None:
        self.synced = asyncio.Event()

    async def until_synced(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.synced.wait()


@pytest.fixture(autouse=True)
def paused() -> Iterator[None]:
    garbage.pause()
    yield
    gc.unfreeze()
    gc.enable()


async def test_it_pauses_until_the_first_sync_and_then_leaves_alone_what_is_there() -> None:
    engine = FakeEngine()
    resuming = asyncio.create_task(garbage.resume_once_synced(engine))
    await asyncio.sleep(0)
    assert not gc.isenabled()
    engine.synced.set()
    await resuming
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


async def test_an_agent_that_is_never_synced_collects_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "PAUSE_SECONDS", 0.0)
    await garbage.resume_once_synced(FakeEngine())
    assert gc.isenabled()
