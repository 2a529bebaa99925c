"""A module of the benchmarks in a fresh guest of its own, whose kernel has IPVS."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def run(module: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """The JSON objects that it prints, one a line, as they come. Raises CalledProcessError at the end if it failed."""
    command = [sys.executable, "-m", "proxymode_testbeds.vm", "run", "--", sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from map(json.loads, process.stdout)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
