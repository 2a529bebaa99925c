"""What a person reads: renderings of a known fleet, as text."""

from __future__ import annotations

import copy
import json
from datetime import timedelta
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

import cli_world as world
import yaml
from proxymode_api.modes import Mode
from proxymode_api.proxymode_status import RolloutOutcome, RolloutRecord
from proxymode_api.reasons.explain import PAGES
from proxymode_cli import output, render, render_checks, render_explain, words
from proxymode_cli.errors import ExitCode
from proxymode_cli.joining import fleet_view
from proxymode_cli.options import console
from proxymode_cli.render_node import node as render_node
from proxymode_cli.watching import changes, tree, verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

    from proxymode_cli.view import RolloutView


def lines(found: RenderableType, width: int = 120) -> list[str]:
    """The rendering line by line, spaces squeezed."""
    console = Console(file=StringIO(), width=width)
    console.print(found)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [" ".join(line.split()) for line in text.splitlines()]


def rollout() -> RolloutView:
    (found,) = world.fleet().rollouts
    return found


def test_nodes_of_kube_proxys_are_not_counted_as_not_ready() -> None:
    """Their agents only look on: whether they are Ready is not theirs to say."""
    assert words.count_of([None, None]) == words.NOTHING
    assert words.count_of([None, True, False, True]) == "2"
    assert words.count_of([False]) == "0"


def test_status_tells_modes_deprecation_rollouts_and_who_needs_a_person() -> None:
    shown = lines(render.status(world.fleet()))
    assert "Kubernetes v1.39.1 8 nodes: 5 ipvs, 2 nftables, 1 unknown" in shown
    assert any(line.startswith("! 5 nodes: ipvs is deprecated since 1.35") for line in shown)
    assert "ipvs 5 4 5.10.0-34-amd64, 6.1.0-41-amd64 0.1.0 1.43" in shown
    assert "fleet → nftables Progressing revision 3" in shown
    assert "half ━━━━━━━━╍╍╍╍╍╍╍╍──────── 1/3 Progressing 1 blocked" in shown
    assert "Blocked: node-4" in shown
    assert "No agent: node-8" in shown


def test_history_tells_of_every_rollout_in_one_line() -> None:
    past = [
        RolloutRecord(
            revision=2,
            mode=Mode.IPVS,
            from_mode=Mode.NFTABLES,
            started_at=world.NOW - timedelta(hours=2),
            ended_at=world.NOW - timedelta(minutes=30),
            outcome=RolloutOutcome.ABORTED,
            nodes=3,
            updated=5,
            failed=1,
            skipped=2,
            changed_by="argocd-controller",
            change_cause="CHG-7",
        ),
        RolloutRecord(
            revision=1,
            mode=Mode.NFTABLES,
            started_at=world.NOW - timedelta(days=3),
            ended_at=world.NOW - timedelta(days=3),
            outcome=RolloutOutcome.COMPLETE,
            nodes=8,
            updated=8,
        ),
    ]
    shown = lines(render.history(past, world.NOW), width=200)
    assert shown[0] == "REVISION FROM TO OUTCOME MOVED RESULT TOOK ENDED BY CAUSE"
    assert shown[1] == "2 nftables ipvs Aborted 3 5 updated, 1 failed, 2 skipped 90m 30m ago argocd-controller CHG-7"
    assert shown[2] == "1 – nftables Complete 8 8 updated 0s 3d ago –"
    assert lines(render.history([], world.NOW)) == ["No rollout is over yet."]


def test_a_quiet_cluster_says_that_nothing_is_asked() -> None:
    view = fleet_view([], [], [], "v1.36.2", world.NOW)
    assert "No ProxyMode: nothing is asked of any node." in lines(render.status(view))


def test_a_terminal_of_80_columns_breaks_no_word() -> None:
    shown = lines(render.plan(world.fleet(), rollout()), width=80)
    assert "half 1/3 Progressing 50 % manual – 1 blocked" in shown
    assert "node-4 eu-1b ipvs → nftables Blocked all kernel-version" in shown
    shown = lines(render.status(world.fleet()), width=80)
    assert "half ━━━━━━━━╍╍╍╍╍╍╍╍──────── 1/3 Progressing 1 blocked" in shown
    assert "ipvs 5 4 5.10.0-34-amd64, 6.1.0-41-amd64 0.1.0 1.43" in shown


def test_wide_is_as_wide_as_it_is_whatever_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    narrow, wide = console().width, console(output.Format.WIDE).width
    monkeypatch.undo()
    assert narrow == 80
    shown = lines(render.status(world.fleet(), wide=True), width=wide)
    assert "node-4 eu-1b ipvs Blocked True fleet 12 40 5.10.0-34-amd64 0.1.0 20s ago" in shown


def test_plan_tells_node_by_node_what_would_change_and_why_one_cannot() -> None:
    shown = lines(render.plan(world.fleet(), rollout()))
    assert "5 nodes of 7 are to change; 1 blocked." in shown
    assert "node-4 eu-1b ipvs → nftables Blocked all kernel-version" in shown
    assert "node-1 eu-1b nftables Updated canary pass" in shown
    assert "block kernel-version on node-4" in shown
    assert "→ Upgrade the node's kernel to 5.13 or newer, better 6.1." in shown
    assert "Not decided by fleet: node-8" in shown


