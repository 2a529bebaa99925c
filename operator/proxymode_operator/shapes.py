"""What is read of the JSON that the API server sends: these fields, and none of the rest.

Solves: an idle fleet of 5,000 sends a hundred objects a second, of 4 to 8 KB each, most of it managedFields, images and
results of checks that the operator has no use for. The decoder walks over what is not named here without making
anything of it: 15 us for a NodeProxyMode, where all of its JSON and a validated model of its status took 120.
Deliberately gives nothing a meaning, that is `objects`; the defaults are those of the API (`proxymode_api`).
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec resolves annotations at run time
from typing import Any, Final, TypeVar

import msgspec

from proxymode_api.common import ConditionStatus, Mode  # noqa: TC001 - as above
from proxymode_api.modes import ObservedMode
from proxymode_api.nodeproxymode import Phase, SwitchOutcome, Verdict

Json = dict[str, Any]
Received = msgspec.Raw | Json
"""An object as it came: its bytes, or decoded by somebody else (kopf)."""

T = TypeVar("T", bound=msgspec.Struct)


class _Shape(msgspec.Struct, rename="camel"):
    """camelCase on the wire."""


class OwnerShape(_Shape):
    """metav1.OwnerReference."""

    uid: str = ""
    kind: str = ""


class MetaShape(_Shape):
    """metav1.ObjectMeta."""

    name: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerShape, ...] = ()


class IdentityMeta(_Shape):
    """What identifies an object, and this version of it."""

    name: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None


class IdentityShape(_Shape):
    """Any object; of a bookmark only the version is there."""

    metadata: IdentityMeta


class NodeConditionShape(_Shape):
    """core/v1 NodeCondition; others than the kubelet write some too, as they please."""

    type: str = ""
    status: str = ""


class ConditionShape(_Shape):
    """metav1.Condition."""

    type: str
    status: ConditionStatus
    reason: str = ""
    last_transition_time: datetime | None = None


class _NodeSpec(_Shape):
    unschedulable: bool = False


class _NodeStatus(_Shape):
    conditions: tuple[NodeConditionShape, ...] = ()


class NodeShape(_Shape):
    """core/v1 Node."""

    metadata: MetaShape
    spec: _NodeSpec = msgspec.field(default_factory=_NodeSpec)
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


class ResultShape(_Shape):
    """proxymode_api.nodeproxymode.PreflightResult."""

    id: str
    verdict: Verdict


class PreflightShape(_Shape):
    """proxymode_api.nodeproxymode.Preflight."""

    mode: Mode
    results: tuple[ResultShape, ...] = ()


class SwitchShape(_Shape):
    """proxymode_api.nodeproxymode.LastSwitch."""

    started_at: datetime
    completed_at: datetime | None = None
    outcome: SwitchOutcome | None = None


class StatusShape(_Shape):
    """proxymode_api.nodeproxymode.NodeProxyModeStatus."""

    observed_generation: int = 0
    mode: ObservedMode = ObservedMode.NONE
    phase: Phase = Phase.PENDING
    conditions: tuple[ConditionShape, ...] = ()
    preflight: PreflightShape | None = None
    last_switch: SwitchShape | None = None
    heartbeat_time: datetime | None = None


class NodeProxyModeShape(_Shape):
    """`spec` is read by the API's own model, and only when it is another."""

    metadata: MetaShape
    spec: Json = {}
    status: StatusShape = msgspec.field(default_factory=StatusShape)


class NodeProxyModeSpecShape(_Shape):
    """One whose status cannot be read."""

    metadata: MetaShape
    spec: Json = {}


class _ListMeta(_Shape):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class ListShape(_Shape):
    """A page of a list. Its items are null where there are none."""

    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class EventShape(_Shape):
    """A line of a watch (metav1.WatchEvent)."""

    type: str
    object: msgspec.Raw


class RefusalShape(_Shape):
    """metav1.Status."""

    code: int = 0
    reason: str = ""
    message: str = ""


_DECODERS: Final[dict[type[msgspec.Struct], msgspec.json.Decoder[Any]]] = {}


def read(shape: type[T], received: Received | bytes) -> T:
    """Raises msgspec.MsgspecError for what is no JSON, or has one of the shape's fields in another form."""
    if isinstance(received, dict):
        return msgspec.convert(received, shape)
    decoder = _DECODERS.get(shape)
    if decoder is None:
        decoder = _DECODERS[shape] = msgspec.json.Decoder(shape)
    found: T = decoder.decode(received)
    return found
