"""API objects as JSON to the planner's values, and its decisions back to JSON.

Solves: the one place that knows both shapes. Reading never raises for what a stored object can hold: a ProxyMode that
this version cannot read becomes `Unreadable`, a NodeProxyMode that it cannot read is left alone (`foreign`).
Deliberately keeps nothing; that is `cache`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec
from pydantic import ValidationError

from proxymode_api import API_VERSION
from proxymode_api.annotations import SKIP_ANNOTATION
from proxymode_api.common import ConditionStatus
from proxymode_api.nodeproxymode import NodeProxyModeSpec, SwitchOutcome, Verdict
from proxymode_api.proxymode import ProxyMode
from proxymode_operator.rollout.model import (
    TURN_ANNOTATION,
    Asked,
    Intent,
    Node,
    Report,
    Turn,
    Write,
    dataplane_options,
)
from proxymode_operator.shapes import NodeProxyModeShape, NodeProxyModeSpecShape, NodeShape, StatusShape, read

if TYPE_CHECKING:
    from proxymode_api.proxymode_status import ProxyModeStatus
    from proxymode_operator.shapes import Json, MetaShape, Received, SwitchShape

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_REASON_SHOWN: Final = 200
"""Characters of a person's reason that go into conditions, which have a bound."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A ProxyMode that this version of the operator cannot read, and why."""

    name: str
    uid: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredNodeProxyMode:
    """A NodeProxyMode. `asked` is None when its spec cannot be read. `notes`: the annotations that are part of it."""

    name: str
    uid: str
    owner_uid: str
    asked: Asked | None
    report: Report | None
    notes: tuple[str | None, str | None]


def node(raw: Received) -> Node:
    """A core/v1 Node, without its NodeProxyMode."""
    found = read(NodeShape, raw)
    conditions = found.status.conditions
    return Node(
        name=found.metadata.name,
        uid=found.metadata.uid,
        labels=found.metadata.labels,
        created=found.metadata.creation_timestamp or _EPOCH,
        ready=any(c.type == "Ready" and c.status == ConditionStatus.TRUE for c in conditions),
        cordoned=found.spec.unschedulable,
    )


def node_proxy_mode(raw: Received, known: StoredNodeProxyMode | None = None) -> StoredNodeProxyMode:
    """A NodeProxyMode: what was asked and what its agent reported.

    `known`: what an earlier version of it said. Nearly all that comes is a heartbeat, whose spec need not be read anew.
    """
    found: NodeProxyModeShape | NodeProxyModeSpecShape
    try:
        found = read(NodeProxyModeShape, raw)
        report = _report(found.status)
    except msgspec.ValidationError:
        found, report = read(NodeProxyModeSpecShape, raw), None
    meta = found.metadata
    owner = next((o.uid for o in meta.owner_references if o.kind == "Node"), "")
    notes = (meta.annotations.get(TURN_ANNOTATION), meta.annotations.get(SKIP_ANNOTATION))
    if known is not None and known.asked is not None and (known.uid, known.notes) == (meta.uid, notes):
        asked = _same_asked(known.asked, meta) or _asked(meta, found.spec, notes)
    else:
        asked = _asked(meta, found.spec, notes)
    return StoredNodeProxyMode(name=meta.name, uid=meta.uid, owner_uid=owner, asked=asked, report=report, notes=notes)


def _same_asked(known: Asked, meta: MetaShape) -> Asked | None:
    """None where the spec is another: every change of it makes a generation."""
    if known.generation == 0 or known.generation != meta.generation:
        return None
    return replace(known, resource_version=meta.resource_version)


def _asked(meta: MetaShape, stored: Json, notes: tuple[str | None, str | None]) -> Asked | None:
    turn, skip = notes
    try:
        spec = NodeProxyModeSpec.model_validate(stored)
    except ValidationError:
        return None
    return Asked(
        uid=meta.uid,
        resource_version=meta.resource_version,
        generation=meta.generation,
        intent=_intent(spec, Turn.loads(turn)),
        skip="" if skip is None else _reason(skip),
    )


