"""The view model: where each node and each rollout stands, by what the API objects say."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest

import cli_world as world
from proxymode_api.modes import ObservedMode
from proxymode_api.proxymode_status import StagePhase
from proxymode_cli.view import NodeState


def states(nodes: list[dict[str, Any]]) -> dict[str, NodeState]:
    return {node.name: node.state for node in world.fleet(nodes=nodes).nodes if node.proxy_mode}


def test_every_node_is_in_one_state() -> None:
    assert {node.name: node.state for node in world.fleet().nodes} == {
        "node-1": NodeState.UPDATED,
        "node-2": NodeState.UPDATED,
        "node-3": NodeState.SWITCHING,
        "node-4": NodeState.BLOCKED,
        "node-5": NodeState.WAITING,
        "node-6": NodeState.WAITING,
        "node-7": NodeState.SILENT,
        "node-8": NodeState.NO_AGENT,
    }


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"phase": "Failed"}, NodeState.FAILED),
        ({"phase": "Active", "mode": "nftables", "desired": "nftables"}, NodeState.UPDATED),
        ({"phase": "Programming", "mode": "nftables", "desired": "nftables", "ready": "False"}, NodeState.SWITCHING),
        ({"phase": "Active", "mode": "ipvs", "desired": "nftables"}, NodeState.SWITCHING),
        ({"phase": "Active", "mode": "nftables", "desired": "nftables", "results": (world.BLOCK,)}, NodeState.UPDATED),
        ({"phase": "Active", "mode": "ipvs", "results": (world.BLOCK,)}, NodeState.BLOCKED),
    ],
)
def test_what_a_node_reports_decides_its_state(change: dict[str, Any], state: NodeState) -> None:
    assert states([world.node_proxy_mode("node-1", **change)]) == {"node-1": state}


@pytest.mark.parametrize("skew", [timedelta(hours=-1), timedelta(hours=1)])
def test_when_an_agent_wrote_is_for_the_api_server_to_say_and_not_for_its_nodes_clock(skew: timedelta) -> None:
    def state(ago: timedelta) -> NodeState:
        node = world.node_proxy_mode("node-1", heartbeat=(world.NOW - ago + skew).isoformat())
        by_others = {"manager": "kubectl", "time": world.NOW.isoformat(), "subresource": "status"}
        by_agent = {"manager": "proxymode-agent", "time": (world.NOW - ago).isoformat(), "subresource": "status"}
        node["metadata"]["managedFields"] = [by_others, by_agent]
        return states([node])["node-1"]

    assert state(timedelta(minutes=1)) is NodeState.WAITING
    assert state(timedelta(minutes=4)) is NodeState.SILENT


def test_a_report_about_an_older_spec_is_not_yet_an_answer() -> None:
    node = world.node_proxy_mode("node-1", "nftables", desired="nftables")
    node["metadata"]["generation"] = 3
    assert states([node]) == {"node-1": NodeState.SWITCHING}


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"phase": "Failed"}, NodeState.SKIPPED),
        ({"phase": "Active", "mode": "ipvs", "results": (world.BLOCK,)}, NodeState.SKIPPED),
        ({"phase": "Active", "mode": "nftables", "desired": "nftables"}, NodeState.UPDATED),
        ({"phase": "Switching", "mode": "ipvs", "desired": "nftables"}, NodeState.SWITCHING),
    ],
)
def test_a_skipped_node_is_said_to_be_unless_it_is_there_or_under_way(change: dict[str, Any], state: NodeState) -> None:
    node = world.node_proxy_mode("node-1", **change)
    node["metadata"]["annotations"] = {"proxymode.io/skip": "broken NIC"}
    (found,) = [found for found in world.fleet(nodes=[node]).nodes if found.name == "node-1"]
    assert (found.state, found.skip) == (state, "broken NIC")


def test_a_node_that_nobody_decides_about_is_settled() -> None:
    node = world.node_proxy_mode("node-1")
    node["spec"] = {}
    (found,) = [found for found in world.fleet(nodes=[node]).nodes if found.name == "node-1"]
    assert found.state is NodeState.SETTLED
    assert not found.changes


def test_modes_are_counted_and_deprecation_is_worded_for_the_clusters_version() -> None:
    view = world.fleet(version="v1.39.1")
    assert view.modes == {"ipvs": 5, "nftables": 2, "unknown": 1}
    assert view.deprecation.startswith("5 nodes: ipvs is deprecated since 1.35")
    assert "1.40 (the next minor of this cluster)" in view.deprecation
    assert world.fleet(version="v1.34.0").deprecation == ""


def test_every_node_has_the_stage_that_the_operator_has_put_it_in_told_or_not() -> None:
    (rollout,) = world.fleet().rollouts
    stages = {node.name: (node.stage, rollout.told(node)) for node in rollout.nodes}
    assert stages["node-1"] == ("canary", True)
    assert stages["node-3"] == ("half", True)
    assert stages["node-5"] == ("half", False)
    assert stages["node-6"] == ("all", False)


def test_stages_that_the_operator_has_not_reported_are_pending() -> None:
    proxy_mode = copy.deepcopy(world.PROXY_MODE)
    del proxy_mode["status"]
    (rollout,) = world.fleet(proxy_mode).rollouts
    assert [(stage.name, stage.reach, stage.report.phase) for stage in rollout.stages] == [
        ("canary", "1 node", StagePhase.PENDING),
        ("half", "50 %", StagePhase.PENDING),
        ("all", "100 %", StagePhase.PENDING),
    ]
    assert rollout.stale


def test_connections_of_this_revisions_switches_are_added_up() -> None:
    (rollout,) = world.fleet().rollouts
    assert (rollout.kept, rollout.lost) == (83, 1)


def test_a_node_without_nodeproxymode_is_listed_with_what_the_node_says() -> None:
    node = world.fleet().node("node-8")
    assert node is not None
    assert node.mode is None
    assert node.machine.kernel == world.KERNEL


def test_a_node_that_may_not_be_listed_is_known_by_its_nodeproxymode() -> None:
    node = world.fleet(nodes=[world.node_proxy_mode("elsewhere")]).node("elsewhere")
    assert node is not None
    assert node.mode is ObservedMode.IPVS
