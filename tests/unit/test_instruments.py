"""What is counted is what Prometheus reads, and counting it takes none of Prometheus' library."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxymode_agent.instruments import Instruments


def read(made: Instruments) -> dict[str, float]:
    families = text_string_to_metric_families(generate_latest(made.registry).decode())
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sample.labels.items()): sample.value
        for family in families
        if not family.name.startswith("process_")
        for sample in family.samples
    }


def test_counters_and_gauges_are_written_as_they_stand() -> None:
    made = Instruments()
    count, by_kind = made.counter("a_total", "A."), made.counters("b_total", "B.", ("kind", "result"))
    level, live = made.gauge("c", "C."), made.gauge("d", "D.")
    gone = made.gauges("e", "E.", ("of",))
    count.inc()
    count.inc(2.5)
    by_kind.labels("x", "y").inc()
    level.set(4)
    live.set_function(lambda: 7.0)
    gone.labels("z").set(1)
    gone.clear()
    assert read(made) == {"a_total": 3.5, "b_total kind=x result=y": 1, "c": 4, "d": 7}
    by_kind.labels("x", "y").inc()
    assert read(made)["b_total kind=x result=y"] == 2


def test_a_bucket_has_what_is_not_above_its_end() -> None:
    made = Instruments()
    seconds = made.histogram("s", "S.", (0.0, 0.5, 1.0))
    for value in (0.0, 0.5, 0.75, 1.0, 3.0):
        seconds.observe(value)
    assert read(made) == {
        "s_bucket le=0.0": 1,
        "s_bucket le=0.5": 2,
        "s_bucket le=1.0": 4,
        "s_bucket le=+Inf": 5,
        "s_count": 5,
        "s_sum": 5.25,
    }


def test_every_combination_of_labels_has_buckets_of_its_own() -> None:
    made = Instruments()
    by_kind = made.histograms("s", "S.", ("kind",), (1.0,))
    by_kind.labels("a").observe(0.5)
    by_kind.labels("b").observe(2)
    found = read(made)
    assert (found["s_bucket kind=a le=1.0"], found["s_bucket kind=b le=1.0"]) == (1, 0)


def test_labels_that_are_too_many_or_too_few_are_refused() -> None:
    by_kind = Instruments().counters("a_total", "A.", ("kind", "result"))
    with pytest.raises(ValueError, match="one for each of kind, result"):
        by_kind.labels("x")


def test_what_is_told_of_the_process_is_the_librarys() -> None:
    assert b"process_resident_memory_bytes" in generate_latest(Instruments().registry)


def test_the_agents_parts_bring_neither_that_library_nor_what_few_starts_need() -> None:
    late = (
        "ctypes",
        "dataclasses",
        "prometheus_client",
        "proxymode_agent.answers",
        "proxymode_agent.dataplane.ipvs.dataplane",
        "proxymode_agent.switch.handover",
        "proxymode_agent.takeover",
        "random",
    )
    code = f"import sys, proxymode_agent.parts; print(*(name for name in {late} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_what_every_start_looks_for_of_a_kube_proxy_is_found_with_little() -> None:
    late = ("ctypes", "dataclasses", "hashlib", "proxymode_agent.dataplane.ipvs.listing")
    code = f"import sys, proxymode_agent.takeover; print(*(name for name in {late} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
