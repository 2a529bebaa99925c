"""A rollout as a picture: how many nodes run the mode over time, the stages below, every node's switch in its stage.

Inline SVG without scripts or fonts of its own; colours are CSS variables of the page. Time is to scale; a switch takes
seconds and a rollout hours, so a switch is drawn at least as wide as can be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from typing import TYPE_CHECKING, Final

from proxymode_api.durations import parse_duration
from proxymode_api.nodeproxymode import SwitchOutcome
from proxymode_cli import words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_api.nodeproxymode import LastSwitch
    from proxymode_cli.report.evidence import Evidence
    from proxymode_cli.view import NodeView, StageView

WIDTH: Final = 960
LEFT: Final = 132
RIGHT: Final = 24
CURVE: Final = 96
"""Height of the picture of how many nodes are updated."""
BAND: Final = 22
NODE: Final = 14
STROKES: Final = 12
"""Height of a line of many nodes."""
GAP: Final = 14
NODES_SHOWN: Final = 16
"""A stage with more nodes than this has them as strokes in one line instead of a row each."""
NARROWEST: Final = 3.0
STROKE: Final = 1.2
"""Widths of a switch: in a row of its own, and among many."""
MARGIN: Final = 0.015
"""Share of the time that is added to the right, so that what happened last can be seen."""
LETTER: Final = 6.6
"""About how wide a letter is."""

STEPS: Final = tuple(
    timedelta(seconds=seconds)
    for seconds in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800)
)
MOST_TICKS: Final = 8


@dataclass(frozen=True, slots=True)
class _Scale:
    """From `began` to `edge`; nothing happened after `ended`."""

    began: datetime
    ended: datetime
    edge: datetime

    def x(self, moment: datetime) -> float:
        share = (moment - self.began) / (self.edge - self.began)
        return LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> Iterator[datetime]:
        span = self.ended - self.began
        step = next((step for step in STEPS if span / step <= MOST_TICKS), STEPS[-1])
        moment = self.began
        while moment <= self.ended:
            yield moment
            moment += step


def timeline(seen: Evidence) -> str:
    """The picture as one <svg> element; "" where the rollout has not begun."""
    began = seen.rollout.started_at
    if began is None:
        return ""
    ends = (switch.completed_at for switch in seen.rollout.switches() if switch.completed_at is not None)
    last = max([seen.ended, began + timedelta(seconds=1), *ends])
    scale = _Scale(began, last, last + (last - began) * MARGIN)
    rows: list[str] = []
    top = CURVE + 2 * GAP
    for stage in seen.rollout.stages:
        members = [node for node in _by_turn(seen) if node.stage == stage.name]
        drawn, height = _stage(seen, scale, stage, members, top)
        rows += drawn
        top += height + GAP
    axis = _axis(scale, top)
    picture = [*axis, *_curve(seen, scale), *rows]
    label = f"Nodes over time, from {began:%Y-%m-%d %H:%M} UTC"
    return (
        f'<svg class="timeline" viewBox="0 0 {WIDTH} {top + 24}" role="img" aria-label="{escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(picture)}</svg>'
    )


def _by_turn(seen: Evidence) -> list[NodeView]:
    """Nodes with a switch of this revision, in the order in which they began it."""
    switches = [
        (switch.started_at, node.name, node) for node in seen.rollout.nodes if (switch := seen.rollout.switch_of(node))
    ]
    return [node for _, _, node in sorted(switches, key=lambda entry: entry[:2])]


def _axis(scale: _Scale, bottom: int) -> Iterator[str]:
    days = scale.ended.date() != scale.began.date()
    seconds = scale.ended - scale.began < timedelta(minutes=MOST_TICKS)
    for moment in scale.ticks():
        x = scale.x(moment)
        text = f"{moment:%H:%M:%S}" if seconds else f"{moment:%d %b %H:%M}" if days else f"{moment:%H:%M}"
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{GAP}" y2="{bottom}"/>'
        yield f'<text class="axis" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>'


def _curve(seen: Evidence, scale: _Scale) -> Iterator[str]:
    """A step up for every node whose switch went well."""
    desired = max(1, seen.rollout.counts.desired)
    ends = sorted(
        switch.completed_at for switch in seen.rollout.switches() if _went_well(switch) and switch.completed_at
    )
    base = GAP + CURVE
    before = max(0, seen.rollout.counts.updated - len(ends))

    def y(count: int) -> float:
        return base - CURVE * min(1.0, count / desired)

    path = [f"M{LEFT},{base} V{y(before):.1f}"]
    for count, moment in enumerate(ends, start=before + 1):
        path.append(f"H{scale.x(moment):.1f} V{y(count):.1f}")
    path.append(f"H{scale.x(scale.ended):.1f} V{base} Z")
    yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{GAP}" y2="{GAP}"/>'
    yield f'<path class="curve" d="{" ".join(path)}"/>'
    yield f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>'
    yield _label(f"{desired} nodes", GAP + 5)
    yield _label("0", base + 4)


def _stage(seen: Evidence, scale: _Scale, stage: StageView, members: list[NodeView], top: int) -> tuple[list[str], int]:
    """The stage's band, and a row or a stroke for each of its nodes."""
    report = stage.report
    drawn = [_label(stage.name, top + BAND / 2 + 4, strong=True)]
    if report.started_at is not None:
        start, end = scale.x(report.started_at), scale.x(report.completed_at or scale.ended)
        kind = "done" if report.completed_at else "going"
        drawn.append(_bar(kind, start, end, top, BAND, f"{stage.name}: {report.updated}/{report.nodes} updated"))
        if report.completed_at is not None and stage.soak != "0":
            until = min(report.completed_at + parse_duration(stage.soak), scale.ended)
            drawn.append(_bar("soak", end, scale.x(until), top, BAND, f"{stage.name}: soak {stage.soak}"))
        drawn += _beside(f"{report.updated}/{report.nodes}", start, end, top + BAND / 2 + 4)
    else:
        drawn.append(_text("axis", LEFT + 6, top + BAND / 2 + 4, _pending(stage)))
    if len(members) > NODES_SHOWN:
        return [*drawn, *_strokes(seen, scale, members, top + BAND)], BAND + STROKES
    for place, node in enumerate(members):
        y = top + BAND + 4 + place * NODE
        drawn.append(_label(node.name, y + NODE - 4))
        drawn.append(_switch(seen, scale, node, y + 3, NODE - 5, NARROWEST))
    return drawn, BAND + (4 + NODE * len(members) if members else 0)


