"""The plan as data, for a rollout that is paused: what would move, in which order, what stands in the way, how long.

Solves: the plan comes from the same `Situation` (stages, members, states, budget) from which nodes are told, so it
cannot say anything else than what would be done. Bounded whatever the fleet's size: counts, and the first few names.
Deliberately knows no time of day: approvals, windows and gates are not in the estimate, and what does not change
is not written again.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

from proxymode_api.durations import parse_duration
from proxymode_api.proxymode_status import PlannedStage, PlanNote, RolloutPlan
from proxymode_operator.rollout.assess import NodeState
from proxymode_operator.rollout.stages import topology_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from proxymode_api.rollout import Stage
    from proxymode_operator.rollout.assess import Assessment
    from proxymode_operator.rollout.situation import Situation

NAMES: Final = 10
"""Names of nodes in each list."""
NOTES: Final = 32
"""Blockers, and warnings; as the CRD allows."""

_WHY: Final = 1024
_IN_THE_WAY: Final = frozenset({NodeState.BLOCKED, NodeState.FAILED, NodeState.SKIPPED, NodeState.PENDING})


def outlook(s: Situation, stages: Sequence[Stage]) -> RolloutPlan:
    """What would be done if nothing changed. `stages`: those in force, beside `s.stages`."""
    to_move = {stage.status.name: _to_move(stage.members, s) for stage in s.stages}
    seconds = _switch_seconds(s)
    return RolloutPlan(
        to_move=sum(map(len, to_move.values())),
        at_a_time=s.budget,
        stages=[
            PlannedStage(
                name=stage.status.name,
                nodes=len(stage.members),
                to_move=len(to_move[stage.status.name]),
                first=to_move[stage.status.name][:NAMES],
            )
            for stage in s.stages
        ],
        blockers=_notes((found.why, name) for name, found in _in_the_way(s)),
        warnings=_notes(
            (warning, node.name) for node in s.fleet.nodes if node.report for warning in node.report.warnings
        ),
        seconds_per_node=round(seconds) if seconds is not None else None,
        estimated_seconds=_estimate(s, stages, to_move, seconds) if seconds is not None else None,
    )


def _to_move(members: Iterable[str], s: Situation) -> list[str]:
    return [name for name in members if s.states[name].state is NodeState.PENDING]


def _in_the_way(s: Situation) -> Iterable[tuple[str, Assessment]]:
    for name, found in s.states.items():
        if found.why and found.state in _IN_THE_WAY:
            yield name, found


def _notes(reasons: Iterable[tuple[str, str]]) -> list[PlanNote]:
    """By reason, the most frequent first."""
    by_reason: dict[str, list[str]] = {}
    for why, name in reasons:
        by_reason.setdefault(why, []).append(name)
    ranked = sorted(by_reason.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return [PlanNote(why=why[:_WHY], nodes=len(names), first=sorted(names)[:NAMES]) for why, names in ranked[:NOTES]]


def _switch_seconds(s: Situation) -> float | None:
    """The median of the last switches of this fleet's nodes; None: none of them has switched yet."""
    took = [node.report.switch_seconds for node in s.fleet.nodes if node.report is not None]
    measured = [seconds for seconds in took if seconds is not None]
    return median(measured) if measured else None


def _estimate(
    s: Situation, stages: Sequence[Stage], to_move: Mapping[str, Sequence[str]], seconds_per_node: float
) -> int:
    rollout = s.fleet.proxy_mode.spec.rollout
    topology = topology_of(rollout)
    domains = {node.name: topology.domain(node) if topology.one_domain else "" for node in s.fleet.nodes}
    total = 0.0
    for stage, progress in zip(stages, s.stages, strict=True):
        by_domain: dict[str, int] = {}
        for name in to_move[stage.name]:
            by_domain[domains[name]] = by_domain.get(domains[name], 0) + 1
        rounds = sum(-(-count // s.budget) for count in by_domain.values())
        total += rounds * (seconds_per_node + rollout.min_ready_seconds)
        if progress.members and not progress.over:
            total += parse_duration(stage.soak).total_seconds()
    return round(total)
