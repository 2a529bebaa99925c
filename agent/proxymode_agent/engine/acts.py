"""What the engine does with the kernel: open it, look, sync, switch, leave.

Each is tried in the dataplane thread, timed, counted and told, and what came of it is noted: in `due` when what comes
next, on the board what the rest of the agent sees. What to do is decided elsewhere; what is wanted may be something
else each time that the thread is done.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from proxymode_agent.cell import Cell
from proxymode_agent.engine import told
from proxymode_agent.engine.decide import ours
from proxymode_agent.engine.snapshot import EnginePhase
from proxymode_agent.engine.worker import Kernel
from proxymode_agent.services.model import HealthChecks
from proxymode_agent.switch.record import SwitchError, SwitchPending
from proxymode_api.modes import KubeProxyPolicy, ObservedMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_agent.dataplane.base import Refused
    from proxymode_agent.engine.drift import Drift
    from proxymode_agent.engine.due import Due
    from proxymode_agent.engine.inbox import Inbox
    from proxymode_agent.engine.snapshot import Board
    from proxymode_agent.engine.worker import DataplaneWorker
    from proxymode_agent.metrics import Metrics
    from proxymode_agent.services.model import DataplaneConfig, ServicePortName, ServiceState
    from proxymode_agent.switch.record import StepRecord
    from proxymode_api.modes import Mode


class OnSynced(Protocol):
    """Hears what the kernel does since a sync; `changed`: which ports differ from the last time, None: any may."""

    def __call__(
        self, mode: Mode, config: DataplaneConfig, state: ServiceState, changed: frozenset[ServicePortName] | None
    ) -> None: ...


class Goal(NamedTuple):
    """What the node shall run. `attempt`: another number has a switch that failed tried again."""

    mode: Mode | None
    config: DataplaneConfig
    attempt: int = 0

    @property
    def leaves(self) -> bool:
        """Whether the node is to be handed back to kube-proxy."""
        return self.mode is not None and self.config.kube_proxy is KubeProxyPolicy.HAND_BACK


class Acts:
    """One at a time, from the engine's task. `goal` is set by whoever is told; all else here is to be read.

    `opened`: under which configuration the kernel is worked with, None: none. `kernel`: what was found there last.
    `draining`: a switch waits for connections to end.
    """

    def __init__(
        self,
        worker: DataplaneWorker,
        inbox: Inbox,
        due: Due,
        drift: Drift,
        board: Board,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        on_refused: Callable[[ServicePortName, str], None],
        on_synced: OnSynced,
    ) -> None:
        self._worker = worker
        self.goal: Goal | None = None
        self.opened: DataplaneConfig | None = None
        self.kernel = Kernel(ObservedMode.NONE, None)
        self.draining = False
        self.health_checks: Cell[HealthChecks | None] = Cell(None)
        self._inbox = inbox
        self._due = due
        self._drift = drift
        self._board = board
        self._metrics = metrics
        self._clock = clock
        self._on_refused = on_refused
        self._on_synced = on_synced

    async def open(self, goal: Goal) -> None:
        """Work with this configuration from now on, instead of a former one."""
        self.opened = None  # the former one is closed first, whatever comes of this
        try:
            self.kernel = await self._worker.open(goal.config)
        except Exception as error:
            self._failed("dataplane cannot be opened", error, goal)
            return
        self.opened = goal.config
        self._due.opened()
        told.opened(self.kernel)

    async def look(self, mode: Mode) -> None:
        """See whether others changed what is ours."""
        goal = self.goal
        began = self._clock()
        try:
            look = await self._worker.look(mode)
        except Exception as error:
            self._failed("look for drift failed", error, goal)
            return
        self._metrics.looks.labels(look.finding.value).inc()
        self._drift.looked(look, began, self._clock())

    async def sync(self, mode: Mode, *, full: bool) -> None:
        """Bring the mode up to date; `full`: by reading the kernel back."""
        goal = self.goal
        began = self._clock()
        kind = "full" if full else "incremental"
        first = not self._board.snapshot.synced
        since = self._inbox.waiting_since
        try:
            if full:
                before, self.kernel = self.kernel, await self._worker.observe()
                if self.kernel != before:
                    return  # somebody else changed the mode: decide anew with what is there
            state = self._inbox.take()
            if not full and not self._inbox.changed:
                self._inbox.passed_over(began)
                self._publish_checks(mode)
                return
            expected = first or bool(self._inbox.changed)
            if first and not self.draining:
                self.publish(phase=EnginePhase.PROGRAMMING)
            changed = None if full else frozenset(self._inbox.changed)
            result = await self._worker.sync(mode, state, changed)
            if ours(self.kernel.observed) is not mode:
                self.kernel = await self._worker.observe()
        except Exception as error:
            self._metrics.syncs.labels(kind, "failure").inc()
            self._inbox.kept_waiting(began)
            self._failed(f"{kind} sync failed", error, goal)
            return
        ended = self._clock()
        seconds = ended - began
        now = datetime.now(UTC)
        self._inbox.written(began, now)
        self._due.synced(full=full, ended=ended, seconds=seconds, since=since)
        if goal is not self.goal:
            self._due.anew()  # what was done is about a former wish
        told.synced(result, kind, seconds)
        if full or result.damage:
            drift = self._drift.repaired(began, ended, expected=expected, written=result.written, damage=result.damage)
            if drift:
                self._metrics.drift_repairs.inc()
                told.drifted(drift, result.written)
                self.publish(drift=drift)
        if result.read_back_in is not None:
            self._drift.read_back_at(ended + result.read_back_in)
        self._tell_refused(result.refused, full=full)
        if result.instead and result.instead != self._board.snapshot.instead:
            told.instead(result.instead)
        if self.opened is not None:
            self._on_synced(mode, self.opened, state, changed)
        self._metrics.synced(result, kind, seconds, now.timestamp())
        self._publish_checks(mode)
        self.publish(
            synced=goal is self.goal,
            services=result.services,
            endpoints=result.endpoints,
            refused=result.refused,
            instead=result.instead,
            last_sync=now,
        )

    async def switch(self, to: Mode) -> None:
        """Move to another mode, or go on with it."""
        goal = self.goal
        state = self._inbox.take()
        began = self._clock()
        if not self.draining:
            told.switch_begins(self.kernel, to)
        self.draining = False
        self.publish(phase=EnginePhase.SWITCHING, synced=False, steps=())
        try:
            record = await self._worker.switch(to, state, self._stepped)
        except SwitchPending as pending:
            self._inbox.kept_waiting(began)  # the sync that follows writes to the target
            self.draining = goal is self.goal
            self._due.switch_at = self._clock() + pending.seconds if self.draining else -math.inf
            self.publish(last_switch=pending.record)
            result = ""
        except Exception as error:
            delay = self._due.switch_failed(f"switch to {to}: {error}", self._clock(), wanted=goal is self.goal)
            self._inbox.kept_waiting(began)
            told.failed("switch failed", error, delay)
            result = "failure"
            if isinstance(error, SwitchError):
                self.publish(last_switch=error.record)
                self._metrics.switched(error.record)
        else:
            self._inbox.passed_over(began)
            self._due.switched()
            result = "success"
            told.switch_ended(to, self._clock() - began)
            self.publish(last_switch=record)
            self._metrics.switched(record)
        if result:
            self._metrics.switch_duration.labels(to.value, result).observe(self._clock() - began)
        self._due.anew()  # in either case a full sync follows: it verifies the new mode, or mends the old one
        try:
            self.kernel = await self._worker.observe()
        except Exception as error:
            self.opened = None
            self._failed("dataplane cannot be observed", error, goal)
        self.publish(steps=())

    async def leave(self) -> None:
        """Hand the node back to kube-proxy, if that has programmed everything."""
        goal = self.goal
        state = self._inbox.take()
        began = self._clock()
        try:
            missing = await self._worker.hand_back(state)
            if not missing:
                self.kernel = await self._worker.observe()
        except Exception as error:
            self._inbox.kept_waiting(began)
            self._failed("hand-back to kube-proxy failed", error, goal)
            self._due.leave_failed()
            return
        self._due.worked()
        if missing:
            self._inbox.kept_waiting(began)
            self._due.stays(self._clock())
        else:
            self._inbox.passed_over(began)
            self.health_checks.set(None)
            told.handed_back(self.kernel)
            self.publish(synced=False)

    def _tell_refused(self, refused: Refused, *, full: bool) -> None:
        """Tell what is newly refused, and have all that is refused tried again."""
        before = self._board.snapshot.refused
        for name, reason in refused:
            if (name, reason) not in before:
                told.refused(name, reason)
                self._on_refused(name, reason)
        if not refused:
            self._due.none_refused()
        elif full or refused != before:
            self._drift.read_back_at(self._clock() + self._due.refused())

    def _publish_checks(self, mode: Mode) -> None:
        if self.opened is not None:
            self.health_checks.set(HealthChecks(mode, self.opened, self._inbox.health_checks))

    def _stepped(self, step: StepRecord) -> None:
        if self._board.snapshot.phase is EnginePhase.SWITCHING:
            done = (earlier for earlier in self._board.snapshot.steps if earlier.name != step.name)
            self.publish(steps=(*done, step))

    def _failed(self, what: str, error: Exception, goal: Goal | None) -> None:
        """Note a failure of what was done for this goal; another goal is tried at once, the same one later."""
        delay = self._due.failed(f"{what}: {error}", self._clock(), wanted=goal is self.goal)
        told.failed(what, error, delay)
        self.publish(synced=False, phase=EnginePhase.FAILED)

    def publish(self, **changes: Any) -> None:
        """Show these of the snapshot's fields, beside what is desired, found, and failed last."""
        self._metrics.observed(self.kernel.observed)
        self._board.show(
            desired=self.goal.mode if self.goal else None,
            observed=self.kernel.observed,
            error=self._due.error,
            **changes,
        )
