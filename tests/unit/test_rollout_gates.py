"""Gates: when they are asked, what their answers let begin, and that no answer is not a good one."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from proxymode_api.common import Mode
from proxymode_api.gates import (
    Comparison,
    Gate,
    GateResult,
    GateStatus,
    GateTime,
    PrometheusGate,
    Threshold,
    WebhookGate,
)
from proxymode_api.rollout import OnFailure, Window
from proxymode_operator.rollout.gates import definition, judge, pause
from rollout_world import START, World, percent_stages


def gate(name: str = "errors", when: GateTime = GateTime.BOTH, **fields: Any) -> Gate:
    threshold = Threshold(operator=Comparison.LESS, value="0.01")
    prometheus = PrometheusGate(url="https://prometheus:9090", query="errors", threshold=threshold)
    return Gate(name=name, prometheus=prometheus, when=when, interval="10s", **fields)


def gated(*gates: Gate, soak: str = "0", **rollout: Any) -> World:
    return World.of(4, stages=percent_stages(50, 100, soak=soak), max_unavailable=4, gates=list(gates), **rollout)


def asked_about(world: World) -> list[str]:
    return list(dict.fromkeys(stage for _, stage, _ in world.questions))


def test_gates_that_pass_are_asked_first_of_all_and_between_stages_and_hold_up_nothing() -> None:
    world = gated(gate())
    world.run()
    assert world.status.status == "Complete"
    assert asked_about(world) == ["", "p50"], "nothing follows the last stage"
    assert world.condition("GatesPassing").reason == "GatesPassed"
    assert world.reasons().count("GatePassed") == 2
    assert world.stage("p50").gates_passed_at is not None


def test_without_gates_nothing_is_asked_and_the_condition_says_so() -> None:
    world = gated()
    world.run()
    assert world.questions == []
    assert (world.condition("GatesPassing").status, world.condition("GatesPassing").reason) == ("True", "NoGates")


@pytest.mark.parametrize("result", [GateResult.FAIL, GateResult.ERROR])
def test_nothing_moves_before_every_gate_has_answered_well(result: GateResult) -> None:
    world = gated(gate("good"), gate("bad"), on_failure=OnFailure.ROLLBACK)
    world.gate_answers["bad"] = result
    world.run(60)
    assert world.told() == []
    assert world.status.status == "AwaitingGates"
    progressing = world.condition("Progressing")
    assert progressing.reason == "AwaitingGates"
    assert f"spec.rollout.gates[1] (bad): says {result} ({result} before the first stage" in progressing.message
    assert world.condition("GatesPassing").status == ("False" if result is GateResult.FAIL else "Unknown")
    world.gate_answers["bad"] = GateResult.PASS
    world.pass_time(600)
    world.run()
    assert world.status.status == "Complete"


def test_an_empty_result_will_do_before_the_first_stage_but_not_after_it() -> None:
    world = gated(gate())
    world.gate_answers["errors"] = GateResult.NO_DATA
    world.run(60)
    assert world.told() == ["n0", "n1"]
    assert world.status.status == "AwaitingGates"
    assert "stage p50 is complete and waits for gates" in world.condition("Progressing").message
    assert world.condition("GatesPassing").reason == "GateUnanswered"


def test_a_gate_that_does_not_answer_holds_the_stage_stops_nothing_and_is_asked_ever_more_seldom() -> None:
    world = gated(gate(), on_failure=OnFailure.ROLLBACK)
    world.run(2)
    world.gate_answers["errors"] = GateResult.ERROR
    world.run(3000)
    assert world.told() == ["n0", "n1"]
    assert (world.status.status, world.status.history) == ("AwaitingGates", [])
    assert world.condition("Degraded").status == "False"
    times = [at for _, stage, at in world.questions if stage == "p50"]
    pauses = [(after - before).total_seconds() for before, after in pairwise(times)]
    assert pauses[:4] == [10, 20, 40, 80]
    assert max(pauses) == 600


def test_a_gate_that_fails_stops_the_rollout_at_its_limit_and_lets_it_go_on_when_it_passes() -> None:
    world = gated(gate(failure_limit=3))
    world.run(3)
    world.gate_answers["errors"] = GateResult.FAIL
    world.run(14)
    assert world.status.status == "AwaitingGates", "below the limit"
    world.run(20)
    assert world.status.status == "Stopped"
    assert world.condition("Degraded").reason == "GateFailed"
    assert "says Fail (Fail after stage p50, 3 times in a row)" in world.condition("Degraded").message
    assert world.told() == ["n0", "n1"]
    world.gate_answers["errors"] = GateResult.PASS
    world.run()
    assert world.status.status == "Complete"


def test_a_gate_that_fails_rolls_back_where_that_is_the_policy() -> None:
    world = gated(gate(), on_failure=OnFailure.ROLLBACK)
    world.run(3)
    world.gate_answers["errors"] = GateResult.FAIL
    world.run()
    assert set(world.modes().values()) == {"ipvs"}
    assert world.status.history[0].outcome == "RolledBack"
    assert "gates failed: spec.rollout.gates[0] (errors)" in world.condition("Degraded").message
    assert len(world.questions) == len([q for q in world.questions if q[2] <= world.status.history[0].ended_at])


def test_during_soak_a_gate_is_asked_every_interval_and_its_failure_does_not_wait_for_the_end() -> None:
    world = gated(gate(when=GateTime.DURING_SOAK), soak="60s")
    world.run(20)
    assert world.status.status == "Soaking"
    world.gate_answers["errors"] = GateResult.FAIL
    world.run(15)
    assert world.status.status == "Stopped"
    completed = world.stage("p50").completed_at
    assert world.now < completed + timedelta(seconds=60)
    world.gate_answers["errors"] = GateResult.PASS
    world.run()
    assert world.status.status == "Complete"
    during = [at for _, stage, at in world.questions if stage == "p50"]
    assert {(b - a).total_seconds() for a, b in pairwise(during)} == {10}
    assert asked_about(world) == ["", "p50", "p100"], "the last stage soaks too"


def test_a_soak_in_which_the_gate_never_answered_does_not_end() -> None:
    world = gated(gate(when=GateTime.DURING_SOAK), soak="60s")
    world.run(3)
    world.gate_answers["errors"] = GateResult.ERROR
    world.run(120)
    assert world.told() == ["n0", "n1"]
    assert world.stage("p50").phase == "AwaitingGates"
    world.gate_answers["errors"] = GateResult.PASS
    world.run(400)
    assert world.status.status == "Complete"


def test_between_stages_a_pass_from_the_soak_is_not_recent_enough() -> None:
    world = gated(gate(when=GateTime.BETWEEN_STAGES), soak="60s")
    world.run(30)
    assert asked_about(world) == [""], "it is not asked while the stage soaks"
    world.run(60)
    asked = [at for _, stage, at in world.questions if stage == "p50"]
    assert asked[0] >= world.stage("p50").completed_at + timedelta(seconds=60)


def test_while_paused_gates_are_asked_once_and_a_pass_of_then_is_too_old_afterwards() -> None:
    world = gated(gate(), paused=True)
    world.run(100)
    assert len(world.questions) == 1
    assert world.status.gates_checked_at is None
    world.pass_time(3600)
    world.gate_answers["errors"] = GateResult.FAIL
    world.edit(rollout__paused=False)
    world.run(20)
    assert world.told() == [], "an hour ago it passed, now it does not"
    assert world.status.status == "AwaitingGates"


def test_outside_of_windows_gates_are_asked_once_and_again_when_one_opens() -> None:
    world = gated(gate(), windows=[Window(schedule="0 2 * * *", duration="1h")])
    world.run(300, seconds=20)
    assert [at - START for _, _, at in world.questions] == [timedelta(seconds=20)]
    assert world.status.status == "WaitingForWindow"
    world.pass_time(2 * 3600 - 300 * 20)
    world.run()
    assert world.status.status == "Complete"
    assert [at - START >= timedelta(hours=2) for _, stage, at in world.questions if not stage] == [False, True]


def test_an_answer_about_another_question_does_not_count() -> None:
    world = gated(gate())
    world.gate_answers["errors"] = GateResult.FAIL
    world.run(5)
    changed = gate()
    changed = changed.model_copy(
        update={"prometheus": changed.prometheus and changed.prometheus.model_copy(update={"query": "other"})}
    )
    world.edit(rollout__gates=[changed])
    asked = len(world.questions)
    world.gate_answers["errors"] = GateResult.PASS
    world.decide()
    assert len(world.questions) == asked + 1, "asked at once, no interval is waited for"
    world.run()
    assert world.status.status == "Complete"


def test_a_gate_that_comes_while_a_stage_is_under_way_stands_after_that_stage_only() -> None:
    world = gated(soak="0")
    world.decide()
    world.agents_step()
    world.decide()
    assert world.told() == ["n0", "n1"]
    world.edit(rollout__gates=[gate()])
    world.run()
    assert world.status.status == "Complete"
    assert asked_about(world) == ["p50"]


def test_a_complete_rollout_asks_nothing_when_a_node_joins_or_a_gate_is_added() -> None:
    world = gated(gate())
    world.run()
    asked = len(world.questions)
    world.join()
    world.edit(rollout__gates=[gate(), gate("more")])
    world.run()
    assert (world.status.status, len(world.questions)) == ("Complete", asked)
    gates = world.condition("GatesPassing")
    assert (gates.status, gates.message) == ("True", "this revision is over, no gate is asked any more")


def test_a_new_revision_begins_with_no_answers() -> None:
    world = gated(gate())
    world.run()
    world.edit(mode=Mode.IPVS)
    world.decide()
    assert (world.status.gates, world.status.gates_checked_at) == ([], None)
    world.decide()
    assert [stage for _, stage, _ in world.questions] == ["", "p50", ""]


def test_a_clock_that_is_set_back_asks_anew_instead_of_waiting_for_the_future() -> None:
    world = gated(gate())
    world.run(2)
    world.gate_answers["errors"] = GateResult.FAIL
    world.run(20)
    world.now -= timedelta(hours=5)
    asked = len(world.questions)
    world.decide()
    assert len(world.questions) == asked + 1


def test_what_changes_the_question_changes_its_hash_and_nothing_else_does() -> None:
    base = gate()
    assert definition(base) == definition(gate(failure_limit=5, when=GateTime.DURING_SOAK))
    webhook = Gate(name="errors", webhook=WebhookGate(url="https://prometheus:9090"))
    assert definition(base) != definition(webhook)


@pytest.mark.parametrize(
    ("operator", "value", "passes"),
    [("<", 0.5, True), ("<", 1, False), ("<=", 1, True), (">", 1, False), (">", 2, True), (">=", 1, True)],
)
def test_a_value_is_compared_as_written(operator: str, value: float, passes: bool) -> None:
    found = gate()
    assert found.prometheus is not None
    threshold = Threshold(operator=Comparison(operator), value="1.0")
    found = found.model_copy(update={"prometheus": found.prometheus.model_copy(update={"threshold": threshold})})
    assert judge(found, value) is passes
    assert judge(found, float("nan")) is False


def test_the_pause_after_no_answer_has_a_bound_and_is_never_shorter_than_the_interval() -> None:
    def unanswered(count: int) -> GateStatus:
        return GateStatus(name="g", result=GateResult.ERROR, measured_at=START, unanswered=count)

    slow = gate().model_copy(update={"interval": "1h"})
    assert pause(slow, unanswered(9)) == timedelta(hours=1)
    assert pause(gate(), unanswered(100)) == timedelta(minutes=10)
