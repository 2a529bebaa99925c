"""The main job as `make demo` runs it, and what it looks like when something is in its way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from proxymode_demo import story
from proxymode_demo.fleet import DemoFleet, running
from proxymode_testbeds.polling import eventually

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

SECONDS = 900.0
"""How long a rollout may take here: nodes are emulated, and the machine may be busy."""


async def test_a_fleet_goes_over_and_comes_back_and_no_new_connection_fails(tmp_path: Path) -> None:
    outcome = await story.tell(3, tmp_path)
    assert (outcome.nodes, outcome.switched, outcome.returned) == (3, 3, 3)
    assert outcome.new > 100
    assert outcome.failed == 0
    assert outcome.established > 0
    assert json.loads(outcome.line())["nodes"] == 3


async def test_the_rollout_goes_round_a_node_that_cannot_and_survives_the_operators_death(tmp_path: Path) -> None:
    async with running(3, tmp_path, lambda _: None) as fleet:
        # What kube-router has on every node whose Services it handles.
        await fleet.processes.output("node2", "ip", "link", "add", "kube-dummy-if", "type", "dummy")
        await fleet.api.kubectl("apply", "-f", str(story.ROLLOUT))
        await eventually(
            lambda: phase_is(fleet, "node1", "Switching", "Programming", "Active"), "node1 is told", SECONDS
        )

        operators = [operator for operator in fleet.operators if operator.returncode is None]
        for operator in operators:
            operator.kill()
            await operator.wait()
        await fleet.start_operator()

        await eventually(lambda: is_complete(fleet), "the rollout is complete", SECONDS)
        found = {name: await fleet.kernel_mode(name) for name in ("node1", "node2", "node3")}
        assert found == {"node1": "nftables", "node2": "none", "node3": "nftables"}
        status = (await fleet.node_modes())["node2"]
        assert status["phase"] == "Blocked"
        blocking = [result for result in status["preflight"]["results"] if result["verdict"] == "block"]
        assert [result["id"] for result in blocking] == ["foreign-dataplane"]
        assert "kube-router" in blocking[0]["found"]
        assert blocking[0]["remedy"]
        proxy_mode = await get(fleet)
        assert proxy_mode["status"]["nodes"]["blocked"] == 1
        assert proxy_mode["status"]["nodes"]["updated"] == 2


async def get(fleet: DemoFleet) -> dict[str, Any]:
    found: dict[str, Any] = (await fleet.api.kubectl("get", "proxymode", story.PROXYMODE, "-o", "json")).json()
    return found


async def is_complete(fleet: DemoFleet) -> bool:
    proxy_mode = await get(fleet)
    status = proxy_mode.get("status", {})
    generation = proxy_mode["metadata"]["generation"]
    return (status.get("status"), status.get("observedGeneration")) == ("Complete", generation)


async def phase_is(fleet: DemoFleet, node: str, *phases: str) -> bool:
    return (await fleet.node_modes()).get(node, {}).get("phase") in phases
