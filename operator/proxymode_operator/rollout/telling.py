"""Who is told what now: the part of the planner that moves nodes.

Solves: which nodes an open stage, a rollback, a retry or a skip may tell at this moment, in which order, and how many
of them the budget allows. Deliberately opens no stage and ends no revision; it takes a `Situation` as the planner found
it, of a revision that is on record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_operator.rollout import revisions
from proxymode_operator.rollout.census import Trait
from proxymode_operator.rollout.stages import topology_of
from proxymode_operator.rollout.writes import retry, return_, turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from proxymode_operator.rollout.census import Census
    from proxymode_operator.rollout.model import Template, Write
    from proxymode_operator.rollout.progress import StageProgress
    from proxymode_operator.rollout.situation import Situation


def tell(
    s: Situation, template: Template, stages: Mapping[str, str], retried: Sequence[str], now: datetime
) -> tuple[Write, ...]:
    """The writes that move nodes, by a revision that is on record. `stages`: each node's; `retried`: failed nodes that
    are to try again."""
    proxy_mode = s.fleet.proxy_mode
    nodes = s.census.nodes
    if s.paused:
        return ()
    if s.rollback is not None and not revisions.abort_asked(proxy_mode):
        return tuple(return_(nodes[name], now) for name in _within(s.budget, s.rollback.to_tell, s.census))
    if s.ended is not None:
        return ()
    wished = (
        *(retry(nodes[name], now) for name in retried),
        *(return_(nodes[name], now) for name in sorted(s.census.having(Trait.TO_RETURN))),
    )
    if s.stop is not None:
        return wished
    tellable = s.census.having(Trait.TELLABLE)
    if s.closed:
        tellable = tellable & s.census.having(Trait.UNSERVED)
    staged = [name for stage in s.stages if stage.is_open for name in stage.members if name in tellable]
    order = dict.fromkeys([*sorted(s.census.having(Trait.HOMEWARD)), *_of_one_domain(staged, s)])
    told = _within(s.budget, order, s.census)
    return (*wished, *(turn(nodes[name], template, proxy_mode, stages[name], now) for name in told))


def _of_one_domain(names: Sequence[str], s: Situation) -> Sequence[str]:
    """With OneDomain: those of the domain that is under way, else of the first one's. Nodes in flight stay: telling
    them anew makes no further domain unavailable."""
    topology = topology_of(s.fleet.proxy_mode.spec.rollout)
    if not topology.one_domain:
        return names
    domains = {node.name: topology.domain(node) for node in s.fleet.nodes}
    in_flight = s.census.having(Trait.IN_FLIGHT)
    under_way = {domains[name] for name in s.outstanding & in_flight}
    if not under_way and names:
        under_way = {domains[names[0]]}
    return [name for name in names if name in in_flight or {domains[name]} == under_way]


def stage_of(stages: Sequence[StageProgress]) -> Mapping[str, str]:
    """The name of every node's stage."""
    return {node: stage.status.name for stage in stages for node in stage.members}


def _within(allowed: int, order: Iterable[str], census: Census) -> list[str]:
    """The nodes that may be told now. One that is in flight makes no further node unavailable."""
    unavailable, in_flight = census.having(Trait.UNAVAILABLE), census.having(Trait.IN_FLIGHT)
    count = len(unavailable)
    told: list[str] = []
    for name in order:
        if name not in in_flight:
            if count >= allowed:
                continue
            count += name not in unavailable
        told.append(name)
    return told
