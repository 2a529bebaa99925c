"""A report as Markdown: for a ticket or a pull request. The picture is HTML's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_cli.report.sections import Cell, Kind, facts, sections

if TYPE_CHECKING:
    from proxymode_cli.report.evidence import Evidence


def markdown(seen: Evidence) -> str:
    """The whole document."""
    rollout = seen.rollout
    way = f"{rollout.from_mode} → {rollout.mode}" if rollout.from_mode else f"to {rollout.mode}"
    lines = [f"# {_text(rollout.name)}: {way}, revision {rollout.revision}", "", f"**{_text(seen.verdict)}**", ""]
    lines += [f"- {label}: {_text(value)}" for label, value in facts(seen)]
    lines += [f"- Note: {_text(note)}" for note in seen.notes]
    for section in sections(seen):
        lines += ["", f"## {section.title}"]
        if section.said:
            lines += ["", _text(section.said)]
        if section.rows:
            lines += ["", f"| {' | '.join(section.columns)} |", f"|{'---|' * len(section.columns)}"]
            lines += [f"| {' | '.join(map(_cell, row))} |" for row in section.rows]
    return "\n".join(lines) + "\n"


def _cell(cell: Cell) -> str:
    text = _text(cell.text)
    if not text:
        return ""
    match cell.kind:
        case Kind.CODE:
            return f"`{cell.text}`"
        case Kind.BAD | Kind.WARN:
            return f"**{text}**"
        case _:
            return text


def _text(text: str) -> str:
    """On one line, and nothing in it that Markdown takes for markup."""
    line = " ".join(text.split())
    for sign in "\\`*_[]<>|#":
        line = line.replace(sign, f"\\{sign}")
    return line
