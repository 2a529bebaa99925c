"""The engine: the one task that makes the kernel do what Services say, in the mode that is desired.

What to do next is decided in `decide`; here it is done, timed, counted, logged, and retried with capped back-off. An
API server that is away changes nothing: the last known Services stay programmed, and drift is still repaired.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from proxymode_agent.cell import Cell
from proxymode_agent.engine import told
from proxymode_agent.engine.decide import Leave, Look, Situation, Switch, Sync, Wait, decide, ours
from proxymode_agent.engine.drift import Drift
from proxymode_agent.engine.due import Due, Pace
from proxymode_agent.engine.inbox import Inbox
from proxymode_agent.engine.snapshot import EnginePhase, EngineSnapshot
from proxymode_agent.engine.worker import DataplaneWorker, Kernel
from proxymode_agent.services.model import HealthChecks
from proxymode_agent.switch.record import SwitchError, SwitchPending
from proxymode_api.modes import KUBE_PROXY_MODES, KubeProxyPolicy, ObservedMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_agent.dataplane.base import Refused
    from proxymode_agent.engine.worker import Switcher
    from proxymode_agent.kube.listwatch import Changed, Deleted, Synced
    from proxymode_agent.kube.objects import EndpointSlice, Service
    from proxymode_agent.metrics import Metrics
    from proxymode_agent.services.model import DataplaneConfig, Network, ServicePortName, ServiceState
    from proxymode_agent.services.tracker import Problem
    from proxymode_agent.switch.record import StepRecord
    from proxymode_api.modes import Mode


class OnSynced(Protocol):
    """Hears what the kernel does since a sync; `changed`: which ports differ from the last time, None: any may."""

    def __call__(
        self, mode: Mode, config: DataplaneConfig, state: ServiceState, changed: frozenset[ServicePortName] | None
    ) -> None: ...


_PACE: Final = Pace()


class _Goal(NamedTuple):
    mode: Mode | None
    config: DataplaneConfig
    attempt: int = 0

    @property
    def leaves(self) -> bool:
        """Whether the node is to be handed back to kube-proxy."""
        return self.mode is not None and self.config.kube_proxy is KubeProxyPolicy.HAND_BACK


class Engine:
    """Feed it events (`on_service`, `on_slice`), tell it what is desired (`set_desired`), read `snapshot`, and `run` it
    in a task. All methods are to be called on the event loop; none of them blocks.

    `node_name`: whose endpoints are local. `on_problem` is called with what an object has that cannot be used,
    `on_refused` with a Service port that the kernel does not take, and why; both once as long as it stays the same.
    `on_synced` is called after every sync.
    """

    def __init__(
        self,
        switcher_factory: Callable[[DataplaneConfig], Switcher],
        metrics: Metrics,
        *,
        node_name: str = "",
        on_problem: Callable[[Problem], None] = lambda problem: None,
        on_refused: Callable[[ServicePortName, str], None] = lambda name, reason: None,
        on_synced: OnSynced = lambda mode, config, state, changed: None,
        pace: Pace = _PACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._worker = DataplaneWorker(switcher_factory, clock)
        self._on_refused = on_refused
        self._on_synced = on_synced
        self._wake = asyncio.Event()
        self._inbox = Inbox(node_name, metrics, clock, woken=self._wake.set, on_problem=on_problem)
        self._cell: Cell[EngineSnapshot] = Cell(EngineSnapshot())
        self.health_checks: Cell[HealthChecks | None] = Cell(None)
        """What load balancers are to be told, as of the last successful sync; None: nothing is programmed yet."""
        # What is desired.
        self._goal: _Goal | None = None
        self._service_cidrs: tuple[Network, ...] = ()
        # The kernel, as last seen, under this configuration.
        self._opened: DataplaneConfig | None = None
        self._kernel = Kernel(ObservedMode.NONE, None)
        self._drift = Drift(pace.sync_period, pace.look_period, pace.drift_shown)
        self._due = Due(pace)
        self._draining = False  # a switch waits for connections to end

    def set_desired(self, mode: Mode | None, config: DataplaneConfig, attempt: int = 0) -> None:
        """What the node shall run. None: keep whatever mode of ours is in the kernel up to date, switch nothing.
        Another `attempt`: a switch that failed is tried again at once.

        The snapshot says so at once, and is not `synced` before the kernel has been compared with the new wish.
        """
        goal = _Goal(mode, msgspec.structs.replace(config, service_cidrs=self._service_cidrs), attempt)
        if goal == self._goal:
            return
        if self._goal is None or (self._goal.mode, self._goal.attempt) != (mode, attempt):
            self._due.switch_anew()
        self._goal = goal
        self._due.anew()
        self._publish(synced=False, phase=self._resting_phase(synced=False))
        self._wake.set()

    def set_service_cidrs(self, networks: tuple[Network, ...]) -> None:
        """The cluster takes its Services' addresses from these networks; none: it is not known from where."""
        self._service_cidrs = networks
        if self._goal is not None:
            self.set_desired(*self._goal)

    def set_zone(self, zone: str) -> None:
        """The node is in this zone; empty: in none."""
        self._inbox.set_zone(zone)

    def on_service(self, *events: Changed[Service] | Deleted | Synced) -> None:
        """Services changed, or all of them are known now."""
        self._inbox.on_service(*events)

    def on_slice(self, *events: Changed[EndpointSlice] | Deleted | Synced) -> None:
        """EndpointSlices changed, or all of them are known now."""
        self._inbox.on_slice(*events)

    def snapshot(self) -> EngineSnapshot:
        """Where things stand now."""
        return self._cell.value

    async def changed(self, seen: EngineSnapshot) -> EngineSnapshot:
        """The latest snapshot, as soon as it differs from `seen`."""
        return await self._cell.changed(seen)

    async def until_synced(self, seconds: float) -> None:
        """Return with the first sync, or after so many seconds without."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                snapshot = self.snapshot()
                while not snapshot.synced:
                    snapshot = await self.changed(snapshot)

    @property
    def behind_since(self) -> float | None:
        """Since when, on the engine's clock, the kernel waits for something to be written; None: it is up to date, or
        nothing of ours is to be in it."""
        waits = [since for since in (self._inbox.waiting_since, self._worker.busy_since) if since is not None]
        return min(waits, default=None)

    async def run(self) -> None:
        """Work for ever; ends only by cancellation, after the kernel call that is under way. Leaves the kernel as it
        is."""
        try:
            while True:
                self._wake.clear()
                delay = await self._advance() - self._clock()
                if delay > 0:
                    await self._rest(delay)
        finally:
            self._worker.close()

    async def _rest(self, delay: float) -> None:
        timer = None if delay == math.inf else asyncio.get_running_loop().call_later(delay, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()

    async def _advance(self) -> float:
        """Do the next thing; until when there is nothing to do then, in the past: there may be more at once."""
        if self._goal is not None and self._goal.config != self._opened:
            if self._clock() < self._due.full_at:
                return self._due.full_at
            await self._open(self._goal)
            return -math.inf
        if self._drift.expired(self._clock()):
            self._publish(drift="")
        match decide(self._situation()):
            case Wait(until):
                self._publish(phase=self._resting_phase(synced=self._cell.value.synced))
                if self._cell.value.phase in (EnginePhase.PENDING, EnginePhase.OBSERVING):
                    self._inbox.unwanted()
                return min(until, self._drift.shown_until)
            case Look(mode):
                await self._look(mode)
            case Sync(mode, full):
                await self._sync(mode, full=full)
            case Switch(to):
                await self._switch(to)
            case Leave():
                await self._leave()
        return -math.inf

    def _situation(self) -> Situation:
        synced = self._cell.value.synced
        return Situation(
            now=self._clock(),
            complete=self._inbox.complete,
            told=self._goal is not None,
            desired=self._goal.mode if self._goal else None,
            observed=self._kernel.observed,
            unfinished=self._kernel.unfinished,
            pending=self._inbox.pending,
            full_at=min(self._due.full_at, self._drift.full_at) if synced else self._due.full_at,
            pending_at=self._due.pending_at,
            look_at=self._drift.look_at if synced else math.inf,
            switch_at=self._due.switch_at,
            leaves=self._goal is not None and self._goal.leaves,
            leave_at=self._due.leave_at,
        )

    async def _open(self, goal: _Goal) -> None:
        self._opened = None  # the former one is closed first, whatever comes of this
        try:
            self._kernel = await self._worker.open(goal.config)
        except Exception as error:
            self._failed("dataplane cannot be opened", error, goal)
            return
        self._opened = goal.config
        self._due.opened()
        told.opened(self._kernel)

    async def _look(self, mode: Mode) -> None:
        goal = self._goal
        began = self._clock()
        try:
            look = await self._worker.look(mode)
        except Exception as error:
            self._failed("look for drift failed", error, goal)
            return
        self._metrics.looks.labels(look.finding.value).inc()
        self._drift.looked(look, began, self._clock())

    async def _sync(self, mode: Mode, *, full: bool) -> None:
        goal = self._goal
        began = self._clock()
        kind = "full" if full else "incremental"
        first = not self._cell.value.synced
        since = self._inbox.waiting_since
        try:
            if full:
                before, self._kernel = self._kernel, await self._worker.observe()
                if self._kernel != before:
                    return  # somebody else changed the mode: decide anew with what is there
            state = self._inbox.take()
            if not full and not self._inbox.changed:
                self._inbox.passed_over(began)
                self._publish_checks(mode)
                return
            expected = first or bool(self._inbox.changed)
            if first and not self._draining:
                self._publish(phase=EnginePhase.PROGRAMMING)
            changed = None if full else frozenset(self._inbox.changed)
            result = await self._worker.sync(mode, state, changed)
            if ours(self._kernel.observed) is not mode:
                self._kernel = await self._worker.observe()
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
        if goal is not self._goal:
            self._due.anew()  # what was done is about a former wish
        told.synced(result, kind, seconds)
        if full or result.damage:
            drift = self._drift.repaired(began, ended, expected=expected, written=result.written, damage=result.damage)
            if drift:
                self._metrics.drift_repairs.inc()
                told.drifted(drift, result.written)
                self._publish(drift=drift)
        if result.read_back_in is not None:
            self._drift.read_back_at(ended + result.read_back_in)
        self._tell_refused(result.refused, full=full)
        if result.instead and result.instead != self._cell.value.instead:
            told.instead(result.instead)
        if self._opened is not None:
            self._on_synced(mode, self._opened, state, changed)
        self._metrics.synced(result, kind, seconds, now.timestamp())
        self._publish_checks(mode)
        self._publish(
            synced=goal is self._goal,
            services=result.services,
            endpoints=result.endpoints,
            refused=result.refused,
            instead=result.instead,
            last_sync=now,
        )

    async def _switch(self, to: Mode) -> None:
        goal = self._goal
        state = self._inbox.take()
        began = self._clock()
        if not self._draining:
            told.switch_begins(self._kernel, to)
        self._draining = False
        self._publish(phase=EnginePhase.SWITCHING, synced=False, steps=())
        try:
            record = await self._worker.switch(to, state, self._stepped)
        except SwitchPending as pending:
            self._inbox.kept_waiting(began)  # the sync that follows writes to the target
            self._draining = goal is self._goal
            self._due.switch_at = self._clock() + pending.seconds if self._draining else -math.inf
            self._publish(last_switch=pending.record)
            result = ""
        except Exception as error:
            delay = self._due.switch_failed(f"switch to {to}: {error}", self._clock(), wanted=goal is self._goal)
            self._inbox.kept_waiting(began)
            told.failed("switch failed", error, delay)
            result = "failure"
            if isinstance(error, SwitchError):
                self._publish(last_switch=error.record)
                self._metrics.switched(error.record)
        else:
            self._inbox.passed_over(began)
            self._due.switched()
            result = "success"
            told.switch_ended(to, self._clock() - began)
            self._publish(last_switch=record)
            self._metrics.switched(record)
        if result:
            self._metrics.switch_duration.labels(to.value, result).observe(self._clock() - began)
        self._due.anew()  # in either case a full sync follows: it verifies the new mode, or mends the old one
        try:
            self._kernel = await self._worker.observe()
        except Exception as error:
            self._opened = None
            self._failed("dataplane cannot be observed", error, goal)
        self._publish(steps=())

    async def _leave(self) -> None:
        goal = self._goal
        state = self._inbox.take()
        began = self._clock()
        try:
            missing = await self._worker.hand_back(state)
            if not missing:
                self._kernel = await self._worker.observe()
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
            told.handed_back(self._kernel)
            self._publish(synced=False)

    def _tell_refused(self, refused: Refused, *, full: bool) -> None:
        """Tell what is newly refused, and have all that is refused tried again."""
        before = self._cell.value.refused
        for name, reason in refused:
            if (name, reason) not in before:
                told.refused(name, reason)
                self._on_refused(name, reason)
        if not refused:
            self._due.none_refused()
        elif full or refused != before:
            self._drift.read_back_at(self._clock() + self._due.refused())

    def _publish_checks(self, mode: Mode) -> None:
        if self._opened is not None:
            self.health_checks.set(HealthChecks(mode, self._opened, self._inbox.health_checks))

    def _stepped(self, step: StepRecord) -> None:
        if self._cell.value.phase is EnginePhase.SWITCHING:
            done = (earlier for earlier in self._cell.value.steps if earlier.name != step.name)
            self._publish(steps=(*done, step))

    def _failed(self, what: str, error: Exception, goal: _Goal | None) -> None:
        """Note a failure of what was done for this goal; another goal is tried at once, the same one later."""
        delay = self._due.failed(f"{what}: {error}", self._clock(), wanted=goal is self._goal)
        told.failed(what, error, delay)
        self._publish(synced=False, phase=EnginePhase.FAILED)

    def _resting_phase(self, *, synced: bool) -> EnginePhase:
        if self._due.error:
            return EnginePhase.FAILED
        if self._goal is None or not self._inbox.complete:
            return EnginePhase.PENDING
        if self._draining:
            return EnginePhase.SWITCHING
        current = ours(self._kernel.observed)
        if self._goal.mode is None or (self._goal.leaves and self._kernel.observed in KUBE_PROXY_MODES):
            if current is None:
                return EnginePhase.OBSERVING
            return EnginePhase.ACTIVE if synced else EnginePhase.PROGRAMMING
        return EnginePhase.ACTIVE if synced and current is self._goal.mode else EnginePhase.PROGRAMMING

    def _publish(self, **changes: Any) -> None:
        self._metrics.observed(self._kernel.observed)
        changes["desired"] = self._goal.mode if self._goal else None
        changes["observed"] = self._kernel.observed
        changes["error"] = self._due.error
        value = self._cell.value
        if any(getattr(value, name) != new for name, new in changes.items()):
            self._cell.set(msgspec.structs.replace(value, **changes))
