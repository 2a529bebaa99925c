"""The command `kubectl proxymode`: help, exit codes, and the one place where a mistake becomes a line."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from proxymode_cli import see, steer
from proxymode_cli.errors import ExitCode, UserError
from proxymode_cli.options import Access, Context, Kubeconfig, Namespace
from proxymode_cli.shells import SCRIPTS, Shell

if TYPE_CHECKING:
    from collections.abc import Sequence

EPILOG = f"Exit codes: {' · '.join(f'{code.value} {code.means}' for code in ExitCode)}."

app = typer.Typer(
    name="kubectl proxymode",
    help="Which Service dataplane the cluster's nodes run, and their way from one to another.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"kubectl-proxymode {version('proxymode')}\n")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="The plugin's version.")
    ] = False,
) -> None:
    ctx.obj = Access(kubeconfig, context, namespace)


see.register(app)
steer.register(app)


@app.command(rich_help_panel="Set up")
def completion(shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish")]) -> None:
    """The shell's completion of `kubectl-proxymode`, to be sourced; `kubectl proxymode` needs none.

    kubectl's own completion asks `kubectl_complete-proxymode`, which is installed beside the plugin.
    """
    sys.stdout.write(SCRIPTS[shell])


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point, by default with the process' own arguments; a user's mistake is one line on stderr."""
    try:
        app(arguments)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.code)
    raise AssertionError("typer ends every command by SystemExit")
