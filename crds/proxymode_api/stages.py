"""The stages of a rollout in the order in which they go: those of the spec, or an undo's. Pure.

Which node belongs to which is the operator's to decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxymode_api.proxymode_status import RolloutOrder
from proxymode_api.rollout import Approval, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

UNDO_STAGE: Final = Stage(name="undo", percent=100)
"""The one stage of an undo at once."""


def stages_in_force(stages: Sequence[Stage], order: RolloutOrder) -> tuple[Stage, ...]:
    """The spec's `stages` as a revision of this order goes through them.

    Who undoes has approved. Between two stages lies the same soak on the way back as on the way there, and at the end
    that of the last one: where everybody soaks 0, an undo is complete when the canary is back.
    """
    match order:
        case RolloutOrder.FORWARD:
            return tuple(stages)
        case RolloutOrder.REVERSE:
            soaks = [stages[-1].soak, *(stage.soak for stage in stages[:-1])]
            return tuple(
                stage.model_copy(update={"approval": Approval.AUTOMATIC, "soak": soak})
                for stage, soak in reversed(list(zip(stages, soaks, strict=True)))
            )
        case RolloutOrder.AT_ONCE:
            return (UNDO_STAGE,)
