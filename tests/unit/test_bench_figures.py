"""Percentiles, ratios, the table and the JSON line of the benchmarks."""

from __future__ import annotations

import json

import pytest

from proxymode_benchmarks.sync.cases import Case
from proxymode_benchmarks.sync.figures import Comparison, Figures, line, percentile, table


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7.0], 50, 7.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([1.0, 2.0, 3.0, 4.0], 50, 2.0),
        ([float(value) for value in range(1, 101)], 99, 99.0),
        ([float(value) for value in range(1, 11)], 99, 10.0),
        ([1.0, 2.0], 0, 1.0),
        ([1.0, 2.0], 100, 2.0),
    ],
)
def test_percentiles_are_values_that_were_measured(values: list[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="percentile 50 of 0 values"):
        percentile([], 50)


COMPARISON = Comparison(
    Case(1000, 2),
    Figures(cold_s=0.4, warm_p50_ms=2.0, rss_mb=55.0, first_packet_us=0.0, warm_changes=100),
    Figures(cold_s=0.2, warm_p50_ms=100.0, first_packet_us=2.0, warm_changes=20),
)


def test_a_ratio_above_one_is_in_our_favour_and_needs_both_figures() -> None:
    assert COMPARISON.ratio() == {"cold_s": 0.5, "warm_p50_ms": 50.0}


def test_the_line_has_what_could_not_be_measured_as_null() -> None:
    (case,) = json.loads(line([COMPARISON], "some peer", "some machine"))["cases"]
    assert (case["services"], case["endpoints"], case["cold_s"]) == (1000, 2, 0.4)
    assert case["peer"]["name"] == "some peer"
    assert case["peer"]["rss_mb"] is None
    assert case["ratio"]["warm_p50_ms"] == 50.0
    assert set(case["peer"]) - {"name"} <= set(case)


def test_the_table_has_three_rows_a_case() -> None:
    heading, names, ours, peer, ratio = table([COMPARISON], "some peer").splitlines()
    assert heading == "peer: some peer"
    assert names.split()[:3] == ["case", "proxy", "cold_s"]
    assert ours.split()[:3] == ["1000x2", "proxymode", "0.4"]
    assert peer.split()[:2] == ["peer", "0.2"]
    assert ratio.split()[:4] == ["peer", "/", "ours", "0.5"]