def test_preflight_counts_and_gives_each_remedy_once() -> None:
    nodes = [world.node_proxy_mode(f"node-{n}", results=(world.BLOCK, world.WARN)) for n in range(1, 4)]
    shown = lines(render_checks.preflight(world.fleet(nodes=nodes).nodes, world.NOW))
    assert "node-1 nftables 0 1 1 4m ago" in shown
    assert shown.count("block kernel-version on node-1, node-2, node-3") == 1


def test_a_node_is_told_in_full() -> None:
    node = world.fleet().node("node-2")
    assert node is not None
    shown = lines(render_node(node, world.NOW))
    assert "node-2 nftables Updated" in shown
    assert "Ready True 3h Programmed The kernel does in nftables mode what Services say." in shown
    assert "Last switch ipvs → nftables Succeeded 6m ago, took 3.0 s" in shown
    assert "42 connections found, 41 kept, 1 lost" in shown
    assert "remove-virtual-servers 1480 ━━━━━━━━━━━━━━━━━━━━━━━━" in shown


def test_a_node_without_agent_is_told_too() -> None:
    node = world.fleet().node("node-8")
    assert node is not None
    assert "Agent has not reported" in lines(render_node(node, world.NOW))


def test_the_tree_puts_nodes_under_the_stage_in_which_they_were_told() -> None:
    shown = lines(tree(world.fleet(), rollout()))
    canary, half = (next(n for n, line in enumerate(shown) if f"── {name}" in line) for name in ("canary", "half"))
    assert "node-1 nftables Updated, 42 connections kept, 0 lost" in shown[canary + 1]
    assert "node-2 nftables Updated, 41 connections kept, 1 lost" in shown[half + 1]
    assert "node-3 ipvs Switching, program done" in shown[half + 2]
    assert "Waiting: node-5, node-6" in shown
    assert "Blocked: node-4 (kernel-version)" in shown
    assert "Connections open when nodes switched: 83 kept, 1 lost" in shown


def test_a_large_stage_shows_only_nodes_that_are_not_done() -> None:
    nodes = [world.node_proxy_mode(f"n-{n:03}", "nftables", told="half", desired="nftables") for n in range(40)]
    nodes.append(world.node_proxy_mode("slow", told="half", desired="nftables", phase="Switching"))
    view = world.fleet(nodes=nodes)
    shown = "\n".join(lines(tree(view, view.rollouts[0])))
    assert "slow" in shown
    assert "n-0" not in shown


def test_a_stage_that_waits_says_how_to_let_it_go() -> None:
    proxy_mode = copy.deepcopy(world.PROXY_MODE)
    proxy_mode["status"]["stages"][1]["phase"] = "AwaitingApproval"
    view = world.fleet(proxy_mode)
    assert any("kubectl proxymode promote" in line for line in lines(tree(view, view.rollouts[0])))


def test_without_a_terminal_each_change_is_a_line_once() -> None:
    before = rollout()
    first = changes(None, before)
    assert "fleet revision 3 to nftables: Progressing, 2/8" in first
    assert "node node-3: Switching, program done" in first
    assert changes(before, before) == []
    nodes = copy.deepcopy(world.NODES)
    nodes[2] = world.node_proxy_mode("node-3", "nftables", told="half", desired="nftables")
    assert changes(before, world.fleet(nodes=nodes).rollouts[0]) == ["node node-3: Updated"]


@pytest.mark.parametrize(
    ("status", "observed", "code"),
    [
        ("Complete", 4, ExitCode.DONE),
        ("Complete", 3, None),
        ("Stopped", 4, ExitCode.NOT_AS_WISHED),
        ("Aborted", 4, ExitCode.NOT_AS_WISHED),
        ("Refused", 4, ExitCode.NOT_AS_WISHED),
        ("Progressing", 4, None),
        ("Paused", 4, None),
        ("RollingBack", 4, None),
    ],
)
def test_a_watch_ends_when_there_is_no_more_to_come(status: str, observed: int, code: ExitCode | None) -> None:
    proxy_mode = copy.deepcopy(world.PROXY_MODE)
    proxy_mode["status"].update(status=status, observedGeneration=observed)
    assert verdict(world.fleet(proxy_mode).rollouts[0]) is code


def test_everything_fits_a_narrow_terminal() -> None:
    view = world.fleet()
    node = view.node("node-4")
    assert node is not None
    drawn = (
        render.status(view),
        render.plan(view, rollout()),
        render_checks.preflight(view.nodes, view.at),
        render_node(node, view.at),
        tree(view, rollout()),
        render_explain.page(PAGES["Blocked"]),
        render_explain.contents(wide=False),
    )
    for found in drawn:
        console = Console(file=StringIO(), width=60)
        console.print(found)
        assert max(map(len, console.file.getvalue().splitlines())) <= 60  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172800, "2d")]
)
def test_ages_are_written_as_kubectl_does(seconds: int, text: str) -> None:
    assert words.duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(("done", "blocked", "total"), [(0, 0, 0), (0, 0, 5), (5, 0, 5), (4, 1, 5), (799, 1, 800)])
