"""A mode of the agent in a process of its own: API objects as JSON in, the kernel programmed.

What it leaves out of an agent is what is no matter of the mode: the API server's answers, the engine's pauses. So its
resident set is that of a smaller process; the agent's is measured by the benchmark of nftables mode.
"""

from __future__ import annotations

import ipaddress
import json
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from proxymode_agent.dataplane.ipvs.addresses import Addresses
from proxymode_agent.dataplane.ipvs.dataplane import IpvsDataplane
from proxymode_agent.dataplane.ipvs.model import BindAddress
from proxymode_agent.kube.objects import ObjectKey, decode_endpoint_slice, decode_service
from proxymode_agent.services.model import DataplaneConfig, PodNetworks
from proxymode_agent.services.tracker import ServiceTracker
from proxymode_benchmarks.ipvs.floor import NODE_ADDRESS, Cost
from proxymode_benchmarks.sync import cases
from proxymode_benchmarks.sync.cases import Case
from proxymode_benchmarks.sync.figures import percentile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxymode_agent.dataplane.base import SyncResult
    from proxymode_agent.services.model import ServiceState

CONFIG: Final = DataplaneConfig(
    pods=PodNetworks((cases.POD_NETWORK,)), node_ips=(ipaddress.ip_address(NODE_ADDRESS).packed,)
)
_CHANGES: Final = 100


class WrongResultError(Exception):
    """The kernel does not hold what it should, so that there is nothing to measure."""


