"""kube-proxy's ruleset through `nft -f`, as kube-proxy 1.36 does it, for a machine without kube-proxy's binary.

It does what kube-proxy's sync does: all in one file when it starts; on a change `nft --json --terse list table`, then
the chain of the changed Service. All that kube-proxy does besides is missing: starting, listing and watching, IPv6, its
pause of a second between syncs, reading the JSON. Every figure is therefore below what kube-proxy itself would take.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxymode_benchmarks.sync import cases, ruleset
from proxymode_benchmarks.sync.changes import CHURN_RATE, CHURN_SECONDS, WARM_CHANGES
from proxymode_benchmarks.sync.connects import first_packet_cost
from proxymode_benchmarks.sync.figures import Figures, percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxymode_benchmarks.sync.cases import Case

NAME: Final = "kube-proxy's ruleset through nft -f (no kube-proxy binary here)"
WARM_SECONDS: Final = 15.0
"""No further change is begun after that; the number of changes is among the figures."""
RESTART_SECONDS: Final = 6.0
"""A restart takes kube-proxy three times as long as a cold start; it is not measured where that takes longer."""


@dataclass(slots=True)
class _Nft:
    """Runs nft(8), and sums up what that costs."""

    folder: Path
    cpu: float = 0.0
    rss: int = 0

    def load(self, lines: Iterable[str]) -> float:
        """`nft -f`; the wall time. Raises CalledProcessError."""
        file = self.folder / "ruleset.nft"
        file.write_text("\n".join(lines) + "\n")
        return self.run("-f", str(file))

    def run(self, *arguments: str) -> float:
        """nft with its output thrown away; the wall time."""
        began = time.monotonic()
        with (self.folder / "output").open("w") as output:
            process = subprocess.Popen(["nft", *arguments], stdin=subprocess.DEVNULL, stdout=output)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
        self.cpu += usage.ru_utime + usage.ru_stime
        self.rss = max(self.rss, usage.ru_maxrss * 1024)
        return time.monotonic() - began

    def sync(self, services: dict[int, tuple[str, ...]]) -> float:
        """A partial sync of these Services with these endpoints; the wall time."""
        listed = self.run("--json", "--terse", "list", "table", *ruleset.TABLE.split())
        chains = (line for service, targets in services.items() for line in ruleset.service_chain(service, targets))
        return listed + self.load(chains)


def measure(case: Case) -> Figures:
    """All figures that this peer can have, in the current namespace, which is left without its table."""
    with tempfile.TemporaryDirectory(prefix="proxymode-bench-") as folder:
        nft = _Nft(Path(folder))
        try:
            return _measure(case, nft)
        finally:
            nft.run("delete", "table", *ruleset.TABLE.split())


def _measure(case: Case, nft: _Nft) -> Figures:
    cold = nft.load(ruleset.whole(case))
    cold_cpu = nft.cpu
    first_packet = first_packet_cost(cases.cluster_ip(case.probe))
    restart = nft.load(ruleset.whole(case)) if cold < RESTART_SECONDS else None
    used = nft.cpu
    warm = _warm(case, nft)
    cpu_per_change = (nft.cpu - used) / len(warm)
    used, began = nft.cpu, time.monotonic()
    churn = _churn(case, nft)
    return Figures(
        cold_s=cold,
        sync_s=cold,
        cpu_s=cold_cpu,
        warm_p50_ms=percentile(warm, 50) * 1e3,
        warm_p99_ms=percentile(warm, 99) * 1e3,
        cpu_ms_per_change=cpu_per_change * 1e3,
        churn_p50_ms=percentile(churn, 50) * 1e3,
        churn_p99_ms=percentile(churn, 99) * 1e3,
        churn_cores=(nft.cpu - used) / (time.monotonic() - began),
        restart_s=restart,
        first_packet_us=first_packet * 1e6,
        warm_changes=len(warm),
        churn_changes=len(churn),
    )


def _warm(case: Case, nft: _Nft) -> list[float]:
    latencies: list[float] = []
    deadline = time.monotonic() + WARM_SECONDS
    for service, targets in _changed(case):
        if len(latencies) == WARM_CHANGES or time.monotonic() > deadline:
            break
        latencies.append(nft.sync({service: targets}))
    return latencies


def _churn(case: Case, nft: _Nft) -> list[float]:
    """Changes fall due at a fixed rate; a sync takes all that are due when it begins."""
    latencies: list[float] = []
    began, changes = time.monotonic(), _changed(case)
    total = CHURN_RATE * CHURN_SECONDS
    while len(latencies) < total:
        due = min(total, int((time.monotonic() - began) * CHURN_RATE) + 1) - len(latencies)
        if due == 0:
            time.sleep(1 / CHURN_RATE)
            continue
        nft.sync(dict(next(changes) for _ in range(due)))
        done = time.monotonic()
        latencies += [done - began - (len(latencies) + number) / CHURN_RATE for number in range(due)]
    return latencies


def _changed(case: Case) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Services one after another, each with its first endpoint replaced."""
    pods = case.spare_pods
    while True:
        for service in range(case.services):
            yield service, (next(pods), *case.targets(service)[1:])
