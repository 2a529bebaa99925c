"""What the engine does next, as a pure function of where things stand.

All times are seconds of one monotonic clock. Pacing lives here too: a change is written at once when the dataplane has
been idle, a burst in batches, with a rest between two of three times what the last one took, at least 20 ms, for what a
sync costs beside its changes would be most of the agent's CPU time, and at most 100 ms, for on a busy node a sync may
be long by chance. Where changes do not cease, each rest is twice the last one, up to 70 ms. A look for drift is cheap
and takes no more than a twentieth; so does a read-back of the whole kernel state where a look has left a doubt. One
that is only due takes no more than a fiftieth, one that is known to be needed half.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from proxymode_agent.dataplane.base import Finding
from proxymode_agent.engine.snapshot import EnginePhase
from proxymode_api.modes import KUBE_PROXY_MODES, Mode, ObservedMode

_OURS: Final = {ObservedMode.IPVS: Mode.IPVS, ObservedMode.NFTABLES: Mode.NFTABLES}
_REST_PER_SYNC: Final = 3.0
_REST_LEAST_SECONDS: Final = 0.02
_REST_CAP_SECONDS: Final = 0.1
_REST_IN_CHURN: Final = 2.0
_REST_IN_CHURN_CAP_SECONDS: Final = 0.07
_REST_PER_FULL_SYNC: Final = 49.0
_REST_PER_DOUBT: Final = 19.0
_REST_PER_REPAIR: Final = 1.0
_REST_PER_LOOK: Final = 19.0
_UNTOUCHED_PERIODS: Final = 10.0


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do before `until`; math.inf: before something changes."""

    until: float


class Sync(msgspec.Struct, frozen=True):
    """Bring `mode` up to date. `full`: read the kernel back; else write what changed since the last sync."""

    mode: Mode
    full: bool


class Look(msgspec.Struct, frozen=True):
    """See whether others changed what `mode` has in the kernel."""

    mode: Mode


class Switch(msgspec.Struct, frozen=True):
    """Move to `to`, also to finish a move that was begun."""

    to: Mode


class Leave(msgspec.Struct, frozen=True):
    """Remove what is ours, if kube-proxy has programmed everything."""


Action = Wait | Sync | Look | Switch | Leave


class Situation(msgspec.Struct, frozen=True):
    """Everything that the decision depends on.

    `complete`: Services and EndpointSlices were listed. `told`: somebody said what is desired, be it nothing.
    `unfinished`: the target of a switch that was begun and not ended. `pending`: changes are waiting to be written.
    `full_at`, `pending_at`, `look_at`, `switch_at`: not before which time a full sync is due, changes may be written, a
    look is due, and a switch may be tried; -inf is at once.
    """

    now: float
    complete: bool
    told: bool
    desired: Mode | None
    observed: ObservedMode
    unfinished: Mode | None
    pending: bool
    full_at: float
    pending_at: float
    look_at: float
    switch_at: float
    leaves: bool = False
    """Whether the node is to be handed back to kube-proxy, from the desired mode."""
    leave_at: float = -math.inf


def ours(observed: ObservedMode) -> Mode | None:
    """The mode in the kernel, where it is one of this agent's making."""
    return _OURS.get(observed)


def decide(situation: Situation) -> Action:
    """The next thing to do.

    Nothing is touched while the cluster is half known. Where no dataplane is in the kernel, there is nothing to switch
    from and the desired mode is simply programmed. A switch that failed is tried again later; until then the mode that
    is in the kernel is kept up to date, so that a node that cannot move still serves. A node that is handed back is
    kept up to date until kube-proxy has programmed everything; from then on it is kube-proxy's.
    """
    s = situation
    if not (s.complete and s.told):
        return Wait(math.inf)
    if s.leaves and s.observed in KUBE_PROXY_MODES and s.unfinished is None:
        return Wait(math.inf)
    target = s.desired or s.unfinished
    empty = s.observed is ObservedMode.NONE and s.unfinished is None
    current = target if empty else ours(s.observed)
    switch_at = math.inf
    if target is not None and (target is not current or s.unfinished is not None):
        if s.now >= s.switch_at:
            return Switch(target)
        switch_at = s.switch_at
    if current is None:
        return Wait(switch_at)
    if s.now >= s.full_at:
        return Sync(current, full=True)
    if s.pending and s.now >= s.pending_at:
        return Sync(current, full=False)
    leave_at = s.leave_at if s.leaves and current is s.desired else math.inf
    if s.now >= leave_at:
        return Leave()
    if s.now >= s.look_at:
        return Look(current)
    return Wait(min(switch_at, s.full_at, leave_at, s.look_at, s.pending_at if s.pending else math.inf))


def phase_at_rest(situation: Situation, *, synced: bool, draining: bool, failed: bool) -> EnginePhase:
    """How things stand while nothing is done. `synced`: the kernel agrees with all that is known; `draining`: a switch
    waits for connections to end; `failed`: what was done last, and is tried again."""
    s = situation
    if failed:
        return EnginePhase.FAILED
    if not (s.told and s.complete):
        return EnginePhase.PENDING
    if draining:
        return EnginePhase.SWITCHING
    current = ours(s.observed)
    if s.desired is None or (s.leaves and s.observed in KUBE_PROXY_MODES):
        if current is None:
            return EnginePhase.OBSERVING
        return EnginePhase.ACTIVE if synced else EnginePhase.PROGRAMMING
    return EnginePhase.ACTIVE if synced and current is s.desired else EnginePhase.PROGRAMMING


def rest_after(duration: float, waited: float) -> float:
    """How long changes are collected after a sync that took `duration` seconds, when its own were collected for the
    `waited` seconds before; 0: they came while the dataplane was idle."""
    in_churn = min(_REST_IN_CHURN_CAP_SECONDS, _REST_IN_CHURN * waited)
    return min(_REST_CAP_SECONDS, max(_REST_LEAST_SECONDS, in_churn, _REST_PER_SYNC * duration))


def rest_after_look(period: float, duration: float) -> float:
    """How long until the next look, when the last one took `duration` seconds and `period` is wished for."""
    return max(period, _REST_PER_LOOK * duration)


def rest_after_full(finding: Finding, period: float, duration: float) -> float:
    """How long after a full sync, which took `duration` seconds, the next one is due, by what looks have found since.

    `period` is between two read-backs where others write and nothing is seen to be changed. Where nobody wrote, one
    could find our own mistakes only, and is made seldom.
    """
    match finding:
        case Finding.CHANGED:
            return _REST_PER_REPAIR * duration
        case Finding.DOUBTFUL:
            return _REST_PER_DOUBT * duration
        case Finding.NOTHING_SEEN:
            return max(period, _REST_PER_FULL_SYNC * duration)
        case Finding.UNTOUCHED:
            return max(_UNTOUCHED_PERIODS * period, _REST_PER_FULL_SYNC * duration)
