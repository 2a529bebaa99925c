"""The dataplane thread: every kernel call of the agent runs in it, one at a time, away from the event loop.

It owns the Switcher, which owns the dataplanes of one configuration. It decides nothing and retries nothing.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_agent.dataplane.base import Dataplane, Look, SyncResult
    from proxymode_agent.services.model import DataplaneConfig, ServicePortName, ServiceState
    from proxymode_agent.switch.record import StepRecord, SwitchRecord
    from proxymode_api.modes import Mode, ObservedMode

R = TypeVar("R")


class Switcher(Protocol):
    """What is needed of the switch; see proxymode_agent.switch. Synchronous, used in the dataplane thread only."""

    def close(self) -> None: ...
    def observe(self) -> ObservedMode: ...
    def unfinished(self) -> Mode | None: ...
    def dataplane(self, mode: Mode) -> Dataplane: ...
    def switch(self, to: Mode, state: ServiceState, on_step: Callable[[StepRecord], None]) -> SwitchRecord: ...
    def hand_back(self, state: ServiceState) -> str: ...


class Kernel(NamedTuple):
    """What was found in the kernel, and the target of a switch that was begun and not ended."""

    observed: ObservedMode
    unfinished: Mode | None


class DataplaneWorker:
    """Asynchronous front of the dataplane thread. `open` comes first."""

    def __init__(self, factory: Callable[[DataplaneConfig], Switcher], clock: Callable[[], float] = time.monotonic):
        self._factory = factory
        self._clock = clock
        self._thread: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dataplane")
        self._switcher: Switcher | None = None
        self.busy_since: float | None = None
        """Since when the call that is under way runs; None: none does."""

    async def open(self, config: DataplaneConfig) -> Kernel:
        """Begin to work with this configuration, instead of a former one. Raises what opening the sockets raises."""
        return await self._call(lambda: self._open(config))

    async def observe(self) -> Kernel:
        """Look at the kernel again. Raises DataplaneError."""
        return await self._call(self._observe)

    async def sync(self, mode: Mode, state: ServiceState, changed: frozenset[ServicePortName] | None) -> SyncResult:
        """Dataplane.sync of `mode`. Raises DataplaneError."""
        return await self._call(lambda: self._opened().dataplane(mode).sync(state, changed))

    async def look(self, mode: Mode) -> Look:
        """Dataplane.look of `mode`. Raises DataplaneError."""
        return await self._call(lambda: self._opened().dataplane(mode).look())

    async def switch(self, to: Mode, state: ServiceState, on_step: Callable[[StepRecord], None]) -> SwitchRecord:
        """Switcher.switch; `on_step` is called on the event loop. Raises SwitchError."""
        loop = asyncio.get_running_loop()

        def report(step: StepRecord) -> None:
            loop.call_soon_threadsafe(on_step, step)

        return await self._call(lambda: self._opened().switch(to, state, report))

    async def hand_back(self, state: ServiceState) -> str:
        """Switcher.hand_back. Raises DataplaneError."""
        return await self._call(lambda: self._opened().hand_back(state))

    def close(self) -> None:
        """Close sockets once the call that is under way has ended; leaves the kernel as it is. Does not wait."""
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    async def _call(self, function: Callable[[], R]) -> R:
        """The function's result. A cancellation waits for the function's end, so that no update of the kernel is cut
        in two; whoever stops the agent bounds that wait."""
        self.busy_since = self._clock()
        future = asyncio.get_running_loop().run_in_executor(self._thread, function)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
        finally:
            self.busy_since = None

    def _open(self, config: DataplaneConfig) -> Kernel:
        self._close()
        self._switcher = self._factory(config)
        return self._observe()

    def _observe(self) -> Kernel:
        switcher = self._opened()
        return Kernel(switcher.observe(), switcher.unfinished())

    def _opened(self) -> Switcher:
        if self._switcher is None:
            raise RuntimeError("the dataplane is used before it was opened")
        return self._switcher

    def _close(self) -> None:
        switcher, self._switcher = self._switcher, None
        if switcher is not None:
            switcher.close()
