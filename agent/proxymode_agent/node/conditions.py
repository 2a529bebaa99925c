"""The conditions of a NodeProxyMode: what an agent has seen, in the words of the Kubernetes API conventions. Pure.

Each function answers one question about one observation; `lastTransitionTime` is `status`' business. Messages carry no
counts that change all the time: a message that changes is a write to the API server from every node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.engine.snapshot import EnginePhase
from proxymode_agent.node.handing import NOWHERE, Stand
from proxymode_api.common import ConditionStatus
from proxymode_api.deprecation import KubeProxyMode, Minor, deprecation
from proxymode_api.modes import KUBE_PROXY_MODES, ObservedMode
from proxymode_api.nodeproxymode import SwitchOutcome, Verdict
from proxymode_api.reasons.codes import Reason

if TYPE_CHECKING:
    from proxymode_agent.engine.snapshot import EngineSnapshot
    from proxymode_agent.preflight.model import Facts
    from proxymode_api.deprecation import Deprecation
    from proxymode_api.nodeproxymode import LastSwitch, NodeProxyModeSpec, Preflight, PreflightResult

READY = "Ready"
PREFLIGHT_PASSED = "PreflightPassed"
SWITCHING = "Switching"
DEGRADED = "Degraded"
DEPRECATED_MODE = "DeprecatedMode"
KUBE_PROXY_PRESENT = "KubeProxyPresent"
DRIFTED = "Drifted"

REFUSED_SHOWN = 5
"""So many refused Service ports are named in a message."""

_UPSTREAM_NAMES = {
    ObservedMode.IPVS: KubeProxyMode.IPVS,
    ObservedMode.NFTABLES: KubeProxyMode.NFTABLES,
    ObservedMode.KUBE_PROXY_IPTABLES: KubeProxyMode.IPTABLES,
    ObservedMode.KUBE_PROXY_IPVS: KubeProxyMode.IPVS,
    ObservedMode.KUBE_PROXY_NFTABLES: KubeProxyMode.NFTABLES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All that a status is made of.

    `refused`: checks that keep spec.mode from being set. `nftables_blocked`: those that block mode nftables.
    `options_error`: an option that this agent cannot follow. `cluster_version`: as /version gives it; empty: not known
    yet.
    """

    generation: int
    spec: NodeProxyModeSpec
    engine: EngineSnapshot
    facts: Facts
    preflight: Preflight | None
    refused: tuple[PreflightResult, ...] = ()
    nftables_blocked: tuple[PreflightResult, ...] = ()
    options_error: str = ""
    stand: Stand = NOWHERE
    cluster: Minor | None = None
    cluster_version: str = ""
    agent_version: str = ""


class Aspect(NamedTuple):
    """A condition without its times."""

    status: ConditionStatus
    reason: Reason
    message: str


def aspects(seen: Observation, last_switch: LastSwitch | None) -> dict[str, Aspect]:
    """Every condition of a NodeProxyMode by type, in the order in which they are shown."""
    return {
        READY: _ready(seen),
        PREFLIGHT_PASSED: _preflight_passed(seen),
        SWITCHING: _switching(seen, last_switch),
        DEGRADED: _degraded(seen),
        DEPRECATED_MODE: _deprecated_mode(seen),
        KUBE_PROXY_PRESENT: _kube_proxy_present(seen),
        DRIFTED: _drifted(seen),
    }


def blockers(results: tuple[PreflightResult, ...] | list[PreflightResult]) -> tuple[PreflightResult, ...]:
    """The results that block."""
    return tuple(result for result in results if result.verdict is Verdict.BLOCK)


def blocked(seen: Observation) -> bool:
    """Whether the node stays as it is because a check blocks where it is to go."""
    if seen.refused:
        return True
    return (
        seen.preflight is not None
        and seen.engine.observed.value != seen.preflight.mode.value
        and bool(blockers(seen.preflight.results))
    )


def running_deprecation(observed: ObservedMode, cluster: Minor | None) -> Deprecation | None:
    """What upstream plans for the mode in the kernel, where that is in effect on this cluster; None: nothing."""
    name = _UPSTREAM_NAMES.get(observed)
    found = None if name is None else deprecation(name, cluster)
    return found if found is not None and found.in_effect else None


def _true(reason: Reason, message: str) -> Aspect:
    return Aspect(ConditionStatus.TRUE, reason, message)


def _false(reason: Reason, message: str) -> Aspect:
    return Aspect(ConditionStatus.FALSE, reason, message)


def _ready(seen: Observation) -> Aspect:
    engine = seen.engine
    if seen.options_error:
        return _false(Reason.OPTIONS_REFUSED, "The node runs as it did before, since its options cannot be followed.")
    match engine.phase:
        case EnginePhase.PENDING:
            return _false(Reason.WAITING_FOR_SERVICES, "Services and EndpointSlices are not completely known yet.")
        case EnginePhase.OBSERVING if seen.stand.reason is Reason.HANDED_BACK:
            return _true(Reason.HANDED_BACK, seen.stand.message)
        case EnginePhase.OBSERVING:
            what = "no Service dataplane" if engine.observed is ObservedMode.NONE else engine.observed.value
            return Aspect(
                ConditionStatus.UNKNOWN, Reason.OBSERVING, f"The kernel has {what}; this agent programs nothing."
            )
        case EnginePhase.SWITCHING:
            return _false(Reason.SWITCHING, f"The node moves to {engine.desired}.")
        case EnginePhase.FAILED:
            return _false(Reason.SYNC_FAILED, _sentence(engine.error or "the last sync failed"))
        case EnginePhase.ACTIVE if engine.synced:
            return _true(Reason.PROGRAMMED, f"The kernel does in {engine.observed} mode what Services say.")
        case _:
            return _false(Reason.PROGRAMMING, "The first complete sync with these options is under way.")


