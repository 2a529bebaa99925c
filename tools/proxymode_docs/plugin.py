"""docs/reference/plugin.md: the commands of the kubectl plugin, from the plugin itself."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import typer.main

from proxymode_cli.main import EPILOG, app

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPENING: Final = """# kubectl proxymode

`kubectl-proxymode` on the `PATH` is what makes `kubectl proxymode` work. This page is written from the code
(`make generate`).
"""


def render() -> str:
    """The document's text."""
    root: Any = typer.main.get_command(app)
    lines = [_OPENING, EPILOG, ""]
    for name, command in sorted(root.commands.items()):
        if not command.hidden:
            lines += [f"## {name}", "", *_command(name, command), ""]
    return "\n".join(lines).rstrip() + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    shown = "".join(f" {_name(a)}" if a.required else f" [{_name(a)}]" for a in arguments)
    yield f"`kubectl proxymode {name}{shown}`"
    yield ""
    yield " ".join((command.help or "").split())
    yield ""
    if arguments or options:
        yield "| Given | Meaning |"
        yield "|---|---|"
    for argument in arguments:
        yield f"| {_cell(f'`{_name(argument)}`')} | {_cell(argument.help)} |"
    for option in options:
        value = "" if option.is_flag else f" {option.metavar or _choices(option)}"
        names = ", ".join(f"`{one}{value}`" for one in (*option.opts, *option.secondary_opts))
        yield f"| {_cell(names)} | {_cell(option.help)} |"


def _choices(option: Any) -> str:
    kind = option.type_descriptor.annotation
    return "|".join(kind) if issubclass(kind, StrEnum) else kind.__name__.upper()


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")
