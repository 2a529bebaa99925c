"""Pages on gates, and on what else lets a rollout not begin or not go on without a node being at fault."""

from __future__ import annotations

from typing import Final

from proxymode_api.reasons.codes import Reason
from proxymode_api.reasons.page import ROLLOUT_EVENT, Mood, Page, on_rollout

PAGES: Final = (
    Page(
        Reason.AWAITING_GATES,
        Mood.UNDER_WAY,
        (on_rollout("Progressing", "False"),),
        "A stage is complete and has soaked, or the first one is about to begin, and gates of spec.rollout.gates have "
        "not passed. No further node is told. The message has each gate's last answer.",
        "See the reason of condition GatesPassing. A gate that is wrong can be corrected or taken out at any time: "
        "that begins no new revision.",
    ),
    Page(
        Reason.NO_GATES,
        Mood.WELL,
        (on_rollout("GatesPassing", "True"),),
        "spec.rollout.gates is empty.",
    ),
    Page(
        Reason.GATES_NOT_ASKED,
        Mood.UNDER_WAY,
        (on_rollout("GatesPassing", "Unknown"),),
        "Some gates were not asked in this revision yet; those before the first stage are asked when it begins.",
    ),
    Page(
        Reason.GATES_PASSED,
        Mood.WELL,
        (on_rollout("GatesPassing", "True"),),
        "Every gate passed when it was asked last.",
    ),
    Page(
        Reason.GATE_FAILED,
        Mood.LOOK,
        (
            on_rollout("GatesPassing", "False"),
            on_rollout("Degraded", "True"),
            on_rollout("Progressing", "False"),
            ROLLOUT_EVENT,
        ),
        "A gate answered, and its answer was no: the query's value misses the threshold, or the webhook refused. After "
        "failureLimit such answers in a row the rollout stops, or is rolled back, as onFailure says.",
        "Look at what the gate measures. It is asked again every interval, and the rollout goes on when it passes.",
    ),
    Page(
        Reason.GATE_UNANSWERED,
        Mood.LOOK,
        (on_rollout("GatesPassing", "Unknown"), ROLLOUT_EVENT),
        "A gate could not be asked, gave no answer in time, or its query has an empty result. That is neither yes nor "
        "no: the rollout waits, and the gate is asked again, after a pause that doubles up to ten minutes.",
        "The message names the field and what came back: a query that Prometheus does not understand, an address that "
        "does not answer, a certificate, a Secret that the operator may not read.",
    ),
    Page(Reason.GATE_PASSED, Mood.WELL, (ROLLOUT_EVENT,), "A gate was asked, and its answer was yes."),
    Page(
        Reason.CLUSTER_UNHEALTHY,
        Mood.LOOK,
        (on_rollout("Progressing", "False"),),
        "Nodes that this rollout has not touched, or has done with, are not Ready, cordoned or silent, as many as "
        "maxUnavailable. One more would be too many, so nothing is told until some of them are back.",
        "The message names them. Mend them, uncordon them, or raise maxUnavailable.",
    ),
    Page(
        Reason.STAGES_OVERLAP,
        Mood.LOOK,
        (on_rollout("Accepted", "True"),),
        "Some stages reach no node that an earlier one does not reach: selectors that overlap, or percentages that "
        "round up to the same number in a fleet of this size. They are passed without a soak.",
        "The message names the stages. If it is not meant so, correct them.",
    ),
    Page(
        Reason.UNDO_IGNORED,
        Mood.LOOK,
        (ROLLOUT_EVENT,),
        "The annotation proxymode.io/undo says something that the operator does not know, or came without a change of "
        "spec.mode. It was taken away and changed nothing.",
        "kubectl proxymode undo writes it together with spec.mode.",
    ),
)
