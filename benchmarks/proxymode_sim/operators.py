"""The operator's processes, as shipped: their command line, their ServiceAccount's token, what they use, their end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxymode_testbeds.apiserver.processes import running
from proxymode_testbeds.apiserver.rights import NAMESPACE
from proxymode_testbeds.polling import eventually
from proxymode_testbeds.ports import free_port

if TYPE_CHECKING:
    from proxymode_testbeds.apiserver import ApiServer
    from proxymode_testbeds.apiserver.processes import ServerProcess

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_MEGABYTE: Final = 10**6
_START_SECONDS: Final = 120.0


@dataclass(slots=True)
class Replica:
    """One process. `cpu_s` and `rss_mb` (the highest resident set) as last read; they outlive it."""

    name: str
    server: ServerProcess
    metrics_port: int
    began: float
    cpu_s: float = 0.0
    rss_mb: float = 0.0

    def measure(self) -> None:
        """Reads what the process has used, while it lives."""
        pid = self.server.process.pid
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        user, system = stat.rpartition(")")[2].split()[11:13]
        self.cpu_s = (int(user) + int(system)) / _TICKS
        if (peak := re.search(r"VmHWM:\s+(\d+) kB", status)) is not None:
            self.rss_mb = max(self.rss_mb, int(peak[1]) * 1024 / _MEGABYTE)

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.measure()
        self.server.process.kill()
        await self.server.process.wait()

    async def end(self) -> None:
        """SIGTERM; returns when it is gone."""
        self.measure()
        self.server.process.send_signal(signal.SIGTERM)
        await self.server.process.wait()

    async def metric(self, name: str) -> float:
        """The sum of the samples of a metric, or of those with these labels; 0 while it does not answer."""
        text = await asyncio.to_thread(self._scrape)
        found = (line.rpartition(" ") for line in text.splitlines() if line.startswith(name))
        return sum(float(value) for sample, _, value in found if sample == name or sample[len(name)] == "{")

    async def account(self) -> str:
        """What it says of itself, in one line."""
        counts = []
        for outcome in ("done", "conflict", "error"):
            count = await self.metric(f'proxymode_operator_reconciles_total{{outcome="{outcome}"}}')
            counts.append(f"{outcome} {count:.0f}")
        means = []
        for each in ("plan", "reconcile", "reaction"):
            name = f"proxymode_operator_{each}_seconds"
            count = await self.metric(f"{name}_count")
            means.append(f"{each} {1000 * await self.metric(f'{name}_sum') / max(1, count):.1f} ms")
        return f"{self.name}: reconciles {', '.join(counts)}; mean {', '.join(means)}"

    def _scrape(self) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, OSError):
            return ""


class Operators:
    """Starts replicas that end with the block in which this was entered."""

    def __init__(self, api: ApiServer, folder: Path, lease_seconds: int) -> None:
        self._api = api
        self._folder = folder
        self._lease = lease_seconds
        self._stack = AsyncExitStack()
        self.all: list[Replica] = []

    async def __aenter__(self) -> Operators:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def start(self) -> Replica:
        """A new process."""
        name = f"operator-{len(self.all)}"
        port = free_port()
        kubeconfig = self._api.kubeconfig(self._api.add_service_account(NAMESPACE, "proxymode-operator"))
        command = [
            *(sys.executable, "-m", "proxymode_operator"),
            f"--kubeconfig={kubeconfig}",
            f"--namespace={NAMESPACE}",
            f"--metrics-bind-address=127.0.0.1:{port}",
            "--healthz-bind-address=",
            "--logging-format=json",
            f"--leader-elect-lease-duration={self._lease}s",
            f"--leader-elect-renew-deadline={self._lease * 2 // 3}s",
            f"--leader-elect-retry-period={max(1, self._lease // 7)}s",
        ]
        began = time.monotonic()
        server = await self._stack.enter_async_context(running(command, self._folder / f"{name}.log"))
        replica = Replica(name, server, port, began)
        self.all.append(replica)
        return replica

    async def first_decision(self, replica: Replica) -> float:
        """Seconds from its start until it has reconciled once. Raises TimeoutError."""

        async def decided() -> bool:
            return await replica.metric("proxymode_operator_reconciles_total") > 0

        await eventually(decided, f"the first reconcile of {replica.name}", _START_SECONDS)
        return time.monotonic() - replica.began

    @property
    def alive(self) -> list[Replica]:
        return [replica for replica in self.all if replica.server.alive]

    def measure(self) -> None:
        """Reads what all of them have used."""
        for replica in self.alive:
            replica.measure()
