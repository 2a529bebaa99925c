"""Tables of the view model for a terminal: fleet, plan, preflight. Pure: a view in, something rich can print out."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from proxymode_api.nodeproxymode import Verdict
from proxymode_api.proxymode_status import RolloutOutcome
from proxymode_cli import words
from proxymode_cli.view import NodeState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from rich.console import RenderableType

    from proxymode_api.nodeproxymode import PreflightResult
    from proxymode_api.proxymode_status import RolloutRecord
    from proxymode_cli.view import FleetView, NodeView, RolloutView

ATTENTION: Final = (NodeState.FAILED, NodeState.BLOCKED, NodeState.SILENT, NodeState.NO_AGENT)
"""States that a person should look at, in this order."""
NOT_CHECKED: Final = "Nothing is checked yet: no agent has reported, or no mode is asked for."
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


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """A table as kubectl prints them: capital headings, no lines."""
    made = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim", show_edge=False)
    numbers = set(right)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def status(view: FleetView, *, wide: bool = False) -> RenderableType:
    """The fleet at a glance: what runs, what is deprecated, where rollouts stand, what needs a person.

    Wide: every node too.
    """
    parts: list[RenderableType] = [_headline(view)]
    if view.deprecation:
        parts.append(Text(f"! {view.deprecation}", "yellow"))
    if view.nodes:
        parts += ["", _by_mode(view)]
    for rollout in view.rollouts:
        parts += ["", rollout_head(rollout), Padding(stages(rollout), (0, 0, 0, 2))]
    if not view.rollouts:
        parts += ["", Text("No ProxyMode: nothing is asked of any node.", "dim")]
    if wide and view.nodes:
        parts += ["", _nodes(view)]
    parts += _attention(view.nodes)
    return Group(*parts)


def plan(view: FleetView, rollout: RolloutView, *, wide: bool = False) -> RenderableType:
    """What would change, node by node, and why a node cannot. Wide: on which kernel and kubelet."""
    nodes = sorted(rollout.nodes, key=lambda node: (ORDER.index(node.state), node.name))
    changing = sum(node.changes for node in nodes)
    parts: list[RenderableType] = [
        rollout_head(rollout),
        Padding(stages(rollout, plan=True), (0, 0, 0, 2)),
        *gates(rollout, view.at),
        "",
        Text(f"{words.plural(changing, 'node')} of {len(nodes)} {'is' if changing == 1 else 'are'} to change."),
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
    parts += _findings(nodes)
    others = [node.name for node in view.nodes if node.proxy_mode != rollout.name]
    if others:
        parts += ["", Text(f"Not decided by {rollout.name}: {words.names(others)}", "dim")]
    return Group(*parts)


def preflight(nodes: Iterable[NodeView], now: datetime, *, wide: bool = False) -> RenderableType:
    """Every check that does not pass, by check; and who passes all. Wide: every check on every node."""
    nodes = list(nodes)
    summary = table("NODE", "TARGET", "PASS", "WARN", "BLOCK", "CHECKED", right=("PASS", "WARN", "BLOCK"))
    for node in nodes:
        count = {found: sum(result.verdict is found for result in node.preflight) for found in Verdict}
        summary.add_row(
            node.name,
            node.target.value if node.target else words.NOTHING,
            str(count[Verdict.PASS]),
            Text(str(count[Verdict.WARN]), "yellow" if count[Verdict.WARN] else "dim"),
            Text(str(count[Verdict.BLOCK]), "bold red" if count[Verdict.BLOCK] else "dim"),
            f"{words.age(node.checked_at, now)} ago" if node.checked_at else "not yet",
        )
    if not nodes:
        return Text("No Linux node is to be seen.", "dim")
    if not wide:
        return Group(summary, *_findings(nodes))
    every = table("NODE", "CHECK", "VERDICT", "FOUND")
    for node in nodes:
        for result in node.preflight:
            every.add_row(node.name, result.id, words.verdict(result.verdict), result.found)
    return Group(summary, "", every if every.row_count else Text(NOT_CHECKED, "dim"))


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
    """The stages with bars; for a plan also how far each reaches and what it waits for."""
    extra = ("REACHES", "APPROVAL", "SOAK") if plan else ()
    made = table("STAGE", "", "NODES", "PHASE", *extra, "", right=("NODES",))
    for stage in rollout.stages:
        report = stage.report
        style = words.STAGE_STYLE[report.phase]
        made.add_row(
            stage.name,
            words.bar(
                report.updated,
                report.blocked + report.skipped,
                report.nodes,
                "green" if report.phase == "Complete" else "cyan",
            ),
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


def _by_mode(view: FleetView) -> Table:
    groups: dict[str, list[NodeView]] = defaultdict(list)
    for node in view.nodes:
        groups[node.mode.value if node.mode else "unknown"].append(node)
    made = table("MODE", "NODES", "READY", "KERNELS", "AGENTS", "REMOVED IN", right=("NODES", "READY"))
    for _, nodes in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        made.add_row(
            words.mode(nodes[0].mode),
            str(len(nodes)),
            str(sum(node.ready is True for node in nodes)),
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


def _findings(nodes: Iterable[NodeView]) -> list[RenderableType]:
    """Blocks and warnings, each with its remedy once, and the nodes that it is about."""
    found: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for node in nodes:
        for result in (*node.blockers, *node.warnings):
            found[result.verdict.value, result.id, result.found, result.remedy].append(node.name)
    parts: list[RenderableType] = []
    for (verdict, name, text, remedy), names in sorted(found.items()):
        parts += [
            "",
            Text.assemble(
                (verdict, words.VERDICT_STYLE[Verdict(verdict)]), "  ", (name, "bold"), f"  on {words.names(names)}"
            ),
            Padding(Text(text), (0, 0, 0, 7)),
            Padding(Text(f"→ {remedy}", "cyan"), (0, 0, 0, 7)),
        ]
    return parts


def _checks(node: NodeView) -> Text:
    if node.state is NodeState.SKIPPED:
        return Text(f"skipped: {node.skip}", "yellow")
    if node.blockers:
        return Text(", ".join(result.id for result in node.blockers), "yellow")
    if node.warnings:
        return Text(f"{words.plural(len(node.warnings), 'warning')}", "dim")
    return Text("pass" if node.preflight else "not checked yet", "dim")


def results(found: Sequence[PreflightResult]) -> RenderableType:
    """Check by check, with what was found and what to do."""
    if not found:
        return Text(NOT_CHECKED, "dim")
    made = table("CHECK", "VERDICT", "FOUND")
    for result in found:
        text = Text(result.found)
        if result.remedy:
            text.append(f"\n→ {result.remedy}", "cyan")
        made.add_row(result.id, words.verdict(result.verdict), text)
    return made
