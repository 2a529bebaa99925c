"""The simulator's checker sees every kind of broken promise, and its figures are what its README says."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from proxymode_sim.checker import Checker, Merge, Seen
from proxymode_sim.figures import Arrived, Decided, percentile, reactions

Json = dict[str, Any]
AT = "2026-11-21T10:00:10Z"
CANARY_SOAK = "5s"


class Story:
    """Ten nodes, maxUnavailable 2, stages canary and all; objects in the order in which they are written."""

    def __init__(self) -> None:
        self.checker = Checker(10, 20)
        self.version = 0
        self.objects: dict[str, Json] = {}
        self.paused, self.generation = False, 1
        self.stages: list[Json] = [{"name": "canary", "nodes": 1}, {"name": "all", "nodes": 9}]
        self.proxy_mode()
        for index in range(10):
            self.prepared(f"n{index}", "canary" if index == 0 else "all")

    @property
    def violations(self) -> list[str]:
        return self.checker.violations

    def feed(self, kind: str, raw: Json, at: float = 0.0) -> None:
        self.version += 1
        self.checker.feed(Seen(self.version, kind, at, raw))

    def proxy_mode(self, **status: Any) -> None:
        stages = [{"name": "canary", "count": 1, "soak": CANARY_SOAK}, {"name": "all", "percent": 100}]
        spec = {"mode": "nftables", "rollout": {"stages": stages, "paused": self.paused}}
        known = {"mode": "nftables", "revision": 1, "observedGeneration": self.generation, "stages": self.stages}
        meta = {"name": "fleet", "generation": self.generation}
        self.feed("ProxyMode", {"metadata": meta, "spec": spec, "status": known | status})

    def canary_is_complete(self, at: str = "2026-11-21T10:00:00Z") -> None:
        self.stages = [{"name": "canary", "nodes": 1, "completedAt": at}, self.stages[1]]
        self.proxy_mode()

    def _write(self, name: str, **parts: Any) -> None:
        self.objects[name] = self.objects.get(name, {"metadata": {"name": name}}) | parts
        self.feed("NodeProxyMode", json.loads(json.dumps(self.objects[name])))

    def prepared(self, name: str, stage: str) -> None:
        self._write(name, spec={"targetMode": "nftables", "stage": stage, "revision": 0})
        self.report(name, mode="ipvs", phase="Observing", generation=1)

    def tell(self, name: str, *, mode: str = "nftables", generation: int = 2, at: str = AT, **more: Any) -> None:
        stage = self.objects[name]["spec"]["stage"]
        turn = json.dumps({"at": at, "generation": generation})
        meta = {"name": name, "annotations": {"proxymode.io/turn": turn}}
        self._write(name, metadata=meta, spec={"mode": mode, "stage": stage, "revision": 1}, **more)

    def report(
        self, name: str, mode: str = "nftables", phase: str = "Active", generation: int = 2, *, block: bool = False
    ) -> None:
        results = [{"id": "kernel-version", "verdict": "block" if block else "pass"}]
        status = {
            "observedGeneration": generation,
            "mode": mode,
            "phase": phase,
            "heartbeatTime": AT,
            "conditions": [{"type": "Ready", "status": "True" if phase == "Active" else "False"}],
            "preflight": {"mode": "nftables", "results": results},
        }
        self._write(name, status=status)

    def ill(self, name: str, at: float) -> None:
        conditions = [{"type": "Ready", "status": "False"}]
        self.feed("Node", {"metadata": {"name": name}, "status": {"conditions": conditions}}, at)


@pytest.fixture
def story() -> Story:
    """The canary is done and has soaked."""
    found = Story()
    found.tell("n0", at="2026-11-21T09:00:00Z")
    found.report("n0")
    found.canary_is_complete()
    assert found.violations == []
    return found


def test_a_rollout_as_promised_breaks_nothing(story: Story) -> None:
    for first, second in (("n1", "n2"), ("n3", "n4")):
        story.tell(first)
        story.tell(second)
        story.report(first)
        story.report(second)
    assert story.violations == []
    assert (story.checker.told, story.checker.most_in_flight, story.checker.most_writes) == (5, 2, 2)


def test_one_too_many_in_flight(story: Story) -> None:
    for name in ("n1", "n2", "n3"):
        story.tell(name)
    assert story.violations == ["NodeProxyMode n3 at 27: told as one of 3 in flight, maxUnavailable 2"]


def test_nodes_that_are_ill_count_once_the_operator_could_know(story: Story) -> None:
    story.ill("n8", at=-9.0)
    story.ill("n9", at=-8.0)
    story.tell("n1")
    assert story.violations == []
    story.report("n1")
    story.ill("n7", at=-60.0)
    story.ill("n6", at=-60.0)
    story.tell("n2")
    assert ["told while 3 are unavailable of 2" in each for each in story.violations] == [True]


def test_a_stage_that_begins_before_the_one_before_it_is_complete() -> None:
    story = Story()
    story.tell("n1")
    assert ["before canary was complete" in each for each in story.violations] == [True]


def test_a_soak_cut_short(story: Story) -> None:
    story.tell("n1", at="2026-11-21T10:00:04Z")
    assert ["before canary had soaked" in each for each in story.violations] == [True]


def test_a_stage_called_complete_while_its_node_is_in_flight() -> None:
    story = Story()
    story.tell("n0")
    story.canary_is_complete()
    assert ["complete without ['n0']" in each for each in story.violations] == [True]


@pytest.mark.parametrize(("completed", "early"), [("2026-11-21T10:09:59Z", True), ("2026-11-21T10:10:00Z", False)])
def test_a_stage_waits_for_a_node_no_longer_than_its_deadline(completed: str, early: bool) -> None:
    story = Story()
    story.tell("n0", at="2026-11-21T10:00:00Z")
    story.canary_is_complete(completed)
    assert bool(story.violations) is early


@pytest.mark.parametrize(("completed", "early"), [("2026-11-21T10:05:00Z", True), ("2026-11-21T12:00:00Z", False)])
def test_a_stage_waits_for_a_silent_agent_for_a_while(completed: str, early: bool) -> None:
    story = Story()
    story.canary_is_complete(completed)
    assert bool(story.violations) is early


def test_a_failed_node_holds_no_stage_up() -> None:
    story = Story()
    story.tell("n0")
    story.report("n0", mode="ipvs", phase="Failed")
    story.report("n0", mode="ipvs", phase="Switching")
    story.canary_is_complete()
    assert story.violations == []


def test_paused_and_heard(story: Story) -> None:
    story.paused, story.generation = True, 2
    story.proxy_mode(observedGeneration=1)
    story.tell("n1")
    assert story.violations == [], "it could not know yet"
    story.proxy_mode()
    story.tell("n2")
    assert ["told while paused" in each for each in story.violations] == [True]


def test_a_mode_that_nobody_asked_for(story: Story) -> None:
    story.tell("n1", mode="ipvs")
    assert ["told to run ipvs, which nobody asked for" in each for each in story.violations] == [True]


def test_a_node_whose_preflight_blocks(story: Story) -> None:
    story.report("n1", mode="ipvs", phase="Blocked", generation=1, block=True)
    story.tell("n1")
    assert ["which its preflight blocks" in each for each in story.violations] == [True]


def test_a_fifth_write(story: Story) -> None:
    for generation in range(2, 6):
        story.tell("n1", generation=generation)
        story.report("n1", generation=generation)
    assert ["written 5 times by revision 1" in each for each in story.violations] == [True]


def test_spec_and_status_in_one_write(story: Story) -> None:
    story.tell("n1", status={"phase": "Active"})
    assert ["spec and status changed in one write" in each for each in story.violations] == [True]


def test_what_comes_too_late_is_told() -> None:
    story = Story()
    story.version -= 10
    story.ill("n1", at=0)
    assert ["came too late" in each for each in story.violations] == [True]


def test_watches_are_merged_by_version() -> None:
    merge = Merge(hold_seconds=2)
    for version, at in ((5, 0.0), (3, 1.0), (4, 1.5), (9, 9.0)):
        merge.add(Seen(version, "Node", at, {}))
    assert [seen.version for seen in merge.ready(2.9)] == []
    assert [seen.version for seen in merge.ready(3.6)] == [3, 4, 5]
    assert [seen.version for seen in merge.rest()] == [9]


def test_a_reaction_is_the_first_status_that_counts_the_report() -> None:
    reports = [Arrived(1, 12, 0.5), Arrived(1, 10, 0.0), Arrived(1, 30, 2.0), Arrived(2, 40, 5.0), Arrived(2, 41, 5.5)]
    statuses = [Decided(1, 0, 0.2), Decided(1, 2, 1.0), Decided(1, 2, 1.5), Decided(1, 3, 2.25), Decided(2, 1, 6.0)]
    assert reactions(reports, statuses) == [1.0, 0.5, 0.25, 1.0]


def test_percentiles_are_nearest_rank() -> None:
    assert percentile(list(range(1, 101)), 99) == 99
    assert percentile([7.0], 50) == 7.0
    assert math.isnan(percentile([], 99))
