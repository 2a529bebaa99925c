"""Everything about one node, for a terminal. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from proxymode_api.common import ConditionStatus
from proxymode_cli import words
from proxymode_cli.render_checks import results
from proxymode_cli.tables import table

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import RenderableType
    from rich.table import Table

    from proxymode_api.common import Condition
    from proxymode_api.nodeproxymode import LastSwitch
    from proxymode_cli.view import NodeView

GOOD = {
    "Ready": ConditionStatus.TRUE,
    "PreflightPassed": ConditionStatus.TRUE,
    "Degraded": ConditionStatus.FALSE,
    "DeprecatedMode": ConditionStatus.FALSE,
    "KubeProxyPresent": ConditionStatus.FALSE,
    "Drifted": ConditionStatus.FALSE,
}
"""What one would like a condition to be; types that are not here may be either."""


def node(found: NodeView, now: datetime) -> RenderableType:
    """Mode, machine, conditions, preflight, last switch."""
    parts: list[RenderableType] = [_head(found), "", _facts(found, now)]
    if found.conditions:
        parts += ["", Text("Conditions", "bold"), Padding(_conditions(found.conditions, now), (0, 0, 0, 2))]
    if found.preflight:
        about = f"Preflight for {found.target}" if found.target else "Preflight"
        head = Text.assemble((about, "bold"), (f"   {words.age(found.checked_at, now)} ago", "dim"))
        parts += ["", head, Padding(results(found.preflight), (0, 0, 0, 2))]
    if found.last_switch is not None:
        parts += ["", _switch_head(found.last_switch, now), Padding(_steps(found.last_switch), (0, 0, 0, 2))]
    if found.conditions or found.preflight:
        parts += ["", Text("kubectl proxymode explain with a reason or a check says more.", "dim")]
    return Group(*parts)


def _head(found: NodeView) -> Text:
    head = Text.assemble((found.name, "bold"), "   ", words.mode(found.mode))
    if found.changes:
        head.append(f" → {found.target}")
    head.append("   ")
    head.append_text(words.state(found.state))
    if found.deprecated:
        head.append(f"   removed upstream in {found.deprecated}", "yellow")
    return head


def _facts(found: NodeView, now: datetime) -> Table:
    machine = found.machine
    made = table("", "")
    made.show_header = False
    for label, value in (
        ("ProxyMode", f"{found.proxy_mode}, revision {found.revision}" if found.proxy_mode else "none"),
        ("Skipped", found.skip if found.skip is not None else ""),
        ("Programmed", f"{words.plural(found.services, 'Service port')}, {words.plural(found.endpoints, 'endpoint')}"),
        ("Kernel", machine.kernel),
        ("Kubelet", machine.kubelet),
        ("Zone", machine.zone),
        ("Node", f"{'Ready' if machine.ready else 'not Ready'}{', cordoned' if machine.cordoned else ''}"),
        ("Agent", f"{found.agent or 'has not reported'}{_heard(found, now)}"),
    ):
        if value:
            made.add_row(Text(label, "dim"), value)
    return made


def _heard(found: NodeView, now: datetime) -> str:
    return f", heard of {words.age(found.heartbeat, now)} ago" if found.heartbeat else ""


def _conditions(found: tuple[Condition, ...], now: datetime) -> Table:
    made = table("CONDITION", "STATUS", "SINCE", "REASON", "MESSAGE")
    for condition in found:
        wished = GOOD.get(condition.type)
        style = "" if wished is None else "green" if condition.status is wished else "yellow"
        made.add_row(
            condition.type,
            Text(condition.status.value, style),
            words.age(condition.last_transition_time, now),
            condition.reason,
            condition.message,
        )
    return made


def _switch_head(switch: LastSwitch, now: datetime) -> Text:
    head = Text.assemble(("Last switch", "bold"), f"   {switch.from_mode} → {switch.to_mode}   ")
    outcome = switch.outcome.value if switch.outcome else "under way"
    head.append(outcome, "green" if outcome in {"Succeeded", "Resumed"} else "yellow")
    head.append(f"   {words.age(switch.started_at, now)} ago", "dim")
    if switch.completed_at:
        head.append(f", took {(switch.completed_at - switch.started_at).total_seconds():.1f} s", "dim")
    if switch.attempts > 1:
        head.append(f", {switch.attempts} attempts", "yellow")
    if switch.connections_found is not None:
        drained = f"{switch.connections_drained} ended by themselves, " if switch.connections_drained else ""
        head.append(
            f"\n  {words.plural(switch.connections_found, 'connection')} found, "
            f"{words.number(switch.connections_kept)} kept, {drained}{words.number(switch.connections_lost)} lost"
        )
    if switch.drain_deadline is not None and switch.completed_at is None:
        left = words.duration(switch.drain_deadline - now)
        head.append(f"\n  connections on the old mode have {left} to end by themselves", "yellow")
    for probes in switch.verification:
        answered = f"\n  {probes.kind}: {probes.after} of {probes.before} that answered before answer still"
        head.append(answered, "yellow" if probes.failed else "dim")
        if probes.failed:
            head.append(f"; not {', '.join(probes.failed)}", "yellow")
    if switch.message:
        head.append(f"\n  {switch.message}", "yellow")
    return head


def _steps(switch: LastSwitch) -> Table:
    made = table("STEP", "MS", "", right=("MS",))
    longest = max((step.milliseconds for step in switch.steps), default=0)
    for step in switch.steps:
        width = 0 if longest == 0 else -(-step.milliseconds * words.BAR_WIDTH // longest)
        made.add_row(step.name, str(step.milliseconds), Text("━" * width, "cyan"))
    return made
