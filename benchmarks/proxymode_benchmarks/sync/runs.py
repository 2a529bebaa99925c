"""The agent in one case: cold start, first packet, changes one by one, changes at a rate, restart."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
from typing import TYPE_CHECKING, Final

from proxymode_benchmarks.sync import cases, kernel
from proxymode_benchmarks.sync.changes import Replacing
from proxymode_benchmarks.sync.cluster import Cluster
from proxymode_benchmarks.sync.connects import first_packet_cost
from proxymode_benchmarks.sync.figures import Figures, percentile
from proxymode_benchmarks.sync.process import Agent

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_benchmarks.sync.cases import Case
    from proxymode_benchmarks.sync.process import Start

STARTS: Final = 3
"""Cold starts and restarts are made that often; the figures are those of the median."""


class WrongResultError(Exception):
    """The kernel does not hold what it should, so that there is nothing to measure."""


async def measure(case: Case, folder: Path) -> Figures:
    """All figures, in the current namespace, which is left without our tables. Raises AgentError, WrongResultError,
    TimeoutError, and what starting the API server raises."""
    async with Cluster.of(case, folder / "api") as cluster:
        try:
            return await _measure(case, cluster, folder)
        finally:
            _remove()


async def _measure(case: Case, cluster: Cluster, folder: Path) -> Figures:
    cold = [await _start(cluster, folder) for _ in range(STARTS - 1)]
    with Agent(cluster.kubeconfig, folder) as agent:
        cold.append(await asyncio.to_thread(agent.wait_until_synced))
        first_packet = await asyncio.to_thread(first_packet_cost, cases.cluster_ip(case.probe))
        endpoints = kernel.EndpointMap()
        replacing = Replacing(case, cluster, endpoints, agent.cpu)
        one_by_one = await replacing.warm()
        at_a_rate = await replacing.churn()
        endpoints.close()
        churn_rss = agent.peak_rss()
    restarts = [await _restart(cluster, folder) for _ in range(STARTS)]
    typical = sorted(cold, key=lambda start: start.wall)[STARTS // 2]
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
        restart_s=statistics.median(start.wall for start in restarts),
        first_packet_us=first_packet * 1e6,
        warm_changes=len(one_by_one.latencies),
        churn_changes=len(at_a_rate.latencies),
    )


async def _start(cluster: Cluster, folder: Path) -> Start:
    """Start over an empty kernel, and leave one."""
    with Agent(cluster.kubeconfig, folder) as agent:
        start = await asyncio.to_thread(agent.wait_until_synced)
    _remove()
    return start


async def _restart(cluster: Cluster, folder: Path) -> Start:
    """Start over what is there. Raises WrongResultError when anything was written."""
    before = kernel.generation()
    with Agent(cluster.kubeconfig, folder, verbose=True) as agent:
        start = await asyncio.to_thread(agent.wait_until_synced)
    if start.written or kernel.generation() != before:
        raise WrongResultError(f"a restart wrote {start.written} objects to the kernel; it should write none")
    return start


def _remove() -> None:
    for family in ("ip", "ip6"):
        subprocess.run(["nft", "delete", "table", family, "proxymode"], check=True)
