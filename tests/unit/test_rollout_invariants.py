"""The planner's promises hold after every step of a random life: any fleet, any failures, any commands, any crashes.

The machine checks against the truth that `World` keeps of who is in flight and what was asked, not against the
planner's own judgement.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxymode_api.annotations import ABORT_ANNOTATION, PROMOTE_ANNOTATION, RETRY_ANNOTATION
from proxymode_api.common import Mode
from proxymode_api.rollout import Approval, BlockedPolicy, OnFailure, Stage, Window
from proxymode_api.selector import LabelSelector
from proxymode_operator.rollout.model import Decisions, Write, WriteKind
from proxymode_operator.rollout.selection import matches
from proxymode_operator.rollout.stages import rounded_up
from rollout_world import MOVES, World, options_of

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
    )
    def begin(self, count: int, stages: str, min_ready: int, threshold: int, **rollout: Any) -> None:
        self.world = World.of(
            0,
            stages=STAGES[stages],
            min_ready_seconds=min_ready,
            failure_threshold=threshold,
            progress_deadline="60s",
            **rollout,
        )
        for index in range(count):
            self.world.join(zone="ab"[index % 2])
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
        self.check(decisions)
        self.count(decisions, crash_after)
        world.decide(crash_after=crash_after)

    def check(self, decisions: Decisions) -> None:
        world = self.world
        moves = [write for write in decisions.writes if write.kind in MOVES]
        unavailable = world.all_unavailable()
        in_flight = {name for name in world.nodes if world.in_flight(name)}
        newly = {write.node for write in moves} - in_flight
        if newly:
            assert len(unavailable | newly) <= world.budget, (unavailable, newly)
            assert len(unavailable) < world.budget
        if moves:
            assert not world.proxy_mode.spec.rollout.paused
            aborted = world.proxy_mode.metadata.annotations.get(ABORT_ANNOTATION) == str(world.status.revision)
            assert not aborted or world.status.completed_at
        for write in decisions.writes:
            self.check_write(write, decisions.status.revision)
        turns = [write for write in moves if write.kind is WriteKind.TURN]
        if turns:
            assert world.proxy_mode.status.revision == decisions.status.revision, "told before it was on record"
            self.check_gates({write.node for write in turns})
            self.check_windows({write.node for write in turns})

    def check_write(self, write: Write, revision: int) -> None:
        world, node = self.world, self.world.nodes[write.node]
        before = node.asked.intent if node.asked else None
        skipped = node.asked is not None and node.asked.skip != ""
        if write.kind is WriteKind.TURN:
            assert not skipped, "told a node that a person wants to be left alone"
            assert write.intent.mode is world.proxy_mode.spec.mode
            assert write.intent.options == options_of(world)
            assert write.intent.mode not in world.agents[write.node].unable or not self.blocked_known(write.node)
            assert node.report is not None, "told a node of which nothing is known"
        elif write.kind is WriteKind.RETURN:
            assert before is not None
            assert before.turn is not None
            assert write.intent.mode is before.turn.before_mode
            assert write.intent.mode in world.asked_modes | {Mode.IPVS}, "a mode that nobody asked for or ran"
            assert (write.intent.mode, write.intent.options) != (before.mode, before.options), "sent nowhere"
        elif write.kind is WriteKind.RETRY:
            assert RETRY_ANNOTATION in world.proxy_mode.metadata.annotations
            assert not skipped
            assert before is not None
            assert world.in_flight(write.node), "told to try again what it has done"
            assert (write.intent.mode, write.intent.options) == (world.proxy_mode.spec.mode, options_of(world))
            assert replace(write.intent, attempt=before.attempt, turn=before.turn) == before
            assert write.intent.attempt == before.attempt + 1, "the agent would not see it"
        else:
            assert write.intent.mode is (before.mode if before else None), "moved a node without telling it"
            if write.kind is WriteKind.MARK:
                assert before is not None
                assert write.intent.spec() == before.spec()
            elif write.kind is WriteKind.PLACE:
                assert before is not None
                assert replace(write.intent, stage=before.stage) == before, "more than the stage"
                assert before.revision != revision, "moved to another stage after this revision told it"
            else:
                assert write.intent.turn == (before.turn if before else None)
            if before is not None and before.mode is not None:
                used = before.mode.value
                assert getattr(write.intent.options, used) == getattr(before.options, used)
                assert write.intent.options.masquerade_all == before.options.masquerade_all

    def blocked_known(self, name: str) -> bool:
        report = self.world.nodes[name].report
        return report is not None and bool(report.blockers) and report.preflight_mode is self.world.proxy_mode.spec.mode

    def check_gates(self, told: set[str]) -> None:
        """Every told node is reached by a stage before which everything is complete, soaked and approved; or it is
        one that failed on its way from what is wanted now."""
        world = self.world
        told = {name for name in told if not (world.in_flight(name) and self.came_from_wanted(name))}
        stored = {stage.name: stage for stage in world.status.stages}
        reach, reachable = 0, set[str]()
        for stage in world.proxy_mode.spec.rollout.stages:
            if stage.approval is Approval.MANUAL and not (stage.name in stored and stored[stage.name].approved):
                break
            if stage.selector is not None:
                reachable |= {name for name, node in world.nodes.items() if matches(stage.selector, node.labels)}
            else:
                total = len(world.nodes)
                limit = stage.count if stage.count is not None else rounded_up(stage.percent or 0, total)
                reach = max(reach, min(limit, total))
            if not world.soaked(stage.name):
                break
        revision = world.status.revision
        mine = {
            name
            for name, node in world.nodes.items()
            if node.asked and node.asked.intent.turn and node.asked.intent.revision == revision
        }
        outside = (mine | told) - reachable
        assert not (told - reachable) or len(outside) <= reach, (told, mine, reach, reachable)

    def check_windows(self, told: set[str]) -> None:
        world = self.world
        homeward = {name for name in told if world.in_flight(name) and self.came_from_wanted(name)}
        closed = bool(world.proxy_mode.spec.rollout.windows) and world.now.minute % 2 == 1
        assert not closed or told == homeward, (told, homeward)

    def came_from_wanted(self, name: str) -> bool:
        asked = self.world.nodes[name].asked
        assert asked is not None
        turn = asked.intent.turn
        wanted = (self.world.proxy_mode.spec.mode, options_of(self.world))
        return turn is not None and (turn.before_mode, turn.before_options) == wanted

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

    @rule(seconds=st.sampled_from([1, 5, 11, 61, 200]))
    def time(self, seconds: int) -> None:
        self.world.pass_time(seconds)

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
        nodes = self.world.look().status.nodes
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
        names = {stage.name for stage in world.proxy_mode.spec.rollout.stages}
        assert {node.asked.intent.stage for node in world.nodes.values() if node.asked} <= names
        assert settled.status == world.status
        assert settled.notices == ()
        assert settled.heard == ()

    def run_until_updated(self, nodes: int) -> None:
        world = self.world
        for _ in range(400):
            self.check(world.look())
            world.decide()
            world.agents_step()
            world.pass_time(7)
            if world.status.status == "Complete" and world.status.nodes.updated == nodes:
                return
        raise AssertionError(world.condition("Progressing").message)


Life.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLife = Life.TestCase
