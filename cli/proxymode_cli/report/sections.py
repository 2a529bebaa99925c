"""The tables of a report, apart from how they are written: each a title, columns, and cells of text."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from proxymode_api.nodeproxymode import SwitchOutcome, Verdict
from proxymode_api.proxymode_status import RolloutOutcome
from proxymode_cli import words
from proxymode_cli.report.evidence import remark
from proxymode_cli.view import NodeState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from proxymode_api.proxymode_status import RolloutRecord
    from proxymode_cli.report.evidence import Evidence
    from proxymode_cli.view import NodeView

TIME = "%Y-%m-%d %H:%M:%S"
NODES_SHOWN = 12
"""More nodes with one finding are counted; JSON has all of them."""


class Kind(StrEnum):
    """What a cell is, for its colour."""

    TEXT = "text"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    kind: Kind = Kind.TEXT


@dataclass(frozen=True, slots=True)
class Section:
    """A table with a heading; `said` stands above it. Without rows `said` is all. `right`: columns of figures."""

    title: str
    said: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    right: frozenset[str] = frozenset()


def facts(seen: Evidence) -> tuple[tuple[str, str], ...]:
    """What a report begins with: label and value."""
    rollout = seen.rollout
    began = f"{rollout.started_at:{TIME}} UTC" if rollout.started_at else "not yet"
    ended = f"{rollout.completed_at:{TIME}} UTC" if rollout.completed_at else "not yet"
    took = words.duration(seen.ended - rollout.started_at) if rollout.started_at else words.NOTHING
    found = (
        ("Cluster", f"{seen.server}, Kubernetes {seen.cluster_version or 'of unknown version'}"),
        ("Began", began),
        ("Complete", ended),
        ("Took", took if rollout.completed_at else f"{took} so far" if rollout.started_at else took),
        ("Changed by", rollout.changed_by),
        ("Cause", rollout.change_cause),
        ("Report of", f"{seen.at:{TIME}} UTC, kubectl-proxymode {seen.plugin}"),
    )
    return tuple((label, value) for label, value in found if value)


def sections(seen: Evidence) -> Iterator[Section]:
    """In the order of the report; those about which there is nothing to say are left out."""
    yield _stages(seen)
    yield _nodes(seen)
    if seen.findings:
        yield _findings(seen)
    if seen.rollout.gates:
        yield _gates(seen)
    yield Section("Deprecation", f"{seen.deprecation}." if seen.deprecation else "No node runs a deprecated mode.")
    yield _happenings(seen)
    earlier = [record for record in seen.rollout.history if record.revision != seen.rollout.revision]
    if earlier:
        yield _history(earlier)


def _stages(seen: Evidence) -> Section:
    rows = []
    for stage in seen.rollout.stages:
        report = stage.report
        left = words.left_out(report.blocked, report.skipped)
        rows.append(
            (
                Cell(stage.name),
                Cell(stage.reach),
                Cell(f"{report.updated}/{report.nodes}"),
                Cell(left, Kind.WARN),
                Cell(report.phase.value, Kind.GOOD if report.phase.value == "Complete" else Kind.TEXT),
                Cell("manual" if stage.manual else "automatic"),
                _time(report.started_at),
                _time(report.completed_at),
                Cell(words.NOTHING if stage.soak == "0" else stage.soak),
            )
        )
    columns = ("Stage", "Reaches", "Updated", "Left out", "Phase", "Approval", "Began", "Complete", "Soak")
    return Section("Stages", "", columns, tuple(rows), frozenset({"Updated"}))


def _nodes(seen: Evidence) -> Section:
    columns = ("Node", "Zone", "Stage", "Mode", "State", "Switched", "Took", "Found", "Kept", "Drained", "Lost", "Note")
    return Section(
        "Nodes",
        "Connections are those that were open on a node when it began its last switch, if this rollout made that.",
        columns,
        tuple(_node(seen, node) for node in sorted(seen.rollout.nodes, key=lambda node: _order(seen, node))),
        frozenset({"Took", "Found", "Kept", "Drained", "Lost"}),
    )


def _order(seen: Evidence, node: NodeView) -> tuple[bool, str, str]:
    """Those that need a look first, then as they switched."""
    switch = seen.rollout.switch_of(node)
    return (node.state is NodeState.UPDATED, switch.started_at.isoformat() if switch is not None else "", node.name)


_STATES = {
    NodeState.UPDATED: Kind.GOOD,
    NodeState.FAILED: Kind.BAD,
    NodeState.SILENT: Kind.BAD,
    NodeState.NO_AGENT: Kind.BAD,
    NodeState.BLOCKED: Kind.WARN,
    NodeState.SKIPPED: Kind.WARN,
}


def _node(seen: Evidence, node: NodeView) -> tuple[Cell, ...]:
    switch = seen.rollout.switch_of(node)
    mode = node.mode.value if node.mode else "unknown"
    counts: tuple[int | None, ...] = (None,) * 4
    took = words.NOTHING
    if switch is not None:
        mode = f"{switch.from_mode} → {switch.to_mode}" if node.mode and node.mode.value == switch.to_mode else mode
        counts = (
            switch.connections_found,
            switch.connections_kept,
            switch.connections_drained,
            switch.connections_lost,
        )
        if switch.completed_at is not None:
            took = f"{(switch.completed_at - switch.started_at).total_seconds():.1f} s"
    found, kept, drained, lost = counts
    bad = switch is not None and switch.outcome in (SwitchOutcome.FAILED, SwitchOutcome.ROLLED_BACK)
    return (
        Cell(node.name),
        Cell(node.machine.zone or words.NOTHING),
        Cell(node.stage or words.NOTHING),
        Cell(mode),
        Cell(words.state(node.state).plain, _STATES.get(node.state, Kind.TEXT)),
        _time(switch.started_at if switch is not None else None),
        Cell(took),
        Cell(words.number(found)),
        Cell(words.number(kept)),
        Cell(words.number(drained)),
        Cell(words.number(lost), Kind.BAD if lost else Kind.TEXT),
        Cell(remark(node) or (switch.message if bad and switch is not None else ""), Kind.WARN),
    )


def _findings(seen: Evidence) -> Section:
    rows = tuple(
        (
            Cell(finding.verdict.value, Kind.BAD if finding.verdict is Verdict.BLOCK else Kind.WARN),
            Cell(finding.id, Kind.CODE),
            Cell(words.names(finding.nodes, NODES_SHOWN)),
            Cell(finding.found),
            Cell(finding.remedy),
        )
        for finding in seen.findings
    )
    columns = ("", "Check", "Nodes", "Found", "To do")
    return Section("Preflight", "What checks found that did not simply pass.", columns, rows)


def _gates(seen: Evidence) -> Section:
    rows = tuple(
        (
            Cell(gate.name),
            Cell(gate.stage or "before the first"),
            Cell(gate.result.value, Kind.GOOD if gate.result.value == "Pass" else Kind.BAD),
            Cell(gate.value),
            _time(gate.measured_at),
            Cell(gate.message),
        )
        for gate in seen.rollout.gates
    )
    columns = ("Gate", "Stage", "Result", "Value", "Asked", "Message")
    return Section("Gates", "What each answered last.", columns, rows, frozenset({"Value"}))


def _happenings(seen: Evidence) -> Section:
    title = "Events"
    if not seen.happenings:
        return Section(title, "The cluster has none any more: Kubernetes keeps Events for an hour by default.")
    rows = tuple(
        (
            _time(event.at),
            Cell(event.about),
            Cell(event.reason, Kind.WARN if event.warning else Kind.CODE),
            Cell(event.note),
        )
        for event in seen.happenings
    )
    return Section(
        title,
        "Kubernetes keeps them for an hour by default; kubectl proxymode explain REASON says more.",
        ("Time", "About", "Reason", "Note"),
        rows,
    )


def _history(earlier: Iterable[RolloutRecord]) -> Section:
    rows = tuple(
        (
            Cell(str(record.revision)),
            Cell(f"{record.from_mode} → {record.mode}" if record.from_mode else record.mode.value),
            Cell(record.outcome.value, Kind.GOOD if record.outcome is RolloutOutcome.COMPLETE else Kind.WARN),
            Cell(str(record.nodes)),
            _time(record.started_at),
            Cell(words.duration(record.ended_at - record.started_at)),
            Cell(record.changed_by),
            Cell(record.change_cause),
        )
        for record in earlier
    )
    columns = ("Revision", "Mode", "Outcome", "Moved", "Began", "Took", "By", "Cause")
    return Section("Earlier rollouts", "", columns, rows, frozenset({"Revision", "Moved", "Took"}))


def _time(moment: datetime | None) -> Cell:
    return Cell(words.NOTHING if moment is None else f"{moment:{TIME}}")
