"""Does the steps of a switch one after another, keeps the journal, and goes back when something fails.

What to do in which order is decided in `plan`, what a step does to the kernel is in `kernel`. Synchronous, for the
dataplane thread. Steps fail with DataplaneError and OSError; whatever else is a bug and passes through.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from msgspec.structs import replace

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.switch.journal import Entry, Journal
from proxymode_agent.switch.kernel import Kernel
from proxymode_agent.switch.plan import Step, old_mode, plan, take_over
from proxymode_agent.switch.record import (
    Connections,
    Outcome,
    StepRecord,
    SwitchError,
    SwitchPending,
    SwitchRecord,
)
from proxymode_api.modes import ConnectionPolicy, Mode, ObservedMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from proxymode_agent.dataplane.base import Dataplane
    from proxymode_agent.services.model import DataplaneConfig, ServiceState
    from proxymode_agent.switch.plan import TakeOver
    from proxymode_agent.switch.probes.sample import Target
    from proxymode_agent.switch.record import Probes
    from proxymode_agent.takeover import Found

    OnStep = Callable[[StepRecord], None]

logger = logging.getLogger(__name__)
_DRAIN_POLL_SECONDS: Final = 5.0


class KernelSteps(Protocol):
    """What a switch asks of the kernel; see switch.kernel.Kernel."""

    connections: Connections | None
    answered: frozenset[Target] | None
    verification: tuple[Probes, ...]

    @property
    def held(self) -> int: ...
    def close(self) -> None: ...
    def dataplane(self, mode: Mode) -> Dataplane: ...
    def present(self) -> frozenset[Mode]: ...
    def observe(self) -> ObservedMode: ...
    def kube_proxy(self) -> Found: ...
    def not_handed_back(self, state: ServiceState) -> str: ...
    def tidy(self) -> None: ...
    def handover_begun(self) -> bool: ...
    def undo(self, old: Mode | None, to: Mode, state: ServiceState) -> None: ...
    def run(self, step: Step, to: Mode, state: ServiceState) -> None: ...


class Switcher:
    """The modes of one configuration, and the way from one to the other.

    `state_dir` is a folder that survives the agent's restarts; it is made when the first switch begins.
    """

    def __init__(self, config: DataplaneConfig, state_dir: Path, kernel: KernelSteps | None = None) -> None:
        self._journal = Journal(state_dir)
        self._policy = config.connections
        self._drain = timedelta(seconds=config.drain_seconds)
        self._kernel = kernel or Kernel(config, state_dir)

    def close(self) -> None:
        """Close the sockets of both dataplanes; leaves the kernel as it is."""
        self._kernel.close()

    def dataplane(self, mode: Mode) -> Dataplane:
        """The dataplane of a mode, always the same object."""
        return self._kernel.dataplane(mode)

    def observe(self) -> ObservedMode:
        """What is in the kernel now, ours or kube-proxy's. While both modes of ours are, nftables. Raises
        DataplaneError.

        Asked now and then, so what a switch has left goes on the occasion, and what a kube-proxy has left that came
        back for a while.
        """
        if self.unfinished() is None:
            self._kernel.tidy()
        return self._kernel.observe()

    def unfinished(self) -> Mode | None:
        """Where a switch leads that was begun and not ended: as the journal says, or without one as the kernel does."""
        entry = self._journal.read()
        if entry is not None:
            return entry.to_mode
        return Mode.NFTABLES if len(self._kernel.present()) > 1 else None

    def switch(self, to: Mode, state: ServiceState, on_step: OnStep) -> SwitchRecord:
        """Bring the node into mode `to`, from whatever is there; `on_step` hears of each step that was done.

        Raises SwitchError: ROLLED_BACK when the node is in its old mode as before, FAILED when it is half-way and the
        next call goes on from there; SwitchPending when connections are given time to end, and the next call looks
        again. Traffic flows in each of these cases.
        """
        present = self._kernel.present()
        first = take_over(self._kernel.kube_proxy(), present, to)
        entry, resumed = self._begin(to)
        # A take-over that was killed in its last part had not come to that of the way on from there.
        entry = replace(entry, final=entry.final and to in present)
        self._kernel.answered, self._kernel.connections, self._kernel.verification = entry.answered, None, ()
        try:
            if first is not None:
                entry = self._take_over(first, to, state, entry, on_step)
                present |= {first.nearest}
            steps = plan(
                present,
                to,
                self._policy,
                handover_begun=self._kernel.handover_begun(),
                draining=entry.drain_until is not None,
                probed=entry.answered is not None,
            )
            entry = self._do_all(steps.reversible, to, state, entry, on_step)
            if steps.final:
                entry = replace(entry, final=True)
                self._journal.write(entry)
            entry = self._do_all(steps.final, to, state, entry, on_step)
            self._journal.clear()
        except _StepError as failure:
            raise SwitchError(self._fail(failure, to, state, present, on_step)) from failure.cause
        except OSError as error:
            raise SwitchError(self._told(entry, Outcome.FAILED, f"journal: {error}")) from error
        return self._told(entry, Outcome.RESUMED if resumed else Outcome.SUCCEEDED, "")

    def hand_back(self, state: ServiceState) -> str:
        """Remove the nftables mode once a kube-proxy has programmed everything; what it lacks, empty: it is removed.
        Raises DataplaneError.

        Connections live on in conntrack: they are netfilter's NAT, and kube-proxy has nat base chains of its own.
        """
        missing = self._kernel.not_handed_back(state)
        if not missing:
            self._kernel.dataplane(Mode.NFTABLES).remove()
        return missing

    def _begin(self, to: Mode) -> tuple[Entry, bool]:
        """The journal's entry of this switch, on disk, and whether it was interrupted before."""
        found = self._journal.read()
        if found is not None and found.to_mode is to:
            waited = found.drain_until is not None and not found.final
            entry = found if waited else replace(found, attempts=found.attempts + 1)
            resumed = entry.attempts > 1
        else:
            entry, resumed = Entry(self._kernel.observe(), to, datetime.now(UTC), final=False, steps=()), False
        try:
            self._journal.write(entry)
        except OSError as error:
            raise SwitchError(self._told(entry, Outcome.ROLLED_BACK, f"journal: {error}")) from error
        return entry, resumed

    def _take_over(self, first: TakeOver, to: Mode, state: ServiceState, entry: Entry, on_step: OnStep) -> Entry:
        """From kube-proxy's dataplane to the mode of ours that is nearest to it. From there the way may go on; what
        fails then leads back to that mode, not to kube-proxy's."""
        was_final = entry.final
        entry = self._do_all(first.reversible, first.nearest, state, entry, on_step)
        entry = replace(entry, final=True)
        self._journal.write(entry)
        entry = self._do_all(first.final, first.nearest, state, entry, on_step)
        return entry if first.nearest is to else replace(entry, final=was_final)

    def _do_all(self, steps: Iterable[Step], to: Mode, state: ServiceState, entry: Entry, on_step: OnStep) -> Entry:
        for step in steps:
            entry = self._do(step, to, state, entry, on_step)
        return entry

    def _do(self, step: Step, to: Mode, state: ServiceState, entry: Entry, on_step: OnStep) -> Entry:
        started_at, started = datetime.now(UTC), time.monotonic()
        try:
            self._kernel.run(step, to, state)
        except (DataplaneError, OSError) as error:
            raise _StepError(step, error, entry) from error
        if step is Step.DRAIN:
            entry = self._drained(entry, started_at)
            started_at = entry.drain_until - self._drain if entry.drain_until else started_at
            milliseconds = _milliseconds(started_at, datetime.now(UTC))
        else:
            milliseconds = round((time.monotonic() - started) * 1000)
        done = _again(entry.steps, StepRecord(step, started_at, milliseconds))
        entry = replace(entry, steps=(*(old for old in entry.steps if old.name != step), done))
        if step is Step.PROBE_BEFORE:
            entry = replace(entry, answered=self._kernel.answered)
        elif step in (Step.COUNT, Step.CATCH):
            entry = replace(entry, found=max(entry.found or 0, self._kernel.held))
        self._journal.write(entry)
        logger.info("switch step", extra={"step": str(step), "to": str(to), "milliseconds": milliseconds})
        on_step(done)
        return entry

    def _drained(self, entry: Entry, now: datetime) -> Entry:
        """The entry with which the switch goes on. Raises SwitchPending while connections are left and time is."""
        left = self._kernel.held
        # Not later than from now on, where somebody has set the clock back since.
        until = min(entry.drain_until or now + self._drain, now + self._drain)
        entry = replace(entry, drain_until=until, found=max(entry.found or 0, left))
        if left and now < until:
            self._journal.write(entry)
            wait = min(_DRAIN_POLL_SECONDS, (until - now).total_seconds())
            raise SwitchPending(self._told(entry, None, ""), wait)
        return entry

    def _fail(
        self, failure: _StepError, to: Mode, state: ServiceState, present: frozenset[Mode], on_step: OnStep
    ) -> SwitchRecord:
        """Undo while the old mode is whole, else switch back to it. Where the target is all there was, go on later."""
        entry, message = failure.entry, f"{failure.step}: {failure.cause}"
        old = _ours(entry.from_mode) if entry.final else old_mode(present, to)
        if old is to or (old is None and (entry.final or to in present)):
            return self._told(entry, Outcome.FAILED, message)
        logger.warning("switch goes back", extra={"step": str(failure.step), "reason": str(failure.cause)})
        try:
            if entry.final and old is not None:
                entry = self._go_back(old, state, entry, on_step)
            else:
                self._kernel.undo(old, to, state)
            self._journal.clear()
        except _StepError as second:
            error = f"{second.step}: {second.cause}"
            return self._told(second.entry, Outcome.FAILED, f"{message}; and the way back failed: {error}")
        except (DataplaneError, OSError) as error:
            return self._told(entry, Outcome.FAILED, f"{message}; and could not be undone: {error}")
        return self._told(entry, Outcome.ROLLED_BACK, message)

    def _go_back(self, old: Mode, state: ServiceState, entry: Entry, on_step: OnStep) -> Entry:
        """A switch in the other direction, which has nothing to wait for and nothing to compare with."""
        policy = ConnectionPolicy.CUT if self._policy is ConnectionPolicy.CUT else ConnectionPolicy.HANDOVER
        steps = plan(self._kernel.present(), old, policy, handover_begun=self._kernel.handover_begun()).steps
        verification = self._kernel.verification
        entry = self._do_all((step for step in steps if step not in _PROBING), old, state, entry, on_step)
        self._kernel.verification = verification
        return entry

    def _told(self, entry: Entry, outcome: Outcome | None, message: str) -> SwitchRecord:
        return SwitchRecord(
            from_mode=entry.from_mode,
            to_mode=entry.to_mode,
            started_at=entry.started_at,
            completed_at=None if outcome is None else datetime.now(UTC),
            outcome=outcome,
            message=message,
            steps=entry.steps,
            connections=self._connections(entry),
            attempts=entry.attempts,
            drain_until=entry.drain_until,
            verification=self._kernel.verification,
        )

    def _connections(self, entry: Entry) -> Connections | None:
        """What was compared; of what had been found before connections were given time, the rest has drained."""
        compared = self._kernel.connections
        if compared is None or entry.drain_until is None or entry.found is None:
            return compared
        return replace(compared, found=entry.found, drained=max(0, entry.found - compared.found))


_PROBING: Final = frozenset({Step.PROBE_BEFORE, Step.PROBE_TARGET, Step.PROBE_AFTER})


class _StepError(Exception):
    def __init__(self, step: Step, cause: Exception, entry: Entry) -> None:
        super().__init__(str(step))
        self.step, self.cause, self.entry = step, cause, entry


def _ours(observed: ObservedMode) -> Mode | None:
    return next((mode for mode in Mode if mode.value == observed.value), None)


def _again(steps: Iterable[StepRecord], done: StepRecord) -> StepRecord:
    """The record of a step that may have been done before: in an earlier attempt, or on the way there."""
    for earlier in steps:
        if earlier.name == done.name:
            until = done.started_at + timedelta(milliseconds=done.milliseconds)
            milliseconds = _milliseconds(earlier.started_at, until)
            return StepRecord(done.name, earlier.started_at, milliseconds, earlier.tries + 1)
    return done


def _milliseconds(began: datetime, ended: datetime) -> int:
    """Between two times of the clock on the wall; 0 where it was set back in between."""
    return max(0, round((ended - began).total_seconds() * 1000))
