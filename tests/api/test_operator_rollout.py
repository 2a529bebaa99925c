"""The operator process on a real API server: whole rollouts, what people do in between, and how little it writes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from operator_bed import EVENTS, NODE_PROXY_MODES, PROXY_MODES, Bed, api, bed
from proxymode_testbeds.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from proxymode_testbeds.apiserver import ApiServer

__all__ = ["api"]

THREE_STAGES = [{"name": "one", "count": 1}, {"name": "half", "percent": 50}, {"name": "all", "percent": 100}]
SIX = [f"n{index}" for index in range(6)]


@pytest.fixture
async def fleet(api: ApiServer, tmp_path: Path) -> AsyncIterator[Bed]:
    """Six nodes in ipvs mode with agents, nobody asks for anything yet."""
    async with bed(api, tmp_path) as found:
        await found.add_nodes(*SIX)
        yield found


async def test_a_rollout_in_three_stages_and_the_way_back(fleet: Bed) -> None:
    async with fleet.operator():
        await fleet.create(stages=THREE_STAGES, maxUnavailable=2)
        status = await fleet.until_status("Complete")
        assert set(fleet.modes().values()) == {"nftables"}
        assert fleet.in_flight_most <= 2
        assert status["nodes"]["progress"] == "6/6"
        assert [(stage["name"], stage["nodes"]) for stage in status["stages"]] == [("one", 1), ("half", 2), ("all", 3)]
        assert fleet.spec_writes == dict.fromkeys(SIX, 2)
        for name in SIX:
            item = await fleet.get(f"{NODE_PROXY_MODES}/{name}")
            owner = item["metadata"]["ownerReferences"][0]
            assert (owner["kind"], owner["name"]) == ("Node", name)
            assert item["spec"]["proxyMode"] == "fleet"
            assert item["spec"]["revision"] == 1
        reasons = await fleet.until_event("RolloutComplete")
        assert reasons == ["RolloutStarted", *["StageStarted", "StageComplete"] * 3, "RolloutComplete"]

        await fleet.edit({"spec": {"mode": "ipvs"}})
        await fleet.until("all back", lambda: set(fleet.modes().values()) == {"ipvs"})
        status = await fleet.until_status("Complete")
        assert status["revision"] == 2
        assert [record["outcome"] for record in status["history"]] == ["Complete", "Complete"]
        assert [record["fromMode"] for record in status["history"]] == ["nftables", "ipvs"]
        assert [record["updated"] for record in status["history"]] == [6, 6]
        meta = (await fleet.get(f"{PROXY_MODES}/fleet"))["metadata"]
        managers = {entry["manager"] for entry in meta["managedFields"] if "f:spec" in entry["fieldsV1"]}
        assert {record["changedBy"] for record in status["history"]} <= managers
        assert "" not in managers
        assert fleet.spec_writes == dict.fromkeys(SIX, 4), "two for each direction"
        deprecated = await fleet.condition("DeprecatedMode")
        assert deprecated["status"] == "True"
        assert "removed in 1.43" in deprecated["message"]


async def test_nothing_but_the_operators_own_fields_is_written(fleet: Bed) -> None:
    """kopf puts no annotation, finalizer or status on anything."""
    async with fleet.operator():
        await fleet.create(stages=THREE_STAGES, maxUnavailable=6)
        await fleet.until_status("Complete")
    proxy_mode = await fleet.get(f"{PROXY_MODES}/fleet")
    assert "annotations" not in proxy_mode["metadata"]
    assert "finalizers" not in proxy_mode["metadata"]
    for name in SIX:
        node = await fleet.get(f"/api/v1/nodes/{name}")
        assert "annotations" not in node["metadata"]
        item = await fleet.get(f"{NODE_PROXY_MODES}/{name}")
        assert list(item["metadata"]["annotations"]) == ["proxymode.io/turn"]
        assert "finalizers" not in item["metadata"]


async def test_the_stored_status_is_what_the_planner_wrote(fleet: Bed) -> None:
    """The CRD's schema knows every field: the API server prunes nothing, so a settled operator writes no more."""
    async with fleet.operator():
        await fleet.create(stages=THREE_STAGES, maxUnavailable=6)
        await fleet.until_status("Complete")
        version = (await fleet.get(f"{PROXY_MODES}/fleet"))["metadata"]["resourceVersion"]
        await fleet.edit({"metadata": {"annotations": {"touched": "by a person"}}})
        touched = (await fleet.get(f"{PROXY_MODES}/fleet"))["metadata"]["resourceVersion"]
        assert touched != version
        # A rollout of another object goes through the same queue after the touched one.
        await fleet.create("other", mode="nftables")
        await fleet.until_status("Pending", "other")
        assert (await fleet.get(f"{PROXY_MODES}/fleet"))["metadata"]["resourceVersion"] == touched


