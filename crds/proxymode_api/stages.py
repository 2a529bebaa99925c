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
    """The spec's `stages` as a revision of this order goes through them. Who undoes has approved."""
    match order:
        case RolloutOrder.FORWARD:
            return tuple(stages)
        case RolloutOrder.REVERSE:
            return tuple(s.model_copy(update={"approval": Approval.AUTOMATIC}) for s in reversed(stages))
        case RolloutOrder.AT_ONCE:
            return (UNDO_STAGE,)
