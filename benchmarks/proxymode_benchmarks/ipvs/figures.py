"""What was measured in ipvs mode, and what is said about it: the table and the line of JSON. Pure.

`_s` are seconds of wall time, `_user_s` and `_sys_s` of CPU time, `_ms` milliseconds, `_mb` 10^6 bytes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxymode_benchmarks.sync.cases import Case


@dataclass(frozen=True, slots=True)
class Figures:
    """Our process in one case, where the kernel has IPVS. `load_s`: the first full sync over an empty kernel, of it
    `addresses_s` for kube-ipvs0; `restart_s`: a full sync over what is there, which wrote nothing; `warm_p50_ms`,
    `warm_p99_ms`: an EndpointSlice in which one endpoint is another, from its JSON to the kernel, of `warm_changes`
    such; `rss_mb`: the highest resident set; `nftables_rss_mb`: that of the same process in nftables mode."""

    load_s: float
    load_user_s: float
    load_sys_s: float
    addresses_s: float
    restart_s: float
    warm_p50_ms: float
    warm_p99_ms: float
    warm_changes: int
    rss_mb: float
    nftables_rss_mb: float


@dataclass(frozen=True, slots=True)
class Floor:
    """The tools: `ipvsadm -R` and `ip -batch` of the same virtual servers, real servers and addresses. Neither makes
    routes or an nf_tables table."""

    ipvsadm_s: float
    ip_s: float
    floor_user_s: float
    floor_sys_s: float

    @property
    def seconds(self) -> float:
        return self.ipvsadm_s + self.ip_s


@dataclass(frozen=True, slots=True)
class Bound:
    """So many addresses to kube-ipvs0: ours with the route that each gets, and `ip -batch` without."""

    count: int
    ours_s: float
    ip_s: float


@dataclass(frozen=True, slots=True)
class Native:
    """The load of one case on this host's own CPUs and kernel, which need not have IPVS: a stand-in answers what IPVS
    is told, so its work in the kernel is not in it; nf_tables, addresses and routes are real."""

    native_s: float
    native_user_s: float
    native_sys_s: float


@dataclass(frozen=True, slots=True)
class KubeProxy:
    """kube-proxy itself in ipvs mode, in a guest: from the start of its process to its first sync of both families,
    how long of it the syncs took, its CPU time and highest resident set with its children's."""

    cold_s: float
    sync_s: float
    cpu_s: float
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Result:
    """One case; `kube_proxy` where there is a binary."""

    case: Case
    ours: Figures
    floor: Floor
    native: Native
    kube_proxy: KubeProxy | None = None

    @property
    def ratio(self) -> float:
        """How many times the floor our full load takes, both measured one after the other in one guest."""
        return self.ours.load_s / self.floor.seconds


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a run was made. `python_s`: CPU seconds of a fixed piece of Python; `bound`: the addresses alone."""

    name: str
    python_s: float
    bound: Bound


def table(results: Sequence[Result], machines: Sequence[Machine]) -> str:
    """All figures for people."""
    names = ["load s", "user", "sys", "addresses s", "restart s", "p50 ms", "p99 ms", "RSS MB", "nftables MB"]
    rows = [["case", *names, "ipvsadm s", "ip s", "ratio", "native user", "sys"]]
    for result in results:
        own, floor, native = result.ours, result.floor, result.native
        values = (own.load_s, own.load_user_s, own.load_sys_s, own.addresses_s, own.restart_s, own.warm_p50_ms)
        beside = (own.warm_p99_ms, own.rss_mb, own.nftables_rss_mb, floor.ipvsadm_s, floor.ip_s, result.ratio)
        shown = (*values, *beside, native.native_user_s, native.native_sys_s)
        rows.append([str(result.case), *(f"{_rounded(value):g}" for value in shown)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    for result in results:
        if (peer := result.kube_proxy) is not None:
            cold, sync, cpu, rss = (f"{_rounded(value):g}" for value in asdict(peer).values())
            lines.append(
                f"{result.case}: kube-proxy has synced {cold} s after its start, in {sync} s; {cpu} s of CPU, {rss} MB"
            )
    for machine in machines:
        count, ours, ip = machine.bound.count, _rounded(machine.bound.ours_s), _rounded(machine.bound.ip_s)
        lines.append(
            f"{machine.name}: {count} addresses in {ours:g} s with routes, by ip -batch in {ip:g} s without; "
            f"a fixed piece of Python in {_rounded(machine.python_s):g} s"
        )
    return "\n".join(lines)


def line(results: Sequence[Result], guest: Machine, host: Machine, modules_s: float) -> str:
    """All figures for programs: one JSON object."""
    cases: list[dict[str, Any]] = [
        {
            "services": result.case.services,
            "endpoints": result.case.endpoints,
            **asdict(result.ours),
            "floor_s": result.floor.seconds,
            **asdict(result.floor),
            "ratio": result.ratio,
            **asdict(result.native),
            "kube_proxy": None if result.kube_proxy is None else asdict(result.kube_proxy),
        }
        for result in results
    ]
    emulation = guest.python_s / host.python_s
    found = {"cases": cases, "modules_s": modules_s, "guest": asdict(guest), "host": asdict(host)}
    return json.dumps(_plain(found | {"python_emulation": emulation}))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else _rounded(value)


def _rounded(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value
