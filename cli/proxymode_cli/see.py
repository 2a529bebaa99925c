"""The commands that read: what each asks the cluster for, and in which shape it answers."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import version as distribution_version
from pathlib import Path  # noqa: TC003 - typer resolves annotations at run time
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Group

from proxymode_api.modes import Mode  # noqa: TC001 - typer resolves annotations at run time
from proxymode_cli import candidates, output, render, render_checks, render_explain, render_migration, reporting
from proxymode_cli.asking import choose
from proxymode_cli.errors import ExitCode, UserError
from proxymode_cli.explaining import explained
from proxymode_cli.gathering import migration as gather
from proxymode_cli.gathering import overview
from proxymode_cli.migration.model import Severity
from proxymode_cli.options import Access, Name, Output, command, console, show
from proxymode_cli.render_node import node as render_node
from proxymode_cli.watching import watch as watch_rollout

if TYPE_CHECKING:
    from rich.console import RenderableType

    from proxymode_cli.view import FleetView, NodeView, RolloutView

PANEL = "See"

NodeName = Annotated[str, typer.Argument(metavar="NODE", autocompletion=candidates.nodes)]
AnyNodeName = Annotated[
    Optional[str],  # noqa: UP045 - typer 0.29 resolves this form for every Python
    typer.Argument(metavar="NODE", help="All nodes by default.", autocompletion=candidates.nodes),
]


def register(app: typer.Typer) -> None:
    """Puts the commands of this module on the app, in the order of --help."""
    for function in (status, migration, plan, preflight, node, watch, history, report, explain, version):
        command(app, PANEL)(function)


def status(access: Access, *, form: Output = None) -> None:
    """The fleet at a glance: what runs, what is deprecated, where rollouts stand, what needs a person.

    Before proxymode is installed: the cluster's nodes, and what kube-proxy is configured for.
    """
    view = overview(access.cluster())
    # Nodes are listed once, at the top level.
    brief = replace(view, rollouts=tuple(replace(rollout, nodes=()) for rollout in view.rollouts))
    show(lambda wide: render.status(view, wide=wide), brief, form)


def migration(
    access: Access,
    name: Name = None,
    *,
    to: Annotated[
        Optional[Mode],  # noqa: UP045
        typer.Option("--to", help="By default the mode that the ProxyMode asks for, else nftables."),
    ] = None,
    form: Output = None,
) -> None:
    """What changes for users of the cluster when nodes go to the other mode: Services, nodes, CNI, what to do.

    From the cluster's own objects; needs no agent and no ProxyMode. Ends with 1 where a finding blocks.
    """
    report = gather(access.cluster(), to, name, access.namespace)
    show(lambda wide: render_migration.migration(report, wide=wide), report, form)
    if report.count(Severity.BLOCK):
        raise typer.Exit(ExitCode.NOT_AS_WISHED)


def plan(access: Access, name: Name = None, *, form: Output = None) -> None:
    """What would change, node by node, in which stages, why a node cannot, and what is different afterwards."""
    cluster = access.cluster()
    view = cluster.fleet()
    rollout = _rollout(view, name)
    changes = gather(cluster, rollout.mode, rollout.name, access.namespace)

    def table(wide: bool) -> RenderableType:
        return Group(render.plan(view, rollout, wide=wide), *render_migration.summary(changes))

    show(table, output.plain(rollout) | {"behaviour": output.plain(changes)}, form)


def preflight(access: Access, node_name: AnyNodeName = None, *, form: Output = None) -> None:
    """Whether nodes can run the mode that they are to go to: every check, what was found, what to do.

    Ends with 1 where a check blocks.
    """
    view = access.cluster().fleet()
    if node_name is None:
        nodes = view.nodes
        show(lambda wide: render_checks.preflight(nodes, view.at, wide=wide), nodes, form)
    else:
        nodes = (_node(view, node_name),)
        show(lambda _: render_checks.results(nodes[0].preflight), nodes[0].preflight, form)
    if any(node.blockers for node in nodes):
        raise typer.Exit(ExitCode.NOT_AS_WISHED)


def node(access: Access, node_name: NodeName, *, form: Output = None) -> None:
    """Everything about one node: conditions, preflight with remedies, the last switch step by step."""
    view = access.cluster().fleet()
    found = _node(view, node_name)
    show(lambda _: render_node(found, view.at), found, form)


def watch(
    access: Access,
    name: Name = None,
    *,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 1.0,
    plain: Annotated[bool, typer.Option("--plain", help="A line for each change, as without a terminal.")] = False,
    form: Output = None,
) -> None:
    """A rollout live. Ends with 0 when it is complete, with 1 when it has stopped.

    With -o json a line of JSON for each change.
    """
    raise typer.Exit(watch_rollout(access.cluster(), name, console(), interval, plain=plain, form=form))


def history(access: Access, name: Name = None, *, form: Output = None) -> None:
    """The last ten rollouts that are over: from where to where, by whom and why, and how they ended."""
    cluster = access.cluster()
    past = cluster.proxy_mode(name).status.history
    show(lambda _: render.history(past, cluster.now()), past, form)


def report(
    access: Access,
    name: Name = None,
    *,
    form: Annotated[reporting.ReportFormat, typer.Option("--output", "-o", help="The form of the report.")] = (
        reporting.ReportFormat.MARKDOWN
    ),
    file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--file", "-f", metavar="FILE", help="Write it there instead of to the terminal."),
    ] = None,
) -> None:
    """Evidence of a rollout, finished or not: timeline, nodes, connections kept and lost, checks, Events, history.

    One file that needs nothing else. It is about the ProxyMode's present revision.
    """
    text = reporting.written(reporting.gather(access.cluster(), name), form)
    if file is None:
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--file {file} cannot be written: {error.strerror}", ExitCode.USAGE) from error


def explain(
    _: Access,
    code: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="CODE",
            help="A reason of a condition or an Event, or a preflight check; all of them by default.",
            autocompletion=candidates.codes,
        ),
    ] = None,
    *,
    form: Output = None,
) -> None:
    """What a reason or a preflight check means, and what to do about it. Asks no cluster."""
    if code is None:
        show(lambda wide: render_explain.contents(wide=wide), explained(), form)
    else:
        (page,) = explained(code)
        show(lambda _: render_explain.page(page), page, form)


def version(access: Access, *, form: Output = None) -> None:
    """Versions of the plugin, the cluster and the agents."""
    own = distribution_version("proxymode")
    tables = form is None or form is output.Format.WIDE
    if tables:
        console().print(f"plugin   {own}")
    cluster = access.cluster()
    server = cluster.version()
    agents = sorted({found.status.agent_version for found in cluster.node_proxy_modes_if_any().values()} - {""})
    if tables:
        console().print(f"cluster  {server}\nagents   {', '.join(agents) or 'none'}")
    else:
        assert form is not None
        sys.stdout.write(output.text({"plugin": own, "cluster": server, "agents": agents}, form))


def _rollout(view: FleetView, name: str | None) -> RolloutView:
    rollout = view.rollout(choose(name, (rollout.name for rollout in view.rollouts)))
    assert rollout is not None
    return rollout


def _node(view: FleetView, name: str) -> NodeView:
    if (found := view.node(name)) is None:
        raise UserError(f"node {name!r} not found", ExitCode.NOT_FOUND)
    return found
