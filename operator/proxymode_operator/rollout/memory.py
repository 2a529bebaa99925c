"""What is known of each node's state from the decision before.

Solves: of 5,000 nodes a few differ from one decision to the next, and to assess one takes as long as to look the other
twenty up. The planner with a memory says what it says without; a memory is never written down, and may be lost.
Deliberately judges nothing: when a state can change is for `assess` to say (`Assessment.due`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxymode_operator.rollout.assess import assess

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from proxymode_operator.rollout.assess import Assessment, Patience
    from proxymode_operator.rollout.model import Node, Template


class _Known(NamedTuple):
    node: Node
    since: datetime
    found: Assessment

    def holds(self, node: Node, now: datetime) -> bool:
        """Whether it is the same object still, and the clock is between then and when the state may change."""
        return self.node is node and self.since <= now and (self.found.due is None or now < self.found.due)


class Memory:
    """Of one ProxyMode's nodes, from one decision to the next."""

    def __init__(self) -> None:
        self._measure: tuple[Template, Patience] | None = None
        self._known: dict[str, _Known] = {}

    def assess(
        self, nodes: Iterable[Node], wanted: Template, patience: Patience, now: datetime
    ) -> dict[str, Assessment]:
        """As `assess.assess` for each of them, by name."""
        before = self._known if self._measure == (wanted, patience) else {}
        known: dict[str, _Known] = {}
        for node in nodes:
            entry = before.get(node.name)
            if entry is None or not entry.holds(node, now):
                entry = _Known(node, now, assess(node, wanted, patience, now))
            known[node.name] = entry
        self._measure, self._known = (wanted, patience), known
        return {name: entry.found for name, entry in known.items()}
