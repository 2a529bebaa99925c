"""Events about a node: which are due. Pure; posting them is one request each, elsewhere.

They follow from two statuses one after the other, so a restarted agent, which reads the status that it wrote before,
repeats nothing. The deprecation Event has upstream's reason and action, so that alerts on kube-proxy's see ours; it is
posted once a day. Posting is best effort: an Event that cannot be posted is logged and not tried again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxymode_agent.kube.events import EventType
from proxymode_agent.node.conditions import DEPRECATED_MODE, DRIFTED, blockers
from proxymode_api.common import ConditionStatus
from proxymode_api.nodeproxymode import NodeProxyModeStatus, Phase, SwitchOutcome
from proxymode_api.reasons.codes import Reason

if TYPE_CHECKING:
    from datetime import date

    from proxymode_api.nodeproxymode import LastSwitch


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """What an Event about the Node says (events.k8s.io/v1)."""

    type: EventType
    reason: Reason
    action: str
    note: str


def transitions(before: NodeProxyModeStatus, after: NodeProxyModeStatus) -> tuple[NodeEvent, ...]:
    """Events for what has happened between two statuses."""
    events = []
    switch, earlier = after.last_switch, before.last_switch
    if switch is not None:
        # A record's own start is a little before its first step's, by which a switch under way is known.
        if earlier is None or (earlier.completed_at is not None and earlier.started_at != switch.started_at):
            events.append(
                NodeEvent(EventType.NORMAL, Reason.SWITCH_STARTED, "SwitchMode", f"{_way(switch)}: the switch began.")
            )
        if switch.completed_at is not None and (earlier is None or earlier.completed_at != switch.completed_at):
            events.append(_ended(switch))
    if after.phase is Phase.BLOCKED and (before.phase is not Phase.BLOCKED or _blocking(before) != _blocking(after)):
        events.append(
            NodeEvent(EventType.WARNING, Reason.BLOCKED, "Preflight", _condition_message(after, "PreflightPassed"))
        )
    if _holds(after, DRIFTED) and not _holds(before, DRIFTED):
        note = _condition_message(after, DRIFTED)
        events.append(NodeEvent(EventType.WARNING, Reason.DRIFT_REPAIRED, "RepairDataplane", note))
    return tuple(events)


def deprecation_event(status: NodeProxyModeStatus, posted: date | None, today: date) -> NodeEvent | None:
    """The warning that upstream gives up the mode that runs; None when there is nothing to warn of or today's is
    posted."""
    if posted == today:
        return None
    for condition in status.conditions:
        if condition.type == DEPRECATED_MODE and condition.status is ConditionStatus.TRUE:
            return NodeEvent(EventType.WARNING, Reason.IPVS_DEPRECATION, "ProxyModeCheck", condition.message)
    return None


def _ended(switch: LastSwitch) -> NodeEvent:
    way = _way(switch)
    connections = ""
    if switch.connections_found is not None:
        drained = f", {switch.connections_drained} drained" if switch.connections_drained else ""
        connections = (
            f" Of {switch.connections_found} connections {switch.connections_kept or 0} were kept{drained}"
            f" and {switch.connections_lost or 0} lost."
        )
    match switch.outcome:
        case SwitchOutcome.SUCCEEDED | SwitchOutcome.RESUMED:
            assert switch.completed_at is not None
            seconds = (switch.completed_at - switch.started_at).total_seconds()
            return NodeEvent(
                EventType.NORMAL, Reason.SWITCH_SUCCEEDED, "SwitchMode", f"{way}: done in {seconds:.1f} s.{connections}"
            )
        case SwitchOutcome.ROLLED_BACK:
            return NodeEvent(EventType.WARNING, Reason.SWITCH_FAILED, "SwitchMode", f"{way}: undone: {switch.message}")
        case _:
            return NodeEvent(EventType.WARNING, Reason.SWITCH_FAILED, "SwitchMode", f"{way}: {switch.message}")


def _way(switch: LastSwitch) -> str:
    return f"From {switch.from_mode} to {switch.to_mode}"


def _blocking(status: NodeProxyModeStatus) -> set[str]:
    return {result.id for result in blockers(status.preflight.results)} if status.preflight else set()


def _holds(status: NodeProxyModeStatus, kind: str) -> bool:
    return any(condition.type == kind and condition.status is ConditionStatus.TRUE for condition in status.conditions)


def _condition_message(status: NodeProxyModeStatus, kind: str) -> str:
    return next((condition.message for condition in status.conditions if condition.type == kind), "")
