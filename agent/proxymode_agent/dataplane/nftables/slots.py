"""Which endpoint has which index, and what a kernel set needs. Pure.

Endpoints keep their index for as long as they exist and the Service does not shrink below it: unrelated changes write
nothing, and a restart, which reads the order back from the kernel, writes nothing at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Slots(NamedTuple):
    """One frontend in the kernel: endpoints by index (None: no element), the verdict's data, and whether it is wanted.

    Indices at or above the verdict's count are stale: nothing draws them.
    """

    endpoints: tuple[bytes | None, ...]
    verdict: bytes | None
    wanted: bool = False


NOTHING = Slots((), None)


def assign(current: Sequence[bytes | None], wanted: Sequence[bytes]) -> tuple[bytes, ...]:
    """The wanted endpoints by index: as many as possible where they are, the others in the gaps, in a fixed order."""
    if not current or current == wanted:
        return tuple(wanted)
    missing = dict.fromkeys(wanted)
    result: list[bytes | None] = [None] * len(wanted)
    for index, endpoint in enumerate(current[: len(wanted)]):
        if endpoint in missing:
            result[index] = endpoint
            del missing[endpoint]
    moved = [endpoint for endpoint in dict.fromkeys(current[len(wanted) :]) if endpoint in missing]
    for endpoint in moved:
        del missing[endpoint]
    rest = iter((*moved, *missing))
    return tuple(endpoint if endpoint is not None else next(rest) for endpoint in result)


class References:
    """A kernel set whose elements are there as long as something needs them: counts, and what that changes."""

    def __init__(self, existing: Iterable[bytes]) -> None:
        self._counts: dict[bytes, int] = {}
        # Dictionaries for their order: the same history gives the same transactions.
        self._missing: dict[bytes, None] = {}  # needed, and not in the kernel
        self._surplus: dict[bytes, None] = dict.fromkeys(existing)  # in the kernel, and not needed

    def take(self, keys: Iterable[bytes]) -> None:
        """One more need for each key."""
        counts = self._counts
        for key in keys:
            count = counts.get(key, 0)
            counts[key] = count + 1
            if not count:
                if key in self._surplus:
                    del self._surplus[key]
                else:
                    self._missing[key] = None

    def drop(self, keys: Iterable[bytes]) -> None:
        """One need less for each key."""
        counts = self._counts
        for key in keys:
            count = counts[key] - 1
            if count:
                counts[key] = count
                continue
            del counts[key]
            if key in self._missing:
                del self._missing[key]
            else:
                self._surplus[key] = None

    def changes(self) -> tuple[list[bytes], list[bytes]]:
        """Keys to add and keys to delete, which from now on count as done."""
        changes = list(self._missing), list(self._surplus)
        self._missing.clear()
        self._surplus.clear()
        return changes
