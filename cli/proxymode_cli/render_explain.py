"""Pages on reasons and checks, for a terminal. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.constrain import Constrain
from rich.padding import Padding
from rich.text import Text

from proxymode_api.reasons.explain import CHAPTERS
from proxymode_api.reasons.page import Mood
from proxymode_cli.tables import table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from proxymode_api.reasons.page import Page

MOOD_STYLE: Final[Mapping[Mood, str]] = {
    Mood.WELL: "green",
    Mood.UNDER_WAY: "cyan",
    Mood.LOOK: "yellow",
    Mood.CHECK: "dim",
}

READABLE: Final = 100
"""Columns of running text, however wide the terminal."""


def page(found: Page) -> RenderableType:
    """One page: what it means, what to do, where it is shown."""
    parts: list[RenderableType] = [
        Text.assemble((str(found.code), "bold"), "   ", (found.mood.value, MOOD_STYLE[found.mood])),
        "",
        Text(found.means),
    ]
    if found.do:
        parts += ["", Padding(Text(f"→ {found.do}", "cyan"), (0, 0, 0, 2))]
    parts += ["", Text(f"Seen in: {'; '.join(found.shown)}.", "dim")]
    return Constrain(Group(*parts), READABLE)


def contents(*, wide: bool) -> RenderableType:
    """All codes by chapter, each with its first sentence; wide: whole."""
    made = table("CODE", "", "MEANS")
    for title, pages in CHAPTERS.items():
        if made.row_count:
            made.add_row("")
        made.add_row(Text(title, "bold"))
        for entry in pages:
            means = entry.means if wide else f"{entry.means.partition('. ')[0].rstrip('.')}."
            made.add_row(str(entry.code), Text(entry.mood.value, MOOD_STYLE[entry.mood]), means)
    return made
