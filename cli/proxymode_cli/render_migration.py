"""The migration report for a terminal. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.constrain import Constrain
from rich.padding import Padding
from rich.text import Text

from proxymode_cli import words
from proxymode_cli.migration.model import Severity
from proxymode_cli.migration.table import TITLES
from proxymode_cli.tables import table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from proxymode_cli.migration.model import Finding, Report

SEVERITY_STYLE: Final[Mapping[Severity, str]] = {
    Severity.BLOCK: "bold red",
    Severity.WARN: "yellow",
    Severity.INFO: "cyan",
}
SEVERITY_WIDTH: Final = max(map(len, Severity))
SUBJECTS_SHOWN: Final = 8
READABLE: Final = 110
"""Columns of running text, however wide the terminal."""


def migration(report: Report, *, wide: bool = False) -> RenderableType:
    """Findings, those of one rule together, each with the subjects that it is about. Wide: all subjects."""
    if not report.moving:
        return Group(Text(_settled(report)), *_notes(report))
    parts: list[RenderableType] = [_head(report)]
    for (severity, rule, why, do, link), found in _grouped(report).items():
        head = Text.assemble(
            (severity.value.ljust(SEVERITY_WIDTH), SEVERITY_STYLE[severity]), "  ", (TITLES[rule], "bold")
        )
        body = [Text(why), Text(f"→ {do}", "cyan"), _subjects(found, wide=wide), Text(link, "dim")]
        parts += ["", head, Constrain(Padding(Group(*body), (0, 0, 0, 7)), READABLE)]
    if not report.findings:
        parts += ["", Text("Nothing that these objects show will be different.", "green")]
    return Group(*parts, *_notes(report))


def summary(report: Report) -> list[RenderableType]:
    """For a plan: what will be different, a line a rule, without those that are only good to know."""
    made = table("", "BEHAVIOUR THAT CHANGES", "FOR")
    for (severity, rule, _, _, _), found in _grouped(report).items():
        if severity is not Severity.INFO:
            subjects = list(dict.fromkeys(finding.subject for finding in found))
            more = f" and {len(subjects) - 3} more" if len(subjects) > 3 else ""
            made.add_row(
                Text(severity.value, SEVERITY_STYLE[severity]), TITLES[rule], f"{', '.join(subjects[:3])}{more}"
            )
    if not made.row_count:
        return []
    return ["", made, Text("kubectl proxymode migration says why and what to do.", "dim")]


def _settled(report: Report) -> str:
    if not report.nodes:
        return "No Linux node is to be seen, so nothing changes."
    verb = "runs" if report.nodes == 1 else "run"
    return f"Nothing changes: {words.plural(report.nodes, 'node')} of {report.nodes} {verb} {report.to} already."


def _head(report: Report) -> Text:
    counts = ", ".join(f"{count} {severity}" for severity in Severity if (count := report.count(severity)))
    verb = "goes" if len(report.moving) == 1 else "go"
    return Text.assemble(
        (f"To {report.to}", "bold"),
        f"   {words.plural(len(report.moving), 'node')} of {report.nodes} {verb}, "
        f"{words.plural(report.services, 'Service')} looked at   ",
        (counts or "no finding", "dim"),
    )


def _grouped(report: Report) -> dict[tuple[Severity, str, str, str, str], list[Finding]]:
    groups: dict[tuple[Severity, str, str, str, str], list[Finding]] = defaultdict(list)
    for finding in report.findings:
        groups[finding.severity, finding.rule, finding.why, finding.do, finding.link].append(finding)
    return groups


def _subjects(found: list[Finding], *, wide: bool) -> RenderableType:
    made = table("", "")
    made.show_header = False
    shown = found if wide or len(found) <= SUBJECTS_SHOWN else found[: SUBJECTS_SHOWN - 1]
    for finding in shown:
        made.add_row(finding.subject, Text(finding.detail, "dim"))
    if len(shown) < len(found):
        made.add_row(Text(f"and {len(found) - len(shown)} more: -o wide", "dim"))
    return made


def _notes(report: Report) -> list[RenderableType]:
    return [part for note in report.notes for part in ("", Text(f"! {note}", "yellow"))]
