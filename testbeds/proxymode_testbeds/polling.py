"""Waiting in tests for what sends no event: ask again and again, but not for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DEADLINE_SECONDS = 60.0
_INTERVAL_SECONDS = 0.05


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Return once the condition holds. Raises TimeoutError that says `what` did not come true in a minute."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await condition():  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(_INTERVAL_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"not within {DEADLINE_SECONDS:.0f} s: {what}") from None
