"""Every state that a small fleet can get into, and in each of them the planner's promises, and a way to the end.

Three nodes, two stages. What is bounded is how much goes wrong and how often people interfere; within that, everything
happens in every order, operators that die between two writes included. The random life in `test_rollout_invariants`
goes further and reaches less.

`make proof-rollout` searches deeper.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

import rollout_promises as promises
from proxymode_api.annotations import PROMOTE_ALL, PROMOTE_ANNOTATION
from proxymode_api.common import Mode
from proxymode_api.gates import Gate, WebhookGate
from proxymode_api.proxymode_status import FleetStatus, RolloutOutcome
from proxymode_api.rollout import Approval, OnFailure, Stage
from proxymode_operator.rollout.revisions import ended
from rollout_space import (
    COMMANDS,
    GATE_FAULTS,
    GATE_LIMIT,
    TICK,
    Chances,
    Model,
    State,
    healed,
    key,
    reconciles,
    steps,
)

if TYPE_CHECKING:
    from rollout_world import World

SOAK = "3m"
"""One tick."""
STAGES = [Stage(name="canary", count=1, soak=SOAK), Stage(name="all", percent=100)]
PROMOTED = [STAGES[0], Stage(name="all", percent=100, approval=Approval.MANUAL)]
ROLLOUT = {"stages": STAGES, "max_unavailable": 1, "progress_deadline": "6m", "failure_threshold": 1}
GATE = Gate(name="judge", webhook=WebhookGate(url="http://judge"), interval="3m", failure_limit=GATE_LIMIT)
GATED = ROLLOUT | {"gates": [GATE]}

MODELS = {
    "the start": Model(Chances(0, 0), nodes=2, prepared=False, rollout=ROLLOUT),
    "one fault": Model(Chances(1, 0), rollout=ROLLOUT),
    "two at a time": Model(
        Chances(1, 0), faults=frozenset({"fail", "not-ready"}), rollout=ROLLOUT | {"max_unavailable": 2}
    ),
    "rollback": Model(Chances(2, 0), faults=frozenset({"fail"}), rollout=ROLLOUT | {"on_failure": OnFailure.ROLLBACK}),
    "failures that stop nothing": Model(
        Chances(2, 0), faults=frozenset({"fail"}), rollout=ROLLOUT | {"failure_threshold": 3}
    ),
    "one command": Model(
        Chances(0, 1), commands=COMMANDS - {"at-once", "mode"}, rollout=ROLLOUT | {"stages": PROMOTED}
    ),
    "a failure and a command": Model(
        Chances(1, 1), faults=frozenset({"fail"}), commands=frozenset({"retry"}), rollout=ROLLOUT
    ),
    "a gate": Model(Chances(1, 0), nodes=2, faults=frozenset(GATE_FAULTS), rollout=GATED),
    "a gate that takes back": Model(
        Chances(1, 0), nodes=2, faults=frozenset({"gate-fails"}), rollout=GATED | {"on_failure": OnFailure.ROLLBACK}
    ),
}
ROUNDS_TO_THE_END = 60


@dataclass
class Search:
    """One exploration. `live`: states that are known to come to an end once everybody is well."""

    model: Model
    states: int = 0
    decisions: int = 0
    longest: int = 0
    live: set[object] = field(default_factory=set)
    ends: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Raises AssertionError with the shortest way to the first state in which something is wrong."""
        start = self.model.start()
        came: dict[object, tuple[object, str]] = {key(start): (None, "start")}
        waiting = deque([start])
        while waiting:
            state = waiting.popleft()
            self.states += 1
            try:
                following = self._look_at(state)
            except AssertionError as error:
                way = "\n".join(_way(came, key(state)))
                raise AssertionError(f"{error}\nafter:\n{way}") from error
            here = key(state)
            for what, after in following:
                there = key(after)
                if there not in came:
                    came[there] = (here, what)
                    waiting.append(after)

    def _look_at(self, state: State) -> list[tuple[str, State]]:
        told = {name for name in state.world.nodes if state.world.in_flight(name)}
        assert len(told) <= state.world.budget, f"{sorted(told)} in flight, maxUnavailable {state.world.budget}"
        following = [(step.what, step.state) for step in steps(self.model, state)]
        for decisions, step in reconciles(state):
            self.decisions += 1
            promises.check(state.world, decisions)
            following.append((step.what, step.state))
        self._comes_to_an_end(state)
        return following

    def _comes_to_an_end(self, state: State) -> None:
        world = healed(state)
        way: list[object] = []
        while (here := key(State(world, Chances(0, 0)))) not in self.live:
            assert len(way) < ROUNDS_TO_THE_END, f"no end in sight: {world.condition('Progressing').message}"
            way.append(here)
            if world.status.status is FleetStatus.AWAITING_APPROVAL:
                world.annotate(PROMOTE_ANNOTATION, PROMOTE_ALL)
            decisions = world.look()
            promises.check(world, decisions)
            world.carry_out(decisions)
            world.agents_step()
            world.pass_time(TICK.total_seconds())
            if key(State(world, Chances(0, 0))) == here:
                self._is_a_good_end(world)
                break
        self.longest = max(self.longest, len(way))
        self.live.update(way)

    def _is_a_good_end(self, world: World) -> None:
        outcome = ended(world.proxy_mode)
        assert outcome is not None or world.status.status is FleetStatus.COMPLETE, world.status.status
        for name, node in world.nodes.items():
            assert not world.in_flight(name), f"{name} is in flight for ever"
            asked = node.asked.intent.mode if node.asked is not None else None
            kernel = world.agents[name].kernel.value
            assert asked is None or asked.value == kernel, f"{name} runs {kernel} and was asked for {asked}"
            assert asked is None or asked in world.asked_modes | {Mode.IPVS}, f"nobody asked for {asked} or ran it"
            assert outcome is not None or promises.wanted_by(world, node), f"{name} was left behind"
        self.ends.add(outcome.value if outcome is not None else RolloutOutcome.COMPLETE.value)

    def summary(self) -> str:
        return f"{self.states} states, {self.decisions} decisions, ends: {', '.join(sorted(self.ends))}"


def _way(came: dict[object, tuple[object, str]], here: object) -> list[str]:
    steps_back: list[str] = []
    at: object = here
    while at is not None:
        at, what = came[at]
        steps_back.append(what)
    return steps_back[::-1]


@pytest.mark.parametrize("name", MODELS)
def test_every_state_keeps_the_promises_and_has_an_end(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    search = Search(MODELS[name])
    search.run()
    with capsys.disabled():
        sys.stdout.write(f"{name}: {search.summary()} ")
    assert search.states > 100, "the model does nothing"
    assert RolloutOutcome.COMPLETE.value in search.ends
