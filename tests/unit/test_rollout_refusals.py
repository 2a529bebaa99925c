"""Input that cannot be meant: a refusal or a condition names the field and the value, and nothing moves."""

from __future__ import annotations

from typing import Any

import pytest

from proxymode_api.gates import Gate
from proxymode_api.rollout import Stage, TopologyPolicy, Window
from proxymode_api.selector import LabelSelector, LabelSelectorRequirement, SelectorOperator
from proxymode_operator.rollout.planner import budget
from proxymode_operator.rollout.stages import rounded_up
from rollout_world import World, percent_stages

ALL = Stage(name="all", percent=100)
ZONE_A = LabelSelector(match_labels={"zone": "a"})


def prometheus(**fields: Any) -> Gate:
    target = {"url": "https://p", "query": "q", "threshold": {"operator": "<", "value": "1"}}
    return Gate.model_validate({"name": "g", "prometheus": target | fields.pop("prometheus", {})} | fields)


@pytest.mark.parametrize(
    ("rollout", "words"),
    [
        (
            {"stages": [Stage(name="a", percent=50), Stage(name="b", percent=50), ALL]},
            "spec.rollout.stages[1] (b): it reaches as far as stage a before it",
        ),
        (
            {"stages": [Stage(name="a", selector=ZONE_A), Stage(name="b", selector=ZONE_A), ALL]},
            "spec.rollout.stages[1] (b): it reaches as far as stage a before it",
        ),
        (
            {"stages": [ALL, Stage(name="more", selector=LabelSelector())]},
            "spec.rollout.stages[1] (more): stage all before it reaches every node",
        ),
        ({"stages": [Stage(name="a", count=1)]}, "the last stage must reach every node: give it percent: 100"),
        ({"topology_policy": TopologyPolicy.ONE_DOMAIN}, "spec.rollout.topologyPolicy OneDomain: give topologyKey"),
        (
            {"windows": [Window(schedule="0 22 * * *", duration="1h", time_zone="Mars/Olympus")]},
            "spec.rollout.windows[0].timeZone 'Mars/Olympus' is no time zone",
        ),
        (
            {"windows": [Window(schedule="0 25 * * *", duration="1h")]},
            "spec.rollout.windows[0].schedule '0 25 * * *': '25' is no hour",
        ),
        (
            {"gates": [prometheus(prometheus={"url": "prometheus:9090"})]},
            "spec.rollout.gates[0] (g).prometheus.url 'prometheus:9090' is not the address of an HTTP server",
        ),
        (
            {"gates": [prometheus(prometheus={"url": "https://p:notaport"})]},
            "spec.rollout.gates[0] (g).prometheus.url 'https://p:notaport': Port could not be cast to integer",
        ),
        (
            {"gates": [prometheus(prometheus={"url": "https://user:secret@p"})]},
            "spec.rollout.gates[0] (g).prometheus.url",
        ),
        (
            {"gates": [prometheus(prometheus={"url": "http://p", "bearerTokenSecret": {"key": "t"}})]},
            "spec.rollout.gates[0] (g).prometheus.bearerTokenSecret would be sent in clear text to http://p",
        ),
        (
            {"gates": [prometheus(), prometheus()], "stages": [Stage(name="a", count=1), ALL]},
            "spec.rollout.gates[1] (g): the name is used twice",
        ),
        ({"gates": [Gate(name="g")]}, "spec.rollout.gates[0] (g): exactly one of prometheus and webhook"),
        ({"gates": [prometheus(when="BetweenStages")]}, "(g).when BetweenStages: there is one stage only"),
        ({"gates": [prometheus(when="DuringSoak")]}, "(g).when DuringSoak: no stage has a soak"),
    ],
)
def test_it_is_refused_by_field_and_value_and_nothing_moves(rollout: dict[str, Any], words: str) -> None:
    world = World.of(3, **rollout)
    world.run(10)
    assert world.status.status == "Refused"
    assert words in world.condition("Accepted").message
    assert world.writes == []
    assert world.questions == []
    assert world.reasons() == ["Refused"]


def test_a_spec_that_becomes_wrong_in_mid_rollout_holds_what_is_there_and_goes_on_when_corrected() -> None:
    world = World.of(4, stages=percent_stages(50, 100))
    world.run(4)
    told = world.told()
    world.edit(rollout__stages=[*percent_stages(50), *percent_stages(50, 100)])
    world.run(20)
    assert world.status.status == "Refused"
    assert world.told() == told
    world.edit(rollout__stages=percent_stages(50, 100))
    world.run()
    assert (world.status.status, world.status.revision) == ("Complete", 1)


LABELLED = LabelSelector(match_expressions=[LabelSelectorRequirement(key="zone", operator=SelectorOperator.EXISTS)])


@pytest.mark.parametrize(
    "rollout",
    [
        {"gates": [prometheus(prometheus={"bearerTokenSecret": {"key": "token"}})]},
        {
            "gates": [
                Gate.model_validate({"name": "w", "webhook": {"url": "http://approvals.example.org:8080/proxymode"}})
            ]
        },
        {"stages": [Stage(name="labelled", selector=LABELLED), Stage(name="rest", selector=LabelSelector())]},
    ],
)
def test_what_can_be_meant_is_not_refused(rollout: dict[str, Any]) -> None:
    world = World.of(2, **rollout)
    world.decide()
    assert world.condition("Accepted").reason == "Accepted"


def test_a_node_selector_that_matches_nothing_says_so() -> None:
    world = World.of(0)
    world.run(5)
    assert world.status.status == "Pending"
    assert world.condition("Accepted").reason == "NoNodes"
    assert "spec.nodeSelector selects no Linux node" in world.condition("Accepted").message


def test_a_stage_selector_that_matches_nothing_stops_before_it_and_names_it() -> None:
    typo = Stage(name="canary", selector=LabelSelector(match_labels={"zoen": "a"}))
    world = World.of(3, stages=[typo, ALL])
    world.run(20)
    assert world.told() == []
    assert world.condition("Degraded").reason == "StageSelectsNothing"
    assert "stage canary: its selector matches none of the 3 nodes" in world.condition("Degraded").message


def test_stages_that_overlap_are_named_and_passed() -> None:
    both = Stage(name="both", selector=LabelSelector(match_labels={"zone": "a", "disk": "ssd"}))
    world = World.of(0, stages=[Stage(name="zone", selector=ZONE_A), both, ALL])
    for _ in range(2):
        world.join(zone="a", disk="ssd")
    world.join(zone="b")
    world.run()
    accepted = world.condition("Accepted")
    assert (accepted.status, accepted.reason) == ("True", "StagesOverlap")
    assert "stages that reach no node that an earlier one does not: both" in accepted.message
    assert world.status.status == "Complete"


@pytest.mark.parametrize(("percent", "total"), [(1, 1), (1, 3), (1, 99), (33, 2)])
def test_no_percentage_rounds_to_nothing(percent: int, total: int) -> None:
    assert rounded_up(percent, total) == 1
    assert budget(f"{percent}%", total) == 1
