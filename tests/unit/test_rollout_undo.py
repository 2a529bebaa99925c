"""Undo: back to the mode before, by the stages in which nodes were told, the last first, or all at once."""

from __future__ import annotations

from typing import Any

import pytest

from proxymode_api.annotations import UNDO_ANNOTATION
from proxymode_api.common import Mode
from proxymode_api.gates import Gate, GateResult, WebhookGate
from proxymode_api.nodeproxymode import ObservedMode
from proxymode_api.proxymode_status import RolloutOrder
from proxymode_api.rollout import Approval, Stage
from proxymode_api.selector import LabelSelector
from proxymode_operator.rollout.model import WriteKind
from rollout_world import World, percent_stages

STAGES = [
    Stage(name="canary", count=1, soak="10s"),
    Stage(name="half", percent=50, soak="20s", approval=Approval.MANUAL),
    Stage(name="all", percent=100, approval=Approval.MANUAL),
]


def moved(stages: list[Stage] | None = None, count: int = 6, **rollout: Any) -> World:
    """Everybody is on nftables, by these stages."""
    world = World.of(count, stages=stages or percent_stages(16, 50, 100, soak="10s"), max_unavailable=2, **rollout)
    world.run()
    assert world.status.status == "Complete"
    world.writes.clear()
    return world


def test_in_reverse_the_last_stage_goes_first_and_each_soaks() -> None:
    world = moved()
    stages = world.stages()
    world.undo(Mode.IPVS, "Reverse")
    world.run()
    assert world.status.status == "Complete"
    assert set(world.modes().values()) == {"ipvs"}
    assert [stages[name] for name in world.told()] == ["p100"] * 3 + ["p50"] * 2 + ["p16"]
    assert [stage.name for stage in world.status.stages] == ["p100", "p50", "p16"]
    last, half, _ = world.status.stages
    assert (half.started_at - last.completed_at).total_seconds() >= 10
    assert (world.status.order, world.status.from_mode) == (RolloutOrder.REVERSE, "nftables")
    assert UNDO_ANNOTATION not in world.proxy_mode.metadata.annotations
    assert world.stages() == stages, "and forward again it goes the same way"
    assert "an undo, the last stage first" in next(n.note for n in world.notices[::-1] if n.reason == "RolloutStarted")


def test_between_two_stages_lies_the_same_soak_as_on_the_way_there() -> None:
    world = World.of(6, stages=STAGES, max_unavailable=6)
    world.annotate("proxymode.io/promote", "all")
    world.decide()
    world.annotate("proxymode.io/promote", "all")
    world.run()
    world.undo(Mode.IPVS, "Reverse")
    world.run()
    assert world.status.status == "Complete"
    last, half, canary = world.status.stages
    assert 20 <= (half.started_at - last.completed_at).total_seconds() < 25
    assert 10 <= (canary.started_at - half.completed_at).total_seconds() < 15
    assert (world.status.completed_at - canary.completed_at).total_seconds() < 5


def test_at_once_only_the_budget_is_kept() -> None:
    world = moved()
    world.undo(Mode.IPVS, "AtOnce")
    for _ in range(40):
        world.decide()
        assert sum(world.in_flight(name) for name in world.nodes) <= 2
        world.agents_step()
    assert world.status.status == "Complete"
    assert [stage.name for stage in world.status.stages] == ["undo"]
    assert set(world.modes().values()) == {"ipvs"}


@pytest.mark.parametrize("order", ["Reverse", "AtOnce"])
def test_an_undo_waits_for_no_approval_and_no_gate(order: str) -> None:
    world = World.of(6, stages=STAGES, max_unavailable=2)
    world.annotate("proxymode.io/promote", "all")
    world.decide()
    world.annotate("proxymode.io/promote", "all")
    world.run()
    assert world.status.status == "Complete"
    world.gate_answers["judge"] = GateResult.FAIL
    world.edit(rollout__gates=[Gate(name="judge", webhook=WebhookGate(url="http://judge"))])
    world.undo(Mode.IPVS, order)
    world.run()
    assert world.status.status == "Complete"
    assert set(world.modes().values()) == {"ipvs"}
    assert world.questions == []
    assert world.condition("GatesPassing").status == "True"


def test_of_a_rollout_that_is_half_way_only_what_was_told_goes_back() -> None:
    world = World.of(6, mode=Mode.IPVS, stages=percent_stages(16, 50, 100), max_unavailable=1)
    world.run()
    world.writes.clear()
    world.edit(mode=Mode.NFTABLES)
    while sum(mode == "nftables" for mode in world.modes().values()) < 3:
        world.decide()
        world.agents_step()
        world.pass_time(1)
    told = world.told()
    world.abort()
    world.decide()
    assert world.status.status == "Aborted"
    world.undo(Mode.IPVS, "Reverse")
    world.run()
    assert world.status.status == "Complete"
    assert set(world.modes().values()) == {"ipvs"}
    assert sorted(world.told()[len(told) :]) == sorted(told)
    stages = world.stages()
    assert [stages[name] for name in world.told()[len(told) :]] == ["p50", "p50", "p16"]