def _pending(stage: StageView) -> str:
    """What a stage that has not begun waits for."""
    return f"{stage.report.phase}, {words.plural(stage.report.nodes, 'node')}"


def _beside(text: str, start: float, end: float, y: float) -> list[str]:
    """In the bar where it fits, else to its right, else to its left."""
    width = len(text) * LETTER + 12
    if end - start > width:
        return [_text("in", start + 6, y, text)]
    if end + width < WIDTH:
        return [_text("axis", end + 6, y, text)]
    return [f'<text class="axis" x="{start - 6:.1f}" y="{y:.1f}" text-anchor="end">{escape(text)}</text>']


def _strokes(seen: Evidence, scale: _Scale, members: list[NodeView], top: int) -> list[str]:
    """Many switches below their stage's band; those that went well first, so that no other is hidden."""
    drawn = [_switch(seen, scale, node, top + 2, STROKES - 2, STROKE) for node in members]
    return sorted(drawn, key=lambda stroke: 'class="good"' not in stroke)


def _switch(seen: Evidence, scale: _Scale, node: NodeView, y: float, height: float, narrowest: float) -> str:
    switch = seen.rollout.switch_of(node)
    if switch is None:
        return ""
    kind = "under-way" if switch.completed_at is None else "good" if _went_well(switch) else "bad"
    if switch.connections_lost:
        kind = "lossy"
    start, end = scale.x(switch.started_at), scale.x(switch.completed_at or scale.ended)
    return _bar(kind, start, end, y, height, _told(node, switch), narrowest if kind == "good" else NARROWEST)


def _told(node: NodeView, switch: LastSwitch) -> str:
    took = f" in {(switch.completed_at - switch.started_at).total_seconds():.1f} s" if switch.completed_at else ""
    outcome = switch.outcome.value if switch.outcome else "under way"
    kept = ""
    if switch.connections_found is not None:
        kept = (
            f", {words.number(switch.connections_kept)} connections kept, {words.number(switch.connections_lost)} lost"
        )
    return f"{node.name}: {outcome}{took}{kept}"


def _went_well(switch: LastSwitch) -> bool:
    return switch.outcome in (SwitchOutcome.SUCCEEDED, SwitchOutcome.RESUMED)


def _bar(kind: str, start: float, end: float, y: float, height: float, title: str, narrowest: float = NARROWEST) -> str:
    width = max(narrowest, end - start)
    return (
        f'<rect class="{kind}" x="{min(start, WIDTH - RIGHT - width):.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" rx="2"><title>{escape(title)}</title></rect>'
    )


def _label(text: str, y: float, *, strong: bool = False) -> str:
    fits = int((LEFT - 16) / LETTER)
    shown = text if len(text) <= fits else f"…{text[1 - fits :]}"
    kind = "stage" if strong else "axis"
    return f'<text class="{kind}" x="{LEFT - 10}" y="{y:.1f}" text-anchor="end">{escape(shown)}</text>'


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
