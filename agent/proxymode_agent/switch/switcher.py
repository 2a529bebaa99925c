"""Does the steps of a switch one after another, keeps the journal, and undoes what failed.

What to do in which order is decided in `plan`, what a step does to the kernel is in `kernel`. Synchronous, for the
dataplane thread. Steps fail with DataplaneError and OSError; whatever else is a bug and passes through.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.switch.journal import Entry, Journal
from proxymode_agent.switch.kernel import Kernel
from proxymode_agent.switch.plan import old_mode, plan
from proxymode_agent.switch.record import Connections, Outcome, StepRecord, SwitchError, SwitchRecord
from proxymode_api.modes import Mode, ObservedMode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from proxymode_agent.dataplane.base import Dataplane
    from proxymode_agent.services.model import DataplaneConfig, ServiceState
    from proxymode_agent.switch.plan import Step

_log = logging.getLogger(__name__)
_STEPS_KEPT: Final = 32


class KernelSteps(Protocol):
    """What a switch asks of the kernel; see switch.kernel.Kernel."""

    connections: Connections | None

    def close(self) -> None: ...
    def dataplane(self, mode: Mode) -> Dataplane: ...
    def present(self) -> frozenset[Mode]: ...
    def observe(self) -> ObservedMode: ...
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
        self._kernel = kernel or Kernel(config, state_dir)

    def close(self) -> None:
        """Close the sockets of both dataplanes; leaves the kernel as it is."""
        self._kernel.close()

    def dataplane(self, mode: Mode) -> Dataplane:
        """The dataplane of a mode, always the same object."""
        return self._kernel.dataplane(mode)

    def observe(self) -> ObservedMode:
        """What is in the kernel now, ours or kube-proxy's. While both modes of ours are, nftables. Raises
        DataplaneError."""
        return self._kernel.observe()

    def unfinished(self) -> Mode | None:
        """Where a switch leads that was begun and not ended: as the journal says, or without one as the kernel does."""
        entry = self._journal.read()
        if entry is not None:
            return entry.to_mode
        return Mode.NFTABLES if len(self._kernel.present()) > 1 else None

    def switch(self, to: Mode, state: ServiceState, on_step: Callable[[StepRecord], None]) -> SwitchRecord:
        """Bring the node into mode `to`, from whatever is there; `on_step` hears of each step that was done.

        Raises SwitchError: ROLLED_BACK when the node is in its old mode as before, FAILED when it is half-way and the
        next call goes on from there. Traffic flows in either case.
        """
        present = self._kernel.present()
        entry, resumed = self._begin(to)
        steps = plan(present, to, self._policy, handover_begun=self._kernel.handover_begun())
        try:
            for step in steps.reversible:
                entry = self._do(step, to, state, entry, on_step)
            if steps.final:
                entry = replace(entry, final=True)
                self._journal.write(entry)
            for step in steps.final:
                entry = self._do(step, to, state, entry, on_step)
            self._journal.clear()
        except _StepError as failure:
            raise SwitchError(self._fail(failure, to, state, present)) from failure.cause
        except OSError as error:
            raise SwitchError(_ended(entry, Outcome.FAILED, f"journal: {error}", None)) from error
        connections = self._kernel.connections if steps.final else None
        return _ended(entry, Outcome.RESUMED if resumed else Outcome.SUCCEEDED, "", connections)

    def _begin(self, to: Mode) -> tuple[Entry, bool]:
        """The journal's entry of this switch, on disk, and whether it was there already."""
        found = self._journal.read()
        if found is not None and found.to_mode is to:
            return found, True
        entry = Entry(self._kernel.observe(), to, datetime.now(UTC), final=False, steps=())
        try:
            self._journal.write(entry)
        except OSError as error:
            raise SwitchError(_ended(entry, Outcome.ROLLED_BACK, f"journal: {error}", None)) from error
        return entry, False

    def _do(
        self, step: Step, to: Mode, state: ServiceState, entry: Entry, on_step: Callable[[StepRecord], None]
    ) -> Entry:
        started_at, started = datetime.now(UTC), time.monotonic()
        try:
            self._kernel.run(step, to, state)
        except (DataplaneError, OSError) as error:
            raise _StepError(step, error, entry) from error
        record = StepRecord(step, started_at, round((time.monotonic() - started) * 1000))
        entry = replace(entry, steps=(*entry.steps, record)[-_STEPS_KEPT:])
        self._journal.write(entry)
        _log.info("switch step", extra={"step": str(step), "to": str(to), "milliseconds": record.milliseconds})
        on_step(record)
        return entry

    def _fail(self, failure: _StepError, to: Mode, state: ServiceState, present: frozenset[Mode]) -> SwitchRecord:
        """Undo while the old mode is whole; where the target is all there is, or the old mode is going, go on later."""
        message = f"{failure.step}: {failure.cause}"
        old = old_mode(present, to)
        if failure.entry.final or (old is None and to in present):
            return _ended(failure.entry, Outcome.FAILED, message, None)
        try:
            self._kernel.undo(old, to, state)
            self._journal.clear()
        except (DataplaneError, OSError) as error:
            return _ended(failure.entry, Outcome.FAILED, f"{message}; and could not be undone: {error}", None)
        return _ended(failure.entry, Outcome.ROLLED_BACK, message, None)


class _StepError(Exception):
    def __init__(self, step: Step, cause: Exception, entry: Entry) -> None:
        super().__init__(str(step))
        self.step, self.cause, self.entry = step, cause, entry


def _ended(entry: Entry, outcome: Outcome, message: str, connections: Connections | None) -> SwitchRecord:
    return SwitchRecord(
        from_mode=entry.from_mode,
        to_mode=entry.to_mode,
        started_at=entry.started_at,
        completed_at=datetime.now(UTC),
        outcome=outcome,
        message=message,
        steps=entry.steps,
        connections=connections,
    )
