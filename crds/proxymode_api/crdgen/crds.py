"""The two CustomResourceDefinitions: what surrounds the schemas. Pure.

Names, short names, printer columns and selectable fields are part of the API: people's fingers and scripts know them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxymode_api import GROUP, VERSION, rules
from proxymode_api.crdgen.schema import structural
from proxymode_api.nodeproxymode import NodeProxyMode, NodeProxyModeSpec, NodeProxyModeStatus
from proxymode_api.proxymode import ProxyMode, ProxyModeSpec
from proxymode_api.proxymode_status import ProxyModeStatus

if TYPE_CHECKING:
    from pydantic import BaseModel

API_VERSION_TEXT: Final = (
    "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized "
    "schemas to the latest internal value, and may reject unrecognized values. More info: "
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"
)
KIND_TEXT: Final = (
    "Kind is a string value representing the REST resource this object represents. Servers may infer this from the "
    "endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: "
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"
)


CATEGORY: Final = "proxymode-all"
"""`kubectl get proxymode-all` lists both kinds. Not `proxymode`: kubectl would take the kind's singular for it."""


class Column(NamedTuple):
    """One column of `kubectl get`; `wide` ones only with -o wide."""

    name: str
    type: str
    path: str
    description: str
    wide: bool = False

    def manifest(self) -> dict[str, Any]:
        priority = {"priority": 1} if self.wide else {}
        return {
            "name": self.name,
            "type": self.type,
            "jsonPath": self.path,
            "description": self.description,
        } | priority


AGE: Final = Column("Age", "date", ".metadata.creationTimestamp", "Time since the object was created.")

PROXY_MODE_COLUMNS: Final = (
    Column("Mode", "string", ".spec.mode", "The wanted mode."),
    Column("Stage", "string", ".status.currentStage", "The stage that is under way."),
    Column("Updated", "string", ".status.nodes.progress", "Nodes that run the wanted mode, of those selected."),
    Column("Ready", "integer", ".status.nodes.ready", "Nodes whose dataplane is ready, in whichever mode."),
    Column("Switching", "integer", ".status.nodes.switching", "Nodes on their way to the wanted mode."),
    Column("Blocked", "integer", ".status.nodes.blocked", "Nodes that cannot run the wanted mode."),
    Column("Failed", "integer", ".status.nodes.failed", "Nodes whose switch failed.", wide=True),
    Column("Status", "string", ".status.status", "The rollout in one word."),
    AGE,
)

NODE_PROXY_MODE_COLUMNS: Final = (
    Column("Mode", "string", ".status.mode", "The Service dataplane in the kernel now."),
    Column("Desired", "string", ".spec.mode", "The mode that the node shall run."),
    Column("Stage", "string", ".spec.stage", "The stage of the rollout to which the node belongs."),
    Column("Phase", "string", ".status.phase", "The agent's state in one word."),
    Column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether Services work on the node."),
    Column("Connections-Kept", "integer", ".status.lastSwitch.connectionsKept", "Kept by the last switch."),
    Column("Lost", "integer", ".status.lastSwitch.connectionsLost", "Connections cut by the last switch."),
    Column("Deprecated", "string", ".status.deprecated", "Kubernetes minor that removes the mode the node runs."),
    Column("Services", "integer", ".status.programmed.services", "Service ports programmed.", wide=True),
    Column("Kernel", "string", ".status.facts.kernel", "Kernel release.", wide=True),
    Column("ProxyMode", "string", ".spec.proxyMode", "The ProxyMode that decided.", wide=True),
    AGE,
)


def _schema(
    kind: type[BaseModel], spec: type[BaseModel], status: type[BaseModel], *rule: rules.Rule, spec_required: bool
) -> dict[str, Any]:
    spec_schema = structural(spec, defaults=True)
    if not spec_required:
        spec_schema["default"] = {}
    schema = {
        "description": " ".join((kind.__doc__ or "").split()),
        "type": "object",
        "required": ["spec"] if spec_required else [],
        **rules.extra(*rule),
        "properties": {
            "apiVersion": {"description": API_VERSION_TEXT, "type": "string"},
            "kind": {"description": KIND_TEXT, "type": "string"},
            "metadata": {"type": "object"},
            "spec": spec_schema,
            "status": structural(status, defaults=False),
        },
    }
    return {key: value for key, value in schema.items() if value != []}


def _definition(
    singular: str, short: str, schema: dict[str, Any], columns: tuple[Column, ...], selectable: tuple[str, ...]
) -> dict[str, Any]:
    plural = f"{singular.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": singular,
                "listKind": f"{singular}List",
                "plural": plural,
                "singular": singular.lower(),
                "shortNames": [short],
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [column.manifest() for column in columns],
                    "selectableFields": [{"jsonPath": path} for path in selectable],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def proxymodes() -> dict[str, Any]:
    """The CRD of ProxyMode."""
    schema = _schema(ProxyMode, ProxyModeSpec, ProxyModeStatus, rules.SHORT_NAME, spec_required=True)
    return _definition("ProxyMode", "pmode", schema, PROXY_MODE_COLUMNS, (".spec.mode", ".status.status"))


def nodeproxymodes() -> dict[str, Any]:
    """The CRD of NodeProxyMode."""
    schema = _schema(NodeProxyMode, NodeProxyModeSpec, NodeProxyModeStatus, spec_required=False)
    selectable = (".spec.mode", ".spec.proxyMode", ".status.mode", ".status.phase")
    return _definition("NodeProxyMode", "npmode", schema, NODE_PROXY_MODE_COLUMNS, selectable)
