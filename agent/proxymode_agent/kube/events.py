"""An Event as events.k8s.io/v1 wants it, from what somebody has to say about an object. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxymode_api.notes import event_name, note

if TYPE_CHECKING:
    from datetime import datetime

REPORTING_CONTROLLER: Final = "proxymode.io/agent"
CLUSTER_NAMESPACE: Final = "default"
"""Where Events about cluster-scoped objects go (client-go's recorder does the same)."""


class EventType(StrEnum):
    NORMAL = "Normal"
    WARNING = "Warning"


class Regarding(NamedTuple):
    """The object that an Event is about; `namespace` is empty for cluster-scoped kinds. `kubectl describe` finds Events
    by the uid."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    @property
    def events_path(self) -> str:
        """Where Events about it are posted."""
        return f"/apis/events.k8s.io/v1/namespaces/{self.namespace or CLUSTER_NAMESPACE}/events"


def event_object(
    regarding: Regarding, kind: EventType, reason: str, action: str, text: str, *, node: str, now: datetime, token: str
) -> dict[str, Any]:
    """The Event; `node`: whose agent says `text`, which is cut where it is too long; `token`: see `event_name`."""
    about = {"apiVersion": regarding.api_version, "kind": regarding.kind, "name": regarding.name, "uid": regarding.uid}
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": event_name(regarding.name, token),
            "namespace": regarding.namespace or CLUSTER_NAMESPACE,
        },
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": kind.value,
        "reason": reason,
        "action": action,
        "note": note(text),
        "regarding": about | ({"namespace": regarding.namespace} if regarding.namespace else {}),
        "reportingController": REPORTING_CONTROLLER,
        "reportingInstance": f"proxymode-agent-{node}"[:128],
    }
