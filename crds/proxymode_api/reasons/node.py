"""Pages on what an agent says of its node, in conditions of the NodeProxyMode and Events on the Node."""

from __future__ import annotations

from typing import Final

from proxymode_api.reasons.codes import Reason
from proxymode_api.reasons.page import NODE_EVENT, Mood, Page, on_node, on_rollout

_READY: Final = (
    Page(
        Reason.PROGRAMMED,
        Mood.WELL,
        (on_node("Ready", "True"),),
        "The kernel does what Services and EndpointSlices say, in the mode that is asked for.",
    ),
    Page(
        Reason.PROGRAMMING,
        Mood.UNDER_WAY,
        (on_node("Ready", "False"),),
        "The first complete sync with the present options is under way. What the kernel held before goes on working.",
        "Wait; it takes seconds. If it lasts, the agent's log says what it is at.",
    ),
    Page(
        Reason.WAITING_FOR_SERVICES,
        Mood.UNDER_WAY,
        (on_node("Ready", "False"),),
        "The agent has not yet read all Services and EndpointSlices. Until it has, it writes nothing, so that what the "
        "kernel holds from before goes on working.",
        "If it lasts: the agent cannot list them. Look in its log for refused or failing requests, and at its "
        "ClusterRole.",
    ),
    Page(
        Reason.OBSERVING,
        Mood.WELL,
        (on_node("Ready", "Unknown"),),
        "No ProxyMode asks anything of this node. Its agent reports what it finds and programs nothing; whoever "
        "handles Services there now goes on.",
        "Nothing, or write a ProxyMode whose nodeSelector selects the node.",
    ),
    Page(
        Reason.SWITCHING,
        Mood.UNDER_WAY,
        (on_node("Ready", "False"),),
        "The node moves to another mode. Traffic flows all the while: the new mode is programmed before the old one "
        "goes.",
        "Wait. Condition Switching and status.lastSwitch say how far it is.",
    ),
    Page(
        Reason.SYNC_FAILED,
        Mood.LOOK,
        (on_node("Ready", "False"), on_node("Degraded", "True")),
        "The kernel refused what the agent wanted to write, or the last switch could not be finished. What was "
        "programmed before is still there; later changes of Services are not. The agent tries again, ever more seldom.",
        "Read the condition's message: it has the kernel's words. Then the agent's log, and preflight of the node.",
    ),
    Page(
        Reason.OPTIONS_REFUSED,
        Mood.LOOK,
        (on_node("Ready", "False"), on_node("Degraded", "True")),
        "The ProxyMode asks for an option that this node or this version of the agent cannot follow. The node goes on "
        "as before.",
        "The message names the field and the value. Change the option, or upgrade the agent.",
    ),
)

_PREFLIGHT: Final = (
    Page(
        Reason.NOT_RUN,
        Mood.WELL,
        (on_node("PreflightPassed", "Unknown"),),
        "No mode is asked of this node, so there is nothing to check.",
    ),
    Page(
        Reason.BLOCKED,
        Mood.LOOK,
        (on_node("PreflightPassed", "False"), NODE_EVENT),
        "A preflight check says that this node cannot run the wanted mode, or that it would fight somebody else for "
        "the same Services. The node stays exactly as it is. With onBlocked: Skip the rollout goes round it, with Stop "
        "it stops the stage.",
        "kubectl proxymode preflight NODE names the check, what was found and what to do; kubectl proxymode explain "
        "with the check's id says more. Checks run again by themselves. To leave the node out: kubectl proxymode skip.",
    ),
    Page(
        Reason.PASSED_WITH_WARNINGS,
        Mood.WELL,
        (on_node("PreflightPassed", "True"),),
        "The node can run the wanted mode. Some checks found what a person may want to know before it does.",
        "Read the warnings: kubectl proxymode preflight NODE.",
    ),
    Page(
        Reason.PASSED,
        Mood.WELL,
        (on_node("PreflightPassed", "True"),),
        "Every check passed: the node can run the wanted mode.",
    ),
)

