"""`python -m proxymode_sim`: progress, and as its last line one JSON object. Exit code 1 if a promise was broken."""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
from pathlib import Path

from proxymode_sim.options import parse
from proxymode_sim.run import broken_lines, say, simulate


def main() -> int:
    options = parse(sys.argv[1:])
    # What 5,000 agents and the checker hold is walked for a second at a time, in which all agents and both clocks stand
    # still. Hardly any of it is in a cycle, and the process ends soon.
    gc.disable()
    with tempfile.TemporaryDirectory(prefix="proxymode-sim-") as scratch:
        result, broken = asyncio.run(simulate(options, options.folder or Path(scratch)))
    if broken:
        say(broken_lines(broken))
    print(result.line(), flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
