"""The ipvs mode of the agent in a process of its own: API objects as JSON in, the kernel programmed.

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
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from proxymode_agent.dataplane.ipvs.addresses import Addresses
from proxymode_agent.dataplane.ipvs.dataplane import IpvsDataplane
from proxymode_agent.dataplane.ipvs.model import BindAddress
from proxymode_agent.kube.objects import ObjectKey, decode_endpoint_slice, decode_service
from proxymode_agent.services.model import DataplaneConfig, PodNetworks
from proxymode_agent.services.tracker import ServiceTracker
from proxymode_benchmarks.ipvs.figures import Figures
from proxymode_benchmarks.ipvs.floor import NODE_ADDRESS
from proxymode_benchmarks.sync import cases
from proxymode_benchmarks.sync.cases import Case
from proxymode_benchmarks.sync.figures import percentile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CHANGES: Final = 100


class WrongResultError(Exception):
    """The kernel does not hold what it should, so that there is nothing to measure."""


def run(case: Case) -> Figures:
    """Measure a case in a new process, over an empty kernel, and leave one. Raises CalledProcessError."""
    command = [sys.executable, "-m", "proxymode_benchmarks.ipvs.ours", str(case)]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Figures(**json.loads(found.stdout))


def measure(case: Case) -> Figures:
    """Measure a case in this process. Raises WrongResultError, DataplaneError."""
    tracker = ServiceTracker(cases.NODE)
    for service in range(case.services):
        _tell(tracker, cases.service_object(service))
        _tell(tracker, _slice(case, service, case.targets(service)))
    config = DataplaneConfig(
        pods=PodNetworks((cases.POD_NETWORK,)), node_ips=(ipaddress.ip_address(NODE_ADDRESS).packed,)
    )
    dataplane = IpvsDataplane(config)
    try:
        clock = _Clock(dataplane._addresses)
        state = tracker.take().state
        began = time.monotonic()
        result = dataplane.sync(state)
        load_s = time.monotonic() - began
        _check(case, result.endpoints, result.refused)
        warm = _replace_endpoints(case, tracker, dataplane)
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        restart_s = _restart(dataplane, config, tracker)
    finally:
        dataplane.remove()
        dataplane.close()
    return Figures(
        load_s=load_s,
        addresses_s=clock.seconds,
        restart_s=restart_s,
        warm_p50_ms=percentile(warm, 50) * 1e3,
        warm_p99_ms=percentile(warm, 99) * 1e3,
        warm_changes=len(warm),
        rss_mb=rss / 1e6,
    )


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
        refused = addresses.apply(changes)
        seconds = time.monotonic() - began
        if refused or len(addresses.bound()) != count:
            raise WrongResultError(f"{len(refused)} of {count} addresses were refused")
        addresses.delete_device()
        addresses.delete_routes(addresses.stray_routes())
    finally:
        addresses.close()
    return seconds


class _Clock:
    """How long the dataplane is at its addresses."""

    def __init__(self, addresses: Addresses) -> None:
        self.seconds = 0.0
        self._apply: Callable[[Sequence[Any]], list[Any]] = addresses.apply
        addresses.apply = self._timed  # type: ignore[method-assign]

    def _timed(self, changes: Sequence[Any]) -> list[Any]:
        began = time.monotonic()
        try:
            return self._apply(changes)
        finally:
            self.seconds += time.monotonic() - began


def _replace_endpoints(case: Case, tracker: ServiceTracker, dataplane: IpvsDataplane) -> list[float]:
    """Seconds from a slice's JSON to the kernel, for changes one after another, each of another Service."""
    seconds = []
    for number, pod in zip(range(_CHANGES), case.spare_pods, strict=False):
        service = number * 7919 % case.services
        body = json.dumps(_slice(case, service, (pod, *case.targets(service)[1:])))
        key = _key(json.loads(body))
        began = time.monotonic()
        tracker.set_slice(key, decode_endpoint_slice(body))
        update = tracker.take()
        result = dataplane.sync(update.state, update.changed)
        seconds.append(time.monotonic() - began)
        if result.written < 2:  # more where the old or the new endpoint is the node's own, and may reach itself
            raise WrongResultError(f"an endpoint was replaced and {result.written} objects were written, not 2 or more")
    return seconds


def _restart(dataplane: IpvsDataplane, config: DataplaneConfig, tracker: ServiceTracker) -> float:
    """Seconds of a full sync by another object over what is there."""
    state = tracker.take().state
    dataplane.sync(state)  # sweeps what has drained
    again = IpvsDataplane(config)
    try:
        began = time.monotonic()
        result = again.sync(state)
        seconds = time.monotonic() - began
    finally:
        again.close()
    if result.written:
        raise WrongResultError(f"a restart wrote {result.written} objects to the kernel; it should write none")
    return seconds


def _check(case: Case, endpoints: int, refused: Sequence[object]) -> None:
    if endpoints != case.services * case.endpoints or refused:
        raise WrongResultError(f"{endpoints} endpoints are programmed and {len(refused)} Service ports refused")


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
    print(json.dumps(asdict(measure(Case.parse(sys.argv[1])))))
