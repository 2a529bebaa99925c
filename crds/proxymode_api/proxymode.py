"""ProxyMode: the fleet's intent. Cluster-scoped; written by people, status written by the operator only."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic resolves annotations at run time
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from proxymode_api import API_VERSION, rules
from proxymode_api.common import (
    Condition,
    ConnectionPolicy,
    DataplaneOptions,
    Duration,
    Mode,
    Model,
    ObjectMeta,
)
from proxymode_api.deprecation import RETIREMENTS, KubeProxyMode
from proxymode_api.selector import LabelKey
from proxymode_api.selector import LabelSelector as LabelSelector
from proxymode_api.selector import LabelSelectorRequirement as LabelSelectorRequirement
from proxymode_api.selector import SelectorOperator as SelectorOperator

NAME_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
PERCENT_PATTERN: Final = r"^(100|[1-9][0-9]?)%$"
IntOrPercent = Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=PERCENT_PATTERN)]
"""A number of nodes, or a percentage of the selected nodes such as `25%`."""


class Approval(StrEnum):
    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class Stage(Model):
    """One step of a rollout. Exactly one of selector, count and percent says how far the stage reaches.

    Stages are cumulative: a node belongs to the first stage that reaches it.
    """

    model_config = ConfigDict(json_schema_extra=rules.extra(rules.STAGE_REACH))

    name: str = Field(
        min_length=1,
        max_length=63,
        pattern=NAME_PATTERN,
        description="Name of the stage, unique in the list; lower-case letters, digits and dashes.",
        examples=["canary"],
    )
    selector: LabelSelector | None = Field(
        default=None, description="The selected nodes with these labels; empty: all of them."
    )
    count: int | None = Field(
        default=None, ge=1, le=1_000_000, description="So many nodes in all, earlier stages included.", examples=[1]
    )
    percent: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="So many percent of the selected nodes in all, earlier stages included, rounded up.",
        examples=[25],
    )
    soak: Duration = Field(
        default="0",
        description="How long the finished stage is watched before the next begins; 0: not at all.",
        examples=["30m"],
    )
    approval: Approval = Field(
        default=Approval.AUTOMATIC,
        description="Automatic: the stage begins by itself after the one before it. Manual: it waits until a person "
        "promotes it with kubectl proxymode promote.",
    )


class OnFailure(StrEnum):
    PAUSE = "Pause"
    ROLLBACK = "Rollback"


class BlockedPolicy(StrEnum):
    """What a node that cannot run the wanted mode means for the stage it belongs to."""

    SKIP = "Skip"
    STOP = "Stop"


class Window(Model):
    """Hours in which a rollout may start something."""

    schedule: str = Field(
        max_length=100,
        description="When the window opens, as in crontab(5): minute, hour, day, month and weekday, in the time of "
        "timeZone. A time that a change of clocks leaves out counts as much later as the clocks were put forward; one "
        "that comes twice counts the first time.",
        examples=["0 22 * * mon-fri"],
        json_schema_extra=rules.extra(rules.SCHEDULE),
    )
    duration: Duration = Field(
        description="How long it stays open; at most a week.",
        examples=["4h"],
        json_schema_extra=rules.extra(rules.DURATION, rules.NOT_ZERO, rules.AT_MOST_A_WEEK),
    )
    time_zone: str = Field(
        default="UTC",
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9_+/-]+$",
        description="Name of a time zone in the IANA database.",
        examples=["Europe/Berlin"],
    )


class Rollout(Model):
    """How the fleet moves: in which stages, how many nodes at a time, and what stops it."""

    stages: list[Stage] = Field(
        default_factory=lambda: [Stage(name="all", percent=100)],
        min_length=1,
        max_length=32,
        description="Steps in order; the last must reach every selected node (percent: 100 or an empty selector).",
        json_schema_extra=rules.extra(*rules.STAGES, list_type="map", list_map_keys=["name"]),
    )
    max_unavailable: IntOrPercent = Field(
        default=1,
        description="Most nodes that may be switching or not ready at one time: a number from 1, or a percentage of "
        "the selected nodes, rounded up.",
        examples=["10%"],
        json_schema_extra=rules.extra(rules.MAX_UNAVAILABLE),
    )
    topology_key: LabelKey | None = Field(
        default=None,
        description="Node label over whose values the order within a stage is spread.",
        examples=["topology.kubernetes.io/zone"],
    )
    min_ready_seconds: int = Field(
        default=0,
        ge=0,
        le=86400,
        description="How long a switched node must be Ready before it counts as updated.",
    )
    progress_deadline: Duration = Field(
        default="10m",
        description="A node that has not switched this long after it was told to counts as failed; one whose turn "
        "comes and whose agent was not heard of for so long, as blocked.",
        json_schema_extra=rules.extra(rules.DURATION, rules.NOT_ZERO),
    )
    failure_threshold: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="So many failed nodes stop the rollout, until fewer are: they recover, are told to try again "
        "(kubectl proxymode retry) or are left out (kubectl proxymode skip).",
    )
    on_failure: OnFailure = Field(
        default=OnFailure.PAUSE,
        description="What happens when failureThreshold is reached. Pause: nothing new starts. Rollback: the nodes "
        "of this rollout go back to the mode that they had.",
    )
    on_blocked: BlockedPolicy = Field(
        default=BlockedPolicy.SKIP,
        description="What a node that cannot run the mode, or has no agent, means. Skip: the rollout goes round it. "
        "Stop: it stops its stage.",
    )
    windows: list[Window] = Field(
        default_factory=list,
        max_length=16,
        description="When nodes may be told to move: while one of these windows is open; none given: at any time. "
        "Outside of them nodes in mid-switch finish, soak goes on, and what makes good a failure is done all the same: "
        "rollback, kubectl proxymode retry and skip.",
    )
    paused: bool = Field(default=False, description="True: nothing new starts; nodes in mid-switch finish.")


class SwitchOptions(Model):
    """What a node does with open connections when it changes mode."""

    connections: ConnectionPolicy = Field(
        default=ConnectionPolicy.HANDOVER,
        description="What happens to connections open on the old mode. Handover: they are carried over and go on; Cut: "
        "those that IPVS holds end. New ones move at once either way.",
    )


class ProxyModeSpec(DataplaneOptions):
    """The Service dataplane that the selected nodes shall run, and how they get there."""

    mode: Mode = Field(
        description="The wanted mode: nftables, or ipvs, which upstream gives up: deprecated since Kubernetes "
        f"{RETIREMENTS[KubeProxyMode.IPVS].deprecated}, removed from kube-proxy in "
        f"{RETIREMENTS[KubeProxyMode.IPVS].removed}."
    )
    node_selector: LabelSelector = Field(
        default_factory=LabelSelector,
        description="The nodes that this object is about; all Linux nodes by default.",
    )
    priority: int = Field(
        default=0,
        ge=-1_000_000_000,
        le=1_000_000_000,
        description="Where several ProxyModes select a node, the highest priority decides; ties: the oldest.",
    )
    rollout: Rollout = Field(
        default_factory=Rollout,
        description="How the fleet moves: in which stages, how many nodes at a time, what stops it.",
    )
    switch: SwitchOptions = Field(
        default_factory=SwitchOptions, description="What a node does with open connections when it changes mode."
    )


class NodeCounts(Model):
    """Nodes by state. Every selected node is in exactly one of updated, pending, switching, failed, blocked and
    skipped."""

    desired: int = Field(default=0, ge=0, description="Nodes that this object decides about.")
    updated: int = Field(default=0, ge=0, description="Nodes that run the wanted mode and options and are Ready.")
    ready: int = Field(default=0, ge=0, description="Nodes whose dataplane is Ready, in whichever mode.")
    pending: int = Field(default=0, ge=0, description="Nodes whose turn has not come.")
    switching: int = Field(default=0, ge=0, description="Nodes on their way to the wanted mode.")
    failed: int = Field(default=0, ge=0, description="Nodes whose switch failed or did not end in time.")
    blocked: int = Field(default=0, ge=0, description="Nodes that cannot run the wanted mode; see their preflight.")
    skipped: int = Field(
        default=0,
        ge=0,
        description="Nodes that a person has taken out of rollouts with kubectl proxymode skip, which annotates their "
        "NodeProxyMode with proxymode.io/skip and a reason.",
    )
    ipvs: int = Field(default=0, ge=0, description="Nodes that run ipvs now.")
    nftables: int = Field(default=0, ge=0, description="Nodes that run nftables now.")
    progress: str = Field(default="0/0", description="updated/desired, for the printer column.")


class StagePhase(StrEnum):
    PENDING = "Pending"
    AWAITING_APPROVAL = "AwaitingApproval"
    PROGRESSING = "Progressing"
    SOAKING = "Soaking"
    COMPLETE = "Complete"


class StageStatus(Model):
    """One stage of the current rollout."""

    name: str = Field(description="Name of the stage.")
    phase: StagePhase = Field(description="Pending, AwaitingApproval, Progressing, Soaking or Complete.")
    nodes: int = Field(default=0, ge=0, description="Nodes that belong to this stage and to no earlier one.")
    updated: int = Field(default=0, ge=0, description="Those of them that run the wanted mode and are Ready.")
    blocked: int = Field(default=0, ge=0, description="Those of them that cannot run the wanted mode.")
    skipped: int = Field(default=0, ge=0, description="Those of them that a person has taken out of rollouts.")
    approved: bool = Field(default=False, description="Promoted by a person, or Automatic.")
    started_at: datetime | None = Field(default=None, description="When its first node was told to switch.")
    completed_at: datetime | None = Field(
        default=None, description="When its last node was updated; soak counts from here."
    )


CHANGED_BY: Final = (
    "Field manager that wrote spec last before the rollout began, such as kubectl-proxymode or argocd-controller; who "
    "that was is in the API server's audit log."
)
CHANGE_CAUSE: Final = "The annotation kubernetes.io/change-cause as it was when the rollout began."


class RolloutOutcome(StrEnum):
    COMPLETE = "Complete"
    SUPERSEDED = "Superseded"
    ABORTED = "Aborted"
    ROLLED_BACK = "RolledBack"


class RolloutRecord(Model):
    """One past rollout."""

    revision: int = Field(ge=1, description="Counts rollouts of this object.")
    mode: Mode = Field(description="The mode it went to.")
    started_at: datetime = Field(description="When it began.")
    ended_at: datetime = Field(description="When it ended.")
    outcome: RolloutOutcome = Field(description="Complete, Superseded, Aborted or RolledBack.")
    nodes: int = Field(default=0, ge=0, description="Nodes that it moved.")
    from_mode: Mode | None = Field(default=None, description="The mode of the rollout before; none: it was the first.")
    changed_by: str = Field(default="", description=CHANGED_BY)
    change_cause: str = Field(default="", description=CHANGE_CAUSE)
    updated: int = Field(default=0, ge=0, description="Nodes that ran the mode and were Ready when it ended.")
    failed: int = Field(default=0, ge=0, description="Nodes that had failed when it ended.")
    blocked: int = Field(default=0, ge=0, description="Nodes that could not run the mode when it ended.")
    skipped: int = Field(default=0, ge=0, description="Nodes that a person had taken out when it ended.")


class FleetStatus(StrEnum):
    """The word in the STATUS column."""

    PENDING = "Pending"
    PROGRESSING = "Progressing"
    AWAITING_APPROVAL = "AwaitingApproval"
    SOAKING = "Soaking"
    WAITING_FOR_WINDOW = "WaitingForWindow"
    PAUSED = "Paused"
    STOPPED = "Stopped"
    ROLLING_BACK = "RollingBack"
    COMPLETE = "Complete"
    REFUSED = "Refused"


class ProxyModeStatus(Model):
    """What the operator has done about a ProxyMode and where the rollout stands."""

    observed_generation: int = Field(default=0, ge=0, description="metadata.generation that this status is about.")
    revision: int = Field(default=0, ge=0, description="Counts rollouts; a new mode or new options begin one.")
    template_hash: str = Field(default="", max_length=64, description="Hash of mode and options of this revision.")
    mode: Mode | None = Field(default=None, description="The mode of this revision.")
    status: FleetStatus = Field(default=FleetStatus.PENDING, description="The rollout in one word.")
    from_mode: Mode | None = Field(
        default=None, description="The mode of the revision before; none: this is the first."
    )
    changed_by: str = Field(default="", description=CHANGED_BY)
    change_cause: str = Field(default="", description=CHANGE_CAUSE)
    current_stage: str = Field(default="", description="Name of the stage that is under way.")
    started_at: datetime | None = Field(default=None, description="When this revision began.")
    completed_at: datetime | None = Field(default=None, description="When its last stage was complete.")
    stages: list[StageStatus] = Field(default_factory=list, max_length=32, description="Stages of this rollout.")
    nodes: NodeCounts = Field(default_factory=NodeCounts, description="Nodes by state.")
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=16,
        description="Accepted, Progressing, Complete, Degraded, Paused, DeprecatedMode.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    history: list[RolloutRecord] = Field(
        default_factory=list, max_length=10, description="The last ten rollouts, newest first."
    )


class ProxyMode(Model):
    """ProxyMode says which Service dataplane the cluster's nodes shall run, and in which stages they move to it."""

    api_version: Literal["proxymode.io/v1alpha1"] = API_VERSION
    kind: Literal["ProxyMode"] = "ProxyMode"
    metadata: ObjectMeta
    spec: ProxyModeSpec
    status: ProxyModeStatus = Field(default_factory=ProxyModeStatus)
