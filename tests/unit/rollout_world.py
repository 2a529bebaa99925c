"""A fleet without a cluster, for tests of the planner: objects as the API server would store them, agents as they
would follow, and, kept apart from the planner's own judgement, the truth about who is in flight.

Not a mock of the planner's parts: `World.decide` calls the real planner and applies what it says, in the order in
which the operator applies it, if wanted only up to a crash.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from proxymode_api.annotations import ABORT_ANNOTATION, UNDO_ANNOTATION
from proxymode_api.common import Mode, ObjectMeta
from proxymode_api.durations import parse_duration
from proxymode_api.gates import GateResult
from proxymode_api.nodeproxymode import ObservedMode, Phase
from proxymode_api.proxymode import ProxyMode, ProxyModeSpec
from proxymode_api.reasons.codes import Reason
from proxymode_api.rollout import Approval, Rollout, Stage
from proxymode_operator.rollout.gates import Measurement, Question
from proxymode_operator.rollout.model import (
    Asked,
    Decisions,
    Fleet,
    Node,
    Notice,
    Report,
    Write,
    WriteKind,
    dataplane_options,
)
from proxymode_operator.rollout.planner import budget, plan
from proxymode_operator.rollout.revisions import in_force

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_operator.rollout.memory import Memory

START = datetime(2026, 11, 21, tzinfo=UTC)
MOVES = (WriteKind.TURN, WriteKind.RETURN, WriteKind.RETRY)


def percent_stages(*percents: int, soak: str = "0", manual: Iterable[str] = ()) -> list[Stage]:
    """Stages `p10`, `p50`, … ."""
    return [
        Stage(
            name=f"p{percent}",
            percent=percent,
            soak=soak,
            approval=Approval.MANUAL if f"p{percent}" in manual else Approval.AUTOMATIC,
        )
        for percent in percents
    ]


@dataclass
class Agent:
    """One node's agent and kernel. `applied` is the generation whose mode and options are in the kernel.

    `fails`: its switches do. `gives_up`: it does not try again what has failed once.
    """

    kernel: ObservedMode = ObservedMode.IPVS
    unable: set[Mode] = field(default_factory=set)
    fails: bool = False
    gives_up: bool = False
    dead: bool = False
    applied: int = 0
    switching: bool = False
    failed_for: int = 0


@dataclass
class World:
    """All objects and the clock."""

    proxy_mode: ProxyMode
    nodes: dict[str, Node] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)
    now: datetime = START
    writes: list[Write] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    asked_modes: set[Mode] = field(default_factory=set)
    gate_answers: dict[str, GateResult] = field(default_factory=dict)
    """How each gate answers when it is asked; one that is not here passes."""
    questions: list[tuple[str, str, datetime]] = field(default_factory=list)
    """Gates that were asked, about which stage, when."""
    answers: dict[str, Measurement] = field(default_factory=dict)
    yes: list[tuple[str, datetime]] = field(default_factory=list)
    """Gates that let pass what they were asked about, and when."""
    gates_came_late: bool = False
    """Somebody has changed them while a stage was under way."""

    @classmethod
    def of(cls, count: int, mode: Mode = Mode.NFTABLES, **rollout: Any) -> World:
        """So many nodes with ipvs in their kernels that nobody has asked for anything yet."""
        meta = ObjectMeta(name="fleet", uid="pm", generation=1, creation_timestamp=START)
        world = cls(ProxyMode(metadata=meta, spec=ProxyModeSpec(mode=mode, rollout=Rollout(**rollout))))
        world.asked_modes.add(mode)
        for _ in range(count):
            world.join()
        return world

    # What people and machines do

    def join(self, name: str | None = None, **labels: str) -> str:
        name = name or f"n{len(self.agents)}"
        age = timedelta(seconds=len(self.agents))
        self.nodes[name] = Node(name=name, uid=f"uid-{name}", labels=labels, created=START + age)
        self.agents[name] = Agent()
        return name

    def leave(self, name: str) -> None:
        del self.nodes[name]
        del self.agents[name]

    def label(self, name: str, **labels: str) -> None:
        self.nodes[name] = dataclasses.replace(self.nodes[name], labels=labels)

    def set_node(self, name: str, **changes: Any) -> None:
        self.nodes[name] = dataclasses.replace(self.nodes[name], **changes)

    def edit(self, **changes: Any) -> None:
        """A user edits spec: a mode, rollout fields (as `rollout__x`) or other fields of the spec."""
        spec = self.proxy_mode.spec
        inner = {key.removeprefix("rollout__"): value for key, value in changes.items() if key.startswith("rollout__")}
        outer = {key: value for key, value in changes.items() if not key.startswith("rollout__")}
        rollout = spec.rollout.model_copy(update=inner)
        spec = spec.model_copy(update={**outer, "rollout": rollout})
        meta = self.proxy_mode.metadata
        meta = meta.model_copy(update={"generation": meta.generation + 1})
        self.proxy_mode = self.proxy_mode.model_copy(update={"spec": spec, "metadata": meta})
        self.asked_modes.add(spec.mode)

    def annotate(self, key: str, value: str | None) -> None:
        meta = self.proxy_mode.metadata
        annotations = {k: v for k, v in meta.annotations.items() if k != key}
        if value is not None:
            annotations[key] = value
        meta = meta.model_copy(update={"annotations": annotations})
        self.proxy_mode = self.proxy_mode.model_copy(update={"metadata": meta})

    def abort(self) -> None:
        self.annotate(ABORT_ANNOTATION, str(self.status.revision))

    def undo(self, mode: Mode, order: str) -> None:
        """As kubectl proxymode undo writes it: one patch."""
        self.annotate(UNDO_ANNOTATION, order)
        self.edit(mode=mode)

    def skip(self, name: str, reason: str) -> None:
        """A person annotates the NodeProxyMode, if there is one; no reason: takes the annotation away."""
        asked = self.nodes[name].asked
        if asked is not None:
            self.set_node(name, asked=dataclasses.replace(asked, skip=reason))

    def pass_time(self, seconds: float) -> None:
        """Live agents go on writing their heartbeats."""
        self.now += timedelta(seconds=seconds)
        for name, node in self.nodes.items():
            if node.report is not None and not self.agents[name].dead:
                self.set_node(name, report=dataclasses.replace(node.report, heard_at=self.now))

    def agent_step(self, name: str) -> None:
        """The agent looks at its NodeProxyMode, does one thing, and reports."""
        agent, node = self.agents[name], self.nodes[name]
        if agent.dead or node.asked is None:
            return
        intent = node.asked.intent
        target = intent.target_mode or intent.mode
        ready, phase = True, Phase.OBSERVING if intent.mode is None else Phase.ACTIVE
        if intent.mode is not None and intent.mode in agent.unable and agent.kernel.value != intent.mode.value:
            phase = Phase.BLOCKED
        elif intent.mode is not None and agent.applied < node.asked.turn_generation:
            if agent.gives_up and agent.failed_for == node.asked.turn_generation:
                phase, ready = Phase.FAILED, agent.kernel.value != intent.mode.value
            elif not agent.switching:
                agent.switching, ready, phase = True, False, Phase.SWITCHING
            elif agent.fails:
                agent.switching, phase, ready = False, Phase.FAILED, agent.kernel.value != intent.mode.value
                agent.failed_for = node.asked.turn_generation
            else:
                agent.switching, agent.kernel = False, ObservedMode(intent.mode.value)
                agent.applied = node.asked.generation
        before = node.report
        since = before.ready_since if before is not None and before.ready is ready else self.now
        report = Report(
            observed_generation=node.asked.generation,
            mode=agent.kernel,
            phase=phase,
            ready=ready,
            ready_since=since,
            heartbeat=self.now,
            heard_at=self.now,
            known_since=before.known_since if before is not None else self.now,
            preflight_mode=target,
            blockers=("ip-vs-module",) if target in agent.unable else (),
            kube_proxy=Reason.ABSENT if agent.kernel is ObservedMode.NONE else "",
        )
        self.set_node(name, report=report)

    def agents_step(self) -> None:
        for name in list(self.nodes):
            self.agent_step(name)

    # The truth, told without the planner's help

    def in_flight(self, name: str) -> bool:
        """Told something that its agent has not done or not reported, or not for minReadySeconds."""
        node, agent = self.nodes[name], self.agents[name]
        if node.asked is None or node.asked.intent.mode is None:
            return False
        report, turn = node.report, node.asked.intent.turn
        if agent.applied < node.asked.turn_generation or report is None or not report.ready:
            return True
        if report.observed_generation < node.asked.turn_generation:
            return True
        min_ready = timedelta(seconds=self.proxy_mode.spec.rollout.min_ready_seconds)
        assert turn is not None
        return bool(min_ready) and self.now < max(turn.tried_at, report.ready_since or turn.at) + min_ready

    def unavailable(self, name: str) -> bool:
        node = self.nodes[name]
        silent = self.silent(name) and not self.given_up(name)
        return not node.ready or node.cordoned or silent or self.in_flight(name)

    def silent(self, name: str) -> bool:
        report = self.nodes[name].report
        return report is None or self.now >= report.heard_at + timedelta(minutes=3)

    def given_up(self, name: str) -> bool:
        """Not heard of for progressDeadline, and not asked for what is wanted now."""
        node, spec = self.nodes[name], self.proxy_mode.spec
        asked = node.asked.intent if node.asked is not None else None
        if not self.silent(name) or (asked and (asked.mode, asked.options) == (spec.mode, dataplane_options(spec))):
            return False
        since = [self.status.started_at or self.now, node.created, *([node.report.heard_at] if node.report else [])]
        return self.now >= max(since) + parse_duration(spec.rollout.progress_deadline)

    def all_unavailable(self) -> set[str]:
        return {name for name in self.nodes if self.unavailable(name)}

    @property
    def budget(self) -> int:
        return budget(self.proxy_mode.spec.rollout.max_unavailable, len(self.nodes))

    @property
    def status(self) -> Any:
        return self.proxy_mode.status

    def condition(self, type_: str) -> Any:
        return next(c for c in self.status.conditions if c.type == type_)

    def stage(self, name: str) -> Any:
        return next(s for s in self.status.stages if s.name == name)

    def completed(self, name: str) -> bool:
        """By the stored status."""
        return any(stage.name == name and stage.completed_at is not None for stage in self.status.stages)

    def soaked(self, name: str) -> bool:
        """By the stored status."""
        soak = next(s.soak for s in in_force(self.proxy_mode) if s.name == name)
        stored = next((s for s in self.status.stages if s.name == name), None)
        if stored is None or stored.completed_at is None:
            return False
        return bool(stored.nodes == 0 or self.now >= stored.completed_at + parse_duration(soak))

    # The operator

    def look(self, memory: Memory | None = None) -> Decisions:
        """What the planner would do."""
        nodes, answers = tuple(self.nodes.values()), tuple(self.answers.values())
        return plan(Fleet(proxy_mode=self.proxy_mode, nodes=nodes, answers=answers), self.now, memory)

    def decide(self, *, crash_after: int | None = None) -> Decisions:
        """One reconcile. `crash_after`: the operator dies after so many effects, the status being the first."""
        decisions = self.look()
        self.carry_out(decisions, crash_after=crash_after)
        return decisions

    def carry_out(self, decisions: Decisions, *, crash_after: int | None = None) -> None:
        """What `look` has said, in the operator's order."""
        effects = len(decisions.writes) + 1 if crash_after is None else crash_after
        if effects >= 1:
            self.proxy_mode = self.proxy_mode.model_copy(update={"status": decisions.status})
            self.notices += decisions.notices
        for write in decisions.writes[: max(0, effects - 1)]:
            self.apply(write)
        if crash_after is not None:
            self.answers.clear()
            return
        for heard in decisions.heard:
            self.annotate(heard.annotation, None)
            self.notices += heard.notices
        for question in decisions.questions:
            self.ask(question)

    def ask(self, question: Question) -> None:
        """The gate answers at once."""
        name = question.gate.name
        self.questions.append((name, question.stage, self.now))
        result = self.gate_answers.get(name, GateResult.PASS)
        if result is GateResult.PASS or (result is GateResult.NO_DATA and not question.stage):
            self.yes.append((name, self.now))
        self.answers[name] = Measurement(
            gate=name,
            definition=question.definition,
            revision=question.revision,
            stage=question.stage,
            at=self.now,
            result=result,
            message=f"says {result}",
        )

    def apply(self, write: Write) -> None:
        node = self.nodes[write.node]
        assert write.base == node.asked, "resourceVersion conflict"
        spec_changed = node.asked is None or node.asked.intent.spec() != write.intent.spec()
        generation = (node.asked.generation if node.asked else 0) + spec_changed
        asked = Asked(
            uid=f"npm-{write.node}",
            resource_version="1",
            generation=generation,
            intent=write.intent,
            skip=node.asked.skip if node.asked else "",
        )
        self.set_node(write.node, asked=asked)
        self.writes.append(write)

    def run(self, rounds: int = 200, seconds: float = 1) -> World:
        """Operator, agents and time take turns until nothing changes but the clock, for at most so many rounds."""
        for _ in range(rounds):
            before = (self.proxy_mode, dict(self.nodes), len(self.questions))
            decisions = self.decide()
            self.agents_step()
            unchanged = (self.proxy_mode, self.nodes, len(self.questions)) == before
            self.pass_time(seconds)
            if unchanged and (decisions.wake_at is None or decisions.wake_at > self.now + timedelta(seconds=100)):
                return self
        return self

    def modes(self) -> dict[str, str]:
        return {name: agent.kernel.value for name, agent in self.agents.items()}

    def told(self, *kinds: WriteKind) -> list[str]:
        """Nodes in the order of their writes of these kinds (turns where none is named)."""
        return [write.node for write in self.writes if write.kind in (kinds or (WriteKind.TURN,))]

    def stages(self) -> dict[str, str]:
        return {name: node.asked.intent.stage for name, node in self.nodes.items() if node.asked}

    def reasons(self) -> list[str]:
        return [notice.reason for notice in self.notices]


def options_of(world: World) -> Any:
    return dataplane_options(world.proxy_mode.spec)
