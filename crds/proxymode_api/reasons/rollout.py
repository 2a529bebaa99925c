"""Pages on what the operator says of a rollout, in conditions of the ProxyMode and Events on it."""

from __future__ import annotations

from typing import Final

from proxymode_api.reasons.codes import Reason
from proxymode_api.reasons.page import ROLLOUT_EVENT, Mood, Page, on_rollout

_ACCEPTED: Final = (
    Page(
        Reason.ACCEPTED,
        Mood.WELL,
        (on_rollout("Accepted", "True"),),
        "The spec can be followed, and this ProxyMode decides about every node that it selects.",
    ),
    Page(
        Reason.REFUSED,
        Mood.LOOK,
        (on_rollout("Accepted", "False"), on_rollout("Progressing", "False"), ROLLOUT_EVENT),
        "The spec says something that the API's schema cannot check and the operator cannot follow. Nothing moves; "
        "nodes stay as they were last asked to be.",
        "The message names the field, the value and what would be right. Correct it with kubectl apply.",
    ),
    Page(
        Reason.OVERRIDDEN,
        Mood.LOOK,
        (on_rollout("Accepted", "False"),),
        "All nodes that this ProxyMode selects are decided by others with a higher priority, or of the same priority "
        "and older.",
        "Raise spec.priority, narrow the others' nodeSelector, or delete this object.",
    ),
    Page(
        Reason.PARTLY_OVERRIDDEN,
        Mood.LOOK,
        (on_rollout("Accepted", "True"),),
        "Some of the nodes that this ProxyMode selects are decided by others with a higher priority, or of the same "
        "priority and older. It decides about the rest.",
        "If it is not meant so: spec.priority, or nodeSelectors that do not overlap.",
    ),
    Page(
        Reason.NO_NODES,
        Mood.LOOK,
        (on_rollout("Accepted", "True"), on_rollout("Progressing", "False")),
        "spec.nodeSelector selects no Linux node, so there is nothing to move.",
        "Compare it with kubectl get nodes --show-labels.",
    ),
)

_PROGRESSING: Final = (
    Page(
        Reason.NODES_SWITCHING,
        Mood.UNDER_WAY,
        (on_rollout("Progressing", "True"),),
        "The rollout goes on. The message says which nodes move, which it waits for and why, and whether "
        "maxUnavailable is used up.",
        "kubectl proxymode watch shows it live. If it does not get on, the message names the nodes that use up the "
        "budget.",
    ),
    Page(
        Reason.SOAKING,
        Mood.UNDER_WAY,
        (on_rollout("Progressing", "True"),),
        "All nodes of the stage are updated, and it is watched for as long as stages[].soak says before the next one "
        "begins.",
        "Wait, and look at your own dashboards: that is what the time is for.",
    ),
    Page(
        Reason.OUTSIDE_WINDOW,
        Mood.UNDER_WAY,
        (on_rollout("Progressing", "False"), ROLLOUT_EVENT),
        "None of spec.rollout.windows is open, so no node is told to move. Nodes in mid-switch finish, and retry, skip "
        "and rollback work all the same.",
        "Wait for the time in the message, or change the windows.",
    ),
    Page(
        Reason.AWAITING_APPROVAL,
        Mood.UNDER_WAY,
        (on_rollout("Progressing", "False"), ROLLOUT_EVENT),
        "The next stage has approval: Manual and waits for a person.",
        "kubectl proxymode promote, or abort.",
    ),
    Page(
        Reason.PAUSED,
        Mood.UNDER_WAY,
        (on_rollout("Progressing", "False"), ROLLOUT_EVENT),
        "spec.rollout.paused is true: nothing new starts, nodes in mid-switch finish.",
        "kubectl proxymode resume.",
    ),
    Page(
        Reason.REQUESTED,
        Mood.UNDER_WAY,
        (on_rollout("Paused", "True"),),
        "A person paused the rollout by spec.rollout.paused.",
        "kubectl proxymode resume.",
    ),
    Page(Reason.NOT_PAUSED, Mood.WELL, (on_rollout("Paused", "False"),), "Nobody has paused the rollout."),
    Page(Reason.RESUMED, Mood.WELL, (ROLLOUT_EVENT,), "The rollout goes on after a pause."),
    Page(
        Reason.ABORTED,
        Mood.LOOK,
        (on_rollout("Progressing", "False"),),
        "A person ended this revision with kubectl proxymode abort. Nothing new starts; every node stays in the mode "
        "that it was last asked to run.",
        "kubectl proxymode undo takes the moved nodes back. Any change of spec.mode or its options begins a new "
        "revision.",
    ),
)

