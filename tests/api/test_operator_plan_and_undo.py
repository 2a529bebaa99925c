"""The operator process on a real API server: the plan of a paused rollout, undo, and one domain at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from operator_bed import PROXY_MODES, Bed, api, bed
from proxymode_testbeds.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from proxymode_testbeds.apiserver import ApiServer

__all__ = ["api"]

STAGES = [
    {"name": "canary", "count": 1},
    {"name": "half", "percent": 50},
    {"name": "all", "percent": 100},
]
EAST, WEST = ["e0", "e1", "e2"], ["w0", "w1", "w2"]


@pytest.fixture
async def fleet(api: ApiServer, tmp_path: Path) -> AsyncIterator[Bed]:
    async with bed(api, tmp_path) as found:
        await found.add_nodes(*EAST, labels={"zone": "east"})
        await found.add_nodes(*WEST, labels={"zone": "west"})
        yield found


async def test_a_paused_rollout_shows_its_plan_and_then_does_just_that(fleet: Bed) -> None:
    fleet.agents["e2"].unable = {"nftables"}
    async with fleet.operator():
        await fleet.create(stages=STAGES, paused=True)
        await fleet.until_status("Paused")

        async def complete() -> bool:
            blockers = (await fleet.status()).get("plan", {}).get("blockers", [])
            return [blocker["why"] for blocker in blockers] == ["blocked by nft-expressions"]

        await eventually(complete, "all agents have reported")
        plan = (await fleet.status())["plan"]
        assert [(stage["name"], stage["toMove"]) for stage in plan["stages"]] == [
            ("canary", 1),
            ("half", 2),
            ("all", 2),
        ]
        assert plan["blockers"] == [{"why": "blocked by nft-expressions", "nodes": 1, "first": ["e2"]}]
        assert all(mode is None for _, mode in fleet.history)
        await fleet.edit({"spec": {"rollout": {"paused": False}}})
        found = await fleet.until_status("Complete")
        assert "plan" not in found
    told = [node for node, mode in fleet.history if mode == "nftables"]
    assert told == [node for stage in plan["stages"] for node in stage["first"]]


@pytest.mark.parametrize("order", ["Reverse", "AtOnce"])
async def test_undo_takes_everybody_back_and_its_annotation_away(fleet: Bed, order: str) -> None:
    async with fleet.operator():
        await fleet.create(stages=STAGES, maxUnavailable=2)
        await fleet.until_status("Complete")
        told = [node for node, mode in fleet.history if mode == "nftables"]
        assert (await fleet.status())["fromMode"] == "ipvs"
        undo = {"metadata": {"annotations": {"proxymode.io/undo": order}}, "spec": {"mode": "ipvs"}}
        await fleet.edit(undo)
        await fleet.until("everybody is back", lambda: set(fleet.modes().values()) == {"ipvs"})
        found = await fleet.until_status("Complete")
        assert (found["order"], found["revision"]) == (order, 2)
        back = [node for node, mode in fleet.history if mode == "ipvs"]
        if order == "Reverse":
            assert [stage["name"] for stage in found["stages"]] == ["all", "half", "canary"]
            assert back[-1] == told[0], "the canary was first and is last"
            assert set(back[:3]) == set(told[3:])
        else:
            assert [stage["name"] for stage in found["stages"]] == ["undo"]

        async def heard() -> bool:
            meta = (await fleet.get(f"{PROXY_MODES}/fleet"))["metadata"]
            return "proxymode.io/undo" not in meta.get("annotations", {})

        await eventually(heard, "the annotation is taken away")
    assert fleet.in_flight_most <= 2


async def test_one_domain_moves_at_a_time(fleet: Bed) -> None:
    async with fleet.operator():
        await fleet.create(topologyKey="zone", topologyPolicy="OneDomain", maxUnavailable=6)
        await fleet.until_status("Complete")
    told = [node for node, mode in fleet.history if mode == "nftables"]
    assert (sorted(told[:3]), sorted(told[3:])) == (EAST, WEST)
    assert fleet.in_flight_most <= 3
