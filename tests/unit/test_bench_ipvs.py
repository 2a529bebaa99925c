"""What the benchmark of ipvs mode says of what it measured."""

from __future__ import annotations

import json

import pytest

from proxymode_benchmarks.ipvs.figures import Addresses, Figures, Floor, Result, line, table
from proxymode_benchmarks.sync.cases import Case

OURS = Figures(
    load_s=0.5, addresses_s=0.1, restart_s=0.2, warm_p50_ms=1.23456, warm_p99_ms=4.0, warm_changes=100, rss_mb=51.2
)
RESULT = Result(Case(1000, 10), OURS, Floor(ipvsadm_s=0.25, ip_s=0.15))
ADDRESSES = Addresses(10_000, 1.5, 1.0)


def test_the_ratio_is_to_both_tools_together() -> None:
    assert RESULT.ratio == pytest.approx(1.25)


def test_the_last_line_is_for_programs() -> None:
    found = json.loads(line([RESULT], ADDRESSES, "Linux 6.1"))
    (case,) = found["cases"]
    assert (case["services"], case["endpoints"], case["load_s"], case["floor_s"]) == (1000, 10, 0.5, 0.4)
    assert (case["warm_p50_ms"], case["rss_mb"], case["ratio"]) == (1.23, 51.2, 1.25)
    assert found["addresses"] == {"count": 10_000, "ours_s": 1.5, "ip_s": 1.0}
    assert found["machine"] == "Linux 6.1"


def test_the_table_has_a_line_for_each_case_and_one_for_the_addresses() -> None:
    heading, case, addresses = table([RESULT], ADDRESSES).splitlines()
    assert len(heading) == len(case)
    assert case.split()[:2] == ["1000x10", "0.5"]
    assert addresses == "10000 addresses: 1.5 s with routes, ip -batch 1 s without"
