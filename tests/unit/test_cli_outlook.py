"""How long a rollout will still take, by its pace so far."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import cli_world as world
from proxymode_cli.outlook import remaining

NOW = world.NOW


def left(status: str = "Progressing", stages: list[dict[str, Any]] | None = None, soak: str = "5m") -> timedelta | None:
    found = copy.deepcopy(world.PROXY_MODE)
    found["status"]["status"] = status
    found["spec"]["rollout"]["stages"][0]["soak"] = soak
    found["spec"]["rollout"]["stages"][2]["soak"] = "1h"
    if stages is not None:
        found["status"]["stages"] = stages
    return remaining(world.fleet(found).rollouts[0], NOW)


def stage(name: str, phase: str, nodes: int, updated: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": name, "phase": phase, "nodes": nodes, "updated": updated, **more}


CANARY = stage("canary", "Complete", 1, 1, startedAt=world.at(minutes=12), completedAt=world.at(minutes=10))


def test_nodes_to_come_take_as_long_as_those_that_have_been() -> None:
    half = stage("half", "Progressing", 4, 1, startedAt=world.at(minutes=2))
    # Two nodes took four minutes; three and five are to come. The last stage's soak holds nobody up.
    assert left(stages=[CANARY, half, stage("all", "Pending", 5)]) == timedelta(minutes=16)


def test_blocked_and_skipped_nodes_are_not_waited_for() -> None:
    half = stage("half", "Progressing", 4, 1, startedAt=world.at(minutes=2), blocked=2, skipped=1)
    assert left(stages=[CANARY, half, stage("all", "Pending", 0)]) == timedelta()


def test_soak_that_is_left_counts() -> None:
    soaking = stage("canary", "Soaking", 1, 1, startedAt=world.at(minutes=3), completedAt=world.at(minutes=2))
    stages = [soaking, stage("half", "Pending", 0), stage("all", "Pending", 0)]
    assert left("Soaking", stages) == timedelta(minutes=3)
    assert left("Soaking", stages, soak="1m") == timedelta()


def test_nothing_is_said_without_a_pace_or_of_a_rollout_that_stands() -> None:
    first = stage("canary", "Progressing", 1, startedAt=world.at(minutes=1))
    assert left(stages=[first, stage("half", "Pending", 3), stage("all", "Pending", 4)]) is None
    for status in ("Paused", "Stopped", "AwaitingApproval", "WaitingForWindow", "Complete"):
        assert left(status) is None
