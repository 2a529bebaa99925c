"""Taking ip_vs out of the kernel: for test files that `make test-vm` runs with nothing beside them."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

_DEADLINE_SECONDS = 300.0


def unload() -> None:
    """Namespaces of earlier tests hold the module until the kernel has taken them down."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while ipvs := [name for name in _loaded_modules() if name == "ip_vs" or name.startswith("ip_vs_")]:
        assert time.monotonic() < deadline, f"still in use: {ipvs}"
        subprocess.run(["modprobe", "--remove", *sorted(ipvs, reverse=True)], capture_output=True, check=False)
        time.sleep(0.1)


def _loaded_modules() -> list[str]:
    return [line.split()[0] for line in Path("/proc/modules").read_text().splitlines()]
