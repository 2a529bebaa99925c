"""`python -m proxymode_benchmarks.sync`: prints a table, and as its last line one JSON object."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from proxymode_benchmarks import binary
from proxymode_benchmarks.sync import figures, installed, kernel, kubeproxy, peer, runs
from proxymode_benchmarks.sync.cases import CASES, Case
from proxymode_benchmarks.sync.cluster import Cluster
from proxymode_benchmarks.sync.process import Proxymode
from proxymode_testbeds.apiserver import build


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proxymode_benchmarks.sync", description=__doc__)
    parser.add_argument(
        "cases", nargs="*", type=_case, default=list(CASES), metavar="SERVICESxENDPOINTS", help="default: all five"
    )
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root: it makes a network namespace and programs nf_tables in it")
    build.assets()  # takes minutes, and the network, the first time
    agent = installed.environment(installed.root())
    kernel.own_namespace()
    kernel.load_modules()
    program = binary.find()
    name = f"kube-proxy itself, {program}" if program is not None else peer.NAME
    comparisons = []
    for case in options.cases:
        with tempfile.TemporaryDirectory(prefix="proxymode-bench-") as folder:
            began = time.monotonic()
            comparisons.append(asyncio.run(_compare(case, Path(folder), agent, program)))
            print(f"{case}: measured in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(figures.table(comparisons, name))
    print(
        figures.line(
            comparisons, name, f"Linux {platform.release()}, {os.cpu_count()} CPUs, {installed.interpreter()}"
        ),
        flush=True,
    )
    return 0


async def _compare(case: Case, folder: Path, agent: Path, program: Path | None) -> figures.Comparison:
    """Ours, then the peer: kube-proxy's own binary over the same API server, or without one its ruleset."""
    async with Cluster.of(case, folder / "api") as cluster:
        own = await runs.measure(Proxymode(agent), case, cluster, folder)
        if program is not None:
            return figures.Comparison(
                case, own, await runs.measure(kubeproxy.KubeProxy(program), case, cluster, folder)
            )
    return figures.Comparison(case, own, peer.measure(case))


def _case(text: str) -> Case:
    try:
        return Case.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
