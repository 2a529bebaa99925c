"""One topology domain at a time, and what a cluster that ails by itself does to a rollout."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from proxymode_api.common import Mode
from proxymode_api.rollout import BlockedPolicy, Stage, TopologyPolicy
from proxymode_api.selector import LabelSelector
from rollout_world import World, percent_stages


def zoned(zones: str, **rollout: Any) -> World:
    """A node for every letter, which is its zone."""
    fields: dict[str, Any] = {"topology_key": "zone", "topology_policy": TopologyPolicy.ONE_DOMAIN}
    world = World.of(0, **(fields | rollout))
    for zone in zones:
        world.join(zone=zone)
    return world


def zones_in_flight(world: World) -> set[str]:
    return {world.nodes[name].labels.get("zone", "") for name in world.nodes if world.in_flight(name)}


def test_a_domain_begins_when_the_one_before_is_done() -> None:
    world = zoned("abababc", max_unavailable=5, min_ready_seconds=3)
    for _ in range(60):
        world.decide()
        assert len(zones_in_flight(world)) <= 1
        world.agents_step()
        world.pass_time(1)
    assert world.status.status == "Complete"
    assert [world.nodes[name].labels["zone"] for name in world.told()] == list("aaabbbc")


def test_a_stage_takes_domain_after_domain() -> None:
    world = zoned("abababab", max_unavailable=8, stages=percent_stages(50, 100))
    world.run()
    assert world.stages() == {name: "p50" if int(name[1:]) % 2 == 0 else "p100" for name in world.nodes}


def test_spread_is_the_default() -> None:
    world = zoned("aabb", max_unavailable=2, topology_policy=TopologyPolicy.SPREAD)
    world.run()
    assert [world.nodes[name].labels["zone"] for name in world.told()] == list("abab")


def test_a_failed_node_that_is_tolerated_and_one_without_an_agent_do_not_hold_the_next_domain() -> None:
    world = zoned("aaab", max_unavailable=4, failure_threshold=2, progress_deadline="5m")
    world.agents["n0"].fails = world.agents["n0"].gives_up = True
    world.agents["n1"].dead = True
    world.run(40, seconds=20)
    assert world.status.status == "Complete"
    assert world.modes() == {"n0": "ipvs", "n1": "ipvs", "n2": "nftables", "n3": "nftables"}


def test_nodes_that_an_earlier_revision_left_in_flight_in_two_domains_get_out_of_it() -> None:
    world = zoned("ab", max_unavailable=2, topology_policy=TopologyPolicy.SPREAD, failure_threshold=5)
    for agent in world.agents.values():
        agent.fails = agent.gives_up = True
    world.run(20)
    assert zones_in_flight(world) == {"a", "b"}
    for agent in world.agents.values():
        agent.fails = agent.gives_up = False
    world.edit(rollout__topology_policy=TopologyPolicy.ONE_DOMAIN, masquerade_all=True)
    world.run()
    assert world.status.status == "Complete"


def test_a_stage_whose_only_agents_are_silent_is_gone_round_where_others_have_moved() -> None:
    core, edge = (Stage(name=zone, selector=LabelSelector(match_labels={"zone": zone})) for zone in ("core", "edge"))
    stages = [core, edge, Stage(name="all", percent=100)]
    world = World.of(0, stages=stages, max_unavailable=4, progress_deadline="5m")
    for zone in ("edge", "edge", "core", "core"):
        world.join(zone=zone)
    for name in ("n0", "n1"):
        world.agents[name].dead = True
    world.join(zone="rest")
    world.run(20)
    assert world.told() == ["n2", "n3"], "nobody has given the others up yet"
    world.run(40, seconds=20)
    assert world.told() == ["n2", "n3", "n4"]
    assert world.stage("edge").blocked == 2
    assert world.condition("Degraded").reason == "AgentsSilent"


def test_where_it_is_to_stop_it_does() -> None:
    edge = Stage(name="edge", selector=LabelSelector(match_labels={"zone": "edge"}))
    world = World.of(0, stages=[edge, Stage(name="all", percent=100)], on_blocked=BlockedPolicy.STOP)
    for zone in ("edge", "core"):
        world.join(zone=zone)
    world.agents["n0"].dead = True
    world.run(40, seconds=30)
    assert world.told() == []
    assert world.status.status == "Stopped"


@pytest.mark.parametrize("trouble", [{"ready": False}, {"cordoned": True}])
def test_a_cluster_that_ails_by_itself_pauses_the_rollout_until_it_is_well(trouble: dict[str, bool]) -> None:
    world = World.of(10, max_unavailable="20%", stages=percent_stages(20, 100))
    world.run(6)
    told = world.told()
    for name in ("n7", "n8"):
        world.set_node(name, **trouble)
    world.run(20)
    assert world.told() == told
    progressing = world.condition("Progressing")
    assert (progressing.status, progressing.reason) == ("False", "ClusterUnhealthy")
    assert "n7: " in progressing.message
    world.set_node("n8", ready=True, cordoned=False)
    world.run(60)
    assert len(world.told()) > len(told), "one of two may go on"
    world.set_node("n7", ready=True, cordoned=False)
    world.run()
    assert world.status.status == "Complete"


def test_while_agents_report_for_the_first_time_nobody_calls_the_cluster_unhealthy() -> None:
    world = World.of(3)
    world.decide()
    assert world.condition("Progressing").reason == "NodesSwitching"


def test_an_operator_that_was_dead_for_an_hour_goes_on_where_things_are_now() -> None:
    world = World.of(6, stages=percent_stages(33, 100, soak="30m"), max_unavailable=2, progress_deadline="10m")
    world.decide()
    world.agents_step()
    world.decide()
    assert len(world.told()) == 2
    for _ in range(60):
        world.agents_step()
        world.pass_time(60)
    world.decide()
    assert world.status.nodes.failed == 0, "they have switched in time, though nobody was there to see it"
    assert world.status.status == "Soaking", "the soak counts from when somebody can watch it"
    assert world.told() == ["n0", "n1"]
    world.run(70, seconds=60)
    assert world.status.status == "Complete"


def test_a_node_that_has_not_switched_while_the_operator_was_dead_has_failed() -> None:
    world = World.of(3, progress_deadline="10m")
    world.decide()
    world.agents_step()
    world.decide()
    world.agent_step("n0")
    world.pass_time(3600)
    world.decide()
    assert world.status.nodes.failed == 1
    assert world.status.status == "Stopped"
    world.run(5)
    assert world.status.status != "Stopped", "it was only late"


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_jumps_breaks_no_promise_and_delays_no_soak_for_longer_than_it_lasts(hours: int) -> None:
    world = World.of(4, stages=percent_stages(50, 100, soak="10m"), max_unavailable=1, progress_deadline="30m")
    while world.status.status != "Soaking":
        world.decide()
        world.agents_step()
        world.pass_time(1)
    world.now += timedelta(hours=hours)
    world.decide()
    if hours < 0:
        assert world.status.status == "Soaking", "it begins anew"
        world.run(580)
        assert len(world.told()) == 2
    for _ in range(400):
        world.decide()
        assert sum(world.in_flight(name) for name in world.nodes) <= 1
        world.agents_step()
        world.pass_time(5)
    assert world.status.status == "Complete"


def test_a_change_of_the_spec_in_mid_rollout_counts_at_once_or_begins_anew() -> None:
    world = World.of(6, stages=percent_stages(50, 100))
    world.run(4)
    world.edit(rollout__max_unavailable=6)
    world.decide()
    assert world.status.revision == 1
    assert len(world.told()) == 3, "the rest of its stage, by the new budget"
    world.edit(mode=Mode.IPVS)
    world.decide()
    assert world.status.revision == 2
    assert world.status.history[0].outcome == "Superseded"
    world.run()
    assert set(world.modes().values()) == {"ipvs"}
