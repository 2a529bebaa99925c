"""What a table of ours looks like without its elements, and what differs between two looks. Pure.

Whoever deletes, flushes or adds something changes the shape: tables, chains, rules, sets, and how many elements a set
has. Not seen is an element that was exchanged for another, and on kernels before 6.16, which do not tell the number of
elements, any change of elements: see `Shape.counted`. Sets that clients fill by their packets are not counted either.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxymode_agent.dataplane.nfnetlink.ledger import SetName

SHOWN = 5
"""So many differences are named."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Tables as they are. `parts`: by what it is, as nft names it, its content in bytes; `counts`: elements of a set;
    `counted`: whether `counts` has all sets that only we fill."""

    parts: Mapping[str, bytes] = field(default_factory=dict)
    counts: Mapping[SetName, int] = field(default_factory=dict)
    counted: bool = True

    def grown(self, by: Mapping[SetName, int]) -> Shape:
        """The shape after elements were added (negative: deleted)."""
        if not by:
            return self
        return replace(self, counts={name: count + by.get(name, 0) for name, count in self.counts.items()})


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
            what = f"{name.family} {name.table} {name.name}"
            said.append(f"{what} has {abs(more)} element{'s'[: abs(more) != 1]} {'more' if more > 0 else 'less'}")
    more_said = f"; and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return "; ".join(said[:SHOWN]) + more_said
