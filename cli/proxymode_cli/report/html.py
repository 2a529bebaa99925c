"""A report as one HTML file that asks nobody for anything: no script, no font, no image from elsewhere."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from proxymode_cli.report.sections import Cell, Kind, Section, facts, sections
from proxymode_cli.report.timeline import timeline

if TYPE_CHECKING:
    from proxymode_cli.report.evidence import Evidence

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #667080; --line: #dfe3e8; --paper: #fff; --card: #f5f7f9;
  --good: #1a7f4b; --warn: #a15c00; --bad: #c0262d; --go: #2563a8; --band: #cfe0f2; --soak: #e9eef4; --curve: #d5ecdf; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --dim: #98a2b0; --line: #343c48; --paper: #14181e;
  --card: #1c222a; --good: #56c68c; --warn: #e5a54b; --bad: #f0737a; --go: #7db4ea; --band: #2a4260; --soak: #232c37;
  --curve: #1d3b2c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.2rem 1.6rem 3rem; max-width: 82rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.65rem; line-height: 1.25; } h1 small { color: var(--dim); font-weight: 400; }
h2 { margin: 2.4rem 0 .5rem; font-size: 1.12rem; } p { margin: .4rem 0; max-width: 60rem; }
.verdict { font-size: 1.08rem; margin: .6rem 0 1.2rem; } .said, footer { color: var(--dim); }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.tile { background: var(--card); border-radius: 8px; padding: .7rem 1.1rem; min-width: 8.4rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--dim); font-size: .85rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 1rem 0; }
dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th { text-align: left; color: var(--dim); font-weight: 500; white-space: nowrap; }
th, td { padding: .34rem .9rem .34rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: break-word; } td.short { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.number + :not(.number) { padding-left: .7rem; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); font-weight: 600; }
code { font: .95em ui-monospace, "DejaVu Sans Mono", Menlo, monospace; }
.timeline { width: 100%; height: auto; margin-top: .4rem; } .timeline text { font-size: 11px; fill: var(--dim); }
.timeline .stage { font-weight: 600; fill: var(--ink); } .timeline .in { fill: var(--ink); }
.timeline .grid { stroke: var(--line); stroke-width: 1; } .timeline .base { stroke: var(--dim); stroke-width: 1; }
.timeline .curve { fill: var(--curve); stroke: var(--good); stroke-width: 1.5; stroke-linejoin: round; }
.timeline rect.done, .timeline rect.going { fill: var(--band); } .timeline rect.soak { fill: var(--soak); }
.timeline rect.good { fill: var(--good); } .timeline rect.bad { fill: var(--bad); }
.timeline rect.lossy { fill: var(--warn); } .timeline rect.under-way { fill: var(--go); }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; color: var(--dim); font-size: .85rem; }
.key i { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .4rem;
  vertical-align: -.08rem; }
footer { margin-top: 2.6rem; font-size: .85rem; }
@media print { body { padding: 0; font-size: 12px; } h2 { break-after: avoid; } tr, .timeline { break-inside: avoid; } }
"""

SHORT: Final = 28
"""Cells with so few letters stay on one line."""

KEY: Final = (
    ("curve", "nodes in the wanted mode"),
    ("band", "a stage moves"),
    ("soak", "it soaks"),
    ("good", "a switch"),
    ("go", "under way"),
    ("warn", "with connections lost"),
    ("bad", "failed or undone"),
)


def html(seen: Evidence) -> str:
    """The whole document."""
    rollout = seen.rollout
    way = f"{rollout.from_mode} → {rollout.mode}" if rollout.from_mode else f"to {rollout.mode}"
    title = f"{rollout.name}: {way}"
    picture = timeline(seen)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}, revision {rollout.revision}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)} <small>revision {rollout.revision}, {escape(rollout.status)}</small></h1>",
        f'<p class="verdict">{escape(seen.verdict)}</p>',
        _tiles(seen),
        *([f"<h2>Timeline</h2>{picture}{_key()}"] if picture else []),
        *(_section(section) for section in sections(seen)),
        "<h2>About this report</h2><dl>",
        *(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in facts(seen)),
        *(f"<dt>Note</dt><dd>{escape(note)}</dd>" for note in seen.notes),
        f"</dl><footer>kubectl proxymode report {escape(rollout.name)} -o html. Times are UTC.</footer></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _tiles(seen: Evidence) -> str:
    counts, connections = seen.rollout.counts, seen.connections
    tiles = [
        (
            f"{counts.updated}/{counts.desired}",
            "nodes updated",
            Kind.GOOD if counts.updated == counts.desired else Kind.TEXT,
        ),
        (f"{connections.found:,}", "connections open at switches", Kind.TEXT),
        (f"{connections.kept:,}", "kept", Kind.GOOD if connections.kept else Kind.TEXT),
        (f"{connections.lost:,}", "lost", Kind.BAD if connections.lost else Kind.GOOD),
    ]
    if connections.drained:
        tiles.insert(3, (f"{connections.drained:,}", "ended by themselves", Kind.TEXT))
    for count, what, kind in (
        (counts.failed, "nodes failed", Kind.BAD),
        (counts.blocked, "nodes blocked", Kind.WARN),
        (counts.skipped, "nodes skipped", Kind.WARN),
    ):
        if count:
            tiles.append((str(count), what, kind))
    drawn = (f'<div class="tile"><b class="{kind}">{value}</b><span>{what}</span></div>' for value, what, kind in tiles)
    return f'<div class="tiles">{"".join(drawn)}</div>'


def _key() -> str:
    entries = (f'<span><i style="background:var(--{name})"></i>{text}</span>' for name, text in KEY)
    return f'<div class="key">{"".join(entries)}</div>'


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    if section.said:
        parts.append(f'<p class="said">{escape(section.said)}</p>')
    if section.rows:
        right = [column in section.right for column in section.columns]
        heads = "".join(
            f'<th class="number">{escape(column)}</th>' if figures else f"<th>{escape(column)}</th>"
            for column, figures in zip(section.columns, right, strict=True)
        )
        rows = "".join(
            f"<tr>{''.join(_cell(cell, figures) for cell, figures in zip(row, right, strict=True))}</tr>"
            for row in section.rows
        )
        parts.append(f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>')
    return "".join(parts)


def _cell(cell: Cell, figures: bool) -> str:
    text = escape(cell.text)
    if cell.kind is Kind.CODE:
        text = f"<code>{text}</code>"
    kinds = [] if cell.kind in (Kind.TEXT, Kind.CODE) else [cell.kind.value]
    if figures:
        kinds.append("number")
    elif len(cell.text) <= SHORT:
        kinds.append("short")
    return f'<td class="{" ".join(kinds)}">{text}</td>' if kinds else f"<td>{text}</td>"
