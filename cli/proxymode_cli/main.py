"""The commands of `kubectl proxymode`: options, help and exit codes; what they do is elsewhere."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version as distribution_version
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer
from rich.console import Console

from proxymode_cli import output, render, verbs
from proxymode_cli.cluster import Cluster, choose
from proxymode_cli.errors import ExitCode, UserError
from proxymode_cli.render_node import node as render_node
from proxymode_cli.watching import watch as watch_rollout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rich.console import RenderableType

    from proxymode_api.nodeproxymode import NodeProxyMode
    from proxymode_api.proxymode import ProxyMode
    from proxymode_cli.verbs import Deed

EPILOG = (
    "Exit codes: 0 done · 1 not as wished (a rollout has stopped, a check blocks) · 2 wrong usage · "
    "3 the cluster cannot be reached or refuses · 4 not found."
)

app = typer.Typer(
    name="kubectl proxymode",
    help="Which Service dataplane the cluster's nodes run, and their way from one to another.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Kubeconfig = Annotated[
    Optional[str],  # noqa: UP045 - typer 0.29 resolves this form for every Python
    typer.Option("--kubeconfig", metavar="FILE", help="As kubectl's; by default $KUBECONFIG or ~/.kube/config."),
]
Context = Annotated[Optional[str], typer.Option("--context", metavar="NAME", help="As kubectl's.")]  # noqa: UP045
Output = Annotated[Optional[output.Format], typer.Option("--output", "-o", help="Print this instead of tables.")]  # noqa: UP045
Name = Annotated[Optional[str], typer.Argument(metavar="PROXYMODE", help="Needed only where there are several.")]  # noqa: UP045
Nodes = Annotated[list[str], typer.Option("--node", metavar="NODE", help="As often as needed.")]

PIPED_WIDTH = 200
"""Columns where there is no terminal to ask."""

SEE, STEER = "See", "Steer a rollout"


@app.command(rich_help_panel=SEE)
def status(kubeconfig: Kubeconfig = None, context: Context = None, form: Output = None) -> None:
    """The fleet at a glance: what runs, what is deprecated, where rollouts stand, what needs a person."""
    view = Cluster(kubeconfig, context).fleet()
    # Nodes are listed once, at the top level.
    brief = replace(view, rollouts=tuple(replace(rollout, nodes=()) for rollout in view.rollouts))
    _show(render.status(view), brief, form)


@app.command(rich_help_panel=SEE)
def plan(name: Name = None, kubeconfig: Kubeconfig = None, context: Context = None, form: Output = None) -> None:
    """What would change, node by node, in which stages, and why a node cannot."""
    view = Cluster(kubeconfig, context).fleet()
    rollout = view.rollout(choose(name, (rollout.name for rollout in view.rollouts)))
    assert rollout is not None
    _show(render.plan(view, rollout), rollout, form)


@app.command(rich_help_panel=SEE)
def preflight(
    node_name: Annotated[Optional[str], typer.Argument(metavar="NODE", help="All nodes by default.")] = None,  # noqa: UP045
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    form: Output = None,
) -> None:
    """Whether nodes can run the mode that they are to go to: every check, what was found, what to do.

    Ends with 1 where a check blocks.
    """
    view = Cluster(kubeconfig, context).fleet()
    if node_name is None:
        nodes = view.nodes
        _show(render.preflight(nodes, view.at), nodes, form)
    else:
        nodes = (_node(view.node(node_name), node_name),)
        _show(render.results(nodes[0].preflight), nodes[0].preflight, form)
    if any(node.blockers for node in nodes):
        raise typer.Exit(ExitCode.NOT_AS_WISHED)


@app.command(rich_help_panel=SEE)
def node(
    node_name: Annotated[str, typer.Argument(metavar="NODE")],
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    form: Output = None,
) -> None:
    """Everything about one node: conditions, preflight with remedies, the last switch step by step."""
    view = Cluster(kubeconfig, context).fleet()
    found = _node(view.node(node_name), node_name)
    _show(render_node(found, view.at), found, form)


@app.command(rich_help_panel=SEE)
def history(name: Name = None, kubeconfig: Kubeconfig = None, context: Context = None, form: Output = None) -> None:
    """The last ten rollouts that are over: from where to where, by whom and why, and how they ended."""
    past = Cluster(kubeconfig, context).proxy_mode(name).status.history
    _show(render.history(past, datetime.now(UTC)), past, form)


@app.command(rich_help_panel=SEE)
def watch(
    name: Name = None,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 1.0,
    plain: Annotated[bool, typer.Option("--plain", help="A line for each change, as without a terminal.")] = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """A rollout live. Ends with 0 when it is complete, with 1 when it has stopped."""
    raise typer.Exit(watch_rollout(Cluster(kubeconfig, context), name, _console(), interval, plain=plain))


@app.command(rich_help_panel=STEER)
def pause(name: Name = None, kubeconfig: Kubeconfig = None, context: Context = None) -> None:
    """Nothing new starts; nodes in mid-switch finish."""
    _do(Cluster(kubeconfig, context), name, verbs.pause)


@app.command(rich_help_panel=STEER)
def resume(name: Name = None, kubeconfig: Kubeconfig = None, context: Context = None) -> None:
    """Go on after pause."""
    _do(Cluster(kubeconfig, context), name, verbs.resume)


@app.command(rich_help_panel=STEER)
def promote(
    stage: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="STAGE", help="By default the stage that waits."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All stages of this rollout.")] = False,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--proxymode", "-p", metavar="PROXYMODE", help="Needed only where there are several."),
    ] = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Approve a stage that waits for a person."""
    _do(Cluster(kubeconfig, context), name, lambda found: verbs.promote(found, stage, everything=everything))


