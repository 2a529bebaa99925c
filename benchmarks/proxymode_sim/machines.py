"""The Nodes: made as kubelets register them, kept up to date as kubelets do, and some of them ill for a while."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from proxymode_sim.checker import Seen
from proxymode_sim.client import MERGE, NODES

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from proxymode_sim.client import Client, Json
    from proxymode_sim.options import Options

ZONES: Final = ("zone-a", "zone-b", "zone-c")
_IMAGES: Final = 20
"""A kubelet reports up to fifty; they are most of a Node's size."""
_AT_ONCE: Final = 32
_ILL_SECONDS: Final = (1.0, 15.0)


class Machines:
    """`seen` is told of every version that this makes."""

    def __init__(
        self, client: Client, names: list[str], options: Options, rng: random.Random, seen: Callable[[Seen], None]
    ) -> None:
        self._client = client
        self._names = names
        self._options = options
        self._rng = rng
        self._seen = seen
        self._ill: set[asyncio.Task[None]] = set()
        self._calm = False

    async def register(self) -> None:
        """Makes all Nodes."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(index: int, name: str) -> None:
            async with slots:
                body = _node(name, ZONES[index % len(ZONES)])
                await self._client.request("POST", NODES, body)
                await self._write(name, {"status": body["status"]}, "/status")

        await asyncio.gather(*(one(index, name) for index, name in enumerate(self._names)))

    async def live(self) -> None:
        """Status writes of all kubelets, and illness, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._report())
            if self._options.flapping:
                tasks.create_task(self._flap())

    async def _report(self) -> None:
        pause = self._options.node_status / len(self._names)
        count = 0
        while True:
            for name in self._names:
                count += 1
                seconds = {"type": "MemoryPressure", "status": "False", "reason": f"Report{count}", "message": ""}
                await self._write(name, {"status": {"conditions": [_READY, seconds]}}, "/status")
                await asyncio.sleep(pause)

    async def _flap(self) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(self._options.flapping * len(self._names) / 60))
            if self._calm:
                continue
            task = asyncio.create_task(self._be_ill(self._rng.choice(self._names)))
            self._ill.add(task)
            task.add_done_callback(self._ill.discard)

    async def _be_ill(self, name: str) -> None:
        if self._rng.random() < 0.5:
            down: Json = {"status": {"conditions": [_READY | {"status": "False"}]}}
            await self._write(name, down, "/status")
            await asyncio.sleep(self._rng.uniform(*_ILL_SECONDS))
            await self._write(name, {"status": {"conditions": [_READY]}}, "/status")
        else:
            await self._write(name, {"spec": {"unschedulable": True}})
            await asyncio.sleep(self._rng.uniform(*_ILL_SECONDS))
            await self._write(name, {"spec": {"unschedulable": None}})

    async def _write(self, name: str, patch: Json, subresource: str = "") -> None:
        answer = await self._client.request("PATCH", f"{NODES}/{name}{subresource}", patch, content=MERGE)
        self._seen(Seen(int(answer["metadata"]["resourceVersion"]), "Node", time.monotonic(), answer))

    async def stop(self) -> None:
        """Ends what is still going on; who is ill stays so."""
        for task in self._ill:
            task.cancel()
        if self._ill:
            await asyncio.wait(self._ill)

    def calm_down(self) -> None:
        """Nobody falls ill any more."""
        self._calm = True


_READY: Final[Json] = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}


def _node(name: str, zone: str) -> Json:
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": zone,
        "node.kubernetes.io/instance-type": "m6i.4xlarge",
    }
    images = [
        {"names": [f"registry.example.org/team-{i}/service@sha256:{i:064x}"], "sizeBytes": 10**8 + i}
        for i in range(_IMAGES)
    ]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"conditions": [_READY], "images": images},
    }
