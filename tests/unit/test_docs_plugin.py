"""Every `kubectl proxymode …` that the documentation shows is one that the plugin's own parser takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from proxymode_cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "manifests/README.md", *(ROOT / "docs").rglob("*.md")])
SHOWN = re.compile(r"(?:^\$ |`)kubectl proxymode (?P<rest>[^`\n]*)", re.MULTILINE)
SYNOPSIS = re.compile(r"[\[\]|…]|\.\.\.")
"""What is no command but the form of one: `promote [PROXYMODE]`."""
COMMANDS: Any = typer.main.get_command(app)


def shown() -> set[str]:
    """Commands on all pages, comments and forms left out."""
    return {
        rest.strip()
        for page in PAGES
        for rest in SHOWN.findall(page.read_text(encoding="utf-8"))
        if rest.strip() and not SYNOPSIS.search(rest)
    }


def problem(line: str) -> str:
    """What the parser says against a command; nothing is run."""
    name, *rest = shlex.split(line, comments=True)
    command = COMMANDS.commands.get(name)
    if command is None:
        return f"there is no command {name}"
    try:
        command.make_context(name, rest, parent=COMMANDS.make_context("kubectl-proxymode", [name, "--help"]))
    except Exception as error:  # whatever click raises is what a reader would see
        return str(error) or type(error).__name__
    return ""


@pytest.mark.parametrize("line", sorted(shown()))
def test_the_plugin_takes_what_the_pages_show(line: str) -> None:
    assert problem(line) == ""


def test_pages_show_commands_and_a_wrong_one_is_found() -> None:
    assert {"status", "watch fleet"} <= {line.partition("#")[0].strip() for line in shown()}
    assert problem("statsu") == "there is no command statsu"
    assert problem("undo fleet --sideways")
    assert problem("skip fleet --node a")
