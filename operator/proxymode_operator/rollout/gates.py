"""Gates: whether their answers let the rollout go on, and which of them is to be asked now.

Solves, over answers that somebody else has fetched:

- Before the first stage every gate is asked; nothing is told before each has answered, and none has failed. An empty
  result will do there: a query about what the rollout brings has nothing to say yet.
- While a complete stage soaks, gates of DuringSoak and Both are asked every interval.
- Once it has soaked, all gates that are then between it and the next stage must have passed; after the last stage,
  those of DuringSoak and Both.
- A gate that failed failureLimit times in a row stops the rollout for as long as it fails (or rolls it back). One that
  does not answer is neither: it holds the stage, and is asked ever more seldom.

An answer counts for the stage that it was asked about and for the gate as it is defined now; to let a next stage begin
it must be of lately. All of it is in the status: what a restart loses is a question under way.
Deliberately makes no request and knows no node.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from proxymode_api.durations import parse_duration
from proxymode_api.gates import Gate, GateResult, GateStatus, GateTime

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LONGEST_PAUSE: Final = timedelta(minutes=10)
"""Between two questions to a gate that does not answer, unless its interval is longer."""

BEFORE_ALL: Final = ""
"""In place of a stage's name: before the first."""

_ANSWERED: Final = frozenset({GateResult.PASS, GateResult.FAIL})
_SHOWN: Final = 512
"""Characters of an answer's words that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """An answer. `at`: when it was asked for, in whole seconds; `definition`, `revision`, `stage`: of the question."""

    gate: str
    definition: str
    revision: int
    stage: str
    at: datetime
    result: GateResult
    value: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A gate to be asked now. `stage`: the complete one that it is about, or BEFORE_ALL."""

    gate: Gate
    definition: str
    revision: int
    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A gate that stands between a stage and what follows: it must have passed at `since` or later.

    `recent`: and lately, since something begins then. `no_data`: an empty result will do.
    """

    gate: Gate
    since: datetime
    recent: bool = False
    no_data: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What the gates mean at one moment for one stage (or BEFORE_ALL).

    `watches`: those that count now. `passed`: all have. `failed`: those past their failureLimit. `due`: when to ask
    which.
    """

    stage: str
    watches: tuple[Watch, ...]
    passed: bool
    failed: tuple[str, ...]
    due: Mapping[str, datetime]


def definition(gate: Gate) -> str:
    """16 hex digits that change when what is asked, or how it is judged, does."""
    asked = gate.model_dump(mode="json", by_alias=True, include={"prometheus", "webhook"}, exclude_defaults=True)
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def fold(
    stored: Iterable[GateStatus], gates: Sequence[Gate], revision: int, answers: Iterable[Measurement]
) -> tuple[GateStatus, ...]:
    """The gates' statuses with these answers; those of gates that are gone or are defined otherwise now are dropped."""
    known = {status.name: status for status in stored}
    by_gate = {answer.gate: answer for answer in answers}
    result: list[GateStatus] = []
    for gate in gates:
        hash_ = definition(gate)
        status = known.get(gate.name)
        if status is not None and status.definition != hash_:
            status = None
        answer = by_gate.get(gate.name)
        if answer is not None and (answer.definition, answer.revision) == (hash_, revision):
            status = _after(status, answer)
        if status is not None:
            result.append(status)
    return tuple(result)


def _after(before: GateStatus | None, answer: Measurement) -> GateStatus:
    if before is not None and (before.measured_at, before.stage) == (answer.at, answer.stage):
        return before
    same = before is not None and before.stage == answer.stage
    failures = before.failures if before is not None and same else 0
    unanswered = before.unanswered if before is not None and same else 0
    match answer.result:
        case GateResult.PASS:
            failures, unanswered = 0, 0
        case GateResult.FAIL:
            failures, unanswered = failures + 1, 0
        case GateResult.NO_DATA | GateResult.ERROR:
            unanswered += 1
    return GateStatus(
        name=answer.gate,
        stage=answer.stage,
        result=answer.result,
        value=answer.value[:64],
        message=" ".join(answer.message.split())[:_SHOWN],
        measured_at=answer.at,
        failures=failures,
        unanswered=unanswered,
        definition=answer.definition,
    )


