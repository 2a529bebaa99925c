"""Where the kernel has IPVS: each case, and the addresses alone, beside the tools. One JSON object a line for each.

Each measurement has a network namespace of its own. IPVS keeps deleted real servers for two minutes, and looks through
all of them for every one that is added (ip_vs_trash_get_dest): what was measured before would slow down what is next.

python -m proxymode_benchmarks.ipvs.guest [SERVICESxENDPOINTS…]
"""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict
from typing import Final

from proxymode_benchmarks.ipvs import floor, ours, work
from proxymode_benchmarks.ipvs.figures import Bound, Figures, Machine
from proxymode_benchmarks.sync.cases import Case

ADDRESSES: Final = 10_000


def main() -> int:
    namespaces = _Namespaces()
    namespaces.next()
    print(json.dumps({"modules_s": ours.in_process("modules")}), flush=True)
    for case in map(Case.parse, sys.argv[1:]):
        namespaces.next()
        found = ours.in_process("ipvs", str(case))
        namespaces.next()
        figures = Figures(**found, **ours.in_process("nftables", str(case)))
        namespaces.next()
        print(json.dumps({"ours": asdict(figures), "floor": asdict(floor.load(case))}), flush=True)
    namespaces.next()
    bound = Bound(ADDRESSES, ours.bind(ADDRESSES), floor.bind(ADDRESSES).wall)
    machine = Machine(f"guest: Linux {platform.release()}, {os.cpu_count()} CPUs", work.seconds(), bound)
    print(json.dumps({"machine": asdict(machine)}), flush=True)
    return 0


class _Namespaces:
    """New network namespaces for this process; the old ones end with it, lest the kernel clears up meanwhile."""

    def __init__(self) -> None:
        self._kept: list[int] = []

    def next(self) -> None:
        floor.own_namespace()
        self._kept.append(os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC))


if __name__ == "__main__":
    sys.exit(main())
