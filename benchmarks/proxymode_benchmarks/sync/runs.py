"""A proxy in one case: cold start, first packet, changes one by one, changes at a rate, restart."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from proxymode_benchmarks.sync import cases, kernel
from proxymode_benchmarks.sync.changes import Replacing
from proxymode_benchmarks.sync.connects import first_packet_cost
from proxymode_benchmarks.sync.figures import Figures, percentile

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_benchmarks.sync.cases import Case
    from proxymode_benchmarks.sync.cluster import Cluster
    from proxymode_benchmarks.sync.proxy import Proxy, Start

STARTS: Final = 7
"""Cold starts and restarts are made that often; the figures are those of the median."""
LONG_SECONDS: Final = 6.0
"""What takes longer is made once."""


class WrongResultError(Exception):
    """The kernel does not hold what it should, so that there is nothing to measure."""


async def measure(proxy: Proxy, case: Case, cluster: Cluster, folder: Path) -> Figures:
    """All figures, in the current namespace, which is left without the proxy's tables. Raises ProcessError,
    WrongResultError, TimeoutError."""
    try:
        return await _measure(proxy, case, cluster, folder)
    finally:
        proxy.remove()


async def _measure(proxy: Proxy, case: Case, cluster: Cluster, folder: Path) -> Figures:
    cold: list[Start] = []
    while len(cold) < STARTS - 1 and (not cold or cold[0].wall < LONG_SECONDS):
        with proxy.start(cluster, folder) as process:
            cold.append(await asyncio.to_thread(process.wait_until_synced))
        proxy.remove()
    with proxy.start(cluster, folder) as process:
        cold.append(await asyncio.to_thread(process.wait_until_synced))
        first_packet = await asyncio.to_thread(first_packet_cost, cases.cluster_ip(case.probe))
        endpoints = proxy.endpoints()
        replacing = Replacing(case, cluster, endpoints, process.cpu)
        one_by_one = await replacing.warm()
        at_a_rate = await replacing.churn()
        endpoints.close()
        churn_rss = process.peak_rss()
    restarts: list[Start] = []
    while len(restarts) < STARTS and (not restarts or restarts[0].wall < LONG_SECONDS):
        restarts.append(await _restart(proxy, cluster, folder))
    typical = _typical(cold)
    return Figures(
        cold_s=typical.wall,
        sync_s=typical.sync,
        cpu_s=typical.cpu,
        rss_mb=max(start.rss for start in cold) / 1e6,
        warm_p50_ms=percentile(one_by_one.latencies, 50) * 1e3,
        warm_p99_ms=percentile(one_by_one.latencies, 99) * 1e3,
        cpu_ms_per_change=one_by_one.cpu / len(one_by_one.latencies) * 1e3,
        churn_p50_ms=percentile(at_a_rate.latencies, 50) * 1e3,
        churn_p99_ms=percentile(at_a_rate.latencies, 99) * 1e3,
        churn_cores=at_a_rate.cpu / at_a_rate.wall,
        churn_rss_mb=churn_rss / 1e6,
        restart_s=_typical(restarts).wall,
        first_packet_us=first_packet * 1e6,
        warm_changes=len(one_by_one.latencies),
        churn_changes=len(at_a_rate.latencies),
    )


async def _restart(proxy: Proxy, cluster: Cluster, folder: Path) -> Start:
    """Start over what is there. Raises WrongResultError when anything was written by a proxy that should not."""
    before = kernel.generation()
    with proxy.start(cluster, folder, again=True) as process:
        start = await asyncio.to_thread(process.wait_until_synced)
    if not proxy.restarts_write and (start.written or kernel.generation() != before):
        raise WrongResultError(f"a restart wrote {start.written} objects to the kernel; it should write none")
    return start


def _typical(starts: list[Start]) -> Start:
    return sorted(starts, key=lambda start: start.wall)[len(starts) // 2]
