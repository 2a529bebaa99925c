"""What a report is made of, whichever way it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from proxymode_api.nodeproxymode import Verdict
from proxymode_api.proxymode_status import FleetStatus
from proxymode_cli import words
from proxymode_cli.view import NodeState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxymode_cli.view import FleetView, NodeView, RolloutView


@dataclass(frozen=True, slots=True)
class Happening:
    """An Event of operator or agents. `about`: the ProxyMode or the node."""

    at: datetime
    about: str
    reason: str
    note: str
    warning: bool


@dataclass(frozen=True, slots=True)
class Connections:
    """What became of those that were open when nodes switched."""

    found: int = 0
    kept: int = 0
    drained: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """One result of preflight, and the nodes that have it."""

    verdict: Verdict
    id: str
    found: str
    remedy: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it, at `at`, for the API server `server`. `ended`: when the rollout was complete; else it is `at`."""

    at: datetime
    server: str
    plugin: str
    cluster_version: str
    rollout: RolloutView
    verdict: str
    connections: Connections
    findings: tuple[CheckFinding, ...]
    deprecation: str
    happenings: tuple[Happening, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def ended(self) -> datetime:
        return self.rollout.completed_at or self.at


def evidence(
    view: FleetView,
    rollout: RolloutView,
    happenings: Iterable[Happening],
    *,
    server: str,
    plugin: str,
    notes: tuple[str, ...] = (),
) -> Evidence:
    """Of one rollout: its present revision."""
    switches = list(rollout.switches())
    connections = Connections(
        found=sum(switch.connections_found or 0 for switch in switches),
        kept=rollout.kept,
        drained=sum(switch.connections_drained or 0 for switch in switches),
        lost=rollout.lost,
    )
    mine = {node.name for node in rollout.nodes} | {rollout.name}
    began = rollout.started_at
    return Evidence(
        at=view.at,
        server=server,
        plugin=plugin,
        cluster_version=view.cluster_version,
        rollout=rollout,
        verdict=_verdict(rollout, connections),
        connections=connections,
        findings=_findings(rollout.nodes),
        deprecation=view.deprecation,
        happenings=tuple(
            sorted(
                (event for event in happenings if event.about in mine and (began is None or event.at >= began)),
                key=lambda event: event.at,
            )
        ),
        notes=notes,
    )


def happening(item: Mapping[str, Any]) -> Happening | None:
    """An Event (events.k8s.io/v1) of ours; None: somebody else's."""
    if not str(item.get("reportingController", "")).startswith("proxymode.io/"):
        return None
    when = item.get("eventTime") or (item.get("metadata") or {}).get("creationTimestamp")
    try:
        at = datetime.fromisoformat(str(when))
    except ValueError:
        return None
    return Happening(
        at=at,
        about=str((item.get("regarding") or {}).get("name", "")),
        reason=str(item.get("reason", "")),
        note=str(item.get("note", "")),
        warning=item.get("type") == "Warning",
    )


def _verdict(rollout: RolloutView, connections: Connections) -> str:
    """The one sentence that somebody reads who reads no more."""
    if rollout.started_at is None:
        return f"{rollout.status}: the rollout has not begun."
    updated, desired = rollout.counts.updated, rollout.counts.desired
    if rollout.status is FleetStatus.COMPLETE:
        done = f"All {desired} nodes run" if updated == desired else f"{updated} of {desired} nodes run"
        sentence = f"{done} {rollout.mode}"
    else:
        sentence = f"{rollout.status}: {updated} of {desired} nodes run {rollout.mode}"
    left = words.left_out(rollout.counts.blocked, rollout.counts.skipped)
    if rollout.counts.failed:
        left = ", ".join(filter(None, [f"{rollout.counts.failed} failed", left]))
    sentence += f" ({left}). " if left else ". "
    if not any(switch.completed_at for switch in rollout.switches()):
        return sentence.rstrip()
    if not connections.found:
        return sentence + "No connection was open when nodes switched, or none was counted."
    if not connections.lost:
        ended = f" {connections.drained:,} of them ended by themselves." if connections.drained else ""
        return sentence + f"No connection was lost: {connections.found:,} were open when nodes switched.{ended}"
    verb = "was" if connections.lost == 1 else "were"
    return sentence + f"{connections.lost:,} of {connections.found:,} connections {verb} lost."


def _findings(nodes: Iterable[NodeView]) -> tuple[CheckFinding, ...]:
    """Blocks and warnings, each once with its nodes, blocks first."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for node in nodes:
        for result in (*node.blockers, *node.warnings):
            key = (result.verdict.value, result.id, result.found, result.remedy)
            found.setdefault(key, []).append(node.name)
    return tuple(
        CheckFinding(Verdict(verdict), check, text, remedy, tuple(names))
        for (verdict, check, text, remedy), names in sorted(found.items())
    )


def remark(node: NodeView) -> str:
    """What is worth saying about a node in a table; mostly nothing."""
    switch = node.last_switch
    if node.state is NodeState.SKIPPED:
        return f"skipped: {node.skip}"
    if node.state is NodeState.BLOCKED:
        return ", ".join(result.id for result in node.blockers) or "blocked"
    if node.state is NodeState.FAILED:
        ready = node.condition("Ready")
        return (switch.message if switch is not None else "") or (ready.message if ready is not None else "")
    if switch is not None and switch.attempts > 1:
        return f"{switch.attempts} attempts"
    return ""
