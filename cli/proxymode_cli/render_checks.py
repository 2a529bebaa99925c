"""Preflight for a terminal: by node, by check, and what to do. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from proxymode_api.nodeproxymode import Verdict
from proxymode_cli import words
from proxymode_cli.tables import table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from rich.console import RenderableType

    from proxymode_api.nodeproxymode import PreflightResult
    from proxymode_cli.view import NodeView

VERDICT_WIDTH: Final = max(map(len, Verdict))
NOT_CHECKED: Final = "Nothing is checked yet: no agent has reported, or no mode is asked for."


def preflight(nodes: Iterable[NodeView], now: datetime, *, wide: bool = False) -> RenderableType:
    """Every check that does not pass, by check; and who passes all. Wide: every check on every node."""
    nodes = list(nodes)
    summary = table("NODE", "TARGET", "PASS", "WARN", "BLOCK", "CHECKED", right=("PASS", "WARN", "BLOCK"))
    for node in nodes:
        count = {found: sum(result.verdict is found for result in node.preflight) for found in Verdict}
        summary.add_row(
            node.name,
            node.target.value if node.target else words.NOTHING,
            str(count[Verdict.PASS]),
            Text(str(count[Verdict.WARN]), "yellow" if count[Verdict.WARN] else "dim"),
            Text(str(count[Verdict.BLOCK]), "bold red" if count[Verdict.BLOCK] else "dim"),
            f"{words.age(node.checked_at, now)} ago" if node.checked_at else "not yet",
        )
    if not nodes:
        return Text("No Linux node is to be seen.", "dim")
    if not wide:
        return Group(summary, *findings(nodes))
    every = table("NODE", "CHECK", "VERDICT", "FOUND")
    for node in nodes:
        for result in node.preflight:
            every.add_row(node.name, result.id, words.verdict(result.verdict), result.found)
    return Group(summary, "", every if every.row_count else Text(NOT_CHECKED, "dim"))


def results(found: Sequence[PreflightResult]) -> RenderableType:
    """Check by check, with what was found and what to do."""
    if not found:
        return Text(NOT_CHECKED, "dim")
    made = table("CHECK", "VERDICT", "FOUND")
    for result in found:
        text = Text(result.found)
        if result.remedy:
            text.append(f"\n→ {result.remedy}", "cyan")
        made.add_row(result.id, words.verdict(result.verdict), text)
    return made


def findings(nodes: Iterable[NodeView]) -> list[RenderableType]:
    """Blocks and warnings, each with its remedy once, and the nodes that it is about."""
    found: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for node in nodes:
        for result in (*node.blockers, *node.warnings):
            found[result.verdict.value, result.id, result.found, result.remedy].append(node.name)
    parts: list[RenderableType] = []
    for (verdict, name, text, remedy), names in sorted(found.items()):
        parts += [
            "",
            Text.assemble(
                (verdict.ljust(VERDICT_WIDTH), words.VERDICT_STYLE[Verdict(verdict)]),
                "  ",
                (name, "bold"),
                f"  on {words.names(names)}",
            ),
            Padding(Text(text), (0, 0, 0, 7)),
            Padding(Text(f"→ {remedy}", "cyan"), (0, 0, 0, 7)),
        ]
    return parts