_SWITCHING: Final = (
    Page(
        Reason.SWITCH_STARTED,
        Mood.UNDER_WAY,
        (NODE_EVENT,),
        "The node has begun to move from one mode to the other.",
    ),
    Page(
        Reason.SWITCH_IN_PROGRESS,
        Mood.UNDER_WAY,
        (on_node("Switching", "True"),),
        "The node moves from one mode to the other, step by step. Every step is written down first, so an agent that "
        "is killed in the middle finishes or undoes it when it comes back.",
        "Wait. status.lastSwitch.steps lists what is done.",
    ),
    Page(
        Reason.NOT_SWITCHING,
        Mood.WELL,
        (on_node("Switching", "False"),),
        "The node is not changing its mode, and its agent remembers no earlier change.",
    ),
    Page(
        Reason.SWITCH_SUCCEEDED,
        Mood.WELL,
        (on_node("Switching", "False"), NODE_EVENT),
        "The last change of mode went well. How many connections were open, kept and lost is in status.lastSwitch.",
    ),
    Page(
        Reason.SWITCH_RESUMED,
        Mood.WELL,
        (on_node("Switching", "False"),),
        "The last change of mode was interrupted, for instance because the agent was restarted, was taken up again "
        "where it stood, and succeeded.",
    ),
    Page(
        Reason.SWITCH_ROLLED_BACK,
        Mood.LOOK,
        (on_node("Switching", "False"),),
        "A step of the last change failed, so the agent undid it. The node runs the mode that it ran before. The "
        "rollout counts the node as failed.",
        "The message says which step failed and why. Mend that, then kubectl proxymode retry, or leave the node out "
        "with kubectl proxymode skip.",
    ),
    Page(
        Reason.SWITCH_FAILED,
        Mood.LOOK,
        (on_node("Switching", "False"), NODE_EVENT),
        "The last change failed. Where the node stands now is in status.mode, and condition Ready says whether it "
        "forwards. The rollout counts the node as failed.",
        "Read the message, then the agent's log. After mending: kubectl proxymode retry.",
    ),
)

