"""What was measured in ipvs mode, and what is said about it: the table and the line of JSON. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxymode_benchmarks.sync.cases import Case


@dataclass(frozen=True, slots=True)
class Figures:
    """Our process in one case. `load_s`: the first full sync over an empty kernel, of it `addresses_s` for kube-ipvs0;
    `restart_s`: a full sync over what is there, which wrote nothing; `warm_p50_ms`, `warm_p99_ms`: an EndpointSlice in
    which one endpoint is another, from its JSON to the kernel, of `warm_changes` such; `rss_mb`: the highest resident
    set (10^6 bytes)."""

    load_s: float
    addresses_s: float
    restart_s: float
    warm_p50_ms: float
    warm_p99_ms: float
    warm_changes: int
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Floor:
    """The tools, in seconds: `ipvsadm -R` and `ip -batch` of the same virtual servers, real servers and addresses.
    Neither makes routes or an nf_tables table."""

    ipvsadm_s: float
    ip_s: float

    @property
    def seconds(self) -> float:
        return self.ipvsadm_s + self.ip_s


@dataclass(frozen=True, slots=True)
class Result:
    """Both, measured one after the other in one run."""

    case: Case
    ours: Figures
    floor: Floor

    @property
    def ratio(self) -> float:
        """How many times the floor our full load takes."""
        return self.ours.load_s / self.floor.seconds


@dataclass(frozen=True, slots=True)
class Addresses:
    """So many addresses to kube-ipvs0, in seconds: ours with the route that each gets, and `ip -batch` without."""

    count: int
    ours_s: float
    ip_s: float


def table(results: Sequence[Result], addresses: Addresses) -> str:
    """All figures for people."""
    names = ["load s", "addresses s", "restart s", "p50 ms", "p99 ms", "RSS MB", "ipvsadm s", "ip s", "ratio"]
    rows = [["case", *names]]
    for result in results:
        own, floor = result.ours, result.floor
        values = (own.load_s, own.addresses_s, own.restart_s, own.warm_p50_ms, own.warm_p99_ms, own.rss_mb)
        shown = (*values, floor.ipvsadm_s, floor.ip_s, result.ratio)
        rows.append([str(result.case), *(f"{_rounded(value):g}" for value in shown)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.append(
        f"{addresses.count} addresses: {_rounded(addresses.ours_s):g} s with routes, "
        f"ip -batch {_rounded(addresses.ip_s):g} s without"
    )
    return "\n".join(lines)


def line(results: Sequence[Result], addresses: Addresses, machine: str) -> str:
    """All figures for programs: one JSON object."""
    cases: list[dict[str, Any]] = [
        {
            "services": result.case.services,
            "endpoints": result.case.endpoints,
            **_plain(result.ours),
            "floor_s": _rounded(result.floor.seconds),
            **_plain(result.floor),
            "ratio": _rounded(result.ratio),
        }
        for result in results
    ]
    return json.dumps({"cases": cases, "addresses": _plain(addresses), "machine": machine})


def _plain(figures: Figures | Floor | Addresses) -> dict[str, float]:
    return {name: _rounded(value) for name, value in asdict(figures).items()}


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.3g}")
