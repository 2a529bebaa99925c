"""Waits until the machine has nothing else to do, so that what is measured next is that alone.

An API server that was just filled works on for seconds: its collector runs, its store is written out.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final, NamedTuple

IDLE: Final = 0.95
"""Of the CPUs' time, over a period: nothing else runs."""
_PERIOD_SECONDS: Final = 0.5
_LIMIT_SECONDS: Final = 20.0


class CpuTime(NamedTuple):
    """Clock ticks of all CPUs since the machine was started (proc_stat(5), the line `cpu`)."""

    idle: int
    total: int

    @classmethod
    def of(cls, stat: str) -> CpuTime:
        """Read from the text of /proc/stat. What a hypervisor took (steal) is not idle."""
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, stat.split(maxsplit=9)[1:9])
        return cls(idle + iowait, user + nice + system + idle + iowait + irq + softirq + steal)


def idle_share(before: CpuTime, after: CpuTime) -> float:
    """How much of the time between two looks the CPUs were idle; 0 where no time has passed."""
    passed = after.total - before.total
    return (after.idle - before.idle) / passed if passed > 0 else 0.0


def wait_until_quiet() -> None:
    """Return when the CPUs have been idle for half a second, or after 20 seconds in which they were not."""
    stat = Path("/proc/stat")
    end = time.monotonic() + _LIMIT_SECONDS
    before = CpuTime.of(stat.read_text())
    while time.monotonic() < end:
        time.sleep(_PERIOD_SECONDS)
        after = CpuTime.of(stat.read_text())
        if idle_share(before, after) >= IDLE:
            return
        before = after
