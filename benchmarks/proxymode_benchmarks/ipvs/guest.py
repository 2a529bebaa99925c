"""Where the kernel has IPVS: each case, and the addresses alone, beside the tools. One JSON object a line for each.

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
    floor.own_namespace()
    print(json.dumps({"modules_s": ours.in_process("modules")}), flush=True)
    for case in map(Case.parse, sys.argv[1:]):
        figures = Figures(**ours.in_process("ipvs", str(case)), **ours.in_process("nftables", str(case)))
        print(json.dumps({"ours": asdict(figures), "floor": asdict(floor.load(case))}), flush=True)
    bound = Bound(ADDRESSES, ours.bind(ADDRESSES), floor.bind(ADDRESSES).wall)
    machine = Machine(f"guest: Linux {platform.release()}, {os.cpu_count()} CPUs", work.seconds(), bound)
    print(json.dumps({"machine": asdict(machine)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
