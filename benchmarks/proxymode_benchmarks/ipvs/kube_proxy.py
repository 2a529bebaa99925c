"""The peer, where there is its binary: kube-proxy in ipvs mode, as a node starts it, in a guest of its own.

On the host it fills an API server and boots the guest; `python -m proxymode_benchmarks.ipvs.kube_proxy PROGRAM
KUBECONFIG` is what runs there, and prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxymode_agent.dataplane.ipvs.count import Count
from proxymode_api.modes import Mode
from proxymode_benchmarks import guest
from proxymode_benchmarks.ipvs.figures import KubeProxy
from proxymode_benchmarks.sync.cluster import Cluster
from proxymode_benchmarks.sync.kubeproxy import KubeProxyRun

if TYPE_CHECKING:
    from proxymode_benchmarks.sync.cases import Case


def run(program: Path, case: Case) -> KubeProxy:
    """Its whole start in one case. Raises CalledProcessError, and what ApiServer.start raises."""
    return asyncio.run(_run(program, case))


async def _run(program: Path, case: Case) -> KubeProxy:
    with tempfile.TemporaryDirectory(prefix="proxymode-bench-") as folder:
        async with Cluster.of(case, Path(folder)) as cluster:
            asked = str(program), str(cluster.guests_kubeconfig)
            (found,) = await asyncio.to_thread(lambda: [*guest.run("proxymode_benchmarks.ipvs.kube_proxy", *asked)])
            return KubeProxy(**found)


def measure(program: Path, kubeconfig: Path) -> KubeProxy:
    """In the current namespace, of which IPVS is empty. Raises ProcessError."""
    count = Count()
    with (
        tempfile.TemporaryDirectory() as folder,
        KubeProxyRun(program, kubeconfig, Path(folder), Mode.IPVS, lambda: count.virtual_servers() or 0) as process,
    ):
        start = process.wait_until_synced()
    count.close()
    return KubeProxy(start.wall, start.sync, start.cpu, start.rss / 1e6)


def main() -> int:
    program, kubeconfig = map(Path, sys.argv[1:])
    subprocess.run(["modprobe", "--all", "ip_vs", "ip_vs_rr", "dummy", "ip_set"], check=True)
    found: dict[str, Any] = asdict(measure(program, kubeconfig))
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