_STOPPED: Final = (
    Page(
        Reason.FAILURE_THRESHOLD_REACHED,
        Mood.LOOK,
        (on_rollout("Degraded", "True"), on_rollout("Progressing", "False")),
        "As many nodes have failed as spec.rollout.failureThreshold says, so the rollout has stopped by itself. It "
        "goes on as soon as fewer are failed.",
        "kubectl proxymode node NAME for each node in the message. Mend the cause, then kubectl proxymode retry; or "
        "leave the node out with skip; or go back with undo.",
    ),
    Page(
        Reason.NODES_BLOCKED,
        Mood.LOOK,
        (on_rollout("Degraded", "True"), on_rollout("Progressing", "False")),
        "Nodes of an open stage cannot run the mode, and spec.rollout.onBlocked is Stop.",
        "kubectl proxymode preflight says what to do on each. Or leave them out: kubectl proxymode skip, or onBlocked: "
        "Skip.",
    ),
    Page(
        Reason.STAGE_SELECTS_NOTHING,
        Mood.LOOK,
        (on_rollout("Degraded", "True"), on_rollout("Progressing", "False")),
        "The selector of a stage matches none of the nodes. A misspelt label would otherwise let the canary pass "
        "unseen, so the rollout stops.",
        "Correct stages[].selector, label the nodes, or take the stage out.",
    ),
    Page(
        Reason.STAGE_BLOCKED,
        Mood.LOOK,
        (on_rollout("Degraded", "True"), on_rollout("Progressing", "False")),
        "No node of the stage can run the mode, and none of the stages before has moved one. Blocked nodes are gone "
        "round with onBlocked: Skip, but the fleet does not follow a canary that nobody has seen.",
        "kubectl proxymode preflight says what to do on each. Or leave them out with kubectl proxymode skip, or take "
        "the stage out.",
    ),
    Page(
        Reason.NODES_FAILED,
        Mood.LOOK,
        (on_rollout("Degraded", "True"),),
        "Some nodes have failed, fewer than spec.rollout.failureThreshold: the rollout goes on without them.",
        "kubectl proxymode node NAME, then retry or skip.",
    ),
    Page(
        Reason.AGENTS_SILENT,
        Mood.LOOK,
        (on_rollout("Degraded", "True"),),
        "No agent was heard of lately on some nodes. Their dataplane goes on forwarding, but changes of Services may "
        "not reach it.",
        "Look at the agent's pod on those nodes: kubectl -n proxymode-system get pods -o wide. A Node that is gone for "
        "good: delete the Node object.",
    ),
    Page(
        Reason.ROLLOUT_STOPPED,
        Mood.LOOK,
        (ROLLOUT_EVENT,),
        "The rollout has stopped by itself; condition Degraded says why. It goes on when the cause is gone.",
        "See the reason of condition Degraded.",
    ),
    Page(
        Reason.ROLLOUT_ABORTED,
        Mood.LOOK,
        (ROLLOUT_EVENT,),
        "A person ended this revision with kubectl proxymode abort.",
        "See Aborted.",
    ),
)

_BACK: Final = (
    Page(
        Reason.ROLLING_BACK,
        Mood.LOOK,
        (on_rollout("Progressing", "True"), ROLLOUT_EVENT),
        "failureThreshold was reached and spec.rollout.onFailure is Rollback: the nodes of this revision go back to "
        "the mode that they had, those told last first.",
        "Wait. Then find out why nodes failed before you try again.",
    ),
    Page(
        Reason.ROLLED_BACK,
        Mood.LOOK,
        (on_rollout("Degraded", "True"), on_rollout("Progressing", "False")),
        "Too many nodes failed, and this revision was taken back. It starts nothing more. Nodes that ran no mode of "
        "ours before have nothing to go back to and stay; the message names them.",
        "Mend what made nodes fail, then change spec.mode or its options: that begins a new revision.",
    ),
    Page(
        Reason.ROLLOUT_ROLLED_BACK,
        Mood.LOOK,
        (ROLLOUT_EVENT,),
        "The nodes of this revision are back in the mode that they had.",
        "See RolledBack.",
    ),
)

