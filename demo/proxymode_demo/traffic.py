"""The fleet's traffic: which clients run where, and what all of them together saw.

Every node has three clients of the Services: one of its pods, the node itself, and a machine outside of the cluster
whose way leads through that node. `Totals` is pure; the rest starts processes in the guest and reads their lines.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxymode_demo.objects import CLUSTER_IP, DNS, HTTP

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxymode_demo.processes import Processes
    from proxymode_testbeds.topology import Fleet
    from proxymode_testbeds.vm.process import GuestProcess

READY_SECONDS = 300.0
ANSWER_SECONDS = 30.0
"""Patience of a client, in seconds: the guest is emulated, and several nodes share two CPUs."""
STOP_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class ClientPlan:
    """One client: where it runs, how many connections it holds, how many new ones it opens a second."""

    place: str
    established: int
    new_rate: float
    udp_rate: float


def plan(fleet: Fleet) -> list[ClientPlan]:
    """Three clients a node: its last pod, itself, and the outside machine whose gateway it is."""
    plans = []
    for node in fleet.nodes:
        plans.append(ClientPlan(node.pods[-1].name, established=10, new_rate=3, udp_rate=1))
        plans.append(ClientPlan(node.name, established=5, new_rate=1, udp_rate=1))
        plans += [
            ClientPlan(client.name, established=10, new_rate=3, udp_rate=1)
            for client in fleet.clients
            if client.gateway == node.name
        ]
    return plans


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters of all clients together; `established` are all long-lived connections there ever were."""

    established: int = 0
    lost: int = 0
    new: int = 0
    failed: int = 0
    udp_sent: int = 0
    udp_lost: int = 0
    longest_gap_ms: float = 0.0
    away_seconds: float = 0.0

    @classmethod
    def of(cls, results: Iterable[dict[str, Any]]) -> Totals:
        """From the clients' `result` or `second` objects (proxymode_testbeds.traffic.report)."""
        every = list(results)

        def total(*keys: str) -> int:
            return sum(int(result.get(key, 0)) for result in every for key in keys)

        return cls(
            established=total("established", "reopened"),
            lost=total("lost"),
            new=total("new"),
            failed=total("failed"),
            udp_sent=total("udp_sent"),
            udp_lost=total("udp_lost"),
            longest_gap_ms=max((result.get("longest_gap_ms") or 0.0 for result in every), default=0.0),
            away_seconds=max((result.get("away_seconds") or 0.0 for result in every), default=0.0),
        )


class Traffic:
    """The running clients."""

    def __init__(self, clients: Sequence[tuple[ClientPlan, GuestProcess]]) -> None:
        self._clients = clients
        self._latest: dict[str, dict[str, Any]] = {}
        self._ready: set[str] = set()
        self._changed = asyncio.Condition()
        self._readers = [asyncio.create_task(self._read(plan, process)) for plan, process in clients]

    @classmethod
    async def start(cls, processes: Processes, fleet: Fleet) -> Traffic:
        """Starts every client and returns when all long-lived connections are up.

        Raises TimeoutError where they are not in time, with the clients that wait.
        """
        clients = []
        for client in plan(fleet):
            options = {
                "--tcp": HTTP.port,
                "--udp": DNS.port,
                "--established": client.established,
                "--new-rate": client.new_rate,
                "--udp-rate": client.udp_rate,
                "--interval": 1.0,
                "--timeout": ANSWER_SECONDS,
                "--ready-timeout": READY_SECONDS,
            }
            words = [str(word) for option in options.items() for word in option]
            process = await processes.traffic(client.place, ["client", CLUSTER_IP, "--reopen", *words])
            clients.append((client, process))
        traffic = cls(clients)
        try:
            async with asyncio.timeout(READY_SECONDS), traffic._changed:
                await traffic._changed.wait_for(lambda: len(traffic._ready) == len(clients))
        except TimeoutError:
            waiting = ", ".join(sorted({client.place for client, _ in clients} - traffic._ready))
            raise TimeoutError(f"no traffic after {READY_SECONDS:.0f} s from {waiting}") from None
        return traffic

    def totals(self) -> Totals:
        """What all clients have seen so far."""
        return Totals.of(self._latest.values())

    def complaints(self) -> list[str]:
        """One line for each client that saw something break: who, and the first times."""
        lines = []
        for name, result in sorted(self._latest.items()):
            for what in ("failed", "udp_lost", "lost"):
                reasons = result.get(f"{what}_reasons")
                if reasons:
                    lines.append(f"{name}: {what} {reasons} {result.get(f'{what}_first', '')}")
        return lines

    async def stop(self) -> Totals:
        """Ends all clients, each after what it has under way, and returns the final counters."""
        for _, process in self._clients:
            process.terminate()
        async with asyncio.timeout(STOP_SECONDS):
            await asyncio.gather(*self._readers)
        return self.totals()

    async def _read(self, client: ClientPlan, process: GuestProcess) -> None:
        async for line in process.stdout:
            event = json.loads(line)
            async with self._changed:
                if event["event"] == "ready":
                    self._ready.add(client.place)
                elif event["event"] in ("second", "result"):
                    self._latest[client.place] = event
                self._changed.notify_all()
