"""A value that one task sets and others wait for. Level-triggered: a reader sees the latest value, never a queue."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Cell(Generic[T]):
    """Holds the latest value. To be used on one event loop; setting never blocks and never fails."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._changed = asyncio.Event()

    @property
    def value(self) -> T:
        return self._value

    def set(self, value: T) -> None:
        """Replace the value; readers wake when it differs from the present one."""
        if value != self._value:
            self._value = value
            self._changed.set()
            self._changed = asyncio.Event()

    async def changed(self, seen: T) -> T:
        """The latest value as soon as it is not equal to `seen`: at once when it has changed already."""
        while self._value == seen:
            await self._changed.wait()
        return self._value
