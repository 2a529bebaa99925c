"""`python -m proxymode_demo`: runs the demo; the last line is one JSON object with what was measured."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from proxymode_demo.story import DemoError, tell


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proxymode_demo", description=__doc__)
    parser.add_argument("--nodes", type=int, default=4, help="how many nodes (default: %(default)s)")
    parser.add_argument("--logs", type=Path, help="folder for logs (default: a new one under the system's)")
    options = parser.parse_args()
    if options.nodes < 1:
        parser.error(f"argument --nodes: {options.nodes} is not a number of nodes; give 1 or more")
    if os.geteuid() != 0:
        parser.error("needs root: it boots a VM that shares this host's files, and probes /dev/kvm")
    folder = options.logs or Path(tempfile.mkdtemp(prefix="proxymode-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        outcome = asyncio.run(tell(options.nodes, folder))
    except (DemoError, TimeoutError) as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1
    print(f"\nlogs of every part: {folder}")
    print(outcome.line(), flush=True)
    if not outcome.good:
        print(
            "not as promised. Where clients of all nodes time out at the same moments, the emulated VM got too little "
            f"of this machine (load {os.getloadavg()[1]:.1f} on {os.cpu_count()} CPUs): try again while it is quiet",
            file=sys.stderr,
        )
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
