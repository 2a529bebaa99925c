"""`python -m proxymode_benchmarks.switch`: prints tables, and as its last line one JSON object.

First what becomes of traffic, in a guest with Debian's kernel; then what a hand-over costs, on this host's kernel.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from proxymode_benchmarks import binary, guest
from proxymode_benchmarks.switch import kube_proxy, node, scale
from proxymode_testbeds.apiserver import ApiServer

_COLUMNS: Final = (
    ("who", 18),
    ("direction", 15),
    ("established", 11),
    ("lost", 5),
    ("new", 6),
    ("failed", 6),
    ("udp_sent", 8),
    ("udp_lost", 8),
    ("max_gap_ms", 10),
    ("seconds", 7),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proxymode_benchmarks.switch", description=__doc__)
    parser.add_argument("--connections", default="100", help="long-lived ones in the guest (default: %(default)s)")
    parser.add_argument("--new-rate", default="10", help="new ones a second (default: %(default)s)")
    options = parser.parse_args()
    print(row({name: name for name, _ in _COLUMNS}))
    asked = ["--connections", options.connections, "--new-rate", options.new_rate]
    try:
        runs = asyncio.run(_runs(asked, binary.find()))
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    handover = [scale.in_process(number) for number in scale.SIZES]
    for cost in handover:
        print(scale.table(cost))
    print(json.dumps({"runs": runs, "handover": handover, "machine": f"Linux {platform.release()}"}), flush=True)
    return 0


async def _runs(asked: list[str], program: Path | None) -> list[dict[str, Any]]:
    """What the guest measures, printed as it comes. Raises CalledProcessError, and what ApiServer.start raises."""
    if program is None:
        return await asyncio.to_thread(_in_guest, asked)
    fleet = node.fleet()
    with tempfile.TemporaryDirectory(prefix="proxymode-bench-") as folder:
        async with ApiServer.start(Path(folder)) as api:
            items = {"apiVersion": "v1", "kind": "List", "items": list(kube_proxy.objects(fleet))}
            await api.kubectl("apply", "-f", "-", stdin=json.dumps(items))
            for name, status in kube_proxy.addresses(fleet):
                await api.kubectl("patch", "node", name, "--subresource=status", "--patch", json.dumps(status))
            kubeconfig = api.kubeconfig(server=api.guest_url)
            return await asyncio.to_thread(
                _in_guest, [*asked, "--kube-proxy", str(program), "--kubeconfig", str(kubeconfig)]
            )


def _in_guest(asked: list[str]) -> list[dict[str, Any]]:
    runs = []
    for run in guest.run("proxymode_benchmarks.switch.guest", *asked):
        runs.append(run)
        print(row(run), flush=True)
    return runs


def row(run: dict[str, Any]) -> str:
    """One run's figures, or the heads of their columns, in one line."""
    return "  ".join(f"{run[name]!s:{'<' if name in ('who', 'direction') else '>'}{width}}" for name, width in _COLUMNS)


if __name__ == "__main__":
    sys.exit(main())
