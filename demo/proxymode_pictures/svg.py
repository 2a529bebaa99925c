"""What rich draws on a terminal as SVG files that ask nobody for anything: a still, or a film of several frames.

A film is one SVG: every frame is a group of its own, and a CSS animation shows them in turn. Where nothing moves (in
print, or for a reader who wants no motion) the last frame stays. Pure: renderables in, text out.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.terminal_theme import TerminalTheme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

THEME: Final = TerminalTheme(
    (24, 28, 34),
    (214, 220, 228),
    [(24, 28, 34), (240, 115, 122), (104, 207, 148), (229, 175, 90), (125, 180, 234), (198, 146, 233), (95, 205, 208)],
    [
        (108, 118, 132),
        (240, 115, 122),
        (104, 207, 148),
        (229, 175, 90),
        (125, 180, 234),
        (198, 146, 233),
        (95, 205, 208),
    ],
)
"""Readable on the dark ground of the picture, whatever the page's."""

STYLE: Final = """
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-family: system-ui, "DejaVu Sans", sans-serif; }}
{styles}"""

STILL: Final = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{width}} {{height}}">
<style>{STYLE}</style>
<defs><clipPath id="{{unique_id}}-clip-terminal">
<rect width="{{terminal_width}}" height="{{terminal_height}}"/></clipPath>
{{lines}}</defs>
{{chrome}}
<g transform="translate({{terminal_x}}, {{terminal_y}})" clip-path="url(#{{unique_id}}-clip-terminal)">
{{backgrounds}}
<g class="{{unique_id}}-matrix">{{matrix}}</g></g>
</svg>
"""
FRAME: Final = f"""\
<style>{STYLE}</style><defs>{{lines}}</defs>
<g class="frame {{unique_id}}" transform="translate({{terminal_x}}, {{terminal_y}})">
{{backgrounds}}
<g class="{{unique_id}}-matrix">{{matrix}}</g></g>
"""
LAST_SECONDS: Final = 5.0
"""How long the end of a film stands."""


def still(drawn: RenderableType, *, title: str, width: int = 100) -> str:
    """One picture."""
    return _tidy(_console(drawn, width).export_svg(title=title, theme=THEME, code_format=STILL, unique_id="t"))


def film(frames: Sequence[tuple[float, RenderableType]], *, title: str, width: int = 100) -> str:
    """A film of frames, each with the second at which it begins; the first begins at 0."""
    height = max(_height(drawn, width) for _, drawn in frames)
    total = frames[-1][0] + LAST_SECONDS
    padded = [Group(drawn, *[""] * (height - _height(drawn, width))) for _, drawn in frames]
    pictures = [
        _console(drawn, width).export_svg(title=title, theme=THEME, code_format=FRAME, unique_id=f"f{number}")
        for number, drawn in enumerate(padded)
    ]
    begins = [at for at, _ in frames]
    ends = [*begins[1:], total]
    moves = "\n".join(
        _shown(f"f{number}", begin / total, end / total)
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True))
    )
    frame = _console(Group(*[""] * height), width).export_svg(
        title=title, theme=THEME, code_format=STILL, unique_id="t"
    )
    rules = (
        f".frame {{ visibility: hidden; }} .f{len(frames) - 1} {{ visibility: visible; }}\n"
        f"@media (prefers-reduced-motion: no-preference) {{\n"
        f".frame {{ animation-duration: {total:.1f}s; animation-timing-function: step-end; "
        f"animation-iteration-count: infinite; }}\n{moves}\n}}"
    )
    return _tidy(frame.replace("</svg>", f"<style>{rules}</style>\n{''.join(pictures)}</svg>"))


def _shown(name: str, begin: float, end: float) -> str:
    """The rule by which a frame is seen between two shares of the film's time."""
    steps = [(0.0, "hidden" if begin > 0 else "visible"), (begin, "visible"), (end, "hidden")]
    points = " ".join(f"{100 * at:.2f}% {{ visibility: {what}; }}" for at, what in steps if at < 1)
    last = "visible" if end >= 1 else "hidden"
    return f"@keyframes {name} {{ {points} 100% {{ visibility: {last}; }} }} .{name} {{ animation-name: {name}; }}"


def _console(drawn: RenderableType, width: int) -> Console:
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(drawn)
    return console


def _height(drawn: RenderableType, width: int) -> int:
    return len(Console(width=width, highlight=False).render_lines(drawn))


def _tidy(svg: str) -> str:
    return re.sub(r"[ \t]+\n", "\n", svg)
