"""What each verb writes: a merge patch of one ProxyMode, or a refusal in words. Pure.

promote and abort are annotations, see `proxymode_api.annotations`; the operator takes promote's away once heard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from proxymode_api.annotations import ABORT_ANNOTATION, PROMOTE_ALL, PROMOTE_ANNOTATION
from proxymode_api.modes import Mode
from proxymode_api.proxymode import FleetStatus, StagePhase
from proxymode_cli.errors import ExitCode, UserError

if TYPE_CHECKING:
    from proxymode_api.proxymode import ProxyMode


class Deed(NamedTuple):
    """A merge patch (None: nothing is to be done) and what to tell the user."""

    patch: dict[str, Any] | None
    told: str


def pause(found: ProxyMode) -> Deed:
    """Nothing new starts."""
    if found.spec.rollout.paused:
        return Deed(None, "is paused already")
    return Deed({"spec": {"rollout": {"paused": True}}}, "paused: nothing new starts, nodes in mid-switch finish")


def resume(found: ProxyMode) -> Deed:
    """Go on."""
    if not found.spec.rollout.paused:
        return Deed(None, "is not paused")
    return Deed({"spec": {"rollout": {"paused": False}}}, "resumed")


def promote(found: ProxyMode, stage: str | None, *, everything: bool) -> Deed:
    """Approve a stage, all stages, or without either the one that waits. Raises UserError."""
    names = [entry.name for entry in found.spec.rollout.stages]
    if everything:
        if stage is not None:
            raise UserError("name a stage or give --all, not both", ExitCode.USAGE)
        return Deed(_annotation(PROMOTE_ANNOTATION, PROMOTE_ALL), "all stages approved")
    if stage is None:
        waiting = [entry.name for entry in found.status.stages if entry.phase is StagePhase.AWAITING_APPROVAL]
        if not waiting:
            raise UserError(
                f"no stage of {found.metadata.name} waits for approval; name one of {', '.join(names)} to approve it "
                "ahead, or give --all",
                ExitCode.USAGE,
            )
        stage = waiting[0]
    if stage not in names:
        raise UserError(f"{found.metadata.name} has no stage {stage!r}; it has {', '.join(names)}", ExitCode.NOT_FOUND)
    return Deed(_annotation(PROMOTE_ANNOTATION, stage), f"stage {stage} approved")


def abort(found: ProxyMode) -> Deed:
    """End this revision: nothing new starts, nodes stay in a mode that they were asked to be in. Raises UserError."""
    revision = found.status.revision
    if revision == 0:
        raise UserError(f"{found.metadata.name} has no rollout to abort", ExitCode.USAGE)
    if found.metadata.annotations.get(ABORT_ANNOTATION) == str(revision):
        return Deed(None, f"revision {revision} is aborted already")
    if found.status.status is FleetStatus.COMPLETE:
        raise UserError(f"revision {revision} of {found.metadata.name} is complete; undo takes it back", ExitCode.USAGE)
    return Deed(
        _annotation(ABORT_ANNOTATION, str(revision)),
        f"revision {revision} aborted: nothing new starts; undo takes nodes back",
    )


def undo(found: ProxyMode) -> Deed:
    """Go back to the other mode, there being two, by the same stages: a new revision."""
    back = next(mode for mode in Mode if mode is not found.spec.mode)
    paused = "; it is paused, so nothing moves before resume" if found.spec.rollout.paused else ""
    return Deed({"spec": {"mode": back.value}}, f"mode set back from {found.spec.mode} to {back}{paused}")


def _annotation(key: str, value: str) -> dict[str, Any]:
    return {"metadata": {"annotations": {key: value}}}