def in_process(*arguments: str) -> Any:
    """What a new process of this module prints. Raises CalledProcessError."""
    command = [sys.executable, "-m", "proxymode_benchmarks.ipvs.ours", *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def cluster(case: Case) -> ServiceTracker:
    """The case's objects, told to a tracker as an API server tells them."""
    tracker = ServiceTracker(cases.NODE)
    for service in range(case.services):
        _tell(tracker, cases.service_object(service))
        _tell(tracker, _slice(case, service, case.targets(service)))
    return tracker


def measure(case: Case) -> dict[str, float]:
    """The figures of ipvs mode in this process, over an empty kernel, which it leaves empty. Raises WrongResultError,
    DataplaneError."""
    tracker = cluster(case)
    dataplane = IpvsDataplane(CONFIG)
    try:
        clock = _Clock(dataplane._addresses)
        found = first_sync(case, dataplane.sync, tracker.take().state)
        warm = _replace_endpoints(case, tracker, dataplane.sync)
        rss = _resident()
        restart_s = _restart(dataplane, tracker)
    finally:
        dataplane.remove()
        dataplane.close()
    return {
        "load_s": found.wall,
        "load_user_s": found.user,
        "load_sys_s": found.system,
        "addresses_s": clock.seconds,
        "restart_s": restart_s,
        "warm_p50_ms": percentile(warm, 50) * 1e3,
        "warm_p99_ms": percentile(warm, 99) * 1e3,
        "warm_changes": len(warm),
        "rss_mb": rss,
    }


def measure_nftables(case: Case) -> dict[str, float]:
    """The resident set of the same process in nftables mode. Raises WrongResultError, DataplaneError."""
    from proxymode_agent.dataplane.nftables.dataplane import NftablesDataplane  # not in the other processes' memory

    tracker = cluster(case)
    dataplane = NftablesDataplane(CONFIG)
    try:
        first_sync(case, dataplane.sync, tracker.take().state)
        _replace_endpoints(case, tracker, dataplane.sync)
        return {"nftables_rss_mb": _resident()}
    finally:
        dataplane.remove()
        dataplane.close()


def modules() -> float:
    """Seconds of a first sync of no Service: what it loads, later ones find."""
    dataplane = IpvsDataplane(CONFIG)
    try:
        began = time.monotonic()
        dataplane.sync(ServiceTracker(cases.NODE).take().state)
        return time.monotonic() - began
    finally:
        dataplane.remove()
        dataplane.close()


def bind(count: int) -> float:
    """Seconds to bind so many addresses, which go again."""
    addresses = Addresses()
    try:
        source = ipaddress.ip_address(NODE_ADDRESS).packed
        changes = [
            BindAddress(ipaddress.ip_address(cases.cluster_ip(number)).packed, source) for number in range(count)
        ]
        addresses.claim_device()
        began = time.monotonic()
        refused = addresses.bind(changes)
        seconds = time.monotonic() - began
        if refused or len(addresses.read().bound) != count:
            raise WrongResultError(f"{len(refused)} of {count} addresses were refused")
        addresses.delete_device()
        addresses.delete_routes(addresses.stray_routes())
    finally:
        addresses.close()
    return seconds


def first_sync(case: Case, sync: Callable[[ServiceState], SyncResult], state: ServiceState) -> Cost:
    """What the first full sync takes. Raises WrongResultError, DataplaneError."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.monotonic()
    result = sync(state)
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    if result.endpoints != case.services * case.endpoints or result.refused:
        ports = f"{result.endpoints} endpoints are programmed and {len(result.refused)} Service ports refused"
        raise WrongResultError(ports)
    return Cost(wall, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)


class _Clock:
    """How long the dataplane is at its addresses."""

    def __init__(self, addresses: Addresses) -> None:
        self.seconds = 0.0
        self._bind: Callable[[Sequence[Any]], list[Any]] = addresses.bind
        addresses.bind = self._timed  # type: ignore[method-assign]

    def _timed(self, changes: Sequence[Any]) -> list[Any]:
        began = time.monotonic()
        try:
            return self._bind(changes)
        finally:
            self.seconds += time.monotonic() - began


def _replace_endpoints(case: Case, tracker: ServiceTracker, sync: Callable[..., SyncResult]) -> list[float]:
    """Seconds from a slice's JSON to the kernel, for changes one after another, each of another Service."""
    seconds = []
    for number, pod in zip(range(_CHANGES), case.spare_pods, strict=False):
        service = number * 7919 % case.services
        body = json.dumps(_slice(case, service, (pod, *case.targets(service)[1:])))
        key = _key(json.loads(body))
        began = time.monotonic()
        tracker.set_slice(key, decode_endpoint_slice(body))
        update = tracker.take()
        result = sync(update.state, update.changed)
        seconds.append(time.monotonic() - began)
        if not result.written:
            raise WrongResultError("an endpoint was replaced and nothing was written")
    return seconds


def _restart(dataplane: IpvsDataplane, tracker: ServiceTracker) -> float:
    """Seconds of a full sync by another object over what is there."""
    state = tracker.take().state
    dataplane.sync(state)  # sweeps what has drained
    again = IpvsDataplane(CONFIG)
    try:
        began = time.monotonic()
        result = again.sync(state)
        seconds = time.monotonic() - began
    finally:
        again.close()
    if result.written:
        raise WrongResultError(f"a restart wrote {result.written} objects to the kernel; it should write none")
    return seconds


def _resident() -> float:
    """The highest resident set of this process, in 10^6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _tell(tracker: ServiceTracker, body: dict[str, Any]) -> None:
    if body["kind"] == "Service":
        tracker.set_service(_key(body), decode_service(json.dumps(body)))
    else:
        tracker.set_slice(_key(body), decode_endpoint_slice(json.dumps(body)))


def _slice(case: Case, service: int, targets: Sequence[str]) -> dict[str, Any]:
    return cases.slice_object(case, service, 0, tuple(targets))


def _key(body: dict[str, Any]) -> ObjectKey:
    return ObjectKey(body["metadata"]["namespace"], body["metadata"]["name"])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["modules"]:
            print(modules())
        case ["ipvs", text]:
            print(json.dumps(measure(Case.parse(text))))
        case ["nftables", text]:
            print(json.dumps(measure_nftables(Case.parse(text))))
        case other:
            sys.exit(f"{other}: modules, ipvs CASE or nftables CASE is wanted")
