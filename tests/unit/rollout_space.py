"""Everything that can happen to a small fleet, breadth first: its states, what leads from one to the next, and which
of them are the same.

Times are whole ticks, so that two states that differ by a shift of the clock only are one. What the planner compares
with an age is kept up to the longest age that it waits for, and so are the bits that generations are compared for.
What goes wrong and what people do is bounded by `Chances`, which is part of a state; what mends is free. A gate
answers as soon as it is asked; how it would answer is part of the state, and what it has answered.

Deliberately knows none of the promises: those are `rollout_promises`.
"""

from __future__ import annotations

import dataclasses
from copy import copy
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from proxymode_api.annotations import (
    ABORT_ANNOTATION,
    PROMOTE_ALL,
    PROMOTE_ANNOTATION,
    RETRY_ALL,
    RETRY_ANNOTATION,
    UNDO_ANNOTATION,
)
from proxymode_api.common import Mode
from proxymode_api.gates import GateResult
from proxymode_operator.rollout.assess import SILENT_AFTER
from proxymode_operator.rollout.revisions import ended
from rollout_world import START, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from proxymode_operator.rollout.model import Decisions

TICK = SILENT_AFTER
DEADLINE, SOAK = 2, 1
"""Ticks of the rollout's progressDeadline and of a stage's soak; an age that is not less makes no difference."""
GATE_LIMIT, GATE_AGE, UNANSWERED = 2, 4, 3
"""failureLimit of the gates; ticks after which any gate is asked again, and an answer lets nothing pass any more, where
the interval is one tick; questions without an answer after which the pause grows no longer."""


FAULTS = frozenset({"fail", "silence", "block", "not-ready"})
GATE_FAULTS = {"gate-fails": GateResult.FAIL, "gate-breaks": GateResult.ERROR, "gate-is-empty": GateResult.NO_DATA}
"""What a gate answers meanwhile; they happen where there are gates."""
COMMANDS = frozenset({"pause", "promote", "abort", "undo", "at-once", "mode", "retry", "skip"})


class Chances(NamedTuple):
    """How many faults and how many commands may still come."""

    faults: int
    commands: int


@dataclass(frozen=True)
class Model:
    """What is explored. `faults` and `commands`: the kinds that happen."""

    chances: Chances
    faults: frozenset[str] = FAULTS
    commands: frozenset[str] = COMMANDS
    rollout: dict[str, Any] = field(default_factory=dict)
    nodes: int = 3
    prepared: bool = True

    def start(self) -> State:
        """Nobody has asked these nodes for anything yet; `prepared`: but each was told what will come, and has
        answered."""
        world = World.of(self.nodes, **self.rollout)
        for index, name in enumerate(world.nodes):
            world.set_node(name, created=START - timedelta(days=1) + timedelta(seconds=index))
        if self.prepared:
            world.decide()
            world.agents_step()
        return State(world, self.chances)


@dataclass(frozen=True)
class State:
    """A world that is not changed any more."""

    world: World
    chances: Chances

    def copy(self) -> World:
        """To be changed."""
        kept = {each.name: _own(getattr(self.world, each.name)) for each in dataclasses.fields(World)}
        agents = {
            name: dataclasses.replace(agent, unable=set(agent.unable)) for name, agent in self.world.agents.items()
        }
        return World(**kept | {"agents": agents, "writes": [], "notices": [], "questions": []})

    def after(self, what: Callable[[World], object], *, fault: bool = False, command: bool = False) -> State:
        world = self.copy()
        what(world)
        return State(world, Chances(self.chances.faults - fault, self.chances.commands - command))


class Step(NamedTuple):
    """What happened, and what came of it."""

    what: str
    state: State


def _own(value: Any) -> Any:
    return copy(value) if isinstance(value, list | dict | set) else value


def key(state: State) -> object:
    """Equal for states from which the same can come."""
    world = state.world
    told = sorted({node.asked.intent.turn.at for node in world.nodes.values() if node.asked and node.asked.intent.turn})
    order = {at: rank for rank, at in enumerate(told)}
    return (state.chances, _proxy_mode_key(world), tuple(_node_key(world, name, order) for name in world.nodes))


