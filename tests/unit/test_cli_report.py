"""A rollout's evidence as one file: what it says, that it needs nothing else, and that nobody can smuggle markup in."""

from __future__ import annotations

import copy
import json
import re
import xml.etree.ElementTree as ElementTree
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

import cli_world as world
from proxymode_cli.report.evidence import Evidence, Happening, evidence, happening
from proxymode_cli.report.html import KEY, STYLE, html
from proxymode_cli.report.markdown import markdown
from proxymode_cli.report.sections import sections
from proxymode_cli.report.timeline import LEFT, RIGHT, WIDTH, timeline
from proxymode_cli.reporting import ReportFormat, written

SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta", "br", "link", "img"}


def seen(proxy_mode: dict[str, Any] | None = None, nodes: list[dict[str, Any]] | None = None, **rest: Any) -> Evidence:
    view = world.fleet(proxy_mode or world.PROXY_MODE, nodes)
    happenings = rest.pop("happenings", ())
    return evidence(view, view.rollouts[0], happenings, server="https://10.0.0.1:6443", plugin="0.1.0", **rest)


def complete(count: int = 3, lost: int = 0) -> Evidence:
    """A finished rollout of so many nodes, a minute apart."""
    found = copy.deepcopy(world.PROXY_MODE)
    found["status"] |= {
        "status": "Complete",
        "completedAt": world.at(minutes=1),
        "startedAt": world.at(minutes=count + 2),
        "fromMode": "ipvs",
        "nodes": {"desired": count, "updated": count, "ready": count, "progress": f"{count}/{count}"},
        "stages": [
            {
                "name": "canary",
                "phase": "Complete",
                "nodes": count,
                "updated": count,
                "startedAt": world.at(minutes=count + 1),
                "completedAt": world.at(minutes=1),
            }
        ],
    }
    nodes = []
    for n in range(count):
        switch = world.switched(lost=lost if n == 0 else 0)
        switch |= {"startedAt": world.at(minutes=count - n + 1), "completedAt": world.at(minutes=count - n + 0.9)}
        nodes.append(world.node_proxy_mode(f"n{n:03}", "nftables", told="canary", desired="nftables", switch=switch))
    return seen(found, nodes)


