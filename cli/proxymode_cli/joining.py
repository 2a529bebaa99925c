"""ProxyModes, NodeProxyModes and Nodes joined into the view model. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from proxymode_api.annotations import SKIP_ANNOTATION
from proxymode_api.deprecation import KubeProxyMode, deprecation, minor_if_any
from proxymode_api.modes import ObservedMode
from proxymode_api.nodeproxymode import STATUS_MANAGER, NodeProxyMode, Phase, PreflightResult, Verdict
from proxymode_api.proxymode_status import StagePhase, StageStatus
from proxymode_api.rollout import Approval
from proxymode_api.stages import stages_in_force
from proxymode_cli import words
from proxymode_cli.view import FleetView, MachineView, NodeState, NodeView, RolloutView, StageView

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from proxymode_api.proxymode import ProxyMode
    from proxymode_api.rollout import Stage

SILENT_AFTER: Final = timedelta(minutes=3)
"""An agent writes every minute; after three missed heartbeats nothing is known about its node."""

_UPSTREAM: Final[Mapping[ObservedMode, KubeProxyMode]] = {
    ObservedMode.IPVS: KubeProxyMode.IPVS,
    ObservedMode.KUBE_PROXY_IPVS: KubeProxyMode.IPVS,
    ObservedMode.KUBE_PROXY_IPTABLES: KubeProxyMode.IPTABLES,
}

_SKIPPABLE: Final = frozenset(
    {NodeState.FAILED, NodeState.BLOCKED, NodeState.WAITING, NodeState.SILENT, NodeState.NO_AGENT}
)
"""States of which a node that is skipped is said to be skipped instead; one under way is let finish."""


def fleet_view(
    proxy_modes: Iterable[ProxyMode],
    node_proxy_modes: Iterable[NodeProxyMode],
    machines: Iterable[MachineView],
    cluster_version: str,
    now: datetime,
) -> FleetView:
    """The view of a cluster at `now`."""
    by_node = {found.metadata.name: found for found in node_proxy_modes}
    known = {machine.name: machine for machine in machines}
    nodes = tuple(
        node_view(known.get(name, MachineView(name)), by_node.get(name), now) for name in sorted(known | by_node)
    )
    return FleetView(
        at=now,
        cluster_version=cluster_version,
        rollouts=tuple(
            rollout_view(found, tuple(node for node in nodes if node.proxy_mode == found.metadata.name))
            for found in sorted(proxy_modes, key=lambda found: found.metadata.name)
        ),
        nodes=nodes,
        modes=dict(Counter(node.mode.value if node.mode else "unknown" for node in nodes)),
        deprecation=_deprecation(nodes, cluster_version, None),
    )


def with_configured(view: FleetView, configured: KubeProxyMode) -> FleetView:
    """The view where kube-proxy's ConfigMap asks for `configured`: nodes that no agent reports on count as that."""
    return replace(view, configured=configured, deprecation=_deprecation(view.nodes, view.cluster_version, configured))


def node_view(machine: MachineView, found: NodeProxyMode | None, now: datetime) -> NodeView:
    """One node, with or without a NodeProxyMode."""
    if found is None:
        return NodeView(machine.name, machine, NodeState.NO_AGENT, None, None, None, None, None)
    spec, status = found.spec, found.status
    reported = status.heartbeat_time is not None
    target = spec.target_mode or spec.mode
    results = tuple(status.preflight.results) if status.preflight and status.preflight.mode is target else ()
    ready = next((condition.status.value for condition in status.conditions if condition.type == "Ready"), "Unknown")
    skip = found.metadata.annotations.get(SKIP_ANNOTATION)
    state = _state(found, results, now)
    return NodeView(
        name=machine.name,
        machine=machine if machine.kernel else replace(machine, kernel=status.facts.kernel),
        state=NodeState.SKIPPED if skip is not None and state in _SKIPPABLE else state,
        skip=skip,
        mode=status.mode if reported else None,
        desired=spec.mode,
        target=target,
        phase=status.phase if reported else None,
        ready={"True": True, "False": False}.get(ready),
        proxy_mode=spec.proxy_mode,
        revision=spec.revision,
        stage=spec.stage,
        deprecated=status.deprecated,
        agent=status.agent_version,
        heartbeat=_heard_at(found),
        services=status.programmed.services,
        endpoints=status.programmed.endpoints,
        blockers=tuple(result for result in results if result.verdict is Verdict.BLOCK),
        warnings=tuple(result for result in results if result.verdict is Verdict.WARN),
        preflight=tuple(status.preflight.results) if status.preflight else (),
        checked_at=status.preflight.checked_at if status.preflight else None,
        last_switch=status.last_switch,
        conditions=tuple(status.conditions),
    )