@app.command(rich_help_panel=STEER)
def retry(
    name: Name = None,
    nodes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--node", metavar="NODE", help="This one, as often as needed; by default all that failed."),
    ] = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Nodes whose switch failed try again, and the rollout goes on if that was what stopped it."""
    cluster = Cluster(kubeconfig, context)
    known = cluster.node_proxy_modes() if nodes else {}
    _do(cluster, name, lambda found: verbs.retry(found, nodes or [], known))


@app.command(rich_help_panel=STEER)
def skip(
    nodes: Nodes,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; shown wherever the node is.")],
    name: Name = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Rollouts go round a node until unskip. One that failed goes back to the mode that it had before."""
    _do_nodes(Cluster(kubeconfig, context), name, nodes, lambda found, known: verbs.skip(found, nodes, known, reason))


@app.command(rich_help_panel=STEER)
def unskip(nodes: Nodes, name: Name = None, kubeconfig: Kubeconfig = None, context: Context = None) -> None:
    """Rollouts go round a node no more."""
    _do_nodes(Cluster(kubeconfig, context), name, nodes, lambda found, known: verbs.unskip(found, nodes, known))


@app.command(rich_help_panel=STEER)
def abort(name: Name = None, kubeconfig: Kubeconfig = None, context: Context = None) -> None:
    """End the rollout here: nothing new starts, every node stays as it was asked to be."""
    _do(Cluster(kubeconfig, context), name, verbs.abort)


@app.command(rich_help_panel=STEER)
def undo(
    name: Name = None,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for a window: take spec.rollout.windows out.")
    ] = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Go back to the mode before, by the same stages."""
    _do(Cluster(kubeconfig, context), name, lambda found: verbs.undo(found, now=now))


@app.command(rich_help_panel=SEE)
def version(kubeconfig: Kubeconfig = None, context: Context = None, form: Output = None) -> None:
    """Versions of the plugin, the cluster and the agents."""
    own = distribution_version("proxymode")
    if form is None:
        _console().print(f"plugin   {own}", highlight=False)
    view = Cluster(kubeconfig, context).fleet(())
    agents = sorted({found.agent for found in view.nodes if found.agent})
    if form is None:
        _console().print(f"cluster  {view.cluster_version}\nagents   {', '.join(agents) or 'none'}", highlight=False)
    else:
        sys.stdout.write(output.text({"plugin": own, "cluster": view.cluster_version, "agents": agents}, form))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point, by default with the process' own arguments; a user's mistake is one line on stderr."""
    try:
        app(arguments)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.code)
    raise AssertionError("typer ends every command by SystemExit")


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        # Piped output is for grep and awk: a row stays one line.
        console.width = PIPED_WIDTH
    return console


def _show(table: RenderableType, value: Any, form: output.Format | None) -> None:
    if form is None:
        _console().print(table)
    else:
        sys.stdout.write(output.text(value, form))


def _node(found: Any, name: str) -> Any:
    if found is None:
        raise UserError(f"node {name!r} not found", ExitCode.NOT_FOUND)
    return found


def _do(cluster: Cluster, name: str | None, verb: Callable[[ProxyMode], Deed]) -> None:
    found = cluster.proxy_mode(name)
    deed = verb(found)
    if deed.patch is not None:
        _warn(cluster.patch_proxy_mode(found.metadata.name, deed.patch))
    sys.stdout.write(f"proxymode/{found.metadata.name} {deed.told}\n")


def _do_nodes(
    cluster: Cluster,
    name: str | None,
    nodes: Sequence[str],
    verb: Callable[[ProxyMode, Mapping[str, NodeProxyMode]], Deed],
) -> None:
    found = cluster.proxy_mode(name)
    deed = verb(found, cluster.node_proxy_modes())
    if deed.patch is not None:
        for node_name in dict.fromkeys(nodes):
            _warn(cluster.patch_node_proxy_mode(node_name, deed.patch))
    sys.stdout.write(f"proxymode/{found.metadata.name} {deed.told}\n")


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        sys.stderr.write(f"Warning: {warning}\n")
