"""What all commands share: the options that kubectl has too, the formats of -o, and how an answer is shown.

`command` puts the cluster's options on every command, so they are declared once and read the same everywhere. They are
taken before the command as well (`kubectl proxymode --context west status`), as kubectl does.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Optional, get_type_hints

import typer
from rich.console import Console

from proxymode_cli import candidates, output

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from proxymode_cli.cluster import Cluster

PIPED_WIDTH = 200
"""Columns where there is no terminal to ask."""
WIDE_WIDTH = 320
"""The same for -o wide, on a terminal too: as with kubectl the terminal breaks long lines, not the table its words."""

# typer 0.29 resolves Optional for every Python that we support.
Kubeconfig = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--kubeconfig", metavar="FILE", help="As kubectl's; by default $KUBECONFIG or ~/.kube/config."),
]
Context = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--context", metavar="NAME", help="As kubectl's.", autocompletion=candidates.contexts),
]
Namespace = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--namespace",
        "-n",
        metavar="NAME",
        help="Look at the Services of this namespace only; by default at all. ProxyModes and Nodes have none.",
    ),
]
Output = Annotated[
    Optional[output.Format],  # noqa: UP045
    typer.Option("--output", "-o", help="json or yaml: the data instead of tables. wide: tables with more columns."),
]
Name = Annotated[
    Optional[str],  # noqa: UP045
    typer.Argument(
        metavar="PROXYMODE", help="Needed only where there are several.", autocompletion=candidates.proxy_modes
    ),
]


@dataclass(frozen=True, slots=True)
class Access:
    """Which cluster, as the options say; None: as kubectl would take it."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None

    def cluster(self) -> Cluster:
        """Raises UserError where the kubeconfig cannot be used."""
        from proxymode_cli.cluster import Cluster  # half a second: not for --help, explain and completion

        return Cluster(self.kubeconfig, self.context)


_OPTIONS = {"kubeconfig": Kubeconfig, "context": Context, "namespace": Namespace}


def command(app: typer.Typer, panel: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a function whose first parameter is an Access as a command that has the cluster's options."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        def run(ctx: typer.Context, **given: Any) -> None:
            before: Access = ctx.obj or Access()
            options = {name: given.pop(name) or getattr(before, name) for name in _OPTIONS}
            function(Access(**options), **given)

        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in list(inspect.signature(function).parameters.values())[1:]
        ]
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
            *(parameter.replace(kind=keyword) for parameter in own),
            *(inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in _OPTIONS.items()),
        ]
        # typer reads a command's parameters from its signature and its annotations.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = function.__doc__
        app.command(name=function.__name__, rich_help_panel=panel)(run)
        return function

    return register


def console(form: output.Format | None = None) -> Console:
    """Where tables go: a terminal, or lines for grep and awk."""
    made = Console(highlight=False, soft_wrap=False)
    if form is output.Format.WIDE:
        made.width = WIDE_WIDTH
    elif not made.is_terminal:
        made.width = PIPED_WIDTH
    return made


def show(table: Callable[[bool], RenderableType], value: Any, form: output.Format | None) -> None:
    """The value in the format that was asked for; `table` draws it for a terminal, wide or not."""
    if form is None or form is output.Format.WIDE:
        _draw(console(form), table(form is output.Format.WIDE))
    else:
        sys.stdout.write(output.text(value, form))


def _draw(terminal: Console, drawn: RenderableType) -> None:
    if terminal.is_terminal:
        terminal.print(drawn)
        return
    with terminal.capture() as captured:
        terminal.print(drawn)
    # Spaces at the ends of lines, which fill a screen, are no use to grep and diff.
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())