def _heard_at(found: NodeProxyMode) -> datetime | None:
    """When its agent wrote last, by the API server's clock where that says so: the node's may be wrong."""
    heartbeat = found.status.heartbeat_time
    written = (entry.time for entry in found.metadata.managed_fields if entry.manager == STATUS_MANAGER)
    return heartbeat and max((time for time in written if time is not None), default=heartbeat)


def _state(found: NodeProxyMode, results: tuple[PreflightResult, ...], now: datetime) -> NodeState:
    spec, status = found.spec, found.status
    heard_at = _heard_at(found)
    if heard_at is None:
        return NodeState.NO_AGENT
    if now - heard_at >= SILENT_AFTER:
        return NodeState.SILENT
    target = spec.target_mode or spec.mode
    if status.phase is Phase.FAILED:
        return NodeState.FAILED
    if status.phase is Phase.SWITCHING:
        return NodeState.SWITCHING
    if target is None:
        return NodeState.SETTLED
    arrived = status.mode.value == target.value
    if status.phase is Phase.BLOCKED or (not arrived and any(r.verdict is Verdict.BLOCK for r in results)):
        return NodeState.BLOCKED
    told = spec.mode is target
    current = status.observed_generation >= found.metadata.generation
    ready = any(condition.type == "Ready" and condition.status.value == "True" for condition in status.conditions)
    if told and arrived and ready and current:
        return NodeState.UPDATED
    return NodeState.SWITCHING if told else NodeState.WAITING


def rollout_view(found: ProxyMode, nodes: tuple[NodeView, ...]) -> RolloutView:
    """One ProxyMode and the nodes that it decides about."""
    spec, status = found.spec, found.status
    conditions = {condition.type: condition for condition in status.conditions}
    reports = {report.name: report for report in status.stages}
    stages = tuple(
        StageView(
            reach=_reach(stage),
            soak=stage.soak,
            manual=stage.approval is Approval.MANUAL,
            report=reports.get(stage.name, StageStatus(name=stage.name, phase=StagePhase.PENDING)),
        )
        for stage in stages_in_force(spec.rollout.stages, status.order)
    )
    degraded = conditions.get("Degraded")
    return RolloutView(
        name=found.metadata.name,
        mode=spec.mode,
        status=status.status,
        revision=status.revision,
        paused=spec.rollout.paused,
        stale=status.observed_generation < found.metadata.generation,
        current_stage=status.current_stage,
        stages=stages,
        counts=status.nodes,
        nodes=nodes,
        why=conditions["Progressing"].message if "Progressing" in conditions else "",
        trouble=degraded.message if degraded is not None and degraded.status.value == "True" else "",
        started_at=status.started_at,
        completed_at=status.completed_at,
        from_mode=status.from_mode,
        changed_by=status.changed_by,
        change_cause=status.change_cause,
        gates=tuple(status.gates),
        history=tuple(status.history),
        plan=status.plan,
    )


def _reach(stage: Stage) -> str:
    if stage.percent is not None:
        return f"{stage.percent} %"
    return "by label" if stage.count is None else words.plural(stage.count, "node")


def _deprecation(nodes: Iterable[NodeView], cluster_version: str, unreported: KubeProxyMode | None) -> str:
    """What upstream plans for the modes that nodes run, one sentence a mode, with how many nodes it is about.

    `unreported`: what nodes run that no agent reports on.
    """
    cluster = minor_if_any(cluster_version)
    modes = (unreported if node.mode is None else _UPSTREAM.get(node.mode) for node in nodes)
    running = Counter(mode for mode in modes if mode is not None)
    sentences = []
    for mode, count in sorted(running.items()):
        found = deprecation(mode, cluster)
        if found is not None and found.in_effect:
            sentences.append(f"{words.plural(count, 'node')}: {found.message}")
    return ". ".join(sentences)