def before_all(gates: Iterable[Gate], began: datetime) -> tuple[Watch, ...]:
    """The gates before the first stage of a revision that began then."""
    return tuple(Watch(gate=gate, since=began, recent=True, no_data=True) for gate in gates)


def after_stage(
    gates: Iterable[Gate], completed_at: datetime, soak: timedelta, now: datetime, *, last: bool
) -> tuple[Watch, ...]:
    """The gates of a stage that was completed then; `last`: no other follows it."""
    soaked_at = completed_at + soak
    watches: list[Watch] = []
    for gate in gates:
        between = gate.when is not GateTime.DURING_SOAK and not last
        soaking = gate.when is not GateTime.BETWEEN_STAGES and soak > timedelta()
        if between and now >= soaked_at:
            watches.append(Watch(gate=gate, since=soaked_at, recent=True))
        elif soaking:
            watches.append(Watch(gate=gate, since=completed_at))
    return tuple(watches)


def hold(
    stage: str,
    watches: Sequence[Watch],
    statuses: Iterable[GateStatus],
    now: datetime,
    *,
    soaking: bool,
    quiet: bool,
) -> Hold:
    """What the answers mean now. `soaking`: gates are asked again though they have passed. `quiet`: nothing may begin
    now anyway, so that a gate which has answered once is not asked again and nothing counts as passed."""
    # An answer of later than now is from before somebody set the clock back.
    known = {status.name: status for status in statuses if status.stage == stage and status.measured_at <= now}
    passed = not quiet
    failed: list[str] = []
    due: dict[str, datetime] = {}
    for watch in watches:
        gate = watch.gate
        status = known.get(gate.name)
        fresh = status is not None and status.measured_at >= watch.since
        good = status is not None and fresh and _lets_pass(watch, status, now)
        passed = passed and good
        if status is not None and status.failures >= gate.failure_limit:
            failed.append(gate.name)
        if status is None:
            due[gate.name] = now
        elif soaking or not good:
            if quiet and fresh and not soaking:
                continue
            stale_pass = status.result is GateResult.PASS and not soaking
            due[gate.name] = now if stale_pass else status.measured_at + pause(gate, status)
    return Hold(stage=stage, watches=tuple(watches), passed=passed, failed=tuple(failed), due=due)


def _lets_pass(watch: Watch, status: GateStatus, now: datetime) -> bool:
    if watch.recent and now > status.measured_at + 2 * parse_duration(watch.gate.interval):
        return False
    return status.result is GateResult.PASS or (watch.no_data and status.result is GateResult.NO_DATA)


def pause(gate: Gate, status: GateStatus) -> timedelta:
    """From this answer to the next question."""
    interval = parse_duration(gate.interval)
    if status.result in _ANSWERED:
        return interval
    longest = max(interval, LONGEST_PAUSE)
    return min(interval * int(2 ** min(max(status.unanswered - 1, 0), 20)), longest)


def questions(found: Hold, revision: int, now: datetime) -> tuple[Question, ...]:
    """Whom to ask now."""
    return tuple(
        Question(gate=watch.gate, definition=definition(watch.gate), revision=revision, stage=found.stage)
        for watch in found.watches
        if watch.gate.name in found.due and found.due[watch.gate.name] <= now
    )


def judge(gate: Gate, value: float) -> bool:
    """Whether a value meets the threshold of a gate that has one; not a number never does."""
    assert gate.prometheus is not None
    threshold = gate.prometheus.threshold
    limit = float(threshold.value)
    return {"<": value < limit, "<=": value <= limit, ">": value > limit, ">=": value >= limit}[threshold.operator]
