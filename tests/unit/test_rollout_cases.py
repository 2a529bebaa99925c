"""Lines of docs/rollouts.md that no other test is about, and that its example can be followed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import yaml
from proxymode_api.proxymode import ProxyMode
from proxymode_operator.rollout.refusal import refusal
from rollout_world import World, percent_stages

PAGE = Path(__file__).parents[2] / "docs/rollouts.md"


def test_the_example_can_be_followed() -> None:
    _, text, _ = PAGE.read_text().replace("```yaml\n", "```").split("```")[:3]
    found = ProxyMode.model_validate(yaml.safe_load(text))
    assert refusal(found.spec) == ""
    assert [gate.name for gate in found.spec.rollout.gates] == ["error-rate", "change-freeze"]


def test_a_node_that_leaves_frees_its_part_of_the_budget_at_once() -> None:
    world = World.of(3)
    world.run(3)
    assert world.told() == ["n0"]
    world.agents["n0"].dead = True
    world.leave("n0")
    world.decide()
    assert world.told() == ["n0", "n1"]


def test_a_node_that_flaps_counts_as_unavailable_each_time_and_min_ready_seconds_begin_anew() -> None:
    world = World.of(2, min_ready_seconds=30)
    while world.modes()["n0"] == "ipvs":
        world.decide()
        world.agents_step()
        world.pass_time(1)
    world.pass_time(20)
    world.agents["n0"].switching = False
    for ready in (False, True):
        report = world.nodes["n0"].report
        assert report is not None
        world.set_node("n0", report=replace(report, ready=ready, ready_since=world.now))
        world.pass_time(5)
        world.decide()
    world.pass_time(20)
    world.decide()
    assert world.status.nodes.updated == 0
    assert world.told() == ["n0"]
    world.pass_time(10)
    world.decide()
    assert world.status.nodes.updated == 1


def test_a_clock_that_jumps_forward_fails_no_node_that_is_ready() -> None:
    world = World.of(4, stages=percent_stages(50, 100, soak="10m"), progress_deadline="10m")
    world.run(30)
    assert world.status.status == "Soaking"
    world.now += timedelta(days=2)
    world.decide()
    assert world.status.nodes.failed == 0
    world.run(800)
    assert world.status.status == "Complete"
