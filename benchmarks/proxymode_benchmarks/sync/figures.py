"""What was measured, and what is said about it: percentiles, ratios, the table and the line of JSON. Pure."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxymode_benchmarks.sync.cases import Case


@dataclass(frozen=True, slots=True)
class Figures:
    """One proxy in one case. None: it was not or cannot be measured; the README says what each is.

    `_s` seconds, `_ms` milliseconds, `_us` microseconds, `_mb` megabytes (10^6 bytes); `churn_cores` is CPU time by
    wall time. `warm_changes` and `churn_changes` are how many changes the percentiles are of.
    """

    cold_s: float | None = None
    sync_s: float | None = None
    cpu_s: float | None = None
    rss_mb: float | None = None
    warm_p50_ms: float | None = None
    warm_p99_ms: float | None = None
    cpu_ms_per_change: float | None = None
    churn_p50_ms: float | None = None
    churn_p99_ms: float | None = None
    churn_cores: float | None = None
    churn_rss_mb: float | None = None
    restart_s: float | None = None
    first_packet_us: float | None = None
    warm_changes: int | None = None
    churn_changes: int | None = None


_COUNTS: Final = ("warm_changes", "churn_changes")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours and the peer, measured one after the other in one run."""

    case: Case
    ours: Figures
    peer: Figures

    def ratio(self) -> dict[str, float]:
        """How many times the peer's figure is ours, for what both have and ours is not zero."""
        pairs = (
            (field.name, getattr(self.peer, field.name), getattr(self.ours, field.name)) for field in fields(Figures)
        )
        return {
            name: _rounded(theirs / ours)
            for name, theirs, ours in pairs
            if name not in _COUNTS and theirs is not None and ours
        }


def percentile(values: Iterable[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value that is not below `percent` percent of them.

    Raises ValueError without values, and where percent is not within 0 to 100.
    """
    ordered = sorted(values)
    if not ordered or not 0 <= percent <= 100:
        raise ValueError(f"no percentile {percent} of {len(ordered)} values")
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def table(comparisons: Sequence[Comparison], peer: str) -> str:
    """All figures for people: a row for ours, one for the peer, one for the ratio."""
    names = [field.name for field in fields(Figures)]
    rows = [["case", "proxy", *names]]
    for comparison in comparisons:
        ratio = comparison.ratio()
        case = str(comparison.case)
        rows.append([case, "proxymode", *(_shown(getattr(comparison.ours, name)) for name in names)])
        rows.append(["", "peer", *(_shown(getattr(comparison.peer, name)) for name in names)])
        rows.append(["", "peer / ours", *(_shown(ratio.get(name)) for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"peer: {peer}", *lines])


def line(comparisons: Sequence[Comparison], peer: str, machine: str) -> str:
    """All figures for programs: one JSON object."""
    cases = [
        {
            "services": comparison.case.services,
            "endpoints": comparison.case.endpoints,
            **_plain(comparison.ours),
            "peer": {"name": peer, **_plain(comparison.peer)},
            "ratio": comparison.ratio(),
        }
        for comparison in comparisons
    ]
    return json.dumps({"cases": cases, "machine": machine})


def _plain(figures: Figures) -> dict[str, Any]:
    return {name: None if value is None else _rounded(value) for name, value in asdict(figures).items()}


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.3g}")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{_rounded(value):g}"
