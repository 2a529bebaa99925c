"""The planner's promises hold after every step of a random life: any fleet, any failures, any commands, any crashes.

The machine checks against the truth that `World` keeps of who is in flight and what was asked, not against the
planner's own judgement.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import rollout_promises as promises
from proxymode_api.annotations import PROMOTE_ANNOTATION, RETRY_ANNOTATION
from proxymode_api.common import Mode
from proxymode_api.gates import Gate, GateResult, WebhookGate
from proxymode_api.rollout import Approval, BlockedPolicy, OnFailure, Stage, TopologyPolicy, Window
from proxymode_api.selector import LabelSelector
from proxymode_operator.rollout.memory import Memory
from proxymode_operator.rollout.model import Decisions, WriteKind
from proxymode_operator.rollout.revisions import in_force
from rollout_world import World

STAGES: dict[str, list[Stage]] = {
    "all": [Stage(name="all", percent=100)],
    "thirds": [Stage(name="a", percent=34), Stage(name="b", percent=67, soak="5s"), Stage(name="c", percent=100)],
    "canary": [
        Stage(name="canary", count=1, soak="10s"),
        Stage(name="more", count=3, approval=Approval.MANUAL),
        Stage(name="all", percent=100),
    ],
    "zones": [
        Stage(name="a", selector=LabelSelector(match_labels={"zone": "a"})),
        Stage(name="half", percent=50, approval=Approval.MANUAL, soak="3s"),
        Stage(name="all", selector=LabelSelector()),
    ],
}


GATE = Gate(name="judge", webhook=WebhookGate(url="http://judge"), interval="10s", failure_limit=2)
EVERY_OTHER_MINUTE = Window(schedule="*/2 * * * *", duration="1m")


class Life(RuleBasedStateMachine):
    """Users, machines and the operator, in any order."""

    world: World

    @initialize(
        count=st.integers(1, 7),
        stages=st.sampled_from(sorted(STAGES)),
        max_unavailable=st.sampled_from([1, 2, 3, "25%", "50%"]),
        min_ready=st.sampled_from([0, 4]),
        threshold=st.integers(1, 3),
        on_failure=st.sampled_from(OnFailure),
        on_blocked=st.sampled_from(BlockedPolicy),
        topology_key=st.sampled_from([None, "zone"]),
        one_domain=st.booleans(),
        gates=st.sampled_from([[], [GATE]]),
    )
    def begin(self, count: int, stages: str, min_ready: int, threshold: int, one_domain: bool, **rollout: Any) -> None:
        one_domain = one_domain and rollout["topology_key"] is not None
        self.world = World.of(
            0,
            stages=STAGES[stages],
            min_ready_seconds=min_ready,
            failure_threshold=threshold,
            progress_deadline="60s",
            topology_policy=TopologyPolicy.ONE_DOMAIN if one_domain else TopologyPolicy.SPREAD,
            **rollout,
        )
        for index in range(count):
            self.world.join(zone="ab"[index % 2])
        self.memory = Memory()
        self.joined = 0
        self.writes_of_revision: dict[tuple[str, int], int] = {}
        self.wishes: dict[str, int] = {}

    def node(self, data: st.DataObject) -> str:
        return str(data.draw(st.sampled_from(sorted(self.world.nodes))))

    # The operator

    @rule(crash_after=st.one_of(st.none(), st.integers(0, 4)))
    def reconcile(self, crash_after: int | None) -> None:
        world = self.world
        decisions = world.look()
        promises.check(world, decisions)
        self.count(decisions, crash_after)
        world.decide(crash_after=crash_after)

    def count(self, decisions: Decisions, crash_after: int | None) -> None:
        done = len(decisions.writes) if crash_after is None else max(0, crash_after - 1)
        revision = decisions.status.revision
        for write in (write for write in decisions.writes[:done] if write.kind is not WriteKind.PLACE):
            key = (self.world.nodes[write.node].uid, revision)
            self.writes_of_revision[key] = self.writes_of_revision.get(key, 0) + 1
            assert self.writes_of_revision[key] <= 4 + 2 * self.wishes.get(key[0], 0)

    # The agents

    @rule()
    def all_agents(self) -> None:
        self.world.agents_step()

    @precondition(lambda self: self.world.nodes)
    @rule(data=st.data())
    def one_agent(self, data: st.DataObject) -> None:
        self.world.agent_step(self.node(data))

    @precondition(lambda self: self.world.nodes)
    @rule(data=st.data(), fails=st.booleans(), gives_up=st.booleans())
    def breaks_or_heals(self, data: st.DataObject, fails: bool, gives_up: bool) -> None:
        agent = self.world.agents[self.node(data)]
        agent.fails, agent.gives_up = fails, gives_up

    @precondition(lambda self: self.world.nodes)
    @rule(data=st.data(), unable=st.sampled_from([set(), {Mode.IPVS}, {Mode.NFTABLES}]))
    def blocked_or_not(self, data: st.DataObject, unable: set[Mode]) -> None:
        self.world.agents[self.node(data)].unable = set(unable)

    @precondition(lambda self: self.world.nodes)
    @rule(data=st.data(), dead=st.booleans())
    def agent_dies_or_returns(self, data: st.DataObject, dead: bool) -> None:
        self.world.agents[self.node(data)].dead = dead

    # Machines and time

    @precondition(lambda self: self.world.nodes)
    @rule(data=st.data(), ready=st.booleans(), cordoned=st.booleans())
    def machine(self, data: st.DataObject, ready: bool, cordoned: bool) -> None:
        self.world.set_node(self.node(data), ready=ready, cordoned=cordoned)

    @precondition(lambda self: len(self.world.nodes) < 9)
    @rule(zone=st.sampled_from("ab"))
    def join(self, zone: str) -> None:
        self.world.join(
            f"j{len(self.world.agents)}-{len(self.world.writes)}-{id(self) % 7}-{self.world.now:%M%S}", zone=zone
        )

    @precondition(lambda self: len(self.world.nodes) > 1)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.world.leave(self.node(data))

    @rule(seconds=st.sampled_from([1, 5, 11, 61, 200, 3700]))
    def time(self, seconds: int) -> None:
        """The longest: an operator that was dead for an hour."""
        self.world.pass_time(seconds)

    @rule(seconds=st.sampled_from([2, 30, 400]))
    def clock_is_set_back(self, seconds: int) -> None:
        """The operator's; what agents wrote before seems to come from the future."""
        self.world.now -= timedelta(seconds=seconds)

    @precondition(lambda self: self.world.nodes)
    @rule(data=st.data(), zone=st.sampled_from("abc"))
    def relabel(self, data: st.DataObject, zone: str) -> None:
        self.world.label(self.node(data), zone=zone)

    # People

    @rule(mode=st.sampled_from(Mode))
    def set_mode(self, mode: Mode) -> None:
        self.world.edit(mode=mode)

    @rule(masquerade_all=st.booleans())
    def set_option(self, masquerade_all: bool) -> None:
        self.world.edit(masquerade_all=masquerade_all)

    @rule(paused=st.booleans())
    def pause_or_resume(self, paused: bool) -> None:
        self.world.edit(rollout__paused=paused)

    @rule(budget=st.sampled_from([1, 3, "50%"]))
    def set_budget(self, budget: int | str) -> None:
        self.world.edit(rollout__max_unavailable=budget)

    @rule(windows=st.sampled_from([[], [EVERY_OTHER_MINUTE]]))
    def set_windows(self, windows: list[Window]) -> None:
        self.world.edit(rollout__windows=windows)

    @rule(stages=st.sampled_from(sorted(STAGES)))
    def set_stages(self, stages: str) -> None:
        self.world.edit(rollout__stages=STAGES[stages])

    @rule(mode=st.sampled_from(Mode), order=st.sampled_from(["Reverse", "AtOnce", "nonsense"]))
    def undo(self, mode: Mode, order: str) -> None:
        self.world.undo(mode, order)

    @rule(result=st.sampled_from(GateResult))
    def gate_answers(self, result: GateResult) -> None:
        self.world.gate_answers["judge"] = result

    @rule(gates=st.sampled_from([[], [GATE]]))
    def set_gates(self, gates: list[Gate]) -> None:
        self.world.gates_came_late = True
        self.world.edit(rollout__gates=gates)

    @rule(value=st.sampled_from(["all", "more", "half", "nonsense"]))
    def promote(self, value: str) -> None:
        self.world.annotate(PROMOTE_ANNOTATION, value)

    @rule()
    def abort(self) -> None:
        self.world.abort()

    @rule(value=st.sampled_from(["all", "n0", "n1,n2", "nonsense"]))
    def retry(self, value: str) -> None:
        self.world.annotate(RETRY_ANNOTATION, value)
        for node in self.world.nodes.values():
            self.wishes[node.uid] = self.wishes.get(node.uid, 0) + 1

    @precondition(lambda self: self.world.nodes)
    @rule(data=st.data(), reason=st.sampled_from(["", "broken NIC"]))
    def skip(self, data: st.DataObject, reason: str) -> None:
        name = self.node(data)
        self.world.skip(name, reason)
        uid = self.world.nodes[name].uid
        self.wishes[uid] = self.wishes.get(uid, 0) + 1

    # Always

    @invariant()
    def counts_add_up(self) -> None:
        if not hasattr(self, "world"):
            return
        decisions = self.world.look()
        assert self.world.look(self.memory) == decisions, "a memory makes no difference"
        nodes = decisions.status.nodes
        assert nodes.desired == len(self.world.nodes)
        assert (
            nodes.updated + nodes.pending + nodes.switching + nodes.failed + nodes.blocked + nodes.skipped
            == nodes.desired
        )

    def teardown(self) -> None:
        """However bad it was: once everything is well and nobody interferes, the fleet gets where it was last sent.
        An agent that never returns may miss it, if its node is not on its way anywhere; it holds up nobody else."""
        if not hasattr(self, "world"):
            return
        world = self.world
        gone = [name for name, agent in world.agents.items() if agent.dead and not world.in_flight(name)][:1]
        gone = gone if len(world.nodes) > 1 else []
        for name in world.nodes:
            world.agents[name].fails = False
            world.agents[name].dead = name in gone
            world.agents[name].unable = set()
            world.skip(name, "")
            world.set_node(name, ready=True, cordoned=False)
        world.gate_answers.clear()
        # A revision of its own, since the present one may have been aborted or rolled back.
        world.edit(node_port_addresses=["primary"])
        world.edit(rollout__windows=[EVERY_OTHER_MINUTE])
        world.edit(rollout__paused=False, rollout__stages=STAGES["thirds"], rollout__on_blocked=BlockedPolicy.SKIP)
        self.run_until_updated(len(world.nodes) - len(gone))
        for name in gone:
            assert name in world.condition("Degraded").message
            world.agents[name].dead = False
        self.run_until_updated(len(world.nodes))
        assert set(world.modes().values()) == {world.proxy_mode.spec.mode.value}
        world.run()
        settled = world.look()
        assert settled.writes == ()
        names = {stage.name for stage in in_force(world.proxy_mode)}
        assert {node.asked.intent.stage for node in world.nodes.values() if node.asked} <= names
        assert settled.status == world.status
        assert settled.notices == ()
        assert settled.heard == ()
        assert settled.questions == ()

    def run_until_updated(self, nodes: int) -> None:
        world = self.world
        for _ in range(400):
            promises.check(world, world.look())
            world.decide()
            world.agents_step()
            world.pass_time(7)
            if world.status.status == "Complete" and world.status.nodes.updated == nodes:
                return
        raise AssertionError(world.condition("Progressing").message)


def test_who_takes_the_place_of_a_silent_node_comes_into_a_stage_that_the_gates_let_begin() -> None:
    life = Life()
    life.begin(
        count=6,
        stages="all",
        max_unavailable=1,
        min_ready=0,
        threshold=1,
        on_failure=OnFailure.PAUSE,
        on_blocked=BlockedPolicy.SKIP,
        topology_key=None,
        one_domain=False,
        gates=[GATE],
    )
    life.world.agents["n0"].dead = True
    life.time(200)
    life.set_budget(3)
    life.teardown()


Life.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLife = Life.TestCase
