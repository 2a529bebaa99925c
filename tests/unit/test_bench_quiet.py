"""Whether the machine is quiet, by /proc/stat."""

from __future__ import annotations

from pathlib import Path

from proxymode_benchmarks.quiet import IDLE, CpuTime, idle_share

STAT = "cpu  100 5 50 1000 20 3 2 10 0 0\ncpu0 50 2 25 500 10 1 1 5 0 0\n"


def test_time_that_a_hypervisor_took_is_not_idle() -> None:
    assert CpuTime.of(STAT) == CpuTime(idle=1020, total=1190)


def test_the_machines_own_file_is_read() -> None:
    found = CpuTime.of(Path("/proc/stat").read_text())
    assert 0 < found.idle <= found.total


def test_idle_is_a_share_of_the_time_that_has_passed() -> None:
    before = CpuTime(idle=1000, total=2000)
    assert idle_share(before, CpuTime(idle=1100, total=2100)) == 1.0 > IDLE
    assert idle_share(before, CpuTime(idle=1050, total=2100)) == 0.5 < IDLE
    assert idle_share(before, before) == 0.0
