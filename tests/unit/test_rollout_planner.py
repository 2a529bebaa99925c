"""One example for each sentence about a rollout."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from proxymode_api.annotations import ABORT_ANNOTATION, PROMOTE_ANNOTATION, UNDO_ANNOTATION
from proxymode_api.common import IpvsOptions, IpvsScheduler, Mode
from proxymode_api.nodeproxymode import ObservedMode
from proxymode_api.rollout import BlockedPolicy, OnFailure, Stage
from proxymode_api.selector import LabelSelector
from proxymode_operator.rollout.model import WriteKind
from proxymode_operator.rollout.planner import budget
from proxymode_operator.rollout.writes import release
from rollout_world import START, World, percent_stages


def completed(count: int = 4, **rollout: Any) -> World:
    """A fleet that has been moved from ipvs to nftables."""
    world = World.of(count, **rollout).run()
    assert world.status.status == "Complete"
    return world


def test_every_selected_node_gets_a_node_proxy_mode_that_asks_for_no_mode_yet() -> None:
    world = World.of(3)
    world.decide()
    for node in world.nodes.values():
        assert node.asked is not None
        assert node.asked.intent.mode is None
        assert node.asked.intent.target_mode is Mode.NFTABLES
        assert node.asked.intent.proxy_mode == "fleet"


def test_every_node_knows_its_stage_before_its_turn_and_keeps_the_one_it_was_told_in() -> None:
    world = World.of(4, stages=percent_stages(25, 50, 100, manual=["p50"]))
    world.decide()
    assert world.stages() == {"n0": "p25", "n1": "p50", "n2": "p100", "n3": "p100"}
    writes = len(world.writes)
    world.run(20)
    assert len(world.writes) == writes + 1, "one node was told, nothing else"
    world.leave("n1")
    world.agents["n2"].unable = {Mode.NFTABLES}
    world.run(20)
    assert world.stages() == {"n0": "p25", "n2": "p100", "n3": "p50"}
    assert {write.node for write in world.writes if write.kind is WriteKind.PLACE} == {"n2", "n3"}


def test_a_node_that_nobody_decides_about_belongs_to_no_stage() -> None:
    world = World.of(1)
    world.decide()
    asked = world.nodes["n0"].asked
    assert asked is not None
    (write,) = release({"n0": asked}, {"n0": "uid"})
    assert (asked.intent.stage, write.intent.stage) == ("all", "")


def test_a_node_is_not_told_before_its_agent_has_reported() -> None:
    world = World.of(1)
    for _ in range(5):
        world.decide()
        world.pass_time(1)
    assert world.told() == []
    assert "its agent has not reported" in world.condition("Progressing").message


def test_a_node_is_not_told_before_its_preflight_for_the_wanted_mode_has_passed() -> None:
    world = World.of(1)
    world.decide()
    world.agents_step()
    report = world.nodes["n0"].report
    assert report is not None
    world.set_node("n0", report=dataclasses.replace(report, preflight_mode=Mode.IPVS))
    world.decide()
    world.decide()
    assert world.told() == []
    world.agents_step()
    world.decide()
    assert world.told() == ["n0"]


def test_the_revision_is_on_record_before_any_node_is_told() -> None:
    world = World.of(1)
    world.decide()
    world.agents_step()
    world.edit(mode=Mode.IPVS)
    decisions = world.decide()
    assert decisions.status.revision == 2
    assert not [w for w in decisions.writes if w.kind is WriteKind.TURN]


def test_nodes_move_stage_by_stage_in_a_stable_order() -> None:
    world = completed(10, stages=percent_stages(10, 50, 100), max_unavailable=2)
    assert world.told() == [f"n{i}" for i in range(10)]
    assert [stage.nodes for stage in world.status.stages] == [1, 4, 5]
    started = [stage.started_at for stage in world.status.stages]
    assert started == sorted(started)
    for earlier, later in zip(world.status.stages, world.status.stages[1:], strict=False):
        assert earlier.completed_at <= later.started_at


def test_two_writes_for_a_node_in_a_plain_rollout() -> None:
    world = completed(5, max_unavailable=5)
    assert sorted(world.told(*WriteKind)) == sorted([*world.nodes, *world.nodes])


@pytest.mark.parametrize(
    ("value", "total", "expected"),
    [(1, 10, 1), (0, 10, 1), (3, 10, 3), ("10%", 10, 1), ("25%", 10, 2), ("0%", 10, 1), ("100%", 7, 7), ("1%", 0, 1)],
)
def test_max_unavailable_is_rounded_down_and_never_below_one(value: int | str, total: int, expected: int) -> None:
    assert budget(value, total) == expected


def test_never_more_than_max_unavailable_in_flight() -> None:
    world = World.of(9, max_unavailable=2)
    most = 0
    for _ in range(100):
        world.decide()
        most = max(most, len(world.all_unavailable()) if world.told() else 0)
        world.agents_step()
        world.pass_time(1)
    assert world.status.status == "Complete"
    assert most == 2


@pytest.mark.parametrize("trouble", [{"ready": False}, {"cordoned": True}])
def test_nodes_that_are_not_ready_or_cordoned_use_up_the_budget(trouble: dict[str, bool]) -> None:
    world = World.of(3)
    world.set_node("n2", **trouble)
    world.run(20)
    assert world.told() == []
    progressing = world.condition("Progressing")
    assert (progressing.status, progressing.reason) == ("False", "ClusterUnhealthy")
    assert "maxUnavailable of 1 is used up by nodes that nobody has told to move: n2: " in progressing.message
    world.set_node("n2", ready=True, cordoned=False)
    world.run()
    assert world.status.status == "Complete"


def test_a_cordoned_node_is_told_when_the_budget_allows() -> None:
    world = World.of(2, max_unavailable=2)
    world.set_node("n0", cordoned=True)
    world.run()
    assert world.status.status == "Complete"


def test_a_silent_agent_uses_up_the_budget_after_three_minutes() -> None:
    world = World.of(2)
    world.decide()
    world.agents_step()
    world.agents["n1"].dead = True
    world.pass_time(179)
    assert world.look().wake_at is not None
    world.edit(rollout__paused=True)
    world.decide()
    world.pass_time(1)
    world.edit(rollout__paused=False)
    world.run(10)
    assert world.told() == []
    assert "its agent has gone silent" in world.condition("Progressing").message


def test_a_node_counts_as_updated_only_after_min_ready_seconds() -> None:
    world = World.of(2, min_ready_seconds=30)
    world.decide()
    world.agents_step()
    world.decide()
    world.agents_step()
    world.agents_step()
    assert world.agents["n0"].kernel is ObservedMode.NFTABLES
    world.pass_time(29)
    assert world.decide().status.nodes.switching == 1
    assert world.told() == ["n0"]
    world.pass_time(1)
    assert world.decide().status.nodes.updated == 1
    assert world.told() == ["n0", "n1"]


def test_the_planner_says_when_to_look_again() -> None:
    world = World.of(1, min_ready_seconds=30)
    world.decide()
    world.agents_step()
    world.decide()
    world.agents_step()
    world.agents_step()
    assert world.look().wake_at == world.now.replace(second=30)


def test_a_stage_soaks_before_the_next_begins() -> None:
    world = World.of(4, stages=percent_stages(25, 100, soak="10m"))
    world.run(10, seconds=5)
    assert world.told() == ["n0"]
    assert world.status.status == "Soaking"
    assert world.condition("Progressing").reason == "Soaking"
    world.pass_time(600)
    world.decide()
    assert world.told() == ["n0", "n1"]


def test_a_manual_stage_waits_until_it_is_promoted() -> None:
    world = World.of(4, stages=percent_stages(25, 100, manual=["p100"]))
    world.run(20)
    assert world.told() == ["n0"]
    assert world.status.status == "AwaitingApproval"
    assert "proxymode.io/promote=p100" in world.condition("Progressing").message
    world.annotate(PROMOTE_ANNOTATION, "p100")
    world.run()
    assert world.status.status == "Complete"
    assert "Promoted" in world.reasons()
    assert PROMOTE_ANNOTATION not in world.proxy_mode.metadata.annotations


def test_the_approval_is_stored_before_the_annotation_goes_and_before_a_node_is_told() -> None:
    world = World.of(2, stages=percent_stages(50, 100, manual=["p50", "p100"]))
    world.run(5)
    world.annotate(PROMOTE_ANNOTATION, "p50")
    first = world.decide()
    assert first.status.stages[0].approved
    assert not first.heard
    assert not world.told()
    second = world.decide()
    assert [heard.annotation for heard in second.heard] == [PROMOTE_ANNOTATION]
    assert world.told() == ["n0"]


def test_promote_all_approves_every_stage() -> None:
    world = World.of(4, stages=percent_stages(25, 50, 100, manual=["p25", "p50", "p100"]))
    world.run(5)
    assert world.told() == []
    world.annotate(PROMOTE_ANNOTATION, "all")
    world.run()
    assert world.status.status == "Complete"


def test_promoting_a_stage_that_does_not_exist_says_which_do() -> None:
    world = World.of(2, stages=percent_stages(50, 100, manual=["p100"]))
    world.run(10)
    world.annotate(PROMOTE_ANNOTATION, "p99")
    world.run(3)
    notice = next(n for n in world.notices if n.reason == "PromoteIgnored")
    assert "p50, p100, or all" in notice.note
    assert PROMOTE_ANNOTATION not in world.proxy_mode.metadata.annotations
    assert world.status.status == "AwaitingApproval"


def test_an_approval_of_a_revision_that_has_ended_is_dropped_and_said_so() -> None:
    world = World.of(2, stages=percent_stages(50, 100, manual=["p100"]))
    world.run(10)
    world.abort()
    world.run(3)
    world.annotate(PROMOTE_ANNOTATION, "p100")
    world.run(3)
    notice = next(n for n in world.notices if n.reason == "PromoteIgnored")
    assert "revision 1 has ended (Aborted)" in notice.note
    assert PROMOTE_ANNOTATION not in world.proxy_mode.metadata.annotations


@pytest.mark.parametrize("order", ["Reverse", "AtOnce"])
def test_an_approval_of_an_undo_is_dropped_since_it_waits_for_none(order: str) -> None:
    world = World.of(2, stages=percent_stages(50, 100), max_unavailable=1)
    world.run()
    world.annotate(UNDO_ANNOTATION, order)
    world.edit(mode=Mode.IPVS)
    world.run(2)
    world.annotate(PROMOTE_ANNOTATION, "p50")
    world.run()
    notice = next(n for n in world.notices if n.reason == "PromoteIgnored")
    assert "an undo, which waits for no approval" in notice.note
    assert PROMOTE_ANNOTATION not in world.proxy_mode.metadata.annotations
    assert world.status.status == "Complete"


def test_an_approval_is_for_one_revision_only() -> None:
    world = World.of(2, stages=percent_stages(50, 100, manual=["p100"]))
    world.run(10)
    world.annotate(PROMOTE_ANNOTATION, "p100")
    world.edit(mode=Mode.IPVS)
    world.run()
    assert world.status.revision == 2
    assert not world.stage("p100").approved
    assert "PromoteIgnored" in world.reasons()


def test_paused_lets_nodes_in_mid_switch_finish_and_starts_nothing_new() -> None:
    world = World.of(3)
    world.decide()
    world.agents_step()
    world.decide()
    assert world.told() == ["n0"]
    world.edit(rollout__paused=True)
    world.run(20)
    assert world.told() == ["n0"]
    assert world.status.nodes.updated == 1
    assert world.status.status == "Paused"
    assert world.condition("Paused").status == "True"
    world.edit(rollout__paused=False)
    world.run()
    assert world.status.status == "Complete"
    assert [r for r in world.reasons() if r in ("Paused", "Resumed")] == ["Paused", "Resumed"]


def test_abort_starts_nothing_new_and_leaves_every_node_in_a_state_that_it_was_asked_to_be_in() -> None:
    world = World.of(3)
    world.run(3)
    assert world.told() == ["n0"]
    world.abort()
    world.run(20)
    assert world.told() == ["n0"]
    assert world.modes() == {"n0": "nftables", "n1": "ipvs", "n2": "ipvs"}
    assert world.status.status == "Aborted"
    assert world.condition("Degraded").status == "False"
    assert world.status.history[0].outcome == "Aborted"
    assert "RolloutAborted" in world.reasons()


def test_an_aborted_revision_stays_so_and_a_new_one_moves_again() -> None:
    world = World.of(2)
    world.run(3)
    world.abort()
    world.run(10)
    world.annotate(ABORT_ANNOTATION, None)
    world.run(10)
    assert world.told() == ["n0"]
    world.edit(mode=Mode.IPVS)
    world.run()
    assert world.status.status == "Complete"
    assert set(world.modes().values()) == {"ipvs"}


def test_an_abort_of_an_earlier_revision_means_nothing() -> None:
    world = World.of(2)
    world.annotate(ABORT_ANNOTATION, "7")
    world.run()
    assert world.status.status == "Complete"


def test_a_blocked_node_is_never_told_and_is_gone_round() -> None:
    world = World.of(3, stages=percent_stages(34, 100))
    world.agents["n0"].unable = {Mode.NFTABLES}
    world.run()
    assert world.told() == ["n1", "n2"]
    assert world.status.nodes.blocked == 1
    assert world.status.status == "Complete"
    assert world.condition("Complete").reason == "NodesSkipped"
    assert "n0" in world.condition("Complete").message


def test_a_blocked_node_that_is_freed_is_told_later() -> None:
    world = World.of(2)
    world.agents["n0"].unable = {Mode.NFTABLES}
    world.run()
    world.agents["n0"].unable = set()
    world.run()
    assert world.told() == ["n1", "n0"]
    assert world.status.nodes.updated == 2


def test_a_blocked_node_stops_its_stage_where_the_policy_is_stop() -> None:
    world = World.of(3, stages=percent_stages(33, 100), on_blocked=BlockedPolicy.STOP)
    world.agents["n1"].unable = {Mode.NFTABLES}
    world.run(30)
    assert world.told() == ["n0"]
    assert world.status.status == "Stopped"
    assert world.condition("Degraded").reason == "NodesBlocked"
    assert "n1: blocked by ip-vs-module" in world.condition("Degraded").message
    assert "RolloutStopped" in world.reasons()


CANARY_FIRST = [
    Stage(name="canary", selector=LabelSelector(match_labels={"canary": "yes"})),
    Stage(name="all", percent=100),
]


def blocked_canary() -> World:
    world = World.of(4, stages=CANARY_FIRST)
    world.label("n3", canary="yes")
    world.agents["n3"].unable = {Mode.NFTABLES}
    world.run()
    return world


def test_the_fleet_does_not_follow_a_canary_that_cannot_move() -> None:
    world = blocked_canary()
    assert world.told() == []
    assert world.status.status == "Stopped"
    assert world.condition("Degraded").reason == "StageBlocked"
    assert "stage canary: no node can move" in world.condition("Degraded").message
    assert "n3: blocked by ip-vs-module" in world.condition("Degraded").message
    assert world.reasons().count("RolloutStopped") == 1
    world.agents["n3"].unable = set()
    world.run()
    assert world.told()[0] == "n3"
    assert world.status.status == "Complete"


def test_a_canary_that_cannot_move_may_be_left_out() -> None:
    world = blocked_canary()
    world.skip("n3", "its kernel comes next week")
    world.run()
    assert world.told() == ["n0", "n1", "n2"]
    assert world.status.status == "Complete"


def test_a_stage_that_cannot_move_is_gone_round_once_the_rollout_has_been_tried() -> None:
    zones = [Stage(name=zone, selector=LabelSelector(match_labels={"zone": zone})) for zone in "ab"]
    world = World.of(4, stages=[*zones, Stage(name="all", percent=100)])
    for name, zone in zip(world.nodes, "aabb", strict=True):
        world.label(name, zone=zone)
    world.label("n3", zone="c")
    world.agents["n1"].unable = world.agents["n2"].unable = {Mode.NFTABLES}
    world.run()
    assert world.told() == ["n0", "n3"]
    assert world.condition("Complete").reason == "NodesSkipped"


def test_a_fleet_in_which_no_node_can_move_does_not_count_as_moved() -> None:
    world = World.of(3, stages=percent_stages(34, 100))
    for agent in world.agents.values():
        agent.unable = {Mode.NFTABLES}
    world.run()
    assert world.status.status == "Stopped"


def test_a_node_that_is_blocked_after_it_was_told_holds_the_budget_until_the_deadline() -> None:
    world = World.of(2, progress_deadline="60s")
    world.decide()
    world.agents_step()
    world.agents["n0"].unable = {Mode.NFTABLES}
    world.decide()
    assert world.told() == ["n0"]
    world.run(5)
    assert world.status.nodes.blocked == 1
    assert world.told() == ["n0"], "it may begin to switch at any time"
    world.pass_time(60)
    world.decide()
    assert world.status.nodes.failed == 1
    assert world.status.status == "Stopped"


def test_a_failed_node_stops_the_rollout_and_is_named() -> None:
    world = World.of(3)
    world.agents["n0"].fails = True
    world.run(20)
    assert world.told() == ["n0"]
    assert world.status.nodes.failed == 1
    assert world.status.status == "Stopped"
    degraded = world.condition("Degraded")
    assert (degraded.status, degraded.reason) == ("True", "FailureThresholdReached")
    assert "n0: its switch failed" in degraded.message
    assert world.reasons().count("RolloutStopped") == 1


def test_a_failed_switch_stays_failed_while_the_agent_tries_again() -> None:
    world = World.of(3, failure_threshold=2, max_unavailable=2)
    world.agents["n0"].fails = True
    world.run(4)
    assert world.told(WriteKind.MARK) == ["n0"]
    seen = set()
    for _ in range(6):
        world.agent_step("n0")
        report = world.nodes["n0"].report
        assert report is not None
        seen.add(report.phase.value)
        assert world.decide().status.nodes.failed == 1
    assert seen == {"Switching", "Failed"}
    assert world.told(WriteKind.MARK) == ["n0"], "noted once"


def test_the_rollout_goes_on_when_the_failed_node_recovers() -> None:
    world = World.of(2)
    world.agents["n0"].fails = True
    world.run(20)
    world.agents["n0"].fails = False
    world.run()
    assert world.status.status == "Complete"


def test_a_node_that_does_not_switch_in_time_has_failed() -> None:
    world = World.of(2, progress_deadline="60s")
    world.decide()
    world.agents_step()
    world.decide()
    world.pass_time(59)
    assert world.decide().status.nodes.switching == 1
    world.pass_time(1)
    assert world.decide().status.nodes.failed == 1
    assert "within progressDeadline" in world.condition("Degraded").message


def test_failures_below_the_threshold_do_not_hold_up_the_stage() -> None:
    world = World.of(4, failure_threshold=2, max_unavailable=2, stages=percent_stages(50, 100))
    world.agents["n0"].fails = True
    world.run()
    assert world.status.nodes.updated == 3
    assert world.status.nodes.failed == 1
    assert world.status.status == "Complete"
    assert world.condition("Degraded").reason == "NodesFailed"


def test_rollback_takes_back_the_nodes_of_this_revision_in_reverse() -> None:
    world = World.of(4, stages=percent_stages(75, 100), on_failure=OnFailure.ROLLBACK)
    world.agents["n2"].fails = True
    for _ in range(60):
        world.decide()
        if world.status.status == "RollingBack":
            world.agents["n2"].fails = False
        world.agents_step()
        world.pass_time(1)
    assert world.told() == ["n0", "n1", "n2"]
    assert world.told(WriteKind.RETURN) == ["n2", "n1", "n0"]
    assert set(world.modes().values()) == {"ipvs"}
    assert world.status.status == "Stopped"
    assert world.condition("Degraded").reason == "RolledBack"
    assert world.status.history[0].outcome == "RolledBack"
    assert [r for r in world.reasons() if "Roll" in r] == ["RolloutStarted", "RollingBack", "RolloutRolledBack"]


def test_rollback_keeps_to_the_budget_and_halts_when_paused() -> None:
    world = World.of(4, stages=percent_stages(75, 100), on_failure=OnFailure.ROLLBACK)
    world.agents["n2"].fails = True
    for _ in range(30):
        world.decide()
        if world.status.status == "RollingBack":
            break
        world.agents_step()
        world.pass_time(1)
    assert world.told() == ["n0", "n1", "n2"]
    world.edit(rollout__paused=True)
    world.run(10)
    assert world.told(WriteKind.RETURN) == []
    world.edit(rollout__paused=False)
    world.decide()
    assert world.told(WriteKind.RETURN) == ["n2"], "one at a time"


def test_rollback_restores_options_too() -> None:
    world = completed(2)
    world.edit(masquerade_all=True, rollout__on_failure=OnFailure.ROLLBACK, rollout__progress_deadline="30s")
    world.decide()
    world.agents_step()
    world.decide()
    assert world.told()[-1] == "n0"
    world.agents["n0"].fails = True
    for _ in range(4):
        world.agents_step()
        world.decide()
        assert world.status.nodes.failed == 0, "a failed sync may mend itself"
    world.pass_time(31)
    world.decide()
    assert world.status.nodes.failed == 1
    world.agents["n0"].fails = False
    world.run()
    asked = world.nodes["n0"].asked
    assert asked is not None
    assert asked.intent.mode is Mode.NFTABLES
    assert not asked.intent.options.masquerade_all
    assert world.status.history[0].outcome == "RolledBack"


def test_undo_is_setting_the_mode_back() -> None:
    world = completed(4, stages=percent_stages(25, 100))
    world.edit(mode=Mode.IPVS)
    world.run()
    assert set(world.modes().values()) == {"ipvs"}
    assert (world.status.revision, world.status.status) == (2, "Complete")


def test_undo_half_way_moves_only_the_nodes_that_were_moved() -> None:
    world = World.of(4)
    for name in world.nodes:
        world.agents[name].kernel = ObservedMode.NFTABLES
    world.edit(mode=Mode.IPVS)
    world.run(5)
    moved = list(world.told())
    assert 0 < len(moved) < 4
    world.edit(mode=Mode.NFTABLES)
    world.run()
    assert set(world.modes().values()) == {"nftables"}
    assert world.status.history[1].outcome == "Superseded"
    assert world.status.history[1].nodes == len(moved)


def test_options_go_through_the_stages_like_a_mode() -> None:
    world = completed(4, stages=percent_stages(25, 100, soak="1m"))
    world.edit(masquerade_all=True)
    world.decide()
    world.agents_step()
    world.run(5)
    assert world.status.revision == 2
    changed = [name for name, node in world.nodes.items() if node.asked and node.asked.intent.options.masquerade_all]
    assert changed == ["n0"]


def test_options_of_the_mode_to_come_are_told_ahead_and_those_in_use_are_not() -> None:
    world = completed(1)
    world.edit(mode=Mode.IPVS, ipvs=IpvsOptions(scheduler=IpvsScheduler.WLC), masquerade_all=True)
    world.decide()
    asked = world.nodes["n0"].asked
    assert asked is not None
    assert asked.intent.mode is Mode.NFTABLES
    assert asked.intent.options.ipvs.scheduler is IpvsScheduler.WLC
    assert not asked.intent.options.masquerade_all


def test_a_node_that_runs_what_is_wanted_already_is_told_nothing_when_asked_before() -> None:
    world = completed(2)
    world.edit(rollout__max_unavailable=2)
    world.run()
    assert len(world.told()) == 2
    assert world.status.revision == 1, "the rollout's own fields begin no revision"


def test_a_change_in_mid_rollout_supersedes_and_nodes_in_mid_switch_count_until_done() -> None:
    world = World.of(3)
    world.decide()
    world.agents_step()
    world.decide()
    world.agent_step("n0")
    world.edit(mode=Mode.IPVS)
    world.decide()
    world.decide()
    assert world.status.nodes.switching == 1
    assert world.told() == ["n0"], "nothing new while n0 is on its way"
    world.run()
    assert world.status.status == "Complete"
    assert set(world.modes().values()) == {"ipvs"}


def test_an_undo_reaches_nodes_whose_switch_failed_though_they_use_up_the_budget_and_their_stage_is_shut() -> None:
    zones = [Stage(name=z, selector=LabelSelector(match_labels={"zone": z})) for z in "ab"]
    world = World.of(0, stages=[*zones, Stage(name="all", percent=100)])
    for name, zone in (("a0", "a"), ("b0", "b")):
        world.join(name, zone=zone)
        world.agents[name].gives_up = True
    world.agents["b0"].fails = True
    world.run(30)
    assert world.status.status == "Stopped"
    assert world.modes() == {"a0": "nftables", "b0": "ipvs"}
    world.agents["b0"].fails = False
    world.edit(mode=Mode.IPVS)
    world.run()
    assert world.status.status == "Complete"
    assert world.modes() == {"a0": "ipvs", "b0": "ipvs"}
    assert world.told() == ["a0", "b0", "b0", "a0"]


def test_nodes_that_an_earlier_revision_left_unsettled_come_first_in_their_stage() -> None:
    world = World.of(3, stages=percent_stages(34, 100), failure_threshold=3, max_unavailable=1)
    world.agents["n1"].fails = world.agents["n1"].gives_up = True
    world.run(30)
    world.agents["n1"].fails = False
    world.edit(masquerade_all=True)
    world.run()
    assert world.status.status == "Complete"
    assert world.told()[:3] == ["n0", "n1", "n1"]


def test_a_node_that_joins_is_told_when_the_rollout_is_complete() -> None:
    world = completed(4, stages=percent_stages(25, 100))
    name = world.join()
    world.run()
    assert world.told()[-1] == name
    assert world.status.nodes.updated == 5
    assert world.reasons().count("RolloutComplete") == 1


def test_a_completed_rollout_is_not_rolled_back() -> None:
    world = completed(2, on_failure=OnFailure.ROLLBACK, progress_deadline="30s")
    world.agents["n0"].applied = 0
    world.agents["n0"].fails = True
    world.agents_step()
    world.pass_time(60)
    world.run(10)
    assert world.told(WriteKind.RETURN) == []
    assert world.condition("Degraded").status == "True"


def test_a_stage_whose_selector_selects_nothing_stops_the_rollout() -> None:
    stages = [
        Stage(name="canary", selector=LabelSelector(match_labels={"canary": "yes"})),
        Stage(name="all", percent=100),
    ]
    world = World.of(2, stages=stages)
    world.run(10)
    assert world.told() == []
    assert world.condition("Degraded").reason == "StageSelectsNothing"
    world.label("n1", canary="yes")
    world.run()
    assert world.told() == ["n1", "n0"]


def test_no_nodes_is_pending_and_nothing_completes() -> None:
    world = World.of(0)
    world.run(3)
    assert world.status.status == "Pending"
    assert world.condition("Accepted").reason == "NoNodes"
    assert world.status.completed_at is None


def test_a_spec_that_cannot_be_followed_is_refused_and_moves_nothing() -> None:
    world = World.of(2, stages=[Stage(name="half", percent=50)])
    world.run(5)
    assert world.status.status == "Refused"
    accepted = world.condition("Accepted")
    assert accepted.status == "False"
    assert "spec.rollout.stages" in accepted.message
    assert "percent: 100" in accepted.message
    assert world.told(*WriteKind) == []


def test_a_node_proxy_mode_of_an_earlier_node_is_not_touched() -> None:
    world = World.of(1)
    world.run(2)
    writes = len(world.writes)
    world.set_node("n0", foreign=True)
    world.run(5)
    assert len(world.writes) == writes
    assert "belongs to an earlier Node" in world.condition("Progressing").message


def test_a_dead_agent_on_a_moved_node_is_said_but_takes_nothing_back() -> None:
    world = completed(2)
    world.agents["n0"].dead = True
    world.pass_time(200)
    world.run(3)
    assert world.status.nodes.updated == 2
    assert world.condition("Degraded").reason == "AgentsSilent"


@pytest.mark.parametrize("max_unavailable", [1, 3])
def test_a_node_without_an_agent_is_given_up_after_the_deadline_and_moves_when_one_comes(max_unavailable: int) -> None:
    world = World.of(4, stages=percent_stages(50, 100), progress_deadline="300s", max_unavailable=max_unavailable)
    world.agents["n0"].dead = True
    world.run(200)
    assert world.status.status == "Progressing"
    assert "n0: its agent has not reported" in world.condition("Progressing").message
    world.run(200)
    assert (world.status.status, world.status.nodes.blocked) == ("Complete", 1)
    assert world.condition("Complete").reason == "NodesSkipped"
    assert world.condition("Degraded").message == "no agent has been heard of lately on n0"
    assert "n0" not in world.told()
    world.agents["n0"].dead = False
    world.run()
    assert world.status.nodes.updated == 4


def test_a_node_without_an_agent_stops_a_rollout_that_stops_at_blocked_nodes() -> None:
    world = World.of(3, on_blocked=BlockedPolicy.STOP, progress_deadline="300s", max_unavailable=3)
    world.agents["n0"].dead = True
    world.run(400)
    assert world.status.status == "Stopped"
    assert "n0: its agent has not reported for progressDeadline" in world.condition("Degraded").message


def test_an_agent_that_goes_silent_before_its_turn_is_given_up_too() -> None:
    world = World.of(3, stages=percent_stages(34, 100, manual=["p34"]), progress_deadline="300s")
    world.run(20)
    world.agents["n1"].dead = True
    world.run(600)
    world.annotate(PROMOTE_ANNOTATION, "p34")
    world.run()
    assert (world.status.status, world.status.nodes.updated) == ("Complete", 2)


def test_a_restarted_operator_listens_before_it_gives_up_an_agent_whose_nodes_clock_is_wrong() -> None:
    world = World.of(2, stages=percent_stages(50, 100, manual=["p100"]), progress_deadline="60s", max_unavailable=2)
    world.run(20)
    report = world.nodes["n1"].report
    assert report is not None
    world.pass_time(3600)
    world.set_node("n1", report=dataclasses.replace(report, heard_at=START, known_since=world.now))
    world.agents["n1"].dead = True
    world.annotate(PROMOTE_ANNOTATION, "p100")
    world.run(100)
    assert (world.status.nodes.blocked, world.stage("p100").completed_at) == (0, None)
    world.run(200)
    assert (world.status.nodes.blocked, world.status.status) == (1, "Complete")


def test_agents_that_are_installed_late_find_the_canary_still_to_come() -> None:
    world = World.of(6, stages=percent_stages(10, 100), progress_deadline="60s", max_unavailable=6)
    for agent in world.agents.values():
        agent.dead = True
    world.run(2000)
    assert (world.status.status, world.stage("p10").phase) == ("Progressing", "Progressing")
    assert "its agent has not reported for progressDeadline" in world.condition("Progressing").message
    for agent in world.agents.values():
        agent.dead = False
    for _ in range(4):
        world.decide()
        world.agents_step()
    assert world.told() == ["n0"]
    world.run()
    assert (world.status.status, world.status.nodes.updated) == ("Complete", 6)


@pytest.mark.parametrize("crash_after", [0, 1, 2])
def test_a_restart_after_any_effect_of_any_decision_changes_nothing_in_the_end(crash_after: int) -> None:
    world = World.of(4, stages=percent_stages(25, 100, soak="3s"))
    for _ in range(120):
        world.decide(crash_after=crash_after)
        world.decide()
        world.agents_step()
        world.pass_time(1)
    assert world.status.status == "Complete"
    assert world.told() == ["n0", "n1", "n2", "n3"]


def test_history_keeps_ten_rollouts_newest_first() -> None:
    world = World.of(1)
    for index in range(12):
        world.edit(mode=[Mode.NFTABLES, Mode.IPVS][index % 2], masquerade_all=bool(index % 3))
        world.run(30)
    assert len(world.status.history) == 10
    revisions = [record.revision for record in world.status.history]
    assert revisions == sorted(revisions, reverse=True)


def test_conditions_keep_their_transition_time_while_their_status_stays() -> None:
    world = World.of(2)
    world.run()
    accepted, complete = world.condition("Accepted"), world.condition("Complete")
    assert accepted.last_transition_time < complete.last_transition_time
    assert {c.observed_generation for c in world.status.conditions} == {world.proxy_mode.metadata.generation}
    assert [c.type for c in world.status.conditions] == [
        "Accepted",
        "Progressing",
        "Complete",
        "Degraded",
        "Paused",
        "DeprecatedMode",
        "GatesPassing",
    ]


def test_a_change_of_options_counts_as_done_only_when_the_agent_has_seen_it() -> None:
    """The mode is the wanted one all the time, and the last report says Ready: it is about the options before."""
    world = completed(2)
    world.edit(masquerade_all=True)
    world.decide()
    world.decide()
    assert world.told()[-1] == "n0"
    assert world.decide().status.nodes.switching == 1
    assert world.told()[-1] == "n0", "n1 waits until n0 has followed"


def test_a_spec_edit_that_only_steers_the_rollout_keeps_what_is_complete() -> None:
    world = World.of(4, stages=percent_stages(25, 100, manual=["p100"]))
    world.run(20)
    started = world.stage("p25").started_at
    world.edit(rollout__stages=percent_stages(25, 50, 100, manual=["p100"]))
    world.run(20)
    assert world.stage("p25").started_at == started
    assert world.status.status == "AwaitingApproval"
    assert len(world.told()) == 2
