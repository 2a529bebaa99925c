"""Tables of the view model for a terminal: fleet, plan, history. Pure: a view in, something rich can print out."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from proxymode_api.proxymode_status import RolloutOutcome
from proxymode_cli import words
from proxymode_cli.render_checks import findings
from proxymode_cli.tables import table
from proxymode_cli.view import NodeState

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from rich.console import RenderableType
    from rich.table import Table

    from proxymode_api.deprecation import KubeProxyMode
    from proxymode_api.proxymode_status import RolloutRecord
    from proxymode_cli.view import FleetView, NodeView, RolloutView

ATTENTION: Final = (NodeState.FAILED, NodeState.BLOCKED, NodeState.SILENT, NodeState.NO_AGENT)
"""States that a person should look at, in this order."""
NOT_INSTALLED: Final = (
    "proxymode is not installed here: kubectl apply -k manifests/. "
    "What a change of mode would mean: kubectl proxymode migration."
)
ORDER: Final = (
    NodeState.SWITCHING,
    NodeState.FAILED,
    NodeState.BLOCKED,
    NodeState.SKIPPED,
    NodeState.SILENT,
    NodeState.NO_AGENT,
    NodeState.WAITING,
    NodeState.UPDATED,
    NodeState.SETTLED,
)


def status(view: FleetView, *, wide: bool = False) -> RenderableType:
    """The fleet at a glance: what runs, what is deprecated, where rollouts stand, what needs a person.

    Wide: every node too.
    """
    parts: list[RenderableType] = [_headline(view)]
    if view.deprecation:
        parts.append(Text(f"! {view.deprecation}", "yellow"))
    if view.configured is not None:
        parts.append(_unreported(view, view.configured))
    if view.nodes:
        parts += ["", _by_mode(view)]
    for rollout in view.rollouts:
        parts += ["", rollout_head(rollout), Padding(stages(rollout), (0, 0, 0, 2))]
    if not view.installed:
        parts += ["", Text(NOT_INSTALLED, "dim")]
    elif not view.rollouts:
        parts += ["", Text("No ProxyMode: nothing is asked of any node.", "dim")]
    if wide and view.nodes:
        parts += ["", _nodes(view)]
    if view.installed:
        parts += _attention(view.nodes)
    return Group(*parts)


def plan(view: FleetView, rollout: RolloutView, *, wide: bool = False) -> RenderableType:
    """What would change, node by node, and why a node cannot. Wide: on which kernel and kubelet."""
    nodes = sorted(rollout.nodes, key=lambda node: (ORDER.index(node.state), node.name))
    changing = sum(node.changes for node in nodes)
    left_out = words.left_out(rollout.counts.blocked, rollout.counts.skipped)
    stuck = f"; {left_out}" if left_out else ""
    parts: list[RenderableType] = [
        rollout_head(rollout),
        Padding(stages(rollout, plan=True), (0, 0, 0, 2)),
        *gates(rollout, view.at),
        "",
        Text(f"{words.plural(changing, 'node')} of {len(nodes)} {'is' if changing == 1 else 'are'} to change{stuck}."),
        *_order_of_going(rollout),
    ]
    more = ("KERNEL", "KUBELET", "AGENT") if wide else ()
    listing = table("NODE", "ZONE", "NOW", "", "THEN", "STATE", "STAGE", *more, "CHECKS")
    for node in nodes:
        listing.add_row(
            node.name,
            node.machine.zone or words.NOTHING,
            words.mode(node.mode),
            "→" if node.changes else "",
            node.target.value if node.changes and node.target else "",
            words.state(node.state),
            node.stage or words.NOTHING,
            *((node.machine.kernel, node.machine.kubelet, node.agent) if wide else ()),
            _checks(node),
        )
    if nodes:
        parts += ["", listing]
    parts += findings(nodes)
    others = [node.name for node in view.nodes if node.proxy_mode != rollout.name]
    if others:
        parts += ["", Text(f"Not decided by {rollout.name}: {words.names(others)}", "dim")]
    return Group(*parts)


def _order_of_going(rollout: RolloutView) -> list[RenderableType]:
    """What the operator says a paused rollout would do: how many at a time, who is first, how long."""
    found = rollout.plan
    if found is None or not found.to_move:
        return []
    line = f"The operator would tell {words.plural(found.to_move, 'node')}, at most {found.at_a_time} at a time"
    if found.estimated_seconds is not None:
        line += f", in about {words.duration(timedelta(seconds=found.estimated_seconds))}"
    stages = []
    for stage in found.stages:
        more = stage.to_move - len(stage.first)
        if stage.to_move:
            stages.append(f"  {stage.name}: {', '.join(stage.first)}{f' and {more} more' if more else ''}")
    return [Text(f"{line}:"), Text("\n".join(stages), "dim")]


def rollout_head(rollout: RolloutView) -> Text:
    """`fleet → nftables   Progressing   revision 3`, and the operator's words."""
    head = Text.assemble(
        (rollout.name, "bold"),
        f" → {rollout.mode}   ",
        (rollout.status.value, words.STATUS_STYLE.get(rollout.status, "cyan")),
        (f"   revision {rollout.revision}" if rollout.revision else "", "dim"),
    )
    if rollout.stale:
        head.append("   the operator has not seen the latest change yet", "yellow")
    if rollout.why:
        head.append(f"\n{rollout.why}", "dim")
    if rollout.trouble and rollout.trouble != rollout.why:
        head.append(f"\n{rollout.trouble}", "yellow")
    return head


