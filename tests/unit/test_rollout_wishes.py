"""What people ask about single nodes in mid-rollout: that failed ones try again, that some are left out."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from proxymode_api.annotations import RETRY_ANNOTATION
from proxymode_api.common import Mode
from proxymode_api.nodeproxymode import ObservedMode
from proxymode_api.rollout import BlockedPolicy, OnFailure
from proxymode_operator.rollout.model import Turn, WriteKind
from rollout_world import World, percent_stages


def stopped(*failing: str, count: int = 3, **rollout: Any) -> World:
    """A rollout that failed nodes have stopped, by agents that do not try again by themselves."""
    world = World.of(count, **rollout)
    for name in failing:
        world.agents[name].fails = world.agents[name].gives_up = True
    world.run(20)
    assert world.status.status == "Stopped"
    return world


def healed(world: World) -> World:
    for agent in world.agents.values():
        agent.fails = False
    return world


def turn_of(world: World, name: str) -> Turn:
    asked = world.nodes[name].asked
    assert asked is not None
    assert asked.intent.turn is not None
    return asked.intent.turn


def notes(world: World, reason: str) -> list[str]:
    return [notice.note for notice in world.notices if notice.reason == reason]


def test_nothing_tries_again_that_nobody_asked_for() -> None:
    world = healed(stopped("n0"))
    world.run(20)
    assert world.status.nodes.failed == 1
    assert world.told() == ["n0"]


def test_a_failed_node_tries_again_and_the_rollout_goes_on() -> None:
    world = healed(stopped("n0"))
    before = turn_of(world, "n0")
    world.annotate(RETRY_ANNOTATION, "all")
    world.run()
    assert world.status.status == "Complete"
    assert world.told(WriteKind.RETRY) == ["n0"]
    assert notes(world, "Retried") == ["told to try again: n0"]
    assert RETRY_ANNOTATION not in world.proxy_mode.metadata.annotations
    after = turn_of(world, "n0")
    assert (after.at, after.before_mode) == (before.at, Mode.IPVS), "what a rollback needs is kept"
    assert after.retried_at is not None
    assert after.retried_at > before.at


def test_one_that_fails_again_stops_the_rollout_again_and_is_heard_once() -> None:
    world = stopped("n0")
    world.annotate(RETRY_ANNOTATION, "n0")
    world.run(20)
    assert world.status.status == "Stopped"
    assert world.told(WriteKind.RETRY) == ["n0"]
    assert world.reasons().count("RolloutStopped") == 2


def test_a_node_that_was_too_slow_gets_its_deadline_anew() -> None:
    world = World.of(1, progress_deadline="60s")
    world.decide()
    world.agents_step()
    world.decide()
    world.pass_time(60)
    assert world.decide().status.nodes.failed == 1
    world.annotate(RETRY_ANNOTATION, "all")
    world.decide()
    world.pass_time(59)
    assert world.decide().status.nodes.switching == 1
    world.pass_time(1)
    assert world.decide().status.nodes.failed == 1


def test_only_the_named_ones_try_again() -> None:
    world = healed(stopped("n0", "n1", "n2", max_unavailable=3, failure_threshold=2))
    world.annotate(RETRY_ANNOTATION, "n0, n2,n9")
    world.run(3)
    assert sorted(world.told(WriteKind.RETRY)) == ["n0", "n2"]


def test_all_tries_within_the_budget_that_the_failed_ones_hold_anyway() -> None:
    world = healed(stopped("n0", "n1", count=6, max_unavailable=2, failure_threshold=2))
    world.annotate(RETRY_ANNOTATION, "all")
    decisions = world.decide()
    assert [(w.node, w.kind) for w in decisions.writes] == [("n0", WriteKind.RETRY), ("n1", WriteKind.RETRY)]
    world.run()
    assert world.status.status == "Complete"


def test_a_retry_waits_while_the_rollout_is_paused() -> None:
    world = healed(stopped("n0"))
    world.edit(rollout__paused=True)
    world.annotate(RETRY_ANNOTATION, "all")
    world.run(5)
    assert world.told(WriteKind.RETRY) == []
    assert RETRY_ANNOTATION in world.proxy_mode.metadata.annotations
    world.edit(rollout__paused=False)
    world.run()
    assert world.status.status == "Complete"


@pytest.mark.parametrize("value", ["n1", "nonsense", ""])
def test_a_retry_of_what_has_not_failed_is_said_to_be_useless(value: str) -> None:
    world = stopped("n0")
    world.annotate(RETRY_ANNOTATION, value)
    world.run(5)
    assert world.told(WriteKind.RETRY) == []
    assert f"{RETRY_ANNOTATION}={value}: no such node has failed" in notes(world, "RetryIgnored")[0]
    assert RETRY_ANNOTATION not in world.proxy_mode.metadata.annotations


def test_a_retry_is_about_one_revision() -> None:
    world = healed(stopped("n0"))
    world.edit(mode=Mode.IPVS)
    world.annotate(RETRY_ANNOTATION, "all")
    world.run()
    assert world.told(WriteKind.RETRY) == []
    assert "before this revision began" in notes(world, "RetryIgnored")[0]


def test_an_aborted_revision_tries_nothing_again() -> None:
    world = healed(stopped("n0"))
    world.abort()
    world.annotate(RETRY_ANNOTATION, "all")
    world.run()
    assert world.told(WriteKind.RETRY) == []
    assert "revision 1 has ended (Aborted)" in notes(world, "RetryIgnored")[0]


def test_a_retry_that_was_cut_short_is_done_by_the_next_operator() -> None:
    world = healed(stopped("n0", "n1", max_unavailable=2, failure_threshold=2))
    world.annotate(RETRY_ANNOTATION, "all")
    world.decide(crash_after=2)
    assert world.told(WriteKind.RETRY) == ["n0"]
    world.run()
    assert world.told(WriteKind.RETRY) == ["n0", "n1"]
    assert world.status.status == "Complete"


def test_a_node_that_tries_again_stays_in_its_stage() -> None:
    world = World.of(4, failure_threshold=2, max_unavailable=2, stages=percent_stages(50, 100))
    world.agents["n0"].fails = world.agents["n0"].gives_up = True
    world.run()
    assert [stage.nodes for stage in world.status.stages] == [2, 2]
    healed(world).annotate(RETRY_ANNOTATION, "all")
    world.run()
    assert [(stage.nodes, stage.updated) for stage in world.status.stages] == [(2, 2), (2, 2)]
    assert world.stages() == {"n0": "p50", "n1": "p50", "n2": "p100", "n3": "p100"}


def test_a_skipped_node_is_never_told_and_the_rollout_completes_without_it() -> None:
    world = World.of(3, on_blocked=BlockedPolicy.STOP)
    world.decide()
    world.skip("n1", "broken NIC")
    world.run()
    assert world.told() == ["n0", "n2"]
    assert (world.status.status, world.status.nodes.skipped, world.status.nodes.progress) == ("Complete", 1, "2/3")
    assert world.stage("all").skipped == 1
    complete = world.condition("Complete")
    assert complete.reason == "NodesSkipped"
    assert "skipped: n1: broken NIC" in complete.message
    assert "1 skipped" in notes(world, "RolloutComplete")[0]


def test_a_stage_of_one_node_takes_another_for_the_skipped_one() -> None:
    world = World.of(3, stages=percent_stages(1, 100))
    world.decide()
    world.skip("n0", "a customer's demo")
    world.run()
    assert world.told() == ["n1", "n2"]


def test_a_node_that_is_skipped_no_more_is_told() -> None:
    world = World.of(2)
    world.decide()
    world.skip("n0", "later")
    world.run()
    world.skip("n0", "")
    world.run()
    assert world.told() == ["n1", "n0"]
    assert (world.status.nodes.updated, world.status.nodes.skipped) == (2, 0)


def test_a_failed_node_that_is_skipped_goes_back_and_the_rollout_goes_on() -> None:
    world = stopped("n0")
    world.agents["n0"].fails = False
    world.skip("n0", "broken NIC")
    world.run()
    assert world.told(WriteKind.RETURN) == ["n0"]
    assert world.modes() == {"n0": "ipvs", "n1": "nftables", "n2": "nftables"}
    assert (world.status.status, world.status.nodes.skipped, world.status.nodes.failed) == ("Complete", 1, 0)


def test_a_stage_is_not_complete_before_its_skipped_node_was_sent_back() -> None:
    world = healed(stopped("n0", count=2, stages=percent_stages(50, 100)))
    world.skip("n0", "broken NIC")
    decisions = world.decide()
    assert [(write.node, write.kind) for write in decisions.writes] == [("n0", WriteKind.RETURN)]
    assert world.stage("p50").completed_at is None
    world.run()
    assert world.told() == ["n0", "n1"]


def test_a_failed_node_that_cannot_go_back_is_skipped_once_it_fails_there_too_and_holds_its_part_of_the_budget() -> (
    None
):
    world = stopped("n0", max_unavailable=2)
    world.agents["n0"].dead = True
    world.skip("n0", "burnt")
    world.run(seconds=60)
    assert (world.status.status, world.status.nodes.skipped) == ("Complete", 1)
    assert world.told(WriteKind.RETURN) == ["n0"]
    assert world.condition("Degraded").status == "False", "nobody waits for it"


def test_a_node_in_mid_switch_that_is_skipped_is_let_finish() -> None:
    world = World.of(1)
    world.decide()
    world.agents_step()
    world.decide()
    world.skip("n0", "too late")
    assert world.decide().status.nodes.switching == 1
    world.run()
    assert world.status.nodes.updated == 1
    assert world.told(WriteKind.RETURN) == []


def test_a_paused_rollout_sends_no_skipped_node_back() -> None:
    world = stopped("n0")
    world.edit(rollout__paused=True)
    world.skip("n0", "broken NIC")
    world.run(5)
    assert world.told(WriteKind.RETURN) == []


def test_nothing_to_return_to_is_no_way_back() -> None:
    """The node ran the wanted mode by kube-proxy's hand: to tell it to return to that would tell it what it was told,
    again and again."""
    world = World.of(1, on_failure=OnFailure.ROLLBACK)
    world.agents["n0"].kernel = ObservedMode.KUBE_PROXY_NFTABLES
    world.agents["n0"].fails = True
    world.run(20)
    assert world.status.history[0].outcome == "RolledBack"
    assert world.told(WriteKind.RETURN) == []
    assert "nothing to return to on n0" in world.condition("Degraded").message


def test_a_skipped_node_of_another_uid_is_not_ours_to_skip() -> None:
    world = World.of(2)
    world.decide()
    world.skip("n0", "broken NIC")
    world.set_node("n0", foreign=True)
    found = world.look().status.nodes
    assert (found.skipped, found.pending) == (0, 2)
    world.nodes["n0"] = dataclasses.replace(world.nodes["n0"], foreign=False)
    assert world.look().status.nodes.skipped == 1