def _preflight_passed(seen: Observation) -> Aspect:
    preflight = seen.preflight
    if preflight is None:
        return Aspect(ConditionStatus.UNKNOWN, Reason.NOT_RUN, "No mode is asked for, so there is nothing to check.")
    mode, stopping = (seen.spec.mode, seen.refused) if seen.refused else (preflight.mode, blockers(preflight.results))
    if stopping:
        found = " ".join(f"{result.id}: {_sentence(result.found)} {result.remedy}" for result in stopping)
        return _false(Reason.BLOCKED, f"{mode} is blocked by {found}")
    warnings = [result.id for result in preflight.results if result.verdict is Verdict.WARN]
    if warnings:
        return _true(Reason.PASSED_WITH_WARNINGS, f"{preflight.mode} can run here; warnings: {', '.join(warnings)}.")
    return _true(Reason.PASSED, f"{preflight.mode} can run here.")


def _switching(seen: Observation, last_switch: LastSwitch | None) -> Aspect:
    if seen.engine.phase is EnginePhase.SWITCHING:
        if last_switch is not None and last_switch.outcome is None and last_switch.drain_deadline is not None:
            until = last_switch.drain_deadline.isoformat(timespec="seconds")
            message = (
                f"New connections are on {seen.engine.desired}; those on {last_switch.from_mode} have until {until}."
            )
            return _true(Reason.SWITCH_IN_PROGRESS, message)
        return _true(Reason.SWITCH_IN_PROGRESS, f"The node moves from {seen.engine.observed} to {seen.engine.desired}.")
    if last_switch is None or last_switch.outcome is None:
        return _false(Reason.NOT_SWITCHING, "")
    way = f"from {last_switch.from_mode} to {last_switch.to_mode}"
    match last_switch.outcome:
        case SwitchOutcome.SUCCEEDED:
            return _false(Reason.SWITCH_SUCCEEDED, f"The last switch, {way}, succeeded.")
        case SwitchOutcome.RESUMED:
            return _false(Reason.SWITCH_RESUMED, f"The last switch, {way}, was interrupted, resumed and succeeded.")
        case SwitchOutcome.ROLLED_BACK:
            return _false(
                Reason.SWITCH_ROLLED_BACK, f"The last switch, {way}, was undone: {_sentence(last_switch.message)}"
            )
        case SwitchOutcome.FAILED:
            return _false(Reason.SWITCH_FAILED, f"The last switch, {way}, failed: {_sentence(last_switch.message)}")


def _degraded(seen: Observation) -> Aspect:
    engine = seen.engine
    if seen.options_error:
        return _true(Reason.OPTIONS_REFUSED, _sentence(seen.options_error))
    if engine.error:
        return _true(Reason.SYNC_FAILED, _sentence(engine.error))
    if engine.refused:
        named = "; ".join(f"{name}: {reason}" for name, reason in engine.refused[:REFUSED_SHOWN])
        more = f"; and {len(engine.refused) - REFUSED_SHOWN} more" if len(engine.refused) > REFUSED_SHOWN else ""
        return _true(Reason.SERVICES_REFUSED, f"The kernel does not take {named}{more}.")
    if engine.instead:
        return _true(Reason.SCHEDULER_MISSING, _sentence(engine.instead))
    return _false(Reason.AS_EXPECTED, "")


def _deprecated_mode(seen: Observation) -> Aspect:
    found = running_deprecation(seen.engine.observed, seen.cluster)
    if found is None:
        return _false(Reason.SUPPORTED, "")
    if seen.nftables_blocked:
        obstacles = " ".join(f"{result.id}: {_sentence(result.remedy)}" for result in seen.nftables_blocked)
        way_out = f"On this node nftables is blocked by {obstacles}"
    else:
        way_out = "Nothing blocks nftables on this node."
    return _true(Reason(found.state.value), f"{_sentence(found.message)} {way_out}")


def _kube_proxy_present(seen: Observation) -> Aspect:
    found = seen.facts.kube_proxy
    if seen.stand.reason is not None:
        present = bool(found.running) or seen.engine.observed in KUBE_PROXY_MODES
        return Aspect(ConditionStatus.TRUE if present else ConditionStatus.FALSE, seen.stand.reason, seen.stand.message)
    if found.running:
        mode = f" in {found.mode} mode" if found.mode else ""
        return _true(Reason.RUNNING, f"kube-proxy is running{mode} ({found.running}).")
    if found.rules:
        return _true(Reason.RULES_LEFT, f"kube-proxy does not run but has left {', '.join(found.rules)}.")
    return _false(Reason.ABSENT, "")


def _drifted(seen: Observation) -> Aspect:
    if not seen.engine.drift:
        return _false(Reason.AS_PROGRAMMED, "")
    return _true(
        Reason.REPAIRED, f"Somebody else changed what this agent programs; it was put back: {seen.engine.drift}."
    )


def _sentence(text: str) -> str:
    """With a full stop; the first letter stays, since many begin with a field or a mode."""
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."
