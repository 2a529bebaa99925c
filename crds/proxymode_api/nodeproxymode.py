"""NodeProxyMode: one node's part, and the only thing that operator and agent share.

Its spec is written by the operator, its status by the agent; no field has two writers.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic resolves annotations at run time
from enum import StrEnum
from typing import Final, Literal

from pydantic import Field

from proxymode_api import API_VERSION
from proxymode_api.common import Condition, ConnectionPolicy, DataplaneOptions, Duration, Mode, Model, ObjectMeta
from proxymode_api.modes import ObservedMode as ObservedMode
from proxymode_api.switch import DRAIN_TIMEOUT, DRAIN_TIMEOUT_DESCRIPTION

STATUS_MANAGER: Final = "proxymode-agent"
"""Field manager by which agents write the status; the API server notes beside it when one did last."""


class NodeProxyModeSpec(DataplaneOptions):
    """What this node shall run. Written by the operator only."""

    mode: Mode | None = Field(
        default=None, description="The mode to run; absent: keep what the node has, check and report only."
    )
    target_mode: Mode | None = Field(
        default=None,
        description="The mode that the rollout will ask for when this node's turn comes; preflight is about it.",
    )
    connections: ConnectionPolicy = Field(
        default=ConnectionPolicy.HANDOVER,
        description="What the switch does with connections open on the old mode.",
    )
    drain_timeout: Duration = Field(default=DRAIN_TIMEOUT, description=DRAIN_TIMEOUT_DESCRIPTION)
    attempt: int = Field(
        default=0,
        ge=0,
        description="Counts the retries that people asked for since this node was told to move (kubectl proxymode "
        "retry); a new number makes its agent try a failed switch again at once.",
    )
    proxy_mode: str = Field(
        default="", max_length=253, description="Name of the ProxyMode that decided; empty when none does."
    )
    revision: int = Field(default=0, ge=0, description="Revision of that ProxyMode's rollout.")
    stage: str = Field(
        default="",
        max_length=63,
        description="Stage of that rollout in which this node was told to move, or will be as the fleet is now.",
        examples=["canary"],
    )


class Phase(StrEnum):
    """The agent's state machine in one word."""

    PENDING = "Pending"
    OBSERVING = "Observing"
    PROGRAMMING = "Programming"
    SWITCHING = "Switching"
    ACTIVE = "Active"
    BLOCKED = "Blocked"
    FAILED = "Failed"


class Verdict(StrEnum):
    PASS = "pass"
    WARN = "warn"
    BLOCK = "block"


class PreflightResult(Model):
    """One check of whether this node can run a mode."""

    id: str = Field(description="Name of the check, stable, in kebab-case.", examples=["kernel-version"])
    verdict: Verdict = Field(description="pass, warn or block.")
    found: str = Field(description="What was found on this node.")
    remedy: str = Field(default="", description="What to do about it; empty where nothing is to be done.")


class Preflight(Model):
    """Results of all checks for one mode."""

    mode: Mode = Field(description="The mode that the checks are about.")
    checked_at: datetime = Field(description="When they ran.")
    results: list[PreflightResult] = Field(default_factory=list, max_length=64, description="Check by check.")


class NodeFacts(Model):
    """What the agent found on its node."""

    kernel: str = Field(default="", description="Kernel release.", examples=["6.1.0-41-amd64"])
    architecture: str = Field(default="", description="Machine architecture.", examples=["x86_64"])
    modules: list[str] = Field(default_factory=list, max_length=64, description="Loaded kernel modules that matter.")
    cluster_version: str = Field(default="", description="Version of the API server.", examples=["v1.36.2"])
    kube_proxy: str = Field(default="", description="kube-proxy found on the node and its mode; empty: none.")


class Programmed(Model):
    """What the dataplane holds."""

    services: int = Field(default=0, ge=0, description="Service ports programmed.")
    endpoints: int = Field(default=0, ge=0, description="Endpoints programmed.")
    last_sync_time: datetime | None = Field(default=None, description="End of the last successful sync.")


class SwitchOutcome(StrEnum):
    SUCCEEDED = "Succeeded"
    RESUMED = "Resumed"
    ROLLED_BACK = "RolledBack"
    FAILED = "Failed"


