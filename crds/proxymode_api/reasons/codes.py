"""Every reason that operator and agent write into conditions and Events: the words, apart from what they mean.

A reason that is not here cannot be written: who writes one takes a `Reason`, and mypy sees to it. What each means, and
what to do about it, is its page in `node`, `rollout` or `services` beside this module; a test asks for it. Apart, since
an agent needs the words but not the pages.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """`reason` of a condition (metav1.Condition) or an Event (events.k8s.io/v1), grouped by who writes it first."""

    # Conditions of a NodeProxyMode, in their order.
    PROGRAMMED = "Programmed"
    PROGRAMMING = "Programming"
    WAITING_FOR_SERVICES = "WaitingForServices"
    OBSERVING = "Observing"
    SWITCHING = "Switching"
    SYNC_FAILED = "SyncFailed"
    OPTIONS_REFUSED = "OptionsRefused"
    NOT_RUN = "NotRun"
    BLOCKED = "Blocked"
    PASSED_WITH_WARNINGS = "PassedWithWarnings"
    PASSED = "Passed"
    SWITCH_IN_PROGRESS = "SwitchInProgress"
    NOT_SWITCHING = "NotSwitching"
    SWITCH_SUCCEEDED = "SwitchSucceeded"
    SWITCH_RESUMED = "SwitchResumed"
    SWITCH_ROLLED_BACK = "SwitchRolledBack"
    SWITCH_FAILED = "SwitchFailed"
    SERVICES_REFUSED = "ServicesRefused"
    AS_EXPECTED = "AsExpected"
    SUPPORTED = "Supported"
    ANNOUNCED = "Announced"
    DEPRECATED = "Deprecated"
    OFF_BY_DEFAULT = "OffByDefault"
    REMOVED = "Removed"
    RUNNING = "Running"
    RULES_LEFT = "RulesLeft"
    ABSENT = "Absent"
    AS_PROGRAMMED = "AsProgrammed"
    REPAIRED = "Repaired"

    # Events that an agent posts.
    SWITCH_STARTED = "SwitchStarted"
    DRIFT_REPAIRED = "DriftRepaired"
    IPVS_DEPRECATION = "IPVSDeprecation"
    LOCALHOST_NODE_PORT_TAKEN = "LocalhostNodePortTaken"
    UNUSABLE_FIELD = "UnusableField"
    REFUSED_BY_KERNEL = "RefusedByKernel"
    FAILED_TO_START_SERVICE_HEALTHCHECK = "FailedToStartServiceHealthcheck"

    # Conditions of a ProxyMode, in their order.
    ACCEPTED = "Accepted"
    REFUSED = "Refused"
    OVERRIDDEN = "Overridden"
    PARTLY_OVERRIDDEN = "PartlyOverridden"
    STAGES_OVERLAP = "StagesOverlap"
    NO_NODES = "NoNodes"
    NODES_SWITCHING = "NodesSwitching"
    SOAKING = "Soaking"
    OUTSIDE_WINDOW = "OutsideWindow"
    AWAITING_APPROVAL = "AwaitingApproval"
    AWAITING_GATES = "AwaitingGates"
    CLUSTER_UNHEALTHY = "ClusterUnhealthy"
    PAUSED = "Paused"
    ROLLING_BACK = "RollingBack"
    ABORTED = "Aborted"
    ROLLED_BACK = "RolledBack"
    FAILURE_THRESHOLD_REACHED = "FailureThresholdReached"
    NODES_BLOCKED = "NodesBlocked"
    GATE_FAILED = "GateFailed"
    STAGE_SELECTS_NOTHING = "StageSelectsNothing"
    ROLLOUT_COMPLETE = "RolloutComplete"
    NOT_COMPLETE = "NotComplete"
    NODES_SKIPPED = "NodesSkipped"
    NODES_FAILED = "NodesFailed"
    AGENTS_SILENT = "AgentsSilent"
    REQUESTED = "Requested"
    NOT_PAUSED = "NotPaused"
    NOT_DEPRECATED = "NotDeprecated"
    NO_GATES = "NoGates"
    GATES_NOT_ASKED = "GatesNotAsked"
    GATES_PASSED = "GatesPassed"
    GATE_UNANSWERED = "GateUnanswered"

    # Events that the operator posts.
    ROLLOUT_STARTED = "RolloutStarted"
    STAGE_STARTED = "StageStarted"
    STAGE_COMPLETE = "StageComplete"
    PROMOTED = "Promoted"
    PROMOTE_IGNORED = "PromoteIgnored"
    RESUMED = "Resumed"
    GATE_PASSED = "GatePassed"
    RETRIED = "Retried"
    RETRY_IGNORED = "RetryIgnored"
    UNDO_IGNORED = "UndoIgnored"
    ROLLOUT_STOPPED = "RolloutStopped"
    ROLLOUT_ABORTED = "RolloutAborted"
    ROLLOUT_ROLLED_BACK = "RolloutRolledBack"
    NODES_RELEASED = "NodesReleased"
