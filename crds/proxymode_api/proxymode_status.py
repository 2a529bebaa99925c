"""ProxyMode.status: where a rollout stands, and how the last ones went. Written by the operator only."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic resolves annotations at run time
from enum import StrEnum
from typing import Final

from pydantic import Field

from proxymode_api.common import Condition, Mode, Model
from proxymode_api.gates import MOST_GATES, GateStatus


class RolloutOrder(StrEnum):
    """In which order the stages go."""

    FORWARD = "Forward"
    REVERSE = "Reverse"
    AT_ONCE = "AtOnce"


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
    AWAITING_GATES = "AwaitingGates"
    COMPLETE = "Complete"


class StageStatus(Model):
    """One stage of the current rollout."""

    name: str = Field(description="Name of the stage.")
    phase: StagePhase = Field(description="Pending, AwaitingApproval, Progressing, Soaking, AwaitingGates or Complete.")
    nodes: int = Field(default=0, ge=0, description="Nodes that belong to this stage and to no earlier one.")
    updated: int = Field(default=0, ge=0, description="Those of them that run the wanted mode and are Ready.")
    blocked: int = Field(default=0, ge=0, description="Those of them that cannot run the wanted mode.")
    skipped: int = Field(default=0, ge=0, description="Those of them that a person has taken out of rollouts.")
    approved: bool = Field(default=False, description="Promoted by a person, or Automatic.")
    started_at: datetime | None = Field(default=None, description="When its first node was told to switch.")
    completed_at: datetime | None = Field(
        default=None, description="When its last node was updated; soak counts from here."
    )
    gates_passed_at: datetime | None = Field(
        default=None, description="When, after its soak, the gates had passed that are between it and what follows."
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
    from_mode: Mode | None = Field(default=None, description="The mode before it, see status.fromMode.")
    changed_by: str = Field(default="", description=CHANGED_BY)
    change_cause: str = Field(default="", description=CHANGE_CAUSE)
    updated: int = Field(default=0, ge=0, description="Nodes that ran the mode and were Ready when it ended.")
    failed: int = Field(default=0, ge=0, description="Nodes that had failed when it ended.")
    blocked: int = Field(default=0, ge=0, description="Nodes that could not run the mode when it ended.")
    skipped: int = Field(default=0, ge=0, description="Nodes that a person had taken out when it ended.")


class PlannedStage(Model):
    """What one stage would move."""

    name: str = Field(max_length=63, description="Name of the stage.")
    nodes: int = Field(ge=0, description="Nodes that belong to it.")
    to_move: int = Field(ge=0, description="Those of them that would be told to move.")
    first: list[str] = Field(
        default_factory=list, max_length=10, description="The first of these, in the order in which they would go."
    )


class PlanNote(Model):
    """Something about some nodes."""

    why: str = Field(max_length=1024, description="What it is: why they would not move, or the id of a check.")
    nodes: int = Field(ge=0, description="How many nodes it is about.")
    first: list[str] = Field(default_factory=list, max_length=10, description="The first of them by name.")


class RolloutPlan(Model):
    """What a paused rollout would do as the fleet is now, found by the code that would do it."""

    to_move: int = Field(ge=0, description="Nodes that would be told to move.")
    at_a_time: int = Field(ge=1, description="How many at one time: maxUnavailable as a number.")
    stages: list[PlannedStage] = Field(default_factory=list, max_length=32, description="Stages in their order.")
    blockers: list[PlanNote] = Field(
        default_factory=list, max_length=32, description="What keeps nodes from moving, the most frequent first."
    )
    warnings: list[PlanNote] = Field(
        default_factory=list, max_length=32, description="Preflight checks that warn, the most frequent first."
    )
    seconds_per_node: int | None = Field(
        default=None, ge=0, description="Median of the last switches of these nodes; none: no node has switched yet."
    )
    estimated_seconds: int | None = Field(
        default=None,
        ge=0,
        description="What all of it would take: switches, minReadySeconds and the soak of every stage, without waiting "
        "for approvals, windows and gates; none: no switch was measured.",
    )


class FleetStatus(StrEnum):
    """The word in the STATUS column."""

    PENDING = "Pending"
    PROGRESSING = "Progressing"
    AWAITING_APPROVAL = "AwaitingApproval"
    SOAKING = "Soaking"
    AWAITING_GATES = "AwaitingGates"
    WAITING_FOR_WINDOW = "WaitingForWindow"
    PAUSED = "Paused"
    STOPPED = "Stopped"
    ABORTED = "Aborted"
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
    order: RolloutOrder = Field(
        default=RolloutOrder.FORWARD,
        description="Forward: stages as in the spec. Reverse and AtOnce: an undo, by the stages in which nodes were "
        "told, the last first, or all together; it waits for no approval and no gate.",
    )
    from_mode: Mode | None = Field(
        default=None,
        description="The mode before: of the revision before, or what all nodes ran when the first one found them; "
        "none: they did not all run one.",
    )
    changed_by: str = Field(default="", description=CHANGED_BY)
    change_cause: str = Field(default="", description=CHANGE_CAUSE)
    current_stage: str = Field(default="", description="Name of the stage that is under way.")
    started_at: datetime | None = Field(default=None, description="When this revision began.")
    completed_at: datetime | None = Field(default=None, description="When its last stage was complete.")
    stages: list[StageStatus] = Field(default_factory=list, max_length=32, description="Stages of this rollout.")
    nodes: NodeCounts = Field(default_factory=NodeCounts, description="Nodes by state.")
    plan: RolloutPlan | None = Field(
        default=None, description="While spec.rollout.paused is true: what the rollout would do."
    )
    gates_checked_at: datetime | None = Field(
        default=None, description="When, before the first stage, every gate had answered; no node is told before."
    )
    gates: list[GateStatus] = Field(
        default_factory=list, max_length=MOST_GATES, description="What every gate of this rollout answered last."
    )
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=16,
        description="Accepted, Progressing, Complete, Degraded, Paused, DeprecatedMode, GatesPassing.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    history: list[RolloutRecord] = Field(
        default_factory=list, max_length=10, description="The last ten rollouts, newest first."
    )
