"""What is measured, and how the figures are made of it. Pure."""

from __future__ import annotations

import bisect
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Arrived(NamedTuple):
    """A report that its node runs what this revision told it: its resourceVersion, and when it was acknowledged."""

    revision: int
    version: int
    at: float


class Decided(NamedTuple):
    """A status of the ProxyMode: so many nodes are updated by this revision; when its watch brought it."""

    revision: int
    updated: int
    at: float


def reactions(reports: Iterable[Arrived], statuses: Iterable[Decided]) -> list[float]:
    """For every report the seconds until the operator's first decision that takes it into account.

    The operator hears reports in the order of their versions and counts the nodes that are updated. So its first
    status with k of them or more is the first that knows of the k-th report. The status is stored before the nodes
    are told that it gives their turn to. Reports that no status counts any more (the fleet was sent elsewhere) have no
    reaction.
    """
    by_revision: dict[int, list[Arrived]] = {}
    for report in reports:
        by_revision.setdefault(report.revision, []).append(report)
    heights: dict[int, tuple[list[int], list[float]]] = {}
    for status in statuses:
        counts, times = heights.setdefault(status.revision, ([], []))
        if not counts or status.updated > counts[-1]:
            counts.append(status.updated)
            times.append(status.at)
    result = []
    for revision, arrived in by_revision.items():
        counts, times = heights.get(revision, ([], []))
        for rank, report in enumerate(sorted(arrived, key=lambda r: r.version), start=1):
            at = bisect.bisect_left(counts, rank)
            if at < len(counts):
                result.append(max(0.0, times[at] - report.at))
    return result


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank; NaN of nothing."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run; README.md says what each figure is. None: not measured in this run."""

    nodes: int
    seconds: float
    violations: int
    operator_cpu_s: float
    operator_rss_mb: float
    api_requests: int
    api_writes_per_node: float
    p99_reconcile_ms: float
    p50_reconcile_ms: float
    most_writes_to_a_node: int
    startup_s: float | None
    idle_cpu_percent: float | None
    kills: int
    takeover_s_max: float | None
    seed: int

    def line(self) -> str:
        """One line of JSON."""
        return json.dumps({name: _short(getattr(self, name)) for name in self.__slots__})


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else float(f"{value:.4g}")