_OTHERS: Final = (
    Page(
        Reason.SERVICES_REFUSED,
        Mood.LOOK,
        (on_node("Degraded", "True"),),
        "The kernel does not take some Service ports. All others are programmed; the refused ones get nothing until "
        "they change. The message names the first five.",
        "Look at the named Services and the kernel's words. Each has an Event of its own.",
    ),
    Page(
        Reason.SCHEDULER_MISSING,
        Mood.LOOK,
        (on_node("Degraded", "True"),),
        "The kernel has no module for an IPVS scheduler that spec.ipvs.scheduler or the annotation "
        "proxymode.io/ipvs-scheduler of a Service asks for. These Services are served all the same, by rr; the message "
        "names the first five ports.",
        "Install or load the module ip_vs_NAME on the node; it is found within a sync period. Or ask for another one.",
    ),
    Page(
        Reason.AS_EXPECTED,
        Mood.WELL,
        (on_node("Degraded", "False"), on_rollout("Degraded", "False")),
        "Nothing is wrong.",
    ),
    Page(
        Reason.SUPPORTED,
        Mood.WELL,
        (on_node("DeprecatedMode", "False"),),
        "Upstream has no plan to give up the mode that this node runs, or the plan is not in effect yet on this "
        "cluster's version.",
    ),
    Page(
        Reason.RUNNING,
        Mood.LOOK,
        (on_node("KubeProxyPresent", "True"),),
        "A kube-proxy runs on this node. Two programs that write the same Services undo each other's work, so the "
        "agent does not switch the node as long as kube-proxy is there. With spec.kubeProxy.policy TakeOver kube-proxy "
        "is kept off the node when its turn comes.",
        "Set spec.kubeProxy.policy: TakeOver, or take the node out of the kube-proxy DaemonSet by node affinity. "
        "kube-proxy leaves its rules behind, and traffic flows on by them until the agent programs the node.",
    ),
    Page(
        Reason.RULES_LEFT,
        Mood.LOOK,
        (on_node("KubeProxyPresent", "True"),),
        "No kube-proxy runs on this node, but rules that one wrote are still in the kernel.",
        "They go when the node switches. Do not use kube-proxy --cleanup for it: that removes every virtual server.",
    ),
    Page(
        Reason.READY_TO_TAKE_OVER,
        Mood.UNDER_WAY,
        (on_node("KubeProxyPresent", "True"),),
        "It is this node's turn, its agent is ready, and waits for kube-proxy to leave: for the label "
        "proxymode.io/service-proxy on the Node, which the operator sets, and then for the pod to end.",
        "If it stays so: look for an Event KubeProxyNotMoved on the ProxyMode. A kube-proxy that is a static pod or "
        "part of k3s or RKE2 has to be stopped by hand.",
    ),
    Page(
        Reason.READY_TO_HAND_BACK,
        Mood.UNDER_WAY,
        (on_node("KubeProxyPresent", "False"), on_node("KubeProxyPresent", "True")),
        "The node is to go back to kube-proxy. Its agent runs nftables mode until kube-proxy is there and has "
        "programmed every Service.",
        "If it stays so: see why kube-proxy's pod does not start on this node.",
    ),
    Page(
        Reason.HANDED_BACK,
        Mood.WELL,
        (on_node("KubeProxyPresent", "True"), on_node("Ready", "True")),
        "kube-proxy handles this node's Services again, and nothing of this agent is left in the kernel.",
    ),
    Page(
        Reason.ABSENT,
        Mood.WELL,
        (on_node("KubeProxyPresent", "False"),),
        "Neither a kube-proxy nor rules of one are on this node.",
    ),
    Page(
        Reason.AS_PROGRAMMED,
        Mood.WELL,
        (on_node("Drifted", "False"),),
        "The kernel holds what the agent wrote; nobody else has changed it.",
    ),
    Page(
        Reason.REPAIRED,
        Mood.LOOK,
        (on_node("Drifted", "True"),),
        "Somebody else changed what the agent programs, and the agent put it back. Between the two some connections "
        "may have gone wrong.",
        "Find out who: the message says what was changed. Suspects are scripts that flush the whole ruleset (nft flush "
        "ruleset, ipvsadm --clear, a firewall's restart) and a second service proxy.",
    ),
    Page(
        Reason.DRIFT_REPAIRED,
        Mood.LOOK,
        (NODE_EVENT,),
        "The same as condition Drifted with reason Repaired: somebody else changed what the agent programs, and it was "
        "put back.",
        "See Repaired.",
    ),
)

_DEPRECATION: Final = (
    Page(
        Reason.ANNOUNCED,
        Mood.WELL,
        (on_rollout("DeprecatedMode", "False"),),
        "Upstream has announced that it gives the mode up, but not in this cluster's version yet.",
        "Plan the move; the message has the versions.",
    ),
    Page(
        Reason.DEPRECATED,
        Mood.LOOK,
        (on_node("DeprecatedMode", "True"), on_rollout("DeprecatedMode", "True")),
        "Upstream's kube-proxy warns about this mode in this cluster's version and will remove it. proxymode itself "
        "goes on supporting it.",
        "Move to nftables before the version that the message names: kubectl proxymode migration --to nftables, then "
        "plan.",
    ),
    Page(
        Reason.OFF_BY_DEFAULT,
        Mood.LOOK,
        (on_node("DeprecatedMode", "True"), on_rollout("DeprecatedMode", "True")),
        "In this cluster's version kube-proxy refuses the mode unless a feature gate turns it on.",
        "Move to nftables now: with the next minors the gate goes too.",
    ),
    Page(
        Reason.REMOVED,
        Mood.LOOK,
        (on_node("DeprecatedMode", "True"), on_rollout("DeprecatedMode", "True")),
        "kube-proxy of this cluster's version does not have the mode any more. On nodes with a proxymode agent it "
        "works on; a kube-proxy could not take such a node back.",
        "Move to nftables.",
    ),
    Page(
        Reason.IPVS_DEPRECATION,
        Mood.LOOK,
        (NODE_EVENT,),
        "The node runs ipvs, which upstream gives up. Reason and action are those of upstream's own Event, so alerts "
        "on the one see the other. Once a day for each node.",
        "See Deprecated.",
    ),
)

PAGES: Final = (*_READY, *_PREFLIGHT, *_SWITCHING, *_OTHERS, *_DEPRECATION)