class SwitchStepStatus(Model):
    """One step of a switch."""

    name: str = Field(description="Name of the step.")
    started_at: datetime = Field(description="When it began.")
    milliseconds: int = Field(ge=0, description="How long it took; of one that was repeated: from its first begin.")
    tries: int = Field(default=1, ge=1, description="How often it was begun; more than 1 after an interruption.")


class FrontendKind(StrEnum):
    """Where a Service is reached."""

    CLUSTER_IP = "ClusterIP"
    EXTERNAL_IP = "ExternalIP"
    LOAD_BALANCER_IP = "LoadBalancerIP"
    NODE_PORT = "NodePort"


class SwitchProbes(Model):
    """TCP connections from the node to a sample of one kind of frontend, before and after the mode changed."""

    kind: FrontendKind = Field(description="What was probed.")
    probed: int = Field(ge=0, description="Frontends in the sample.")
    before: int = Field(ge=0, description="Those that answered in the old mode.")
    after: int = Field(ge=0, description="Of those, the ones that answered in the new mode.")
    failed: list[str] = Field(
        default_factory=list,
        max_length=8,
        description="Frontends that answered before and did not after, although one of their endpoints does.",
    )


class LastSwitch(Model):
    """How the last change of mode went."""

    from_mode: ObservedMode = Field(description="The mode before.")
    to_mode: Mode = Field(description="The mode asked for.")
    started_at: datetime = Field(description="When it began.")
    completed_at: datetime | None = Field(default=None, description="When it ended.")
    outcome: SwitchOutcome | None = Field(default=None, description="Succeeded, Resumed, RolledBack or Failed.")
    message: str = Field(default="", max_length=4096, description="Why it failed or was rolled back.")
    steps: list[SwitchStepStatus] = Field(default_factory=list, max_length=32, description="Steps with timings.")
    connections_found: int | None = Field(
        default=None, ge=0, description="Connections open on the old mode at the start."
    )
    connections_kept: int | None = Field(default=None, ge=0, description="Those of them that live on.")
    connections_drained: int | None = Field(
        default=None,
        ge=0,
        description="Those of them that ended by themselves while they were given time (policy Drain).",
    )
    connections_lost: int | None = Field(default=None, ge=0, description="Those of them that were cut.")
    drain_deadline: datetime | None = Field(
        default=None, description="With policy Drain: when connections that are left on the old mode will be cut."
    )
    attempts: int = Field(
        default=1,
        ge=1,
        description="How often it was begun; more than 1 where it was interrupted or had failed half-way.",
    )
    verification: list[SwitchProbes] = Field(
        default_factory=list, max_length=8, description="What answered before and after, by kind of frontend."
    )


class NodeProxyModeStatus(Model):
    """What this node runs and how it fares. Written by this node's agent only."""

    observed_generation: int = Field(default=0, ge=0, description="metadata.generation that this status is about.")
    mode: ObservedMode = Field(default=ObservedMode.NONE, description="The Service dataplane in the kernel now.")
    phase: Phase = Field(default=Phase.PENDING, description="The agent's state in one word.")
    deprecated: str = Field(
        default="",
        description="Kubernetes minor that removes the mode the node runs; empty: not deprecated.",
        examples=["1.43"],
    )
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=16,
        description="Ready, PreflightPassed, Switching, Degraded, DeprecatedMode, KubeProxyPresent, Drifted.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    facts: NodeFacts = Field(default_factory=NodeFacts, description="What was found on the node.")
    preflight: Preflight | None = Field(default=None, description="Checks for targetMode, or for mode.")
    programmed: Programmed = Field(default_factory=Programmed, description="What the dataplane holds.")
    last_switch: LastSwitch | None = Field(default=None, description="How the last change of mode went.")
    agent_version: str = Field(default="", description="Version of the agent.")
    heartbeat_time: datetime | None = Field(
        default=None, description="When the agent last wrote; it writes at least every minute."
    )


class NodeProxyMode(Model):
    """NodeProxyMode is one node's Service dataplane: what it shall run, what it runs, and how it fares."""

    api_version: Literal["proxymode.io/v1alpha1"] = API_VERSION
    kind: Literal["NodeProxyMode"] = "NodeProxyMode"
    metadata: ObjectMeta
    spec: NodeProxyModeSpec = Field(default_factory=NodeProxyModeSpec)
    status: NodeProxyModeStatus = Field(default_factory=NodeProxyModeStatus)