def _reason(text: str) -> str:
    """A person's reason in one line of bounded length; never empty."""
    return " ".join(text.split())[:_REASON_SHOWN] or "no reason given"


def _intent(spec: NodeProxyModeSpec, turn: Turn | None) -> Intent:
    return Intent(
        mode=spec.mode,
        target_mode=spec.target_mode,
        options=dataplane_options(spec),
        connections=spec.connections,
        drain_timeout=spec.drain_timeout,
        proxy_mode=spec.proxy_mode,
        revision=spec.revision,
        stage=spec.stage,
        attempt=spec.attempt,
        turn=turn,
    )


def _report(status: StatusShape) -> Report | None:
    if status.heartbeat_time is None:
        return None
    conditions = {condition.type: condition for condition in status.conditions}
    ready = conditions.get("Ready")
    is_ready = ready is not None and ready.status is ConditionStatus.TRUE
    since = [ready.last_transition_time] if ready is not None and ready.last_transition_time is not None else []
    if is_ready and status.last_switch is not None and status.last_switch.completed_at is not None:
        # Ready may stay True all through a switch; minReadySeconds counts from its end.
        # In whole seconds, as the present is told: else one that is done would be waited for until the next second.
        since.append(status.last_switch.completed_at.replace(microsecond=0))
    ready_since = max(since, default=None)
    preflight = status.preflight
    blockers = tuple(r.id for r in preflight.results if r.verdict is Verdict.BLOCK) if preflight is not None else ()
    passed = conditions.get("PreflightPassed")
    if not blockers and passed is not None and passed.status is ConditionStatus.FALSE:
        blockers = (passed.reason,)
    return Report(
        observed_generation=status.observed_generation,
        mode=status.mode,
        phase=status.phase,
        ready=is_ready,
        ready_since=ready_since,
        ready_told=ready_since,
        heartbeat=status.heartbeat_time,
        heard_at=status.heartbeat_time,
        known_since=status.heartbeat_time,
        preflight_mode=preflight.mode if preflight is not None else None,
        blockers=blockers,
        warnings=tuple(r.id for r in preflight.results if r.verdict is Verdict.WARN) if preflight is not None else (),
        switch_seconds=_switch_seconds(status.last_switch),
        kube_proxy=conditions["KubeProxyPresent"].reason if "KubeProxyPresent" in conditions else "",
    )


def _switch_seconds(last: SwitchShape | None) -> float | None:
    """By the node's clock alone."""
    if last is None or last.completed_at is None or last.outcome is not SwitchOutcome.SUCCEEDED:
        return None
    return max(0.0, (last.completed_at - last.started_at).total_seconds())


def proxy_mode(raw: Received) -> ProxyMode | Unreadable:
    """A ProxyMode, or why it cannot be read."""
    found = raw if isinstance(raw, dict) else json.loads(bytes(raw))
    try:
        return ProxyMode.model_validate(found)
    except ValidationError as error:
        meta = found["metadata"]
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return Unreadable(meta["name"], meta["uid"], f"{field}: {first['msg']}")


def node_proxy_mode_body(write: Write) -> Json:
    """What to apply for a write: everything we own in the object.

    With the version that the decision rests on: if the agent has reported or anybody has written since, the API server
    answers 409 Conflict, and the decision is made anew. The uid keeps an object that was deleted from coming back.
    """
    meta: Json = {
        "name": write.node,
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": write.node, "uid": write.node_uid}],
    }
    if write.intent.turn is not None:
        meta["annotations"] = {TURN_ANNOTATION: write.intent.turn.dumps()}
    if write.base is not None:
        meta |= {"uid": write.base.uid, "resourceVersion": write.base.resource_version}
    return {"apiVersion": API_VERSION, "kind": "NodeProxyMode", "metadata": meta, "spec": write.intent.spec().wire()}


def status_body(proxy_mode: ProxyMode, status: ProxyModeStatus) -> Json:
    """What to apply as a ProxyMode's status, on the version that it was computed from."""
    meta = proxy_mode.metadata
    return {
        "apiVersion": API_VERSION,
        "kind": "ProxyMode",
        "metadata": {"name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version},
        "status": status.wire(),
    }
