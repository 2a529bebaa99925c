"""Endpoints that are replaced while a proxy runs: how long until the kernel knows, from the API's acknowledgement on.

One after another, each awaited before the next (`warm`), and at a fixed rate, whether it keeps up or not
(`churn`). An endpoint that is replaced keeps its index in the kernel, which is where it is looked for.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_benchmarks.sync.cases import Case
    from proxymode_benchmarks.sync.cluster import Cluster
    from proxymode_benchmarks.sync.proxy import Endpoints

WARM_CHANGES: Final = 100
CHURN_RATE: Final = 100
"""Changes a second."""
CHURN_SECONDS: Final = 20
_POLL_SECONDS: Final = 0.0005
_PAUSE_SECONDS: Final = 0.05
_DEADLINE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Changes:
    """How long each change took, in seconds, and the proxy's CPU seconds meanwhile, over `wall` seconds."""

    latencies: tuple[float, ...]
    cpu: float
    wall: float


class _Place(NamedTuple):
    """An endpoint of a Service, and its index in the kernel."""

    service: int
    endpoint: int
    slot: int


class Replacing:
    """Replaces endpoints of a filled cluster whose proxy has synced. `cpu`: seconds that the agent has used so far."""

    def __init__(self, case: Case, cluster: Cluster, kernel: Endpoints, cpu: Callable[[], float]) -> None:
        self._cluster = cluster
        self._kernel = kernel
        self._cpu = cpu
        self._pods = case.spare_pods
        self._places = []
        services = range(case.services)
        for service in random.Random(str(case)).sample(services, min(len(services), CHURN_RATE * CHURN_SECONDS)):
            endpoint = service % case.endpoints
            index = kernel.index(service, case.targets(service)[endpoint], case.endpoints)
            self._places.append(_Place(service, endpoint, index))

    async def warm(self) -> Changes:
        """WARM_CHANGES changes, one after another. Raises TimeoutError."""
        latencies = []
        used, began = self._cpu(), time.monotonic()
        for number in range(WARM_CHANGES):
            place, address = self._places[number % len(self._places)], next(self._pods)
            acknowledged = await self._cluster.replace(place.service, place.endpoint, address)
            while not self._done(place, address, acknowledged):  # noqa: ASYNC110 - the kernel sends no event
                await asyncio.sleep(_POLL_SECONDS)
            latencies.append(time.monotonic() - acknowledged)
            await asyncio.sleep(_PAUSE_SECONDS)
        return Changes(tuple(latencies), self._cpu() - used, time.monotonic() - began)

    async def churn(self) -> Changes:
        """CHURN_RATE changes a second for CHURN_SECONDS, then until the last is in the kernel. Raises TimeoutError."""
        waiting: dict[tuple[_Place, str], float] = {}
        latencies: list[float] = []

        async def replace(place: _Place, address: str) -> None:
            waiting[place, address] = await self._cluster.replace(place.service, place.endpoint, address)

        used, began = self._cpu(), time.monotonic()
        sent, total = 0, CHURN_RATE * CHURN_SECONDS
        async with asyncio.TaskGroup() as requests:
            while len(latencies) < total:
                while sent < total and time.monotonic() >= began + sent / CHURN_RATE:
                    requests.create_task(replace(self._places[sent % len(self._places)], next(self._pods)))
                    sent += 1
                for (place, address), acknowledged in list(waiting.items()):
                    if self._done(place, address, acknowledged):
                        latencies.append(time.monotonic() - acknowledged)
                        del waiting[place, address]
                await asyncio.sleep(_POLL_SECONDS)
        return Changes(tuple(latencies), self._cpu() - used, time.monotonic() - began)

    def _done(self, place: _Place, address: str, acknowledged: float) -> bool:
        if self._kernel.holds(place.service, place.slot, address):
            return True
        if time.monotonic() > acknowledged + _DEADLINE_SECONDS:
            raise TimeoutError(f"{place} is not {address} in the kernel after {_DEADLINE_SECONDS:.0f} s")
        return False
