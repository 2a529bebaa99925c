"""The part of the benchmark of ipvs mode that runs on any kernel runs to its end, and leaves nothing behind."""

from __future__ import annotations

import subprocess

from proxymode_agent.dataplane.ipvs.addresses import DEVICE
from proxymode_benchmarks.ipvs import native
from proxymode_benchmarks.ipvs.figures import Bound, Native


def test_a_load_with_ipvs_stood_in_for() -> None:
    found = Native(**native.in_process("20x3"))
    assert 0 < found.native_user_s + found.native_sys_s < 60
    assert found.native_s > 0
    links = subprocess.run(["ip", "-br", "link"], check=True, capture_output=True, text=True).stdout
    assert DEVICE not in links, "it has a network namespace of its own"


def test_addresses_alone_and_by_ip() -> None:
    found = Bound(**native.in_process("50"))
    assert found.count == 50
    assert min(found.ours_s, found.ip_s) > 0
