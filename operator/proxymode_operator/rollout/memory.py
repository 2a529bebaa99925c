"""What is known of a fleet from the decision before.

Solves: of 5,000 nodes a few differ from one decision to the next. Only these are looked at anew, and those whose
assessment is due to change by time; the order in which stages take nodes is mended where it has changed. The planner
with a memory says what it says without; a memory is never written down, and may be lost.
Deliberately judges nothing: when a state can change is for `assess` to say (`Assessment.due`).
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from proxymode_operator.rollout.census import Census, facts
from proxymode_operator.rollout.stages import place, roster, same_in_roster

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from proxymode_api.rollout import Stage
    from proxymode_operator.rollout.census import Measure
    from proxymode_operator.rollout.model import Node
    from proxymode_operator.rollout.stages import Place, Topology


class Memory:
    """Of one ProxyMode's nodes, from one decision to the next."""

    def __init__(self) -> None:
        self._measure: Measure | None = None
        self._taken_at: datetime | None = None
        self._census = Census()
        self._dues: list[tuple[datetime, str]] = []
        """A heap of when to look at whom again. Who was looked at since and is due at another time is in it twice."""
        self._layout: tuple[Sequence[Stage], Topology] | None = None
        self._ranks: Mapping[str, int] = {}
        self._places: dict[str, Place] = {}

    @property
    def due(self) -> datetime | None:
        """When the first of the states may change by time alone."""
        while self._dues and self._is_past(*self._dues[0]):
            heappop(self._dues)
        return self._dues[0][0] if self._dues else None

    def census(
        self, nodes: Sequence[Node], measure: Measure, stages: Sequence[Stage], topology: Topology, now: datetime
    ) -> Census:
        """Of these nodes, now. `stages`: those in force. It changes with the next call."""
        if measure != self._measure or self._taken_at is None or now < self._taken_at:
            # Nothing is known of what held before a clock was set back to.
            self._census, self._dues, self._layout = Census(), [], None
        self._measure, self._taken_at = measure, now
        census = self._census
        known = census.nodes
        differing = [node for node in nodes if known.get(node.name) is not node]
        moved = any(not same_in_roster(known.get(node.name), node, stages, topology) for node in differing)
        to_place = {node.name for node in differing if self._look(node, measure, now)}
        if len(known) > len(nodes):
            for name in known.keys() - {node.name for node in nodes}:
                census.drop(name)
                moved = True
        while (due := self.due) is not None and due <= now:
            node = known[heappop(self._dues)[1]]
            if self._look(node, measure, now):
                to_place.add(node.name)
        if moved or (stages, topology) != self._layout:
            self._layout = (stages, topology)
            found = roster(nodes, stages, topology)
            self._ranks, census.selected = found.ranks, found.selected
            self._places, to_place, census.order = {}, set(known), tuple(known)
        if to_place:
            self._places |= {name: place(census.candidates[name], self._ranks[name]) for name in to_place}
            # What is nearly in order is put in order in one pass.
            census.order = sorted(census.order, key=self._places.__getitem__)
        return census

    def _look(self, node: Node, measure: Measure, now: datetime) -> bool:
        """Takes the node's facts anew; whether they place it elsewhere."""
        before, due = self._census.candidates.get(node.name), self._due_of(node.name)
        new = facts(node, measure, now)
        self._census.file(node.name, new)
        if new.found.due is not None and new.found.due != due:
            heappush(self._dues, (new.found.due, node.name))
        return new.candidate != before

    def _due_of(self, name: str) -> datetime | None:
        found = self._census.states.get(name)
        return found.due if found is not None else None

    def _is_past(self, due: datetime, name: str) -> bool:
        return self._due_of(name) != due
