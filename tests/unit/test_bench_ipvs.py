"""What the benchmark of ipvs mode says of what it measured."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from proxymode_benchmarks.ipvs.figures import Bound, Figures, Floor, KubeProxy, Machine, Native, Result, line, table
from proxymode_benchmarks.sync.cases import Case

OURS = Figures(
    load_s=0.5,
    load_user_s=0.3,
    load_sys_s=0.1,
    addresses_s=0.1,
    restart_s=0.2,
    warm_p50_ms=1.23456,
    warm_p99_ms=4.0,
    warm_changes=100,
    rss_mb=51.2,
    nftables_rss_mb=50.0,
)
FLOOR = Floor(ipvsadm_s=0.25, ip_s=0.15, floor_user_s=0.05, floor_sys_s=0.3)
RESULT = Result(Case(1000, 10), OURS, FLOOR, Native(native_s=0.07, native_user_s=0.05, native_sys_s=0.01))
GUEST = Machine("guest", 1.2, Bound(10_000, 1.5, 1.0))
HOST = Machine("host", 0.1, Bound(10_000, 0.5, 0.9))


def test_the_ratio_is_to_both_tools_together() -> None:
    assert RESULT.ratio == pytest.approx(1.25)


def test_the_last_line_is_for_programs() -> None:
    found = json.loads(line([RESULT], GUEST, HOST, 6.54321))
    (case,) = found["cases"]
    assert (case["services"], case["endpoints"], case["load_s"], case["floor_s"]) == (1000, 10, 0.5, 0.4)
    assert (case["warm_p50_ms"], case["rss_mb"], case["ratio"], case["native_user_s"]) == (1.23, 51.2, 1.25, 0.05)
    assert found["guest"] == {"name": "guest", "python_s": 1.2, "bound": {"count": 10_000, "ours_s": 1.5, "ip_s": 1.0}}
    assert (found["host"]["name"], found["modules_s"], found["python_emulation"]) == ("host", 6.54, 12.0)


def test_the_table_has_a_line_for_each_case_and_one_for_each_machine() -> None:
    heading, case, guest, host = table([RESULT], (GUEST, HOST)).splitlines()
    assert len(heading) == len(case)
    assert case.split()[:2] == ["1000x10", "0.5"]
    assert guest == (
        "guest: 10000 addresses in 1.5 s with routes, by ip -batch in 1 s without; a fixed piece of Python in 1.2 s"
    )
    assert host.startswith("host: 10000 addresses in 0.5 s")


def test_kube_proxy_itself_stands_beside_where_there_is_one() -> None:
    beside = replace(RESULT, kube_proxy=KubeProxy(cold_s=9.0, sync_s=4.2, cpu_s=3.0, rss_mb=71.0))
    said = table([beside], (GUEST, HOST)).splitlines()[2]
    assert said == "1000x10: kube-proxy has synced 9 s after its start, in 4.2 s; 3 s of CPU, 71 MB"
    assert json.loads(line([beside], GUEST, HOST, 1.0))["cases"][0]["kube_proxy"]["sync_s"] == 4.2
    assert json.loads(line([RESULT], GUEST, HOST, 1.0))["cases"][0]["kube_proxy"] is None