def test_a_bar_has_one_width_and_is_full_only_when_all_is_done(done: int, blocked: int, total: int) -> None:
    bar = words.bar(done, blocked, total, "").plain
    assert len(bar) == words.BAR_WIDTH
    assert (set(bar) == {"━"}) == (total > 0 and done == total)


def test_json_and_yaml_say_the_same_in_the_apis_style() -> None:
    view = world.fleet()
    as_json = json.loads(output.text(view, output.Format.JSON))
    assert as_json == yaml.safe_load(output.text(view, output.Format.YAML))
    assert as_json["clusterVersion"] == "v1.39.1"
    assert as_json["nodes"][1]["lastSwitch"]["connectionsLost"] == 1
    assert as_json["at"] == "2026-11-21T12:00:00Z"
    assert "target" not in as_json["nodes"][7]


def test_gates_are_in_the_plan_and_those_that_hold_it_up_in_the_watch() -> None:
    proxy_mode = copy.deepcopy(world.PROXY_MODE)
    proxy_mode["status"]["gates"] = [
        {"name": "errors", "stage": "canary", "result": "Fail", "value": "0.3", "message": "0.3 is not < 0.01"},
        {"name": "approvals", "stage": "canary", "result": "Pass", "value": "200", "message": "200 OK"},
    ]
    for gate in proxy_mode["status"]["gates"]:
        gate["measuredAt"] = world.at(seconds=30)
    view = world.fleet(proxy_mode)
    found = lines(render.plan(view, view.rollouts[0]))
    assert "errors canary Fail 0.3 30s 0.3 is not < 0.01" in found
    assert "approvals canary Pass 200 30s 200 OK" in found
    watched = lines(tree(view, view.rollouts[0]))
    assert "Gate errors: Fail, 0.3 is not < 0.01" in watched
    assert not any("approvals" in line for line in watched)


def test_a_cluster_without_nodes_or_checks_says_so() -> None:
    view = fleet_view([], [], [], "v1.36.2", world.NOW)
    assert lines(render.status(view)) == [
        "Kubernetes v1.36.2 0 nodes",
        "",
        "No ProxyMode: nothing is asked of any node.",
    ]
    assert lines(render_checks.preflight((), world.NOW)) == ["No Linux node is to be seen."]
    assert lines(render_checks.results(())) == [
        "Nothing is checked yet: no agent has reported, or no mode is asked for."
    ]


def test_a_switch_tells_what_drained_how_often_it_was_begun_and_what_answers_no_more() -> None:
    node = world.node_proxy_mode("node-1", "nftables", desired="nftables", switch=world.switched(lost=1))
    node["status"]["lastSwitch"] |= {
        "connectionsKept": 30,
        "connectionsDrained": 11,
        "attempts": 2,
        "verification": [
            {"kind": "ClusterIP", "probed": 8, "before": 7, "after": 7},
            {"kind": "NodePort", "probed": 3, "before": 3, "after": 2, "failed": ["10.0.0.1:30080/TCP"]},
        ],
    }
    view = world.fleet(nodes=[node])
    shown = " ".join(lines(render_node(view.nodes[0], view.at)))
    assert "42 connections found, 30 kept, 11 ended by themselves, 1 lost" in shown
    assert ", 2 attempts" in shown
    assert "ClusterIP: 7 of 7 that answered before answer still" in shown
    assert "NodePort: 2 of 3 that answered before answer still; not 10.0.0.1:30080/TCP" in shown


def test_a_drain_under_way_says_how_long_connections_have() -> None:
    node = world.node_proxy_mode("node-1", phase="Switching", desired="nftables", switch=world.under_way())
    node["status"]["lastSwitch"]["drainDeadline"] = (world.NOW + timedelta(minutes=9)).isoformat()
    view = world.fleet(nodes=[node])
    assert "have 9m to end by themselves" in " ".join(lines(render_node(view.nodes[0], view.at)))


def test_a_paused_plan_says_who_goes_first_and_how_long_it_takes() -> None:
    proxy_mode = copy.deepcopy(world.PROXY_MODE)
    proxy_mode["status"]["plan"] = {
        "toMove": 4,
        "atATime": 2,
        "estimatedSeconds": 900,
        "stages": [
            {"name": "half", "nodes": 3, "toMove": 1, "first": ["node-5"]},
            {"name": "all", "nodes": 4, "toMove": 3, "first": ["node-6", "node-7"]},
        ],
    }
    view = world.fleet(proxy_mode)
    found = lines(render.plan(view, view.rollouts[0]))
    assert "The operator would tell 4 nodes, at most 2 at a time, in about 15m:" in found
    assert "half: node-5" in found
    assert "all: node-6, node-7 and 1 more" in found