async def test_a_manual_stage_waits_for_the_promote_annotation_which_is_then_taken_away(fleet: Bed) -> None:
    stages = [{"name": "one", "count": 1}, {"name": "rest", "percent": 100, "approval": "Manual"}]
    async with fleet.operator():
        await fleet.create(stages=stages, maxUnavailable=6)
        await fleet.until_status("AwaitingApproval")
        assert list(fleet.modes().values()).count("nftables") == 1
        await fleet.edit({"metadata": {"annotations": {"proxymode.io/promote": "rest"}}})
        await fleet.until_status("Complete")
        assert "annotations" not in (await fleet.get(f"{PROXY_MODES}/fleet"))["metadata"]
        reasons = await fleet.until_event("Promoted")
        assert reasons.index("AwaitingApproval") < reasons.index("Promoted")


async def test_a_blocked_node_is_gone_round_and_said(fleet: Bed) -> None:
    fleet.agents["n0"].unable = {"nftables"}
    async with fleet.operator():
        await fleet.create(stages=THREE_STAGES, maxUnavailable=6)
        status = await fleet.until_status("Complete")
    assert fleet.modes() == {"n0": "ipvs"} | dict.fromkeys(SIX[1:], "nftables")
    assert ("n0", "nftables") not in fleet.history
    assert status["nodes"]["blocked"] == 1
    complete = next(c for c in status["conditions"] if c["type"] == "Complete")
    assert complete["reason"] == "NodesSkipped"
    assert "n0" in complete["message"]


async def test_a_failed_switch_stops_the_rollout_until_it_is_paused_and_undone(fleet: Bed) -> None:
    fleet.agents["n1"].fails = True
    async with fleet.operator():
        await fleet.create(stages=THREE_STAGES, maxUnavailable=1)
        await fleet.until_status("Stopped")
        degraded = await fleet.condition("Degraded")
        assert degraded["reason"] == "FailureThresholdReached"
        assert "n1: its switch failed" in degraded["message"]
        assert [name for name, mode in fleet.history if mode == "nftables"] == ["n0", "n1"]
        await fleet.edit({"spec": {"mode": "ipvs"}})
        await fleet.until_status("Complete")
    assert set(fleet.modes().values()) == {"ipvs"}


async def test_a_failed_node_tries_again_when_asked_and_the_annotation_is_taken_away(fleet: Bed) -> None:
    fleet.agents["n1"].fails = True
    async with fleet.operator():
        await fleet.create(stages=THREE_STAGES, maxUnavailable=2)
        await fleet.until_status("Stopped")
        fleet.agents["n1"].fails = False
        await fleet.edit({"metadata": {"annotations": {"proxymode.io/retry": "n1"}}})
        await fleet.until_status("Complete")
        assert set(fleet.modes().values()) == {"nftables"}
        assert (await fleet.get(f"{NODE_PROXY_MODES}/n1"))["spec"]["attempt"] == 1
        assert "annotations" not in (await fleet.get(f"{PROXY_MODES}/fleet"))["metadata"]
        assert "RetryIgnored" not in await fleet.until_event("Retried")


async def test_a_failed_node_that_is_skipped_goes_back_and_the_others_go_on(fleet: Bed) -> None:
    fleet.agents["n1"].fails = True
    async with fleet.operator():
        await fleet.create(stages=THREE_STAGES, maxUnavailable=1)
        await fleet.until_status("Stopped")
        skip = {"metadata": {"annotations": {"proxymode.io/skip": "broken NIC"}}}
        await fleet.request("PATCH", f"{NODE_PROXY_MODES}/n1", skip)
        status = await fleet.until_status("Complete")
        assert (status["nodes"]["skipped"], status["nodes"]["failed"]) == (1, 0)
        assert "n1: broken NIC" in (await fleet.condition("Complete"))["message"]
        assert fleet.modes() == {"n1": "ipvs"} | dict.fromkeys([n for n in SIX if n != "n1"], "nftables")
        item = await fleet.get(f"{NODE_PROXY_MODES}/n1")
        assert item["spec"]["mode"] == "ipvs"
        assert item["metadata"]["annotations"]["proxymode.io/skip"] == "broken NIC", "the operator's writes leave it"


async def test_paused_and_aborted_start_nothing_new(fleet: Bed) -> None:
    for name in SIX:
        fleet.agents[name].hold = True
    async with fleet.operator():
        await fleet.create(stages=THREE_STAGES, maxUnavailable=1)
        await fleet.until("n0 is told", lambda: ("n0", "nftables") in fleet.history)
        await fleet.edit({"spec": {"rollout": {"paused": True}}})
        await fleet.until_status("Paused")
        for name in SIX:
            fleet.agents[name].hold = False
        await fleet.answer("n0")
        await fleet.until("n0 has switched", lambda: fleet.agents["n0"].kernel == "nftables")
        await fleet.edit({"metadata": {"annotations": {"proxymode.io/abort": "1"}}})
        await fleet.until_status("Aborted")
        await fleet.edit({"spec": {"rollout": {"paused": False}}})
        await fleet.until_observed()
        assert (await fleet.status())["status"] == "Aborted"
    assert list(fleet.modes().values()).count("nftables") == 1
    assert (await fleet.status())["history"][0]["outcome"] == "Aborted"


