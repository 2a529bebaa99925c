"""What stops a rollout by itself, and whom a rollback brings back.

Solves: failureThreshold, onBlocked Stop, a gate that fails, a stage whose selector selects nothing, a canary that
cannot move. A stop lasts as long as its cause: a node that recovers, a gate that passes, lets the rollout go on. A
rollback is for good; that it was decided is in the history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxymode_api.proxymode_status import RolloutOrder
from proxymode_api.reasons.codes import Reason
from proxymode_api.rollout import BlockedPolicy
from proxymode_operator.rollout.assess import NodeState
from proxymode_operator.rollout.census import Trait

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from proxymode_api.gates import Gate, GateStatus
    from proxymode_operator.rollout.assess import Assessment
    from proxymode_operator.rollout.census import Census
    from proxymode_operator.rollout.model import Fleet
    from proxymode_operator.rollout.progress import StageProgress

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Stop:
    """Why nothing more starts: the reason of conditions Degraded and Progressing, and their message."""

    reason: Reason
    message: str


def with_reasons(names: Sequence[str], states: Mapping[str, Assessment]) -> str:
    """`n1: its switch failed; n2: blocked by ip-vs-module; and 3 more`."""
    shown = [f"{name}: {states[name].why}" for name in names[:_SHOWN]]
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return "; ".join(shown + more)


def hollow_stages(fleet: Fleet, census: Census) -> frozenset[str]:
    """Stages with a selector that none of the fleet's nodes meets; none in an undo, which goes by what was told."""
    if fleet.proxy_mode.status.order is not RolloutOrder.FORWARD:
        return frozenset()
    return frozenset(stage for stage, selected in census.selected.items() if not selected)


def untried_stages(fleet: Fleet, census: Census, members: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """Stages before the last of which nodes are blocked, while neither they nor those before them have moved a node or
    are about to: after them the fleet would follow a canary that nobody has seen. `members`: the nodes of every stage,
    in order. None in an undo, and none while no agent at all is heard of: these will come.

    What a person has skipped (kubectl proxymode skip) is not waited for.
    """
    unheard = len(census.having(Trait.UNHEARD)) == len(census.states)
    if fleet.proxy_mode.status.order is not RolloutOrder.FORWARD or unheard:
        return frozenset()
    untried: set[str] = set()
    for stage, nodes in list(members.items())[:-1]:
        blocked = len(census.among(nodes, NodeState.BLOCKED))
        if blocked + len(census.among(nodes, NodeState.SKIPPED)) < len(nodes):
            break
        if blocked:
            untried.add(stage)
    return frozenset(untried)


def about_gates(gates: Sequence[Gate], answers: Sequence[GateStatus], names: Collection[str]) -> str:
    """What these gates have answered, each with where it stands in the spec."""
    known = {status.name: status for status in answers}
    told: list[str] = []
    for index, gate in enumerate(gates):
        status = known.get(gate.name)
        if gate.name not in names:
            continue
        where = f"spec.rollout.gates[{index}] ({gate.name})"
        if status is None:
            told.append(f"{where}: not asked yet")
            continue
        about = f"after stage {status.stage}" if status.stage else "before the first stage"
        often = f", {status.failures} times in a row" if status.failures > 1 else ""
        told.append(f"{where}: {status.message} ({status.result} {about}{often})")
    return "; ".join(told)


def stop(fleet: Fleet, census: Census, stages: Sequence[StageProgress], answers: Sequence[GateStatus]) -> Stop | None:
    """The first cause that holds now."""
    rollout = fleet.proxy_mode.spec.rollout
    states, failed = census.states, sorted(census.having(NodeState.FAILED))
    if len(failed) >= rollout.failure_threshold:
        why = f"{len(failed)} failed, failureThreshold is {rollout.failure_threshold}: {with_reasons(failed, states)}"
        return Stop(Reason.FAILURE_THRESHOLD_REACHED, why)
    if rollout.on_blocked is BlockedPolicy.STOP:
        out_of_order = census.having(NodeState.BLOCKED)
        blocked = [name for stage in stages if stage.is_open for name in stage.members if name in out_of_order]
        if blocked:
            why = f"{len(blocked)} blocked, onBlocked is Stop: {with_reasons(blocked, states)}"
            return Stop(Reason.NODES_BLOCKED, why)
    for stage in stages:
        if stage.hold is not None and stage.hold.failed:
            return Stop(Reason.GATE_FAILED, about_gates(rollout.gates, answers, stage.hold.failed))
    hollow = hollow_stages(fleet, census)
    for stage in stages:
        if stage.status.name in hollow and not stage.status.completed_at and fleet.nodes:
            why = f"stage {stage.status.name}: its selector matches none of the {len(fleet.nodes)} nodes"
            return Stop(Reason.STAGE_SELECTS_NOTHING, f"{why}; correct it or take the stage out")
    untried = untried_stages(fleet, census, {stage.status.name: stage.members for stage in stages})
    for stage in stages:
        if stage.status.name in untried and stage.is_open and not stage.status.completed_at:
            blocked = sorted(census.among(stage.members, NodeState.BLOCKED))
            why = f"stage {stage.status.name}: no node can move, and none has before: {with_reasons(blocked, states)}"
            return Stop(Reason.STAGE_BLOCKED, why)
    return None


@dataclass(frozen=True, slots=True)
class Rollback:
    """`to_tell`: nodes to bring back, in the order to tell them. `stuck`: nodes that ran nothing we could bring back.
    `under_way`: those to tell and those told but not yet back."""

    to_tell: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()
    under_way: tuple[str, ...] = ()


def rollback(census: Census) -> Rollback:
    """Nodes in flight first, since they cost no budget; then the last told first."""
    states, told = census.states, census.told
    to_tell: list[str] = []
    stuck: list[str] = []
    returning: list[str] = []
    for name in told:
        asked = census.nodes[name].asked
        assert asked is not None, "it is on it that it is told"
        if not states[name].at_template:
            returning += [name] if states[name].in_flight else []
        elif asked.way_back is None:
            stuck.append(name)
        else:
            to_tell.append(name)
    to_tell.sort(key=lambda n: (states[n].in_flight, told[n], n), reverse=True)
    return Rollback(tuple(to_tell), tuple(sorted(stuck)), tuple(sorted([*to_tell, *returning])))
