"""What a table of ours looks like without its elements, what differs between two looks, and how it is said. Pure.

Whoever deletes, flushes or adds something changes the shape: tables, chains, rules, sets, and how many elements a set
has. Not seen is an element that was exchanged for another, and on kernels before 6.16, which do not tell the number of
elements, any change of elements: see `Shape.counted`. Sets that clients fill by their packets are not counted either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from proxymode_agent.dataplane.nfnetlink.ledger import SetName

SHOWN = 5
"""So many differences are named."""


class Shape(msgspec.Struct, frozen=True):
    """Tables as they are. `parts`: by what it is, as nft names it, its content in bytes; `counts`: elements of a set;
    `counted`: whether `counts` has all sets that only we fill."""

    parts: Mapping[str, bytes] = msgspec.field(default_factory=dict)
    counts: Mapping[SetName, int] = msgspec.field(default_factory=dict)
    counted: bool = True

    def grown(self, by: Mapping[SetName, int]) -> Shape:
        """The shape after elements were added (negative: deleted)."""
        if not by:
            return self
        counts = {name: count + by.get(name, 0) for name, count in self.counts.items()}
        return msgspec.structs.replace(self, counts=counts)


def differences(expected: Shape, found: Shape) -> str:
    """What is not as expected, in words; empty: nothing is seen to differ."""
    said = [f"{part} is gone" for part in expected.parts if part not in found.parts]
    said += [
        f"{part} was changed"
        for part, content in expected.parts.items()
        if part in found.parts and found.parts[part] != content
    ]
    said += [f"{part} was added" for part in found.parts if part not in expected.parts]
    for name, count in expected.counts.items():
        if name in found.counts and (more := found.counts[name] - count):
            said.append(_has(f"{name.family} {name.table} {name.name}", abs(more), "more" if more > 0 else "less"))
    return in_short(said)


def differing_elements(what: str, expected: Mapping[bytes, object], found: Mapping[bytes, object]) -> Iterator[str]:
    """As `differences`, of a map's elements."""
    if expected == found:
        return
    counts = {
        "less": sum(key not in found for key in expected),
        "more": sum(key not in expected for key in found),
        "changed": sum(value != found.get(key, value) for key, value in expected.items()),
    }
    yield from (_has(what, count, how) for how, count in counts.items() if count)


def in_short(said: Sequence[str]) -> str:
    """One line of many, the first of them in full."""
    more_said = f"; and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return "; ".join(said[:SHOWN]) + more_said


def _has(what: str, count: int, how: str) -> str:
    return f"{what} has {count} element{'s'[: count != 1]} {how}"