def _age(world: World, when: datetime | None, longest: int = DEADLINE) -> int | None:
    return None if when is None else min(longest, (world.now - when) // TICK)


def _proxy_mode_key(world: World) -> object:
    spec, status, meta = world.proxy_mode.spec, world.proxy_mode.status, world.proxy_mode.metadata
    annotations = meta.annotations
    return (
        (spec.mode, spec.rollout.paused, frozenset(world.asked_modes)),
        (annotations.get(PROMOTE_ANNOTATION), annotations.get(RETRY_ANNOTATION), annotations.get(UNDO_ANNOTATION)),
        annotations.get(ABORT_ANNOTATION) == str(status.revision),
        (status.revision > 0, status.template_hash, status.mode, status.order, _age(world, status.started_at)),
        (status.status, status.completed_at is not None, ended(world.proxy_mode)),
        tuple((s.name, s.approved, _age(world, s.completed_at, SOAK), s.nodes == 0) for s in status.stages),
        _gates_key(world) if spec.rollout.gates else None,
    )


def _gates_key(world: World) -> object:
    """What gates would answer, what they have, and what the promise about them asks for (`World.yes`)."""
    status = world.status
    # The planner compares answers with these, however long ago it all was.
    marks = [status.started_at or world.now]
    for stage in status.stages:
        if stage.completed_at is not None:
            marks += [stage.completed_at, stage.completed_at + SOAK * TICK]
    stored = tuple(
        (
            (g.name, g.stage, g.result, min(g.failures, GATE_LIMIT), min(g.unanswered, UNANSWERED)),
            (_age(world, g.measured_at, GATE_AGE), tuple(g.measured_at >= mark for mark in marks)),
        )
        for g in status.gates
    )
    known = {(g.name, g.stage, g.measured_at) for g in status.gates}
    unread = tuple(
        (a.gate, a.stage, a.result, a.revision == status.revision, _age(world, a.at, GATE_AGE))
        for a in world.answers.values()
        if (a.gate, a.stage, a.at) not in known
    )
    yes = tuple(any(at >= mark for _, at in world.yes) for mark in marks)
    begun = tuple((s.started_at is not None, s.gates_passed_at is not None) for s in status.stages)
    return (tuple(world.gate_answers.items()), stored, unread, yes, begun, status.gates_checked_at is not None)


def _node_key(world: World, name: str, order: dict[datetime, int]) -> object:
    node, agent = world.nodes[name], world.agents[name]
    report, asked = node.report, node.asked
    flags = (agent.kernel, frozenset(agent.unable), agent.fails, agent.gives_up, agent.dead, agent.switching)
    heard = report and (
        (report.mode, report.phase, report.ready, report.preflight_mode, report.blockers),
        (_age(world, report.heard_at), _age(world, report.known_since, 1)),
        # Since when it is Ready makes no difference without minReadySeconds.
        None if report.ready else _age(world, report.ready_since),
    )
    if asked is None:
        return (node.ready, flags, heard)
    intent, turn = asked.intent, asked.intent.turn
    told = turn and (
        (turn.before_mode, turn.failed, order[turn.at]),
        # Nor does, once it is done, how long it took.
        _age(world, turn.tried_at) if world.in_flight(name) else None,
    )
    generations = (
        report is not None and report.observed_generation >= asked.generation,
        report is not None and report.observed_generation >= asked.turn_generation,
        agent.applied >= asked.turn_generation,
        agent.failed_for == asked.turn_generation,
    )
    mine = (intent.proxy_mode, intent.revision == world.status.revision)
    return (
        (node.ready, flags, heard, told, generations, asked.skip),
        (intent.mode, intent.target_mode, intent.stage, mine),
    )


def steps(model: Model, state: State) -> Iterator[Step]:
    """All that can happen next but the operator's looking, which is `reconciles`."""
    yield Step("time passes", state.after(lambda world: world.pass_time(TICK.total_seconds())))
    for name in state.world.nodes:
        yield Step(f"{name}: its agent acts", state.after(partial(World.agent_step, name=name)))
        yield from _mends(state, name)
        if state.chances.faults:
            yield from _faults(model, state, name)
    for gate in state.world.proxy_mode.spec.rollout.gates:
        yield from _gate_answers(model, state, gate.name)
    yield from _commands(model, state)


def _gate_answers(model: Model, state: State, gate: str) -> Iterator[Step]:
    """Another answer than now; that it passes is free."""
    now = state.world.gate_answers.get(gate, GateResult.PASS)
    if now is not GateResult.PASS:
        yield Step(f"{gate} passes", state.after(lambda w: w.gate_answers.pop(gate)))
    if state.chances.faults:
        for fault, result in sorted(GATE_FAULTS.items()):
            if fault in model.faults and now is not result:
                answers = partial(_answer, gate=gate, result=result)
                yield Step(f"{gate}: {fault}", state.after(answers, fault=True))


def _answer(world: World, gate: str, result: GateResult) -> None:
    world.gate_answers[gate] = result


def reconciles(state: State) -> Iterator[tuple[Decisions, Step]]:
    """The operator looks, and does all, or dies after the status or after the first write."""
    decisions = state.world.look()
    cuts = range(1, min(3, len(decisions.writes) + 1))
    for effects in (None, *cuts):
        what = "reconcile" if effects is None else f"reconcile, dies after {effects} effects"
        yield decisions, Step(what, state.after(partial(World.carry_out, decisions=decisions, crash_after=effects)))


def _faults(model: Model, state: State, name: str) -> Iterator[Step]:
    agent, node = state.world.agents[name], state.world.nodes[name]
    wanted = state.world.proxy_mode.spec.mode
    if "fail" in model.faults and agent.switching and not agent.dead:

        def fail(world: World) -> None:
            world.agents[name].fails = world.agents[name].gives_up = True
            world.agent_step(name)

        yield Step(f"{name}: its switch fails", state.after(fail, fault=True))
    if "silence" in model.faults and not agent.dead:
        yield Step(f"{name}: its agent dies", state.after(lambda w: _set(w, name, dead=True), fault=True))
    if "block" in model.faults and not agent.unable and agent.kernel.value != wanted.value:
        yield Step(f"{name}: is blocked", state.after(lambda w: _set(w, name, unable={wanted}), fault=True))
    if "not-ready" in model.faults and node.ready:
        yield Step(f"{name}: not Ready", state.after(lambda w: w.set_node(name, ready=False), fault=True))


def _mends(state: State, name: str) -> Iterator[Step]:
    agent, node = state.world.agents[name], state.world.nodes[name]
    if agent.fails:
        yield Step(f"{name}: would succeed", state.after(lambda w: _set(w, name, fails=False)))
    if agent.dead:
        yield Step(f"{name}: its agent returns", state.after(lambda w: _set(w, name, dead=False)))
    if agent.unable:
        yield Step(f"{name}: blocked no more", state.after(lambda w: _set(w, name, unable=set())))
    if not node.ready:
        yield Step(f"{name}: Ready", state.after(lambda w: w.set_node(name, ready=True)))
    if node.asked is not None and node.asked.skip:
        yield Step(f"{name}: skipped no more", state.after(lambda w: w.skip(name, "")))


def _commands(model: Model, state: State) -> Iterator[Step]:
    world = state.world
    if world.proxy_mode.spec.rollout.paused:
        yield Step("resume", state.after(lambda w: w.edit(rollout__paused=False)))
    if not state.chances.commands:
        return
    other = Mode.IPVS if world.proxy_mode.spec.mode is Mode.NFTABLES else Mode.NFTABLES
    first = next(iter(world.nodes))
    known: dict[str, Callable[[World], object]] = {
        "pause": lambda w: w.edit(rollout__paused=True),
        "promote": lambda w: w.annotate(PROMOTE_ANNOTATION, PROMOTE_ALL),
        "abort": lambda w: w.abort(),
        "undo": lambda w: w.undo(other, "Reverse"),
        "at-once": lambda w: w.undo(other, "AtOnce"),
        "mode": lambda w: w.edit(mode=other),
        "retry": lambda w: w.annotate(RETRY_ANNOTATION, RETRY_ALL),
        "skip": lambda w: w.skip(first, "broken NIC"),
    }
    for name in sorted(model.commands):
        yield Step(name, state.after(known[name], command=True))


def healed(state: State) -> World:
    """The same, with everybody well, nothing held back and nobody interfering any more."""
    world = state.copy()
    for name in world.nodes:
        _set(world, name, fails=False, gives_up=False, dead=False, unable=set())
        world.skip(name, "")
        world.set_node(name, ready=True)
    world.gate_answers.clear()
    if world.proxy_mode.spec.rollout.paused:
        world.edit(rollout__paused=False)
    return world


def _set(world: World, name: str, **changes: Any) -> None:
    world.agents[name] = dataclasses.replace(world.agents[name], **changes)