_ENDS: Final = (
    Page(
        Reason.ROLLOUT_COMPLETE,
        Mood.WELL,
        (on_rollout("Complete", "True"), on_rollout("Progressing", "False"), ROLLOUT_EVENT),
        "Every stage is over: each node runs the wanted mode, or is passed over and named in the message.",
        "kubectl proxymode report keeps the evidence.",
    ),
    Page(
        Reason.NODES_SKIPPED,
        Mood.LOOK,
        (on_rollout("Complete", "True"),),
        "The rollout is over, but some nodes were passed over: they are blocked, or a person skipped them. They run "
        "what they ran before.",
        "kubectl proxymode preflight for the blocked ones. They join by themselves once nothing blocks them; skipped "
        "ones after kubectl proxymode unskip.",
    ),
    Page(
        Reason.NOT_COMPLETE,
        Mood.UNDER_WAY,
        (on_rollout("Complete", "False"),),
        "There are stages that are not over. Condition Progressing says what it is at.",
    ),
    Page(
        Reason.NOT_DEPRECATED,
        Mood.WELL,
        (on_rollout("DeprecatedMode", "False"),),
        "Upstream has no plan to give up the wanted mode.",
    ),
)

_EVENTS: Final = (
    Page(
        Reason.ROLLOUT_STARTED,
        Mood.UNDER_WAY,
        (ROLLOUT_EVENT,),
        "A new mode or new options began a new revision. Where the revision before was not finished, this one takes "
        "its place.",
    ),
    Page(Reason.STAGE_STARTED, Mood.UNDER_WAY, (ROLLOUT_EVENT,), "The first node of the stage may be told to move."),
    Page(
        Reason.STAGE_COMPLETE,
        Mood.WELL,
        (ROLLOUT_EVENT,),
        "Every node of the stage is updated or passed over. Its soak time begins now.",
    ),
    Page(Reason.PROMOTED, Mood.WELL, (ROLLOUT_EVENT,), "A person approved the stage that waited."),
    Page(
        Reason.PROMOTE_IGNORED,
        Mood.LOOK,
        (ROLLOUT_EVENT,),
        "An approval was dropped unheeded: it named no stage of this rollout, was there before this revision began, so "
        "that nobody can have meant it for this one, or came when the revision had ended or was an undo.",
        "The note says which. Where a stage waits, promote again, with a name that the note lists.",
    ),
    Page(Reason.RETRIED, Mood.UNDER_WAY, (ROLLOUT_EVENT,), "Failed nodes were told to try again."),
    Page(
        Reason.RETRY_IGNORED,
        Mood.LOOK,
        (ROLLOUT_EVENT,),
        "A request to try again was dropped unheeded: none of the named nodes has failed, it was there before this "
        "revision began, or the revision has ended.",
        "kubectl proxymode status names the failed nodes; then retry again.",
    ),
    Page(
        Reason.NODES_RELEASED,
        Mood.LOOK,
        (ROLLOUT_EVENT,),
        "Nodes are no longer decided by this ProxyMode: its selector changed, another won them, or it was deleted. "
        "They keep the mode that they run.",
        "If it is not meant so, correct nodeSelector or priority.",
    ),
    Page(
        Reason.KUBE_PROXY_NOT_MOVED,
        Mood.LOOK,
        (on_rollout("Degraded", "True"), ROLLOUT_EVENT),
        "kube-proxy cannot be kept off nodes that are to be taken over, or its DaemonSet cannot be put back: there is "
        "none of the name in spec.kubeProxy, or the operator may not change it. Nodes stay with whom they are.",
        "Do what the Event says.",
    ),
)

PAGES: Final = (*_ACCEPTED, *_PROGRESSING, *_STOPPED, *_BACK, *_ENDS, *_EVENTS)
