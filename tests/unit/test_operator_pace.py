"""How long watches collect. Time is virtual."""

from __future__ import annotations

import asyncio

from proxymode_operator.pace import CALM_SECONDS, COLLECT_SECONDS, Pace
from test_operator_queue import virtual


async def paused(pace: Pace) -> float:
    """How long a pause takes, to the millisecond."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await pace.pause()
    return round(loop.time() - began, 3)


def test_a_pause_is_short_while_anybody_waits_and_longer_while_nobody_does() -> None:
    async def scenario() -> None:
        pace = Pace()
        assert await paused(pace) == CALM_SECONDS
        pace.wait_for("a")
        pace.wait_for("b")
        assert await paused(pace) == COLLECT_SECONDS
        pace.rest("a")
        assert await paused(pace) == COLLECT_SECONDS
        pace.rest("b")
        pace.rest("b")
        assert await paused(pace) == CALM_SECONDS

    virtual(scenario)


def test_who_begins_to_wait_ends_the_pauses_that_are_under_way() -> None:
    async def scenario() -> None:
        pace = Pace()
        asyncio.get_running_loop().call_later(0.3, pace.wait_for, "a")
        assert await paused(pace) == 0.3

    virtual(scenario)
