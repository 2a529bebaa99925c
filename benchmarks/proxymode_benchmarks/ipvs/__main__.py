"""`python -m proxymode_benchmarks.ipvs`: prints a table, and as its last line one JSON object.

Runs where the kernel has IPVS: `make bench-ipvs` starts it in the VM.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time

from proxymode_benchmarks.ipvs import figures, floor, ours
from proxymode_benchmarks.sync.cases import Case

CASES = (Case(1000, 10), Case(5000, 2))
ADDRESSES = 10_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proxymode_benchmarks.ipvs", description=__doc__)
    parser.add_argument(
        "cases", nargs="*", type=_case, default=list(CASES), metavar="SERVICESxENDPOINTS", help="default: both"
    )
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root: it makes a network namespace and programs IPVS in it")
    floor.own_namespace()
    results = []
    for case in options.cases:
        began = time.monotonic()
        own = ours.run(case)
        results.append(figures.Result(case, own, floor.load(case)))
        took = f"{case}: measured in {time.monotonic() - began:.0f} s"
        print(f"{took}; load {own.load_s:.3g} s, {results[-1].ratio:.3g} times the floor", file=sys.stderr, flush=True)
    bound = figures.Addresses(ADDRESSES, ours.bind(ADDRESSES), floor.bind(ADDRESSES))
    print(figures.table(results, bound))
    print(figures.line(results, bound, f"Linux {platform.release()}, {os.cpu_count()} CPUs"), flush=True)
    return 0


def _case(text: str) -> Case:
    try:
        return Case.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
