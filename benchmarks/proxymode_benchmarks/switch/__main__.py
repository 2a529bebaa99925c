"""`python -m proxymode_benchmarks.switch`: prints tables, and as its last line one JSON object.

First what becomes of traffic, in a guest with Debian's kernel; then what a hand-over costs, on this host's kernel.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from typing import Any, Final

from proxymode_benchmarks.switch import scale

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
    runs: list[dict[str, Any]] = []
    guest = [sys.executable, "-m", "proxymode_testbeds.vm", "run", "--", sys.executable]
    guest += ["-m", "proxymode_benchmarks.switch.guest"]
    guest += ["--connections", options.connections, "--new-rate", options.new_rate]
    with subprocess.Popen(guest, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            runs.append(json.loads(line))
            print(row(runs[-1]), flush=True)
    if process.returncode:
        return process.returncode
    handover = [scale.in_process(number) for number in scale.SIZES]
    for cost in handover:
        print(scale.table(cost))
    print(json.dumps({"runs": runs, "handover": handover, "machine": f"Linux {platform.release()}"}), flush=True)
    return 0


def row(run: dict[str, Any]) -> str:
    """One run's figures, or the heads of their columns, in one line."""
    return "  ".join(f"{run[name]!s:{'<' if name in ('who', 'direction') else '>'}{width}}" for name, width in _COLUMNS)


if __name__ == "__main__":
    sys.exit(main())