def test_a_canary_goes_back_at_once_although_nobody_else_has_moved() -> None:
    """Stages that nobody was told in neither soak nor come first with nodes that never were told."""
    stages = [
        Stage(name="canary", selector=LabelSelector(match_labels={"canary": "yes"}), soak="24h"),
        Stage(name="half", percent=50, soak="1h"),
        Stage(name="all", percent=100, soak="1h"),
    ]
    world = World.of(6, stages=stages, max_unavailable=1)
    world.label("n5", canary="yes")
    world.run(20)
    assert world.modes()["n5"] == "nftables"
    assert world.told() == ["n5"]
    world.undo(Mode.IPVS, "Reverse")
    began = world.now
    while world.told()[1:] == []:
        world.decide()
        world.agents_step()
        world.pass_time(1)
    assert world.told()[1] == "n5"
    assert (world.now - began).total_seconds() < 10


def test_a_stage_where_nothing_has_to_go_back_does_not_soak() -> None:
    """All were told by an earlier revision, one by the one that is undone."""
    world = World.of(6, mode=Mode.IPVS, stages=percent_stages(16, 50, 100, soak="1h"), max_unavailable=6)
    world.run(40, seconds=900)
    assert world.status.status == "Complete"
    world.writes.clear()
    world.edit(mode=Mode.NFTABLES)
    while "nftables" not in world.modes().values():
        world.decide()
        world.agents_step()
        world.pass_time(1)
    (canary,) = world.told()
    world.undo(Mode.IPVS, "Reverse")
    began = world.now
    while set(world.modes().values()) != {"ipvs"}:
        world.decide()
        world.agents_step()
        world.pass_time(1)
        assert (world.now - began).total_seconds() < 60, world.status
    assert world.told() == [canary, canary]


def test_a_node_that_joins_in_mid_undo_runs_the_mode_before_too() -> None:
    world = moved()
    world.undo(Mode.IPVS, "Reverse")
    world.run(10)
    name = world.join()
    world.agents[name].kernel = ObservedMode.NFTABLES
    world.run()
    assert world.modes()[name] == "ipvs"
    assert world.status.status == "Complete"


def test_a_stage_whose_label_nobody_carries_any_more_does_not_stop_an_undo() -> None:
    zone = Stage(name="zone", selector=LabelSelector(match_labels={"zone": "a"}))
    world = World.of(0, stages=[zone, Stage(name="all", percent=100)], max_unavailable=2)
    for index in range(4):
        world.join(zone="ab"[index % 2])
    world.run()
    for name in world.nodes:
        world.label(name, zone="c")
    world.undo(Mode.IPVS, "Reverse")
    world.run()
    assert world.status.status == "Complete"
    assert [world.stages()[name] for name in world.told(WriteKind.TURN)[4:]] == ["all", "all", "zone", "zone"]


@pytest.mark.parametrize("order", ["Reverse", "sideways"])
def test_an_undo_that_nothing_begins_with_is_taken_away_and_said_to_change_nothing(order: str) -> None:
    world = moved()
    world.annotate(UNDO_ANNOTATION, order)
    before = world.status
    world.run()
    assert UNDO_ANNOTATION not in world.proxy_mode.metadata.annotations
    assert world.reasons().count("UndoIgnored") == 1
    assert world.status.revision == before.revision
    assert world.told() == []


def test_an_undo_is_heard_although_the_operator_dies_before_it_has_taken_the_annotation_away() -> None:
    world = moved()
    world.undo(Mode.IPVS, "Reverse")
    world.decide(crash_after=1)
    assert UNDO_ANNOTATION in world.proxy_mode.metadata.annotations
    world.run()
    assert world.status.status == "Complete"
    assert "UndoIgnored" not in world.reasons()
    assert UNDO_ANNOTATION not in world.proxy_mode.metadata.annotations


def test_another_mode_by_hand_goes_forward() -> None:
    world = moved()
    world.edit(mode=Mode.IPVS)
    world.run()
    assert world.status.order is RolloutOrder.FORWARD
    assert [stage.name for stage in world.status.stages] == ["p16", "p50", "p100"]


def test_the_mode_before_the_first_rollout_is_what_all_nodes_were_found_to_run() -> None:
    world = World.of(3)
    world.decide()
    found = [world.status.from_mode]
    world.run()
    found.append(world.status.from_mode)
    assert found == [None, "ipvs"], "first nobody has reported"
    mixed = World.of(3)
    mixed.agents["n1"].kernel = ObservedMode.NFTABLES
    mixed.run()
    assert mixed.status.from_mode is None