def stages(rollout: RolloutView, *, plan: bool = False) -> Table:
    """The stages with bars; for a plan in place of them how far each reaches and what it waits for."""
    extra = ("REACHES", "APPROVAL", "SOAK") if plan else ()
    made = table("STAGE", *(() if plan else ("",)), "NODES", "PHASE", *extra, "", right=("NODES",))
    for stage in rollout.stages:
        report = stage.report
        style = words.STAGE_STYLE[report.phase]
        done = "green" if report.phase == "Complete" else "cyan"
        bar = words.bar(report.updated, report.blocked + report.skipped, report.nodes, done)
        made.add_row(
            stage.name,
            *(() if plan else (bar,)),
            f"{report.updated}/{report.nodes}",
            Text(report.phase.value, style),
            *(
                (
                    stage.reach,
                    "manual" if stage.manual else "automatic",
                    words.NOTHING if stage.soak == "0" else stage.soak,
                )
                if plan
                else ()
            ),
            Text(words.left_out(report.blocked, report.skipped), "yellow"),
        )
    return made


def gates(rollout: RolloutView, now: datetime) -> list[RenderableType]:
    """What every gate answered last."""
    if not rollout.gates:
        return []
    made = table("GATE", "ASKED ABOUT", "RESULT", "VALUE", "AGE", "", right=("VALUE",))
    for gate in rollout.gates:
        made.add_row(
            gate.name,
            gate.stage or "before the first stage",
            Text(gate.result.value, words.GATE_STYLE[gate.result]),
            gate.value,
            words.age(gate.measured_at, now),
            Text(gate.message, "dim"),
        )
    return ["", Padding(made, (0, 0, 0, 2))]


def history(past: Iterable[RolloutRecord], now: datetime) -> RenderableType:
    """Rollouts that are over, newest first."""
    made = table(
        "REVISION", "FROM", "TO", "OUTCOME", "MOVED", "RESULT", "TOOK", "ENDED", "BY", "CAUSE", right=("MOVED",)
    )
    for record in past:
        result = [f"{record.updated} updated"] + [
            f"{count} {word}"
            for count, word in ((record.failed, "failed"), (record.blocked, "blocked"), (record.skipped, "skipped"))
            if count
        ]
        made.add_row(
            str(record.revision),
            record.from_mode.value if record.from_mode else words.NOTHING,
            record.mode.value,
            Text(record.outcome.value, "green" if record.outcome is RolloutOutcome.COMPLETE else "yellow"),
            str(record.nodes),
            ", ".join(result),
            words.duration(record.ended_at - record.started_at),
            f"{words.age(record.ended_at, now)} ago",
            record.changed_by or words.NOTHING,
            record.change_cause,
        )
    return made if made.row_count else Text("No rollout is over yet.", "dim")


