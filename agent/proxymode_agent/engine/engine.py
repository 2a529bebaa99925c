"""The engine: the one task that makes the kernel do what Services say, in the mode that is desired.

It hears of Services and of wishes, asks `decide` what to do next, and has `acts` do it. An
API server that is away changes nothing: the last known Services stay programmed, and drift is still repaired.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from proxymode_agent.engine.acts import Acts, Goal
from proxymode_agent.engine.decide import Leave, Look, Situation, Switch, Sync, Wait, decide, phase_at_rest
from proxymode_agent.engine.drift import Drift
from proxymode_agent.engine.due import Due, Pace
from proxymode_agent.engine.inbox import Inbox
from proxymode_agent.engine.snapshot import Board, EnginePhase
from proxymode_agent.engine.worker import DataplaneWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_agent.cell import Cell
    from proxymode_agent.engine.acts import OnSynced
    from proxymode_agent.engine.snapshot import EngineSnapshot
    from proxymode_agent.engine.worker import Switcher
    from proxymode_agent.kube.listwatch import Changed, Deleted, Synced
    from proxymode_agent.kube.objects import EndpointSlice, Service
    from proxymode_agent.metrics import Metrics
    from proxymode_agent.services.model import DataplaneConfig, HealthChecks, Network, ServicePortName
    from proxymode_agent.services.tracker import Problem
    from proxymode_api.modes import Mode

_PACE: Final = Pace()


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
        self._clock = clock
        self._wake = asyncio.Event()
        self._inbox = Inbox(node_name, metrics, clock, woken=self._wake.set, on_problem=on_problem)
        self._due = Due(pace)
        self._drift = Drift(pace.sync_period, pace.look_period, pace.drift_shown)
        self._board = Board()
        self._worker = DataplaneWorker(switcher_factory, clock)
        self._acts = Acts(
            self._worker,
            self._inbox,
            self._due,
            self._drift,
            self._board,
            metrics,
            clock,
            on_refused=on_refused,
            on_synced=on_synced,
        )
        self._service_cidrs: tuple[Network, ...] = ()

    @property
    def health_checks(self) -> Cell[HealthChecks | None]:
        """What load balancers are to be told, as of the last successful sync; None: nothing is programmed yet."""
        return self._acts.health_checks

    def set_desired(self, mode: Mode | None, config: DataplaneConfig, attempt: int = 0) -> None:
        """What the node shall run. None: keep whatever mode of ours is in the kernel up to date, switch nothing.
        Another `attempt`: a switch that failed is tried again at once.

        The snapshot says so at once, and is not `synced` before the kernel has been compared with the new wish.
        """
        goal = Goal(mode, msgspec.structs.replace(config, service_cidrs=self._service_cidrs), attempt)
        if goal == self._acts.goal:
            return
        if self._acts.goal is None or (self._acts.goal.mode, self._acts.goal.attempt) != (mode, attempt):
            self._due.switch_anew()
        self._acts.goal = goal
        self._due.anew()
        self._acts.publish(synced=False, phase=self._phase(synced=False))
        self._wake.set()

    def set_service_cidrs(self, networks: tuple[Network, ...]) -> None:
        """The cluster takes its Services' addresses from these networks; none: it is not known from where."""
        self._service_cidrs = networks
        if self._acts.goal is not None:
            self.set_desired(*self._acts.goal)

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
        return self._board.snapshot

    async def changed(self, seen: EngineSnapshot) -> EngineSnapshot:
        """The latest snapshot, as soon as it differs from `seen`."""
        return await self._board.changed(seen)

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
        goal = self._acts.goal
        if goal is not None and goal.config != self._acts.opened:
            if self._clock() < self._due.full_at:
                return self._due.full_at
            await self._acts.open(goal)
            return -math.inf
        if self._drift.expired(self._clock()):
            self._acts.publish(drift="")
        match decide(self._situation()):
            case Wait(until):
                phase = self._phase(synced=self._board.snapshot.synced)
                self._acts.publish(phase=phase)
                if phase in (EnginePhase.PENDING, EnginePhase.OBSERVING):
                    self._inbox.unwanted()
                return min(until, self._drift.shown_until)
            case Look(mode):
                await self._acts.look(mode)
            case Sync(mode, full):
                await self._acts.sync(mode, full=full)
            case Switch(to):
                await self._acts.switch(to)
            case Leave():
                await self._acts.leave()
        return -math.inf

    def _phase(self, *, synced: bool) -> EnginePhase:
        return phase_at_rest(
            self._situation(), synced=synced, draining=self._acts.draining, failed=bool(self._due.error)
        )

    def _situation(self) -> Situation:
        goal, kernel, synced = self._acts.goal, self._acts.kernel, self._board.snapshot.synced
        return Situation(
            now=self._clock(),
            complete=self._inbox.complete,
            told=goal is not None,
            desired=goal.mode if goal else None,
            observed=kernel.observed,
            unfinished=kernel.unfinished,
            pending=self._inbox.pending,
            full_at=min(self._due.full_at, self._drift.full_at) if synced else self._due.full_at,
            pending_at=self._due.pending_at,
            look_at=self._drift.look_at if synced else math.inf,
            switch_at=self._due.switch_at,
            leaves=goal is not None and goal.leaves,
            leave_at=self._due.leave_at,
        )
