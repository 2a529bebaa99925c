"""A ProxyMode's status as people and tools read it: the conditions, and what goes with them.

Conditions follow the API conventions (k8s.io/community, api-conventions.md, "Typical status properties"): every type
is always there, reason is one CamelCase word, lastTransitionTime moves only when status does. Messages name nodes but
no ages, so that a status is written when something changed and not because time passed.
Deliberately decides nothing: it puts a `Situation` that the planner found into words.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from proxymode_api.annotations import PROMOTE_ANNOTATION
from proxymode_api.common import Condition, ConditionStatus
from proxymode_api.deprecation import deprecation
from proxymode_api.gates import GateResult
from proxymode_api.proxymode_status import FleetStatus, RolloutOrder, RolloutOutcome
from proxymode_api.reasons.codes import Reason
from proxymode_operator.rollout.assess import NodeState
from proxymode_operator.rollout.census import Trait
from proxymode_operator.rollout.situation import counts, listed, word
from proxymode_operator.rollout.stops import about_gates, with_reasons

if TYPE_CHECKING:
    from datetime import datetime

    from proxymode_api.proxymode_status import ProxyModeStatus
    from proxymode_operator.rollout.gates import Hold
    from proxymode_operator.rollout.situation import Situation

_STATUS = {True: ConditionStatus.TRUE, False: ConditionStatus.FALSE, None: ConditionStatus.UNKNOWN}


def status(s: Situation, base: ProxyModeStatus, now: datetime) -> ProxyModeStatus:
    """The whole status; `base` brings what is kept from one decision to the next."""
    current = s.current or (s.stages[-1] if s.stages else None)
    return base.model_copy(
        update={
            "observed_generation": s.fleet.proxy_mode.metadata.generation,
            "status": word(s),
            "current_stage": current.status.name if current else "",
            "nodes": counts(s.census),
            "conditions": conditions(s, now),
        }
    )


def conditions(s: Situation, now: datetime) -> list[Condition]:
    """All seven, in a fixed order."""
    found = [
        ("Accepted", *_accepted(s)),
        ("Progressing", *_progressing(s)),
        ("Complete", *_complete(s)),
        ("Degraded", *_degraded(s)),
        ("Paused", *_paused(s)),
        ("DeprecatedMode", *_deprecated(s)),
        ("GatesPassing", *_gates(s)),
    ]
    before = {condition.type: condition for condition in s.fleet.proxy_mode.status.conditions}
    generation = s.fleet.proxy_mode.metadata.generation
    result: list[Condition] = []
    for type_, holds, reason, message in found:
        status = _STATUS[holds]
        known = before.get(type_)
        since = known.last_transition_time if known is not None and known.status is status else now
        result.append(
            Condition(
                type=type_,
                status=status,
                reason=reason,
                message=message,
                observed_generation=generation,
                last_transition_time=since,
            )
        )
    return result


def _accepted(s: Situation) -> tuple[bool, Reason, str]:
    if s.refusal:
        return False, Reason.REFUSED, s.refusal
    winners = listed(set(s.fleet.overridden.values()))
    lost = f"{len(s.fleet.overridden)} more that it selects are decided by {winners}"
    if not s.fleet.nodes and s.fleet.overridden:
        return False, Reason.OVERRIDDEN, f"it decides about no node; {lost}"
    if s.fleet.overridden:
        return True, Reason.PARTLY_OVERRIDDEN, f"it decides about {len(s.fleet.nodes)} nodes; {lost}"
    if overlapped := s.overlapped:
        words = f"stages that reach no node that an earlier one does not: {', '.join(overlapped)}"
        return True, Reason.STAGES_OVERLAP, f"it decides about {len(s.fleet.nodes)} nodes; {words}"
    if not s.fleet.nodes:
        return True, Reason.NO_NODES, "spec.nodeSelector selects no Linux node"
    return True, Reason.ACCEPTED, f"it decides about {len(s.fleet.nodes)} nodes"


def _progressing(s: Situation) -> tuple[bool, Reason, str]:
    status = word(s)
    match status:
        case FleetStatus.REFUSED:
            return False, Reason.REFUSED, s.refusal
        case FleetStatus.PENDING:
            return False, Reason.NO_NODES, "there is no node to move"
        case FleetStatus.COMPLETE:
            return False, Reason.ROLLOUT_COMPLETE, "; ".join([_tally(s), *_skipped(s)])
        case FleetStatus.PAUSED:
            return False, Reason.PAUSED, f"spec.rollout.paused is true; {_tally(s)}"
        case FleetStatus.ROLLING_BACK:
            return True, Reason.ROLLING_BACK, f"going back: {listed(s.rollback.under_way if s.rollback else ())}"
        case FleetStatus.ABORTED:
            return False, Reason.ABORTED, f"a person has ended this revision; {_tally(s)}"
        case FleetStatus.STOPPED if s.ended is not None:
            return False, Reason(s.ended.value), f"this revision has ended; {_tally(s)}"
        case FleetStatus.STOPPED:
            assert s.stop is not None
            return False, s.stop.reason, s.stop.message
    current = s.current
    name = current.status.name if current else ""
    if status is FleetStatus.AWAITING_APPROVAL:
        fleet = s.fleet.proxy_mode.metadata.name
        by_hand = f"kubectl annotate proxymode {fleet} {PROMOTE_ANNOTATION}={name}"
        how = f"kubectl proxymode promote {fleet}, or without the plugin {by_hand}"
        return False, Reason.AWAITING_APPROVAL, f"stage {name} waits to be promoted: {how}"
    if status is FleetStatus.SOAKING:
        until = f" until {current.due:%Y-%m-%dT%H:%M:%SZ}" if current and current.due else ""
        return True, Reason.SOAKING, f"stage {name} is watched{until}"
    if status is FleetStatus.AWAITING_GATES:
        return False, Reason.AWAITING_GATES, "; ".join([_gates_awaited(s), _tally(s)])
    if status is FleetStatus.WAITING_FOR_WINDOW:
        return False, Reason.OUTSIDE_WINDOW, "; ".join([_next_window(s), _tally(s), *_waiting(s), *_skipped(s)])
    if len(s.ailing) >= s.budget and not s.census.having(Trait.IN_FLIGHT):
        who = with_reasons(s.ailing, s.states)
        why = f"maxUnavailable of {s.budget} is used up by nodes that nobody has told to move: {who}"
        return False, Reason.CLUSTER_UNHEALTHY, "; ".join([why, _tally(s), *_skipped(s)])
    return True, Reason.NODES_SWITCHING, "; ".join([_tally(s), *_waiting(s), *_skipped(s)])


def _gates_awaited(s: Situation) -> str:
    assert s.hold is not None
    before = "no node is told before every gate has answered"
    what = f"stage {s.hold.stage} is complete and waits for gates" if s.hold.stage else before
    return f"{what}: {about_gates(s.fleet.proxy_mode.spec.rollout.gates, s.answers, _watching(s.hold))}"


def _watching(found: Hold) -> list[str]:
    return [watch.gate.name for watch in found.watches]


def _next_window(s: Situation) -> str:
    opens = s.hours.opens if s.hours is not None else None
    return f"the next window opens at {opens.isoformat()}" if opens is not None else "no window opens any more"


def _tally(s: Situation) -> str:
    parts = [f"{len(s.census.having(NodeState.UPDATED))} of {len(s.states)} nodes updated"]
    kept_back = (NodeState.BLOCKED, NodeState.FAILED, NodeState.SKIPPED)
    parts += [f"{len(names)} {state}" for state in kept_back if (names := s.census.having(state))]
    return ", ".join(parts)


def _skipped(s: Situation) -> list[str]:
    """Who is skipped, with the reasons that people gave."""
    names = s.names(NodeState.SKIPPED)
    return [f"skipped: {with_reasons(names, s.states)}"] if names else []


def _waiting(s: Situation) -> list[str]:
    """What the rollout waits for, each with the nodes."""
    result: list[str] = []
    if switching := s.names(NodeState.SWITCHING):
        result.append(f"switching: {listed(switching)}")
    reasons: dict[str, list[str]] = {}
    open_nodes = chain.from_iterable(stage.members for stage in s.stages if stage.is_open)
    waited_for = s.census.among(open_nodes, Trait.WAITED_FOR)
    for name in (waited_for | s.census.having(Trait.AILING)) - s.census.having(NodeState.SKIPPED):
        if why := s.states[name].why:
            reasons.setdefault(why, []).append(name)
    result += [f"waiting for {listed(names)}: {why}" for why, names in sorted(reasons.items())]
    unavailable = s.census.having(Trait.UNAVAILABLE)
    if len(unavailable) >= s.budget:
        result.append(f"maxUnavailable of {s.budget} used up by {listed(unavailable)}")
    return result


def _complete(s: Situation) -> tuple[bool, Reason, str]:
    if word(s) is not FleetStatus.COMPLETE:
        return False, Reason.NOT_COMPLETE, _tally(s)
    blocked = s.names(NodeState.BLOCKED)
    if left_out := [*([f"blocked and passed over: {listed(blocked)}"] if blocked else []), *_skipped(s)]:
        return True, Reason.NODES_SKIPPED, "; ".join([_tally(s), *left_out])
    return True, Reason.ROLLOUT_COMPLETE, _tally(s)


def _degraded(s: Situation) -> tuple[bool, Reason, str]:
    if s.ended is RolloutOutcome.ROLLED_BACK:
        stuck = s.rollback.stuck if s.rollback else ()
        stay = f"; nothing to return to on {listed(stuck)}" if stuck else ""
        gates = s.fleet.proxy_mode.spec.rollout.gates
        limits = {gate.name: gate.failure_limit for gate in gates}
        bad = [a.name for a in s.answers if a.stage and a.failures >= limits[a.name]]
        why = f"gates failed: {about_gates(gates, s.answers, bad)}" if bad else "too many nodes failed"
        return True, Reason.ROLLED_BACK, f"{why}; this revision was taken back{stay}"
    if s.stop is not None:
        return True, s.stop.reason, s.stop.message
    if s.fleet.obstacle:
        return True, Reason.KUBE_PROXY_NOT_MOVED, s.fleet.obstacle
    if failed := s.names(NodeState.FAILED):
        return True, Reason.NODES_FAILED, f"failed: {with_reasons(failed, s.states)}"
    missed = s.census.having(Trait.SILENT) & s.census.having(Trait.AT_TEMPLATE)
    if silent := (missed | s.census.having(Trait.UNHEARD)) - s.census.having(NodeState.SKIPPED):
        return True, Reason.AGENTS_SILENT, f"no agent has been heard of lately on {listed(silent)}"
    return False, Reason.AS_EXPECTED, ""


def _paused(s: Situation) -> tuple[bool, Reason, str]:
    if s.paused:
        return True, Reason.REQUESTED, "spec.rollout.paused is true: nothing new starts"
    return False, Reason.NOT_PAUSED, ""


def _gates(s: Situation) -> tuple[bool | None, Reason, str]:
    """Unknown while a gate has not answered: that is neither good news nor bad."""
    gates = s.fleet.proxy_mode.spec.rollout.gates
    if not gates:
        return True, Reason.NO_GATES, "spec.rollout.gates is empty"
    if s.fleet.proxy_mode.status.order is not RolloutOrder.FORWARD:
        return True, Reason.NO_GATES, "gates do not hold back an undo"
    by_result: dict[GateResult, list[str]] = {}
    for answer in s.answers:
        by_result.setdefault(answer.result, []).append(answer.name)
    if failed := by_result.get(GateResult.FAIL):
        return False, Reason.GATE_FAILED, about_gates(gates, s.answers, failed)
    unanswered = [*by_result.get(GateResult.ERROR, []), *by_result.get(GateResult.NO_DATA, [])]
    if unanswered:
        return None, Reason.GATE_UNANSWERED, about_gates(gates, s.answers, unanswered)
    if s.completed or s.ended is not None:
        return True, Reason.GATES_PASSED, "this revision is over, no gate is asked any more"
    if missing := {gate.name for gate in gates} - {answer.name for answer in s.answers}:
        return None, Reason.GATES_NOT_ASKED, f"not asked yet: {listed(missing)}"
    return True, Reason.GATES_PASSED, f"passed when asked last: {listed(gate.name for gate in gates)}"


def _deprecated(s: Situation) -> tuple[bool, Reason, str]:
    found = deprecation(s.fleet.proxy_mode.spec.mode, s.fleet.cluster)
    if found is None:
        return False, Reason.NOT_DEPRECATED, ""
    return found.in_effect, Reason(found.state.value), found.message
