"""docs/reference/plugin.md: the commands of the kubectl plugin, from the plugin itself."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import typer.main

from proxymode_cli.errors import ExitCode
from proxymode_cli.main import app

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPENING: Final = """# kubectl proxymode

`kubectl-proxymode` on the `PATH` is what makes `kubectl proxymode` work. This page is written from the code
(`make generate`).
"""
_TABLE: Final = ("| Given | Meaning |", "|---|---|")
_COMMON: Final = ("kubeconfig", "context", "namespace")
"""Options that every command takes, before its name or after."""


def render() -> str:
    """The document's text: what all commands have in common, then each, in the order of --help."""
    root: Any = typer.main.get_command(app)
    common = [parameter for parameter in root.params if parameter.name in _COMMON]
    lines = [_OPENING, "| Exit code | Meaning |", "|---|---|"]
    lines += [f"| {code.value} | {_cell(code.means)} |" for code in ExitCode]
    lines += ["", "Every command that asks the cluster takes, before its name or after:", "", *_TABLE]
    lines += map(_option, common)
    panel = ""
    for name, command in root.commands.items():
        if command.rich_help_panel != panel:
            panel = command.rich_help_panel
            lines += ["", f"## {panel}"]
        lines += ["", f"### {name}", "", *_command(name, command)]
    return "\n".join(lines).rstrip() + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [
        parameter
        for parameter in command.params
        if parameter.param_type_name == "option" and parameter.name not in _COMMON
    ]
    shown = "".join(f" {_name(a)}" if a.required else f" [{_name(a)}]" for a in arguments)
    shown += "".join(f" {o.opts[0]} {o.metavar}" for o in options if o.required)
    yield f"`kubectl proxymode {name}{shown}`"
    yield ""
    yield " ".join((command.help or "").split())
    explained = [argument for argument in arguments if argument.help]
    if explained or options:
        yield ""
        yield from _TABLE
    for argument in explained:
        yield f"| {_cell(f'`{_name(argument)}`')} | {_cell(argument.help)} |"
    yield from map(_option, options)


def _option(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar or _choices(option)}"
    names = ", ".join((*option.opts, *option.secondary_opts))
    return f"| {_cell(f'`{names}{value}`')} | {_cell(option.help)} |"


def _choices(option: Any) -> str:
    kind = option.type_descriptor.annotation
    return "|".join(kind) if issubclass(kind, StrEnum) else kind.__name__.upper()


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")
