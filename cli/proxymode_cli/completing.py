"""Completion: the commands and options by typer, names by `candidates`.

One protocol for all shells, kubectl's own: `kubectl_complete-proxymode WORD…` prints one candidate a line, a tab and
what it is, and at the end a directive (https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/). kubectl calls
it by itself; `shells` has scripts for who types `kubectl-proxymode`. It never fails and never makes a shell wait long.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
from contextlib import redirect_stdout
from typing import Any, Final, NoReturn

import typer
from typer.completion import get_completion_inspect_parameters, shell_complete

from proxymode_cli.main import app

NO_FILES: Final = ":4"
"""cobra's ShellCompDirectiveNoFileComp: file names are not offered."""


def main() -> NoReturn:
    """The entry point of `kubectl_complete-proxymode`: all words after the command, the last one not complete."""
    words = ["kubectl-proxymode", *sys.argv[1:]]
    os.environ["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    os.environ["COLUMNS"] = "1000"  # a description stays on its line
    os.environ["_TYPER_COMPLETE_ARGS"] = shlex.join(words[:-1]) + " " + (words[-1] if len(words) > 1 else "")
    get_completion_inspect_parameters()  # registers the shells, which typer otherwise does for its own options only
    root: Any = typer.main.get_command(app)
    with redirect_stdout(io.StringIO()) as found:
        shell_complete(root, {}, words[0], "_KUBECTL_PROXYMODE_COMPLETE", "complete_fish")
    sys.stdout.writelines(f"{line}\n" for line in (*found.getvalue().split("\n"), NO_FILES) if line)
    sys.exit(0)
