"""A rollout while it goes on: a live tree on a terminal, a line for each change elsewhere.

What is shown is pure (`tree`, `changes`); `watch` only asks again and again, draws, and ends when there is no more to
come: 0 when the rollout is complete, 1 when it has stopped.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from proxymode_api.gates import GateResult
from proxymode_api.proxymode_status import FleetStatus
from proxymode_cli import output, words
from proxymode_cli.asking import choose
from proxymode_cli.errors import ExitCode, UserError
from proxymode_cli.outlook import remaining
from proxymode_cli.view import NodeState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import Console, RenderableType

    from proxymode_cli.cluster import Cluster
    from proxymode_cli.view import FleetView, NodeView, RolloutView, StageView

NODES_SHOWN: Final = 12
"""More nodes in a stage than this: only those that are not updated are shown one by one."""
NAMES_SHOWN: Final = 6
LEFT: Final = (
    NodeState.FAILED,
    NodeState.BLOCKED,
    NodeState.SKIPPED,
    NodeState.SILENT,
    NodeState.NO_AGENT,
    NodeState.WAITING,
)
"""States of nodes that were not told, in the order in which they are listed below the tree."""
MACHINES_SECONDS: Final = 60.0
"""Nodes are large and change little: read again after so long."""
PATIENCE_SECONDS: Final = 60.0
"""An API server that is away for so long ends the watch."""
LISTING_SHARE: Final = 5.0
"""A round waits at least so many times as long as its requests took, to spare the API server of a large fleet."""


def verdict(rollout: RolloutView) -> ExitCode | None:
    """How a watch ends; None: it goes on."""
    if rollout.stale:
        return None
    match rollout.status:
        case FleetStatus.COMPLETE:
            return ExitCode.DONE
        case FleetStatus.STOPPED | FleetStatus.ABORTED | FleetStatus.REFUSED:
            return ExitCode.NOT_AS_WISHED
        case _:
            return None


def tree(view: FleetView, rollout: RolloutView) -> RenderableType:
    """Stages as branches with bars, nodes as leaves of the stage in which they were told to move."""
    told: dict[str, list[NodeView]] = {}
    untold: list[NodeView] = []
    for node in rollout.nodes:
        if rollout.told(node) and node.stage:
            told.setdefault(node.stage, []).append(node)
        elif node.state is not NodeState.UPDATED:
            untold.append(node)
    head = Text.assemble(
        (rollout.name, "bold"),
        f" → {rollout.mode}   ",
        (rollout.status.value, words.STATUS_STYLE.get(rollout.status, "cyan")),
        f"   {rollout.counts.progress} nodes",
    )
    if rollout.started_at is not None:
        end = rollout.completed_at or view.at
        head.append(f"   {words.duration(end - rollout.started_at)}", "dim")
    if (left := remaining(rollout, view.at)) is not None:
        head.append(f", about {words.duration(left)} to go", "dim")
    root = Tree(head, guide_style="dim")
    width = max((len(stage.name) for stage in rollout.stages), default=0)
    modes = max((len(words.mode(node.mode)) for node in rollout.nodes), default=0)
    for stage in rollout.stages:
        branch = root.add(_stage(stage, width, view))
        members = told.get(stage.name, [])
        shown = [node for node in members if len(members) <= NODES_SHOWN or node.state is not NodeState.UPDATED]
        names = max((len(node.name) for node in shown), default=0)
        for node in sorted(shown, key=lambda node: node.name):
            branch.add(_leaf(node, names, modes))
    return Group(root, *_foot(rollout, untold))


def changes(before: RolloutView | None, after: RolloutView) -> list[str]:
    """What has changed between two looks, one line each; everything that is not in its initial state at first."""
    lines = []
    if before is None or before.status is not after.status or before.revision != after.revision:
        lines.append(f"{after.name} revision {after.revision} to {after.mode}: {after.status}, {after.counts.progress}")
    stages = {stage.name: stage.report.phase for stage in before.stages} if before is not None else {}
    lines += [
        f"stage {stage.name}: {stage.report.phase}, {stage.report.updated}/{stage.report.nodes}"
        for stage in after.stages
        if stages.get(stage.name) is not stage.report.phase
    ]
    states = {node.name: node.state for node in before.nodes} if before is not None else {}
    for node in after.nodes:
        if states.get(node.name) is not node.state:
            lines.append(f"node {node.name}: {words.state(node.state).plain}{_detail(node)}")
    return lines


def watch(
    cluster: Cluster,
    name: str | None,
    console: Console,
    interval: float,
    *,
    plain: bool = False,
    form: output.Format | None = None,
) -> ExitCode:
    """Watch until the rollout is complete or has stopped: on a terminal as a tree, else a line for each change.

    `form` JSON or YAML: a document for each look at which something has changed. Raises UserError.
    """
    name = choose(name, (rollout.name for rollout in cluster.fleet(()).rollouts))
    looks = _looks(cluster, name, interval)
    if form is output.Format.JSON or form is output.Format.YAML:
        return _follow(looks, lambda view, rollout, lines: sys.stdout.write(_document(view, rollout, lines, form)))
    if plain or not console.is_terminal:
        return _follow(looks, lambda view, _, lines: _print_lines(console, view, lines))
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        for view, rollout in looks:
            live.update(tree(view, rollout), refresh=True)
            if (end := verdict(rollout)) is not None:
                return end
    raise AssertionError("looks end by an exception only")


def _follow(
    looks: Iterable[tuple[FleetView, RolloutView]], tell: Callable[[FleetView, RolloutView, list[str]], object]
) -> ExitCode:
    before: RolloutView | None = None
    for view, rollout in looks:
        if lines := changes(before, rollout):
            tell(view, rollout, lines)
            sys.stdout.flush()
        before = rollout
        if (end := verdict(rollout)) is not None:
            return end
    raise AssertionError("looks end by an exception only")


def _print_lines(console: Console, view: FleetView, lines: list[str]) -> None:
    for line in lines:
        console.print(f"{view.at:%H:%M:%S} {line}", highlight=False, soft_wrap=True, markup=False)


def _document(view: FleetView, rollout: RolloutView, lines: list[str], form: output.Format) -> str:
    """One line of JSON, or one document of YAML: what changed, and where the rollout stands."""
    found = output.plain(
        {
            "at": view.at,
            "name": rollout.name,
            "revision": rollout.revision,
            "mode": rollout.mode,
            "status": rollout.status,
            "nodes": rollout.counts,
            "connectionsKept": rollout.kept,
            "connectionsLost": rollout.lost,
            "changes": lines,
        }
    )
    return json.dumps(found) + "\n" if form is output.Format.JSON else "---\n" + output.text(found, form)


def _looks(cluster: Cluster, name: str, interval: float) -> Iterable[tuple[FleetView, RolloutView]]:
    """One look after the other; an API server that is away for a while is asked again."""
    machines = cluster.machines()
    machines_at = reached_at = time.monotonic()
    while True:
        began = time.monotonic()
        try:
            if began - machines_at >= MACHINES_SECONDS:
                machines, machines_at = cluster.machines(), began
            view = cluster.fleet(machines)
            reached_at = time.monotonic()
        except UserError:
            if time.monotonic() - reached_at >= PATIENCE_SECONDS:
                raise
        else:
            rollout = view.rollout(name)
            if rollout is None:
                raise UserError(f"ProxyMode {name!r} was deleted; its nodes keep what they have", ExitCode.NOT_FOUND)
            yield view, rollout
        time.sleep(max(interval, LISTING_SHARE * (time.monotonic() - began)))


def _stage(stage: StageView, width: int, view: FleetView) -> Text:
    report = stage.report
    line = Text.assemble(
        (stage.name.ljust(width), "bold" if report.started_at and not report.completed_at else ""),
        "  ",
        words.bar(
            report.updated,
            report.blocked + report.skipped,
            report.nodes,
            "green" if report.phase == "Complete" else "cyan",
        ),
        f"  {report.updated}/{report.nodes}  ",
        (report.phase.value, words.STAGE_STYLE[report.phase]),
    )
    if report.phase == "Soaking" and report.completed_at is not None:
        line.append(f" for {words.age(report.completed_at, view.at)} of {stage.soak}", "dim")
    if report.phase == "AwaitingApproval":
        line.append("   kubectl proxymode promote", "yellow")
    if missing := words.left_out(report.blocked, report.skipped):
        line.append(f"   {missing}", "yellow")
    return line


def _leaf(node: NodeView, names: int, modes: int) -> Text:
    return Text.assemble(
        f"{node.name.ljust(names)}  ",
        words.padded(words.mode(node.mode), modes),
        "  ",
        words.state(node.state),
        (_detail(node), "dim"),
    )


def _detail(node: NodeView) -> str:
    """What is worth saying about a node in its state."""
    switch = node.last_switch
    match node.state:
        case NodeState.BLOCKED:
            return f", {', '.join(result.id for result in node.blockers) or 'see its conditions'}"
        case NodeState.SKIPPED:
            return f", {node.skip}"
        case NodeState.FAILED:
            ready = node.condition("Ready")
            return f", {ready.message}" if ready is not None and ready.message else ""
        case NodeState.SWITCHING if switch is not None and switch.completed_at is None and switch.steps:
            return f", {switch.steps[-1].name} done"
        case NodeState.UPDATED if switch is not None and switch.connections_found is not None:
            kept, lost = words.number(switch.connections_kept), words.number(switch.connections_lost)
            return f", {kept} connections kept, {lost} lost"
        case _:
            return ""


def _foot(rollout: RolloutView, untold: list[NodeView]) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for state in LEFT:
        names = [f"{node.name}{_reasons(node)}" for node in untold if node.state is state]
        if names:
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            parts.append(Text.assemble(words.state(state), f": {', '.join(names[:NAMES_SHOWN])}{more}"))
    for gate in rollout.gates:
        if gate.result is not GateResult.PASS:
            result = (gate.result.value, words.GATE_STYLE[gate.result])
            parts.append(Text.assemble(f"Gate {gate.name}: ", result, f", {gate.message}" if gate.message else ""))
    if rollout.kept or rollout.lost:
        lost = (f"{rollout.lost} lost", "red" if rollout.lost else "")
        parts.append(Text.assemble("Connections open when nodes switched: ", f"{rollout.kept} kept, ", lost))
    if rollout.trouble and verdict(rollout) is not None:
        parts.append(Text(rollout.trouble, "yellow"))
    return parts


def _reasons(node: NodeView) -> str:
    return f" ({', '.join(result.id for result in node.blockers)})" if node.blockers else ""
