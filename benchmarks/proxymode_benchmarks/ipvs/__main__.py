"""`python -m proxymode_benchmarks.ipvs`: prints a table, and as its last line one JSON object.

First this host's own share, then everything in a guest whose kernel has IPVS.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from typing import Any, Final

from proxymode_benchmarks import binary, guest
from proxymode_benchmarks.ipvs import figures, kube_proxy, native, work
from proxymode_benchmarks.ipvs.guest import ADDRESSES
from proxymode_benchmarks.sync.cases import Case

CASES: Final = (Case(1000, 10), Case(5000, 2))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proxymode_benchmarks.ipvs", description=__doc__)
    parser.add_argument(
        "cases", nargs="*", type=_case, default=list(CASES), metavar="SERVICESxENDPOINTS", help="default: both"
    )
    cases: list[Case] = parser.parse_args().cases
    if os.geteuid() != 0:
        parser.error("needs root: it makes network namespaces and programs IPVS in one")
    bound = figures.Bound(**native.in_process(str(ADDRESSES)))
    name = f"host: Linux {platform.release()}, {os.cpu_count()} CPUs, IPVS stood in for"
    host = figures.Machine(name, work.seconds(), bound)
    loads = [figures.Native(**native.in_process(str(case))) for case in cases]
    modules, *measured, machine = _guest(cases)
    program = binary.find()
    results = [
        figures.Result(
            case,
            figures.Figures(**found["ours"]),
            figures.Floor(**found["floor"]),
            load,
            kube_proxy.run(program, case) if program is not None else None,
        )
        for case, found, load in zip(cases, measured, loads, strict=True)
    ]
    found = machine["machine"]
    emulated = figures.Machine(found["name"], found["python_s"], figures.Bound(**found["bound"]))
    print(figures.table(results, (emulated, host)))
    print(figures.line(results, emulated, host, modules["modules_s"]), flush=True)
    return 0


def _guest(cases: list[Case]) -> list[dict[str, Any]]:
    """What is measured in a guest; a line to standard error as it comes. Raises CalledProcessError."""
    found = []
    for one in guest.run("proxymode_benchmarks.ipvs.guest", *map(str, cases)):
        print(json.dumps(one), file=sys.stderr, flush=True)
        found.append(one)
    return found


def _case(text: str) -> Case:
    try:
        return Case.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
