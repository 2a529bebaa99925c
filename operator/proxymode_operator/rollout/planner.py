"""The planner: one pure function from a fleet and the time to what to do now.

What it promises, whatever fails and whenever it runs:

- A node is told only while fewer than maxUnavailable nodes are unavailable: in flight, their Node not Ready or
  cordoned, or their agent silent. One that is in flight already may be told anew once it failed or is overdue, since
  that makes no further node unavailable. A node whose agent has not reported a passed preflight is never told.
- No node of a stage is told before every earlier stage is complete, has soaked and passed its gates, and the stage is
  approved, by what is stored in the status; none at all before every gate has answered. Paused, stopped and aborted
  mean that nothing new starts. Two exceptions, neither of which makes a further node unavailable: a failed node is told
  to try again, and a skipped one sent back, when a person says so, even where failures have stopped the rollout, since
  that is the way out of it. Outside the rollout's windows no further node is told either, but for one whose Services
  nobody handles; neither these nor a rollback wait for one. One exception to the stages: a node whose switch failed or
  is overdue, when what is wanted now is what it ran before, is sent back at once; else an undo would wait for a budget
  that only this node can free.
- With topologyPolicy OneDomain a node is told only while no node of another domain that the rollout waits for is in
  flight; one that is in flight itself may be told anew.
- A node's mode is only ever one that a ProxyMode asked for, or, in a rollback, the one it ran before this revision.
- At most four writes for a node in a rollout: prepared once (created, or told the mode to come, which moves nothing),
  told once (mode, options, connections and revision together), noted once that its switch failed, and in a rollback
  told once to return. Only telling moves the dataplane. Besides, one for every change of a waiting node's stage, and
  two for every retry or skip that a person asks for.

A revision begins when mode or options change, whichever way; undo is nothing else. It ends complete, superseded,
aborted or rolled back, which history records; after the last two its template starts nothing more until the spec
changes. Everything that the next decision rests on is in the API objects: status, annotations, NodeProxyModes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final

from proxymode_api.durations import parse_duration
from proxymode_api.proxymode_status import RolloutOrder, RolloutOutcome
from proxymode_api.rollout import BlockedPolicy, OnFailure
from proxymode_operator.rollout import revisions
from proxymode_operator.rollout.assess import NodeState, Patience
from proxymode_operator.rollout.census import Measure, Trait
from proxymode_operator.rollout.gates import fold, questions
from proxymode_operator.rollout.memory import Memory
from proxymode_operator.rollout.model import Decisions, Template, dataplane_options
from proxymode_operator.rollout.notices import notices
from proxymode_operator.rollout.outlook import outlook
from proxymode_operator.rollout.progress import Gating, Tolerance, progress, started
from proxymode_operator.rollout.refusal import refusal
from proxymode_operator.rollout.situation import Situation, counts
from proxymode_operator.rollout.stages import membership, recorded_membership, topology_of
from proxymode_operator.rollout.status import status
from proxymode_operator.rollout.stops import hollow_stages, rollback, stop, untried_stages
from proxymode_operator.rollout.telling import stage_of, tell
from proxymode_operator.rollout.windows import hours
from proxymode_operator.rollout.writes import mark, prepare

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from proxymode_api.proxymode import ProxyMode
    from proxymode_api.proxymode_status import ProxyModeStatus
    from proxymode_operator.rollout.census import Census
    from proxymode_operator.rollout.gates import Hold
    from proxymode_operator.rollout.model import Fleet, Write
    from proxymode_operator.rollout.progress import StageProgress
    from proxymode_operator.rollout.revisions import Promotion
    from proxymode_operator.rollout.windows import Hours

PREPARED_AT_ONCE: Final = 250
"""More are not written before the next decision, which the first of them asks for."""


def budget(max_unavailable: int | str, total: int) -> int:
    """Nodes that may be unavailable at one time: a number, or a percentage of `total` rounded down, as a
    Deployment's maxUnavailable is; at least 1."""
    if isinstance(max_unavailable, str):
        return max(1, total * int(max_unavailable.removesuffix("%")) // 100)
    return max(1, max_unavailable)


def template_of(proxy_mode: ProxyMode) -> Template:
    """What the ProxyMode wants every node to run."""
    return Template(proxy_mode.spec.mode, dataplane_options(proxy_mode.spec))


def plan(fleet: Fleet, now: datetime, memory: Memory | None = None) -> Decisions:
    """What to do now. Calling it again on what came of it yields, in the end, nothing to do.

    `memory`, of the decisions before about the same ProxyMode, saves time and makes no difference.
    """
    stored = fleet.proxy_mode.status
    memory = memory or Memory()
    template = template_of(fleet.proxy_mode)
    if refused := refusal(fleet.proxy_mode.spec):
        census = _census(fleet, template, now, memory)
        situation = Situation(fleet=fleet, census=census, stages=(), budget=1, completed=False, refusal=refused)
        return _decisions(stored, status(situation, stored, now), (memory.due,), now)
    if stored.template_hash == template.hash:
        return _rollout(fleet, template, stored, now, memory, begins=False)
    begun = fleet.proxy_mode.model_copy(update={"status": revisions.begin(fleet, template, now)})
    return _rollout(replace(fleet, proxy_mode=begun), template, stored, now, memory, begins=True)


def _rollout(
    fleet: Fleet, template: Template, stored: ProxyModeStatus, now: datetime, memory: Memory, *, begins: bool
) -> Decisions:
    """Decides for a revision that is on record, or `begins` and will be once this decision's status is stored."""
    proxy_mode, before = fleet.proxy_mode, fleet.proxy_mode.status
    census = _census(fleet, template, now, memory)
    found = _find(fleet, census, now, begins=begins)
    situation, end = found.situation, found.end
    # What is not yet on record (a revision that begins, an end) moves no node before it is.
    undoing = revisions.undoing(proxy_mode, begins=begins)
    failed = census.having(NodeState.FAILED)
    retrial = revisions.retrial(proxy_mode, failed, begins=begins, held=end.new or situation.paused)
    stage_by_node = stage_of(situation.stages)
    told = () if begins or end.new else tell(situation, template, stage_by_node, retrial.nodes, now)
    names = {write.node for write in told}
    marked = tuple(mark(census.nodes[name]) for name in sorted(census.having(Trait.TO_MARK) - names))
    # The times at which this revision told each node, the ones told just now included.
    base = _on_record(found, dict.fromkeys(names, now) | census.told, now)
    busy = names | {write.node for write in marked}
    prepared = islice(_prepare(situation, template, stage_by_node, exclude=busy), PREPARED_AT_ONCE)
    dues = [memory.due, *(stage.due for stage in situation.stages)]
    dues += [situation.hours.due] if situation.hours is not None else []
    dues += situation.hold.due.values() if situation.hold is not None else []
    return replace(
        _decisions(stored, status(situation, base, now), dues, now),
        writes=(*told, *marked, *prepared),
        heard=tuple(heard for heard in (found.promotion.heard, retrial.heard, undoing) if heard is not None),
        # A revision that begins is told apart from the one before by its number, which is not on record yet.
        questions=questions(situation.hold, before.revision, now) if situation.hold is not None and not begins else (),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """What is so, and what of it is not on record yet. `hold`: the gates before all stages."""

    situation: Situation
    end: _End
    hold: Hold | None
    promotion: Promotion


def _find(fleet: Fleet, census: Census, now: datetime, *, begins: bool) -> _Found:
    """How far the stages are, by what is on record and what has just been heard, and what that means."""
    proxy_mode, rollout = fleet.proxy_mode, fleet.proxy_mode.spec.rollout
    before = proxy_mode.status
    tolerance = Tolerance(
        blocked=rollout.on_blocked is BlockedPolicy.SKIP,
        failed=len(census.having(NodeState.FAILED)) < rollout.failure_threshold,
    )
    outstanding = tolerance.outstanding(census)
    promotion = revisions.promotion(proxy_mode, begins=begins)
    open_hours = hours(rollout.windows, now) if rollout.windows else None
    gating = _gating(fleet, open_hours)
    hold = gating.at_begin(before, now)
    by_name = {stage.name: stage for stage in before.stages}
    members = _members(fleet, census)
    stages = progress(
        revisions.in_force(proxy_mode),
        by_name,
        members,
        census,
        outstanding,
        may_begin=hold is None,
        undoes=before.order is not RolloutOrder.FORWARD,
        promoted=promotion.stages,
        hollow=hollow_stages(fleet, census) | untried_stages(fleet, census, members),
        gating=gating,
        now=now,
    )
    end = _end(fleet, stages, tolerance)
    if end.early:
        # The stages stay as they were when the revision ended.
        stages = tuple(
            replace(s, status=by_name.get(s.status.name, s.status), is_open=False, hold=None) for s in stages
        )
        hold = None
    situation = Situation(
        fleet=fleet,
        census=census,
        stages=stages,
        budget=budget(rollout.max_unavailable, len(fleet.nodes)),
        completed=end.outcome is RolloutOutcome.COMPLETE,
        ended=end.outcome if end.early else None,
        rollback=rollback(census) if end.outcome is RolloutOutcome.ROLLED_BACK else None,
        stop=None if end.early else stop(fleet, census, stages, gating.statuses),
        hours=open_hours,
        hold=hold or next((stage.hold for stage in stages if stage.hold is not None), None),
        answers=gating.statuses,
        outstanding=outstanding,
    )
    return _Found(situation, end, hold, promotion)


def _on_record(found: _Found, told: Mapping[str, datetime], now: datetime) -> ProxyModeStatus:
    """The status with what this decision adds. `told`: nodes, and when."""
    s, end, hold = found.situation, found.end, found.hold
    fleet, before = s.fleet, s.fleet.proxy_mode.status
    ended = [revisions.record(fleet, end.outcome, counts(s.census), now)] if end.new and end.outcome else []
    first_mode = revisions.mode_found(fleet) if before.revision == 1 and before.from_mode is None else None
    return before.model_copy(
        update={
            "from_mode": before.from_mode or first_mode,
            "completed_at": before.completed_at or (now if end.outcome is RolloutOutcome.COMPLETE else None),
            "history": [*ended, *before.history][: revisions.HISTORY],
            "stages": started(s.stages, told),
            "plan": outlook(s, revisions.in_force(fleet.proxy_mode)) if s.paused and not end.early else None,
            "gates": list(s.answers),
            "gates_checked_at": before.gates_checked_at or (now if hold is not None and hold.passed else None),
        }
    )


def _gating(fleet: Fleet, open_hours: Hours | None) -> Gating:
    """The gates of a rollout that is under way, with what they have answered by now."""
    proxy_mode, before = fleet.proxy_mode, fleet.proxy_mode.status
    rollout = proxy_mode.spec.rollout
    statuses = fold(before.gates, rollout.gates, before.revision, fleet.answers)
    undoes = before.order is not RolloutOrder.FORWARD
    if undoes or before.completed_at is not None or revisions.ended(proxy_mode) is not None:
        return Gating(statuses=statuses)
    quiet = rollout.paused or (open_hours is not None and not open_hours.open)
    return Gating(gates=rollout.gates, statuses=statuses, quiet=quiet)


@dataclass(frozen=True, slots=True)
class _End:
    """How the revision ended, if it has; `new`: history does not know yet."""

    outcome: RolloutOutcome | None = None
    new: bool = False

    @property
    def early(self) -> bool:
        return self.outcome in revisions.EARLY


def _end(fleet: Fleet, stages: Sequence[StageProgress], tolerance: Tolerance) -> _End:
    proxy_mode = fleet.proxy_mode
    if (known := revisions.ended(proxy_mode)) is not None:
        return _End(known)
    if proxy_mode.status.completed_at is not None:
        return _End(RolloutOutcome.COMPLETE)
    if revisions.abort_asked(proxy_mode):
        return _End(RolloutOutcome.ABORTED, new=True)
    gate_failed = any(stage.hold is not None and stage.hold.failed for stage in stages)
    if (gate_failed or not tolerance.failed) and proxy_mode.spec.rollout.on_failure is OnFailure.ROLLBACK:
        return _End(RolloutOutcome.ROLLED_BACK, new=True)
    if fleet.nodes and all(stage.over for stage in stages):
        return _End(RolloutOutcome.COMPLETE, new=True)
    return _End()


def _census(fleet: Fleet, template: Template, now: datetime, memory: Memory) -> Census:
    proxy_mode, rollout = fleet.proxy_mode, fleet.proxy_mode.spec.rollout
    patience = Patience(
        min_ready=timedelta(seconds=rollout.min_ready_seconds),
        deadline=parse_duration(rollout.progress_deadline),
        began=proxy_mode.status.started_at or now,
    )
    measure = Measure(
        template=template,
        patience=patience,
        proxy_mode=proxy_mode.metadata.name,
        revision=proxy_mode.status.revision,
        skip_blocked=rollout.on_blocked is BlockedPolicy.SKIP,
    )
    return memory.census(fleet.nodes, measure, revisions.in_force(proxy_mode), topology_of(rollout), now)


def _members(fleet: Fleet, census: Census) -> Mapping[str, tuple[str, ...]]:
    before, stages = fleet.proxy_mode.status, revisions.in_force(fleet.proxy_mode)
    if before.order is RolloutOrder.REVERSE:
        return recorded_membership(stages, census.order, census.candidates)
    complete = {stage.name: stage.completed_at for stage in before.stages if stage.completed_at}
    return membership(stages, complete, census.order, census.candidates, census.selected)


def _prepare(s: Situation, template: Template, stages: Mapping[str, str], *, exclude: set[str]) -> Iterable[Write]:
    """Of nodes that are told nothing else now. `stages`: each node's."""
    census = s.census
    placed_anew = {
        name for name, stage in stages.items() if name not in census.told and census.candidates[name].stage != stage
    }
    for name in sorted((placed_anew | census.having(Trait.TO_PREPARE)) - exclude):
        node, told = census.nodes[name], name in census.told
        write = prepare(s.fleet.proxy_mode, node, template, stages[name], told=told, ended=s.ended is not None)
        if write is not None:
            yield write


def _decisions(
    stored: ProxyModeStatus,
    new: ProxyModeStatus,
    dues: Iterable[datetime | None],
    now: datetime,
) -> Decisions:
    """The status with the Events that its difference from the stored one makes, and when to look again."""
    times = [when for when in dues if when is not None and when > now]
    return Decisions(status=new, notices=notices(stored, new), wake_at=min(times, default=None))