class Tags(HTMLParser):
    """Checks that every element is closed in its place, and keeps attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == []
    return tags


@pytest.mark.parametrize("report", [seen(), complete(), complete(40)])
def test_the_page_is_one_file_that_asks_nobody_for_anything(report: Evidence) -> None:
    text = html(report)
    tags = parsed(text)
    assert not tags.names & {"script", "link", "img", "iframe", "object"}
    assert not {name for name, _ in tags.attributes} & {"src", "href", "onload", "onclick"}
    assert "url(" not in text
    assert "@import" not in text


def test_every_colour_of_the_timeline_is_in_its_key() -> None:
    kinds = dict(re.findall(r"rect\.([\w-]+) \{ fill: var\(--([\w-]+)\)", STYLE))
    assert {"good", "bad", "lossy", "under-way", "soak", "going"} <= kinds.keys()
    assert set(kinds.values()) <= {name for name, _ in KEY}


def test_what_people_wrote_is_text_and_never_markup() -> None:
    nodes = copy.deepcopy(world.NODES)
    nodes[4]["metadata"]["annotations"] = {"proxymode.io/skip": "<script>alert(1)</script> | **bold**"}
    nodes[3]["status"]["preflight"]["results"][0] |= {"found": '"><img src=x>'}
    report = seen(nodes=nodes, happenings=[Happening(world.NOW, "fleet", "Refused", "<b>note</b>", warning=True)])
    assert not parsed(html(report)).names & {"script", "img", "b>"}
    assert "&lt;script&gt;" in html(report)
    found = markdown(report)
    assert "<script>" not in found
    assert r"\<script\>alert(1)\</script\> \| \*\*bold\*\*" in found


def test_the_sentence_that_is_read_first() -> None:
    assert complete().verdict == (
        "All 3 nodes run nftables. No connection was lost: 126 were open when nodes switched."
    )
    assert complete(lost=2).verdict == "All 3 nodes run nftables. 2 of 126 connections were lost."
    assert seen().verdict == "Progressing: 2 of 8 nodes run nftables (1 blocked). 1 of 84 connections was lost."


def test_switches_of_an_earlier_revision_do_not_count() -> None:
    found = copy.deepcopy(world.PROXY_MODE)
    found["status"]["startedAt"] = world.at(minutes=1)
    report = seen(found)
    assert (report.connections.found, report.connections.lost) == (0, 0)
    assert "connection" not in report.verdict, "nobody has switched yet"
    assert report.verdict.endswith(".")


def test_a_rollout_that_is_over_is_not_among_the_earlier_ones() -> None:
    record = {"mode": "nftables", "outcome": "Complete", "startedAt": world.at(hours=2), "endedAt": world.at(hours=1)}
    found = copy.deepcopy(world.PROXY_MODE)
    found["status"]["history"] = [{"revision": revision} | record for revision in (3, 2)]
    (earlier,) = [section for section in sections(seen(found)) if section.title == "Earlier rollouts"]
    assert [row[0].text for row in earlier.rows] == ["2"]
    found["status"]["history"] = [{"revision": 3} | record]
    assert "Earlier rollouts" not in [section.title for section in sections(seen(found))]


def test_every_table_has_a_cell_for_each_column() -> None:
    found = copy.deepcopy(world.PROXY_MODE)
    found["status"]["gates"] = [
        {"name": "errors", "result": "Fail", "value": "0.3", "message": "0.3 is not < 0.01", "measuredAt": world.at()}
    ]
    event = Happening(world.NOW, "node-4", "Blocked", "nftables is blocked", warning=True)
    report = seen(found, happenings=[event])
    titles = [section.title for section in sections(report)]
    assert titles == ["Stages", "Nodes", "Preflight", "Gates", "Deprecation", "Events", "Earlier rollouts"]
    for section in sections(report):
        assert {len(row) for row in section.rows} <= {len(section.columns)}
        assert section.right <= set(section.columns)


def test_nodes_that_need_a_look_come_first() -> None:
    (nodes,) = [section for section in sections(seen()) if section.title == "Nodes"]
    names = [row[0].text for row in nodes.rows]
    assert names[-2:] == ["node-1", "node-2"]
    assert sorted(names[:-2]) == ["node-3", "node-4", "node-5", "node-6", "node-7"]


def test_events_are_ours_about_this_fleet_and_of_this_revision() -> None:
    def event(name: str, controller: str = "proxymode.io/agent", **ago: float) -> dict[str, Any]:
        return {
            "reportingController": controller,
            "regarding": {"name": name},
            "eventTime": world.at(**ago),
            "reason": "SwitchStarted",
            "note": "a note",
            "type": "Normal",
        }

    items = [
        event("node-1", minutes=2),
        event("fleet", "proxymode.io/operator", minutes=3),
        event("node-1", "kubelet", minutes=2),
        event("node-99", minutes=2),
        event("node-1", hours=2),
        event("node-1") | {"eventTime": None},
    ]
    found = [entry for entry in map(happening, items) if entry is not None]
    assert [(entry.about, entry.at) for entry in seen(happenings=found).happenings] == [
        ("fleet", world.NOW - timedelta(minutes=3)),
        ("node-1", world.NOW - timedelta(minutes=2)),
    ]


@pytest.mark.parametrize("report", [seen(), complete(), complete(40, lost=1)])
def test_the_picture_is_to_scale_and_in_its_frame(report: Evidence) -> None:
    root = ElementTree.fromstring(timeline(report))
    bars = root.findall(f"{SVG}rect")
    assert bars
    height = float(root.get("viewBox", "").split()[3])
    for bar in bars:
        x, width = float(bar.get("x", "")), float(bar.get("width", ""))
        assert x >= LEFT
        assert x + width <= WIDTH - RIGHT + 0.11
        assert float(bar.get("y", "")) + float(bar.get("height", "")) <= height
    switches = [bar for bar in bars if bar.get("class") in {"good", "lossy"}]
    assert len(switches) == sum(1 for _ in report.rollout.switches() if _.completed_at)
    began = {(bar.find(f"{SVG}title").text or "").partition(":")[0]: float(bar.get("x", "")) for bar in switches}  # type: ignore[union-attr]
    assert [began[name] for name in sorted(began)] == sorted(began.values())


def test_the_curve_ends_at_the_nodes_that_are_updated() -> None:
    for report, share in ((complete(), 1.0), (seen(), 2 / 8)):
        found = re.search(r'<path class="curve" d="M[\d.]+,([\d.]+) .*?V([\d.]+) H[\d.]+ V[\d.]+ Z"', timeline(report))
        assert found is not None
        base, top = float(found[1]), float(found[2])
        assert (base - top) / 96 == pytest.approx(share, abs=0.01)


def test_a_switch_that_lost_connections_is_not_hidden_among_many() -> None:
    root = ElementTree.fromstring(timeline(complete(40, lost=1)))
    kinds = [bar.get("class") for bar in root.findall(f"{SVG}rect") if bar.get("class") in {"good", "lossy"}]
    assert kinds == ["good"] * 39 + ["lossy"]


def test_a_rollout_that_has_not_begun_has_no_picture() -> None:
    found = copy.deepcopy(world.PROXY_MODE)
    found["status"] = {}
    report = seen(found)
    assert timeline(report) == ""
    assert report.verdict == "Pending: the rollout has not begun."
    parsed(html(report))


def test_all_forms_say_the_same() -> None:
    report = complete(lost=1)
    as_json = json.loads(written(report, ReportFormat.JSON))
    assert as_json["connections"] == {"found": 126, "kept": 125, "drained": 0, "lost": 1}
    assert as_json["rollout"]["fromMode"] == "ipvs"
    for text in (written(report, ReportFormat.HTML), written(report, ReportFormat.MARKDOWN)):
        assert "1 of 126 connections was lost" in text
        assert "n002" in text
