"""Waiting in tests for what sends no event: ask again and again, but not for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DEADLINE_SECONDS = 180.0  # for a machine that has other things to do
_INTERVAL_SECONDS = 0.05


async def eventually(
    condition: Callable[[], Awaitable[bool]], what: str, deadline_seconds: float = DEADLINE_SECONDS
) -> None:
    """Return once the condition holds. Raises TimeoutError that says `what` did not come true in time."""
    try:
        async with asyncio.timeout(deadline_seconds):
            while not await condition():  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(_INTERVAL_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"not within {deadline_seconds:.0f} s: {what}") from None