def _headline(view: FleetView) -> Text:
    modes = ", ".join(f"{count} {mode}" for mode, count in sorted(view.modes.items(), key=lambda item: -item[1]))
    return Text.assemble(
        ("Kubernetes ", "dim"),
        (view.cluster_version or "of unknown version", "bold"),
        ("   ", ""),
        (words.plural(len(view.nodes), "node"), "bold"),
        f": {modes}" if modes else "",
    )


def _unreported(view: FleetView, configured: KubeProxyMode) -> Text:
    """What is known of nodes that no agent reports on."""
    count = sum(node.mode is None for node in view.nodes)
    return Text(f"No agent reports on {words.plural(count, 'node')}; kube-proxy is configured for {configured}.")


def _by_mode(view: FleetView) -> Table:
    groups: dict[str, list[NodeView]] = defaultdict(list)
    for node in view.nodes:
        groups[node.mode.value if node.mode else "unknown"].append(node)
    made = table("MODE", "NODES", "READY", "KERNELS", "AGENTS", "REMOVED IN", right=("NODES", "READY"))
    for _, nodes in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        made.add_row(
            words.mode(nodes[0].mode),
            str(len(nodes)),
            words.count_of(node.ready for node in nodes),
            words.names(sorted({node.machine.kernel for node in nodes if node.machine.kernel}), 3),
            words.names(sorted({node.agent for node in nodes if node.agent}), 3),
            Text(next((node.deprecated for node in nodes if node.deprecated), ""), "yellow"),
        )
    return made


def _nodes(view: FleetView) -> Table:
    """Node by node, what it runs and who says so."""
    columns = (
        "NODE",
        "ZONE",
        "MODE",
        "STATE",
        "READY",
        "PROXYMODE",
        "SERVICES",
        "ENDPOINTS",
        "KERNEL",
        "AGENT",
        "HEARD",
    )
    made = table(*columns, right=("SERVICES", "ENDPOINTS"))
    for node in view.nodes:
        made.add_row(
            node.name,
            node.machine.zone or words.NOTHING,
            words.mode(node.mode),
            words.state(node.state),
            words.ready(node.ready),
            node.proxy_mode or words.NOTHING,
            str(node.services),
            str(node.endpoints),
            node.machine.kernel or words.NOTHING,
            node.agent or words.NOTHING,
            f"{words.age(node.heartbeat, view.at)} ago" if node.heartbeat else words.NOTHING,
        )
    return made


def _attention(nodes: Iterable[NodeView]) -> list[RenderableType]:
    """Nodes that a person should look at."""
    by_state: dict[NodeState, list[NodeView]] = defaultdict(list)
    for node in nodes:
        by_state[node.state].append(node)
    parts: list[RenderableType] = []
    for found in ATTENTION:
        if by_state[found]:
            line = Text.assemble(words.state(found), ": ", words.names([node.name for node in by_state[found]]))
            parts.append(line)
    return ["", *parts, Text("kubectl proxymode node NAME says more.", "dim")] if parts else []


def _checks(node: NodeView) -> Text:
    if node.state is NodeState.SKIPPED:
        return Text(f"skipped: {node.skip}", "yellow")
    if node.blockers:
        return Text(", ".join(result.id for result in node.blockers), "yellow")
    if node.warnings:
        return Text(f"{words.plural(len(node.warnings), 'warning')}", "dim")
    return Text("pass" if node.preflight else "not checked yet", "dim")
