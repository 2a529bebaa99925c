"""Specs that cannot be followed.

The API server refuses most of these already (CEL in the CRD); it does not know the numbers of a cron schedule and the
names of time zones. The rest is for objects that were stored before a rule existed, and for a CRD that somebody
weakened. Such a ProxyMode keeps its nodes, moves none, and says why in condition Accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_operator.rollout.windows import WindowError, check

if TYPE_CHECKING:
    from proxymode_api.proxymode import ProxyModeSpec
    from proxymode_api.rollout import Stage


def refusal(spec: ProxyModeSpec) -> str:
    """The first thing that is wrong, with field, value and what would be right; empty when the spec can be followed."""
    stages = spec.rollout.stages
    names = [stage.name for stage in stages]
    for index, stage in enumerate(stages):
        where = f"spec.rollout.stages[{index}] ({stage.name})"
        if stage.name in names[:index]:
            return f"{where}: the name is used twice; give every stage a name of its own"
        if sum(reach is not None for reach in (stage.selector, stage.count, stage.percent)) != 1:
            return f"{where}: exactly one of selector, count and percent must say how far the stage reaches"
    if not stages or not _reaches_all(stages[-1]):
        return "spec.rollout.stages: the last stage must reach every node: give it percent: 100"
    for index, window in enumerate(spec.rollout.windows):
        try:
            check(window)
        except WindowError as error:
            return f"spec.rollout.windows[{index}].{error}"
    return ""


def _reaches_all(stage: Stage) -> bool:
    if stage.selector is not None:
        return not stage.selector.match_labels and not stage.selector.match_expressions
    return stage.percent == 100
