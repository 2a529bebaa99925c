"""Who wants the fleet in which mode: the ProxyMode, as an administrator writes it and watches it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from proxymode_sim.client import MERGE, PROXY_MODES
from proxymode_sim.machines import ZONES

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_sim.client import Client, Json
    from proxymode_sim.options import Options

NAME: Final = "fleet"
MODES: Final = ("nftables", "ipvs")
_STAGES: Final = [
    {"name": "canary", "count": 1, "soak": "2s"},
    {"name": "zone", "selector": {"matchLabels": {"topology.kubernetes.io/zone": ZONES[0]}}, "soak": "2s"},
    {"name": "half", "percent": 50},
    {"name": "all", "percent": 100},
]


class Intent:
    """The ProxyMode: what people say, and, from its watch, what the operator says about it."""

    def __init__(self, client: Client, options: Options) -> None:
        self._client = client
        self._options = options
        self._changed = asyncio.Event()
        self.object: Json = {}

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.object.get("status", {})
        return found

    @property
    def updated(self) -> int:
        return int(self.status.get("nodes", {}).get("updated", 0))

    def see(self, raw: Json) -> None:
        """A version that the watch has brought."""
        self.object = raw
        self._changed.set()

    async def create(self) -> None:
        """Asks for the first mode."""
        body = {
            "apiVersion": "proxymode.io/v1alpha1",
            "kind": "ProxyMode",
            "metadata": {"name": NAME},
            "spec": {
                "mode": MODES[0],
                "rollout": {
                    "stages": _STAGES,
                    "maxUnavailable": f"{self._options.max_unavailable}%",
                    "topologyKey": "topology.kubernetes.io/zone",
                    "progressDeadline": f"{self._options.progress_deadline}s",
                    # More than can fail at one time: what stops a rollout is tried elsewhere.
                    "failureThreshold": self._options.nodes,
                },
            },
        }
        await self._client.request("POST", PROXY_MODES, body)

    async def edit(self, spec: Json) -> None:
        """Merges into the spec; returns once the operator's status is about it."""
        answer = await self._client.request("PATCH", f"{PROXY_MODES}/{NAME}", {"spec": spec}, content=MERGE)
        generation = answer["metadata"]["generation"]
        await self.until(lambda: self.status.get("observedGeneration", 0) >= generation)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns when it holds for what the watch has brought; ends by its caller's time-out only."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    async def until_complete(self, mode: str) -> None:
        """All nodes that can run the mode do."""
        await self.until(lambda: self.status.get("mode") == mode and self.status.get("status") == "Complete")
