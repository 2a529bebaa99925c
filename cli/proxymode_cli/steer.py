"""The commands that change something: each finds the ProxyMode, asks `verbs` what to write, and writes it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from proxymode_cli import candidates, verbs
from proxymode_cli.options import Access, Name, Output, command
from proxymode_cli.output import Format, text
from proxymode_cli.verbs import Home  # noqa: TC001 - typer resolves annotations at run time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from proxymode_api.nodeproxymode import NodeProxyMode
    from proxymode_api.proxymode import ProxyMode
    from proxymode_cli.cluster import Cluster
    from proxymode_cli.verbs import Deed

PANEL = "Steer a rollout"

Nodes = Annotated[
    list[str],
    typer.Option("--node", metavar="NODE", help="As often as needed.", autocompletion=candidates.nodes),
]


def register(app: typer.Typer) -> None:
    """Puts the commands of this module on the app, in the order of --help."""
    for function in (pause, resume, promote, retry, skip, unskip, abort, undo):
        command(app, PANEL)(function)


def pause(access: Access, name: Name = None, *, form: Output = None) -> None:
    """Nothing new starts; nodes in mid-switch finish."""
    _do(form, access.cluster(), name, verbs.pause)


def resume(access: Access, name: Name = None, *, form: Output = None) -> None:
    """Go on after pause."""
    _do(form, access.cluster(), name, verbs.resume)


def promote(
    access: Access,
    name: Name = None,
    *,
    stage: Annotated[
        Optional[str],  # noqa: UP045 - typer 0.29 resolves this form for every Python
        typer.Option(
            "--stage",
            metavar="STAGE",
            help="This one, also ahead; by default the stage that waits.",
            autocompletion=candidates.stages,
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All stages of this rollout.")] = False,
    form: Output = None,
) -> None:
    """Approve a stage that waits for a person."""
    _do(form, access.cluster(), name, lambda found: verbs.promote(found, stage, everything=everything))


def retry(
    access: Access,
    name: Name = None,
    *,
    nodes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--node",
            metavar="NODE",
            help="This one, as often as needed; by default all that failed.",
            autocompletion=candidates.nodes,
        ),
    ] = None,
    form: Output = None,
) -> None:
    """Nodes whose switch failed try again, and the rollout goes on if that was what stopped it."""
    cluster = access.cluster()
    known = cluster.node_proxy_modes() if nodes else {}
    _do(form, cluster, name, lambda found: verbs.retry(found, nodes or [], known))


def skip(
    access: Access,
    name: Name = None,
    *,
    nodes: Nodes,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; shown wherever the node is.")],
    form: Output = None,
) -> None:
    """Rollouts go round a node until unskip. One that failed goes back to the mode that it had before."""
    _do_nodes(form, access.cluster(), name, nodes, lambda found, known: verbs.skip(found, nodes, known, reason))


def unskip(access: Access, name: Name = None, *, nodes: Nodes, form: Output = None) -> None:
    """Rollouts go round a node no more."""
    _do_nodes(form, access.cluster(), name, nodes, lambda found, known: verbs.unskip(found, nodes, known))


def abort(access: Access, name: Name = None, *, form: Output = None) -> None:
    """End the rollout here: nothing new starts, every node stays as it was asked to be."""
    _do(form, access.cluster(), name, verbs.abort)


def undo(
    access: Access,
    name: Name = None,
    *,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for a window: take spec.rollout.windows out.")
    ] = False,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="All stages together, within maxUnavailable, instead of the last first.")
    ] = False,
    to: Annotated[
        Optional[Home],  # noqa: UP045
        typer.Option("--to", help="A mode, or the kube-proxy that was taken over; by default what was before."),
    ] = None,
    form: Output = None,
) -> None:
    """Go back to the mode before, or to the kube-proxy that was taken over; the last stage first. Waits for no
    approval and no gate."""
    cluster = access.cluster()
    nodes = cluster.node_proxy_modes().values() if to is None else ()
    _do(form, cluster, name, lambda found: verbs.undo(found, nodes, now=now, at_once=at_once, to=to))


def _do(form: Format | None, cluster: Cluster, name: str | None, verb: Callable[[ProxyMode], Deed]) -> None:
    found = cluster.proxy_mode(name)
    deed = verb(found)
    if deed.patch is not None:
        _warn(cluster.patch_proxy_mode(found.metadata.name, deed.patch))
        if warning := verbs.written_back(found, deed):
            _warn([warning])
    _say(form, found.metadata.name, deed)


def _do_nodes(
    form: Format | None,
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
    _say(form, found.metadata.name, deed)


def _say(form: Format | None, name: str, deed: Deed) -> None:
    if form is None or form is Format.WIDE:
        sys.stdout.write(f"proxymode/{name} {deed.told}\n")
    else:
        sys.stdout.write(text({"proxyMode": name, "changed": deed.patch is not None, "told": deed.told}, form))


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        sys.stderr.write(f"Warning: {warning}\n")