async def test_outside_its_windows_nothing_is_told_and_a_time_zone_that_does_not_exist_is_refused(fleet: Bed) -> None:
    now = datetime.now(UTC)
    # Closed at least for the hours that this test cannot take.
    closed = {"schedule": f"0 {(now.hour + 12) % 24} * * *", "duration": "1h"}
    async with fleet.operator():
        await fleet.create(stages=THREE_STAGES, maxUnavailable=6, windows=[closed])
        await fleet.until_status("WaitingForWindow")
        progressing = await fleet.condition("Progressing")
        assert progressing["reason"] == "OutsideWindow"
        assert f"T{(now.hour + 12) % 24:02}:00:00+00:00" in progressing["message"]
        await fleet.until_event("OutsideWindow")

        nowhere = {"schedule": "* * * * *", "duration": "1m", "timeZone": "Mars/Phobos"}
        await fleet.edit({"spec": {"rollout": {"windows": [nowhere]}}})
        await fleet.until_status("Refused")
        accepted = await fleet.condition("Accepted")
        assert "spec.rollout.windows[0].timeZone 'Mars/Phobos' is no time zone" in accepted["message"]
        assert set(fleet.modes().values()) == {"ipvs"}
        assert not [entry for entry in fleet.history if entry[1] is not None], "nobody was told anything"

        await fleet.edit({"spec": {"rollout": {"windows": [nowhere | {"timeZone": "Europe/Berlin"}]}}})
        await fleet.until_status("Complete")
        assert set(fleet.modes().values()) == {"nftables"}


async def test_deleting_a_proxy_mode_leaves_every_node_where_it_is(fleet: Bed) -> None:
    for name in SIX:
        fleet.agents[name].hold = name not in ("n0", "n1")
    async with fleet.operator():
        await fleet.create(maxUnavailable=2)
        await fleet.until("two are moved", lambda: list(fleet.modes().values()).count("nftables") == 2)
        await fleet.until("two more are told", lambda: len(fleet.history) == 4)
        await fleet.request("DELETE", f"{PROXY_MODES}/fleet")
        await _released(fleet)
        asked = {name: (await fleet.get(f"{NODE_PROXY_MODES}/{name}"))["spec"].get("mode") for name in SIX}
        assert asked == dict.fromkeys(SIX[:4], "nftables") | dict.fromkeys(SIX[4:])

        async def told_of() -> list[int]:
            notes = [e["note"] for e in (await fleet.get(EVENTS))["items"] if e["reason"] == "NodesReleased"]
            return [int(note.split("about ")[1].split()[0]) for note in notes]

        async def all_told() -> bool:
            # One Event, or several where agents have written at the same moment.
            return sum(await told_of()) >= len(SIX)

        await eventually(all_told, "Events about all six")
        assert sum(await told_of()) == len(SIX)


async def test_a_deletion_while_no_operator_runs_is_noticed_later(fleet: Bed) -> None:
    fleet.lease_seconds = 4  # the first operator is killed and does not give it back
    async with fleet.operator():
        await fleet.create(maxUnavailable=6)
        await fleet.until_status("Complete")
    await fleet.request("DELETE", f"{PROXY_MODES}/fleet")
    async with fleet.operator(name="second"):
        await _released(fleet)
    assert set(fleet.modes().values()) == {"nftables"}


async def test_priority_decides_and_the_loser_says_so(fleet: Bed) -> None:
    async with fleet.operator():
        await fleet.create("low", mode="nftables", paused=True)
        await fleet.until_status("Paused", "low")
        await fleet.create("high", mode="ipvs", maxUnavailable=6)
        await fleet.edit({"spec": {"priority": 10}}, "high")
        await fleet.until_status("Complete", "high")
        accepted = await _condition_reason(fleet, "Accepted", "Overridden", "low")
        assert "high" in accepted["message"]


async def _condition_reason(fleet: Bed, type_: str, reason: str, name: str) -> dict[str, Any]:
    async def reached() -> bool:
        return (await fleet.condition(type_, name)).get("reason") == reason

    await eventually(reached, f"{type_} {reason}")
    return await fleet.condition(type_, name)


async def _released(fleet: Bed) -> None:
    async def nobody_decides() -> bool:
        items = (await fleet.get(NODE_PROXY_MODES))["items"]
        return all(not item["spec"].get("proxyMode") for item in items)

    await eventually(nobody_decides, "proxyMode cleared everywhere")


async def test_probes_answer(fleet: Bed) -> None:
    async with fleet.operator(), aiohttp.ClientSession(f"http://127.0.0.1:{fleet.health_port}") as http:

        async def ready() -> bool:
            try:
                async with http.get("/readyz") as response:
                    return response.status == 200
            except aiohttp.ClientConnectionError:
                return False

        await eventually(ready, "readyz")
        async with http.get("/livez") as response:
            assert response.status == 200
