"""A paused rollout says what it would do, and that is what it then does."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxymode_api.common import Mode
from proxymode_api.rollout import TopologyPolicy
from rollout_world import World, percent_stages


def paused(count: int, **rollout: Any) -> World:
    """Everybody has reported, nobody was told."""
    world = World.of(count, paused=True, **rollout)
    world.run(5)
    return world


def reported(world: World, name: str, **facts: Any) -> None:
    report = world.nodes[name].report
    assert report is not None
    world.set_node(name, report=dataclasses.replace(report, **facts))


def test_the_plan_has_stages_blockers_warnings_and_is_gone_when_the_rollout_goes_on() -> None:
    world = paused(10, stages=percent_stages(10, 100), max_unavailable="20%")
    world.agents["n3"].unable = {Mode.NFTABLES}
    world.agent_step("n3")
    world.skip("n4", "broken NIC")
    for name in ("n5", "n6"):
        reported(world, name, warnings=("foreign-nat-tables",))
    reported(world, "n7", warnings=("kernel-version",))
    world.decide()
    plan = world.status.plan
    assert (plan.to_move, plan.at_a_time) == (8, 2)
    assert [(s.name, s.nodes, s.to_move, s.first[:2]) for s in plan.stages] == [
        ("p10", 1, 1, ["n0"]),
        ("p100", 9, 7, ["n1", "n2"]),
    ]
    assert [(b.why, b.nodes, b.first) for b in plan.blockers] == [
        ("blocked by ip-vs-module", 1, ["n3"]),
        ("broken NIC", 1, ["n4"]),
    ]
    assert [(w.why, w.nodes) for w in plan.warnings] == [("foreign-nat-tables", 2), ("kernel-version", 1)]
    assert (plan.seconds_per_node, plan.estimated_seconds) == (None, None), "nobody has measured a switch"
    assert world.told() == []
    world.edit(rollout__paused=False)
    world.decide()
    assert world.status.plan is None


@pytest.mark.parametrize(
    ("rollout", "seconds"),
    [
        ({"max_unavailable": 1}, 60),
        ({"max_unavailable": 4}, 20),
        ({"max_unavailable": 4, "min_ready_seconds": 5}, 30),
        ({"max_unavailable": 4, "stages": percent_stages(50, 100, soak="30m")}, 3620),
        ({"max_unavailable": 6, "topology_key": "zone", "topology_policy": TopologyPolicy.ONE_DOMAIN}, 20),
    ],
)
def test_the_estimate_is_rounds_of_measured_switches_and_soaks(rollout: dict[str, Any], seconds: int) -> None:
    world = World.of(0, paused=True, **rollout)
    for index in range(6):
        world.join(zone="ab"[index % 2])
    world.run(5)
    for name, took in (("n0", 8.0), ("n1", 10.0), ("n2", 40.0)):
        reported(world, name, switch_seconds=took)
    world.decide()
    assert (world.status.plan.seconds_per_node, world.status.plan.estimated_seconds) == (10, seconds)


@given(
    blocked=st.sets(st.integers(0, 7)),
    skipped=st.sets(st.integers(0, 7)),
    percents=st.lists(st.integers(1, 99), max_size=3, unique=True).map(sorted),
    one_domain=st.booleans(),
)
@settings(max_examples=10, deadline=None)
def test_what_is_planned_is_what_is_then_done(
    blocked: set[int], skipped: set[int], percents: list[int], one_domain: bool
) -> None:
    policy = TopologyPolicy.ONE_DOMAIN if one_domain else TopologyPolicy.SPREAD
    stages = percent_stages(*percents, 100)
    world = World.of(0, paused=True, stages=stages, topology_key="zone", topology_policy=policy)
    for index in range(8):
        name = world.join(zone="abc"[index % 3])
        world.agents[name].unable = {Mode.NFTABLES} if index in blocked else set()
    world.run(5)
    for index in skipped:
        world.skip(f"n{index}", "why not")
    world.run(5)
    plan = world.status.plan
    world.edit(rollout__paused=False)
    world.run()
    planned = [name for stage in plan.stages for name in stage.first]
    assert world.told() == planned
    assert plan.to_move == len(planned)


def test_for_five_thousand_nodes_it_stays_small() -> None:
    world = paused(5000, stages=percent_stages(*range(3, 93, 3), 100))
    for index, name in enumerate(world.nodes):
        world.skip(name, f"reason {index}")
    world.decide()
    plan = world.status.plan
    assert sum(stage.nodes for stage in plan.stages) == 5000
    assert len(plan.blockers) == 32
    assert len(json.dumps(plan.wire())) < 32_000
