"""The hand-over of many established connections among many Services: CPU and memory, on this host's kernel.

    python -m proxymode_benchmarks.switch.scale [CONNECTIONS ...]

Each size runs in a process and a network namespace of its own. The connections are conntrack entries as IPVS leaves
them (replies from another address than was asked, without netfilter's NAT), made over ctnetlink, for a host without
IPVS. When IPVS forgets its connections, the kernel deletes the entries: here they are deleted by us, all of them, as
those of idle connections are. Everything else is what the agent does.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxymode_agent.dataplane.conntrack import entries as ct
from proxymode_agent.dataplane.conntrack.table import ConntrackTable
from proxymode_agent.dataplane.netlink import NLM_F_CREATE, NLM_F_EXCL, Message, NetlinkSocket
from proxymode_agent.dataplane.nfnetlink.attributes import encode
from proxymode_agent.services.model import (
    Endpoint,
    Family,
    Frontend,
    Protocol,
    ServicePort,
    ServicePortName,
    ServiceState,
)
from proxymode_agent.switch import connections
from proxymode_agent.switch.handover.carrier import Carrier
from proxymode_api.modes import Mode
from proxymode_benchmarks.sync import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES: Final = (10_000, 50_000)
SERVICES: Final = 5_000
TARGET_MS: Final = {10_000: 200, 50_000: 1_000}
TARGET_MB: Final = 150
_NETLINK_NETFILTER: Final = 12
_CT_NEW: Final = 0x100
_LAYOUT: Final = ct.LAYOUTS[0]


class Phase(NamedTuple):
    """One part of the hand-over."""

    name: str
    cpu_ms: float
    wall_ms: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proxymode_benchmarks.switch.scale", description=__doc__)
    parser.add_argument("connections", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.connections[0])))
        return 0
    runs = []
    for number in options.connections:
        runs.append(in_process(number))
        print(table(runs[-1]), flush=True)
    print(json.dumps({"handover": runs}))
    return 0


def in_process(number: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "proxymode_benchmarks.switch.scale", "--child", str(number)]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


def table(run: dict[str, Any]) -> str:
    """One size's figures for people."""
    phases = "  ".join(f"{name} {ms}" for name, ms in run["cpu_ms_by_phase"].items())
    return (
        f"{run['connections']:>6} connections, {SERVICES} Services: {run['cpu_ms']} ms CPU, {run['wall_ms']} ms, "
        f"{run['rss_mb']} MB, lost {run['lost']}  (CPU ms: {phases})"
    )


def measure(number: int) -> dict[str, Any]:
    """Hand over so many connections in a new network namespace."""
    kernel.own_namespace()
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as another:  # whose memory is not ours
        another.submit(fill, number).result()
    state = services()
    gc.collect()
    gc.freeze()  # as the agent does after its first sync
    phases: list[Phase] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Carrier(Path(folder))) as carrier:
        with _timed("catch", phases), ConntrackTable() as found:
            entries, frontends = list(found.entries()), connections.frontends(state)
            held = connections.held_by(Mode.IPVS, entries, frontends)
            carrier.catch(entries, frontends)
        with _timed("carry", phases):
            carrier.carry(state)
        with ConntrackTable() as found:
            found.delete(list(found.entries()))
        with _timed("restore", phases):
            carrier.restore(state)
        with _timed("end", phases):
            carrier.end()
        with _timed("compare", phases), ConntrackTable() as found:
            result = connections.compare(held, found.entries())
    if result.found != number:
        raise RuntimeError(f"{result.found} of {number} connections were found")
    return {
        "connections": number,
        "services": SERVICES,
        "lost": result.lost,
        "cpu_ms": round(sum(phase.cpu_ms for phase in phases)),
        "wall_ms": round(sum(phase.wall_ms for phase in phases)),
        "cpu_ms_by_phase": {phase.name: round(phase.cpu_ms) for phase in phases},
        "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "target_cpu_ms": TARGET_MS.get(number),
        "target_rss_mb": TARGET_MB,
    }


@contextlib.contextmanager
def _timed(name: str, phases: list[Phase]) -> Iterator[None]:
    cpu, wall = time.process_time(), time.monotonic()
    yield
    phases.append(Phase(name, (time.process_time() - cpu) * 1000, (time.monotonic() - wall) * 1000))


def services() -> ServiceState:
    """Services with two endpoints each."""
    ports = {}
    for number in range(SERVICES):
        name = ServicePortName("bench", f"service-{number}", "", Protocol.TCP, Family.IPV4)
        ports[name] = ServicePort(name, Frontend(_vip(number), Protocol.TCP, 80), (_pod(number, 0), _pod(number, 1)))
    return ServiceState(ports)


def fill(number: int) -> None:
    """So many established connections through IPVS."""
    netlink = NetlinkSocket(_NETLINK_NETFILTER)
    try:
        refused = netlink.transact([_through_ipvs(index) for index in range(number)])
    finally:
        netlink.close()
    if refused:
        error = next(iter(refused.values()))
        raise OSError(error, f"{len(refused)} conntrack entries not made: {os.strerror(error)}")


def _through_ipvs(index: int) -> Message:
    client, port = (0x0A010000 + index % 200).to_bytes(4, "big"), 1024 + index // 200
    service = index % SERVICES
    endpoint = _pod(service, index // SERVICES % 2)
    return Message(
        _CT_NEW,
        NLM_F_CREATE | NLM_F_EXCL,
        _LAYOUT.header
        + encode(
            (
                (ct.CTA_TUPLE_ORIG, _tuple(ct.Path(client, port, _vip(service), 80))),
                (ct.CTA_TUPLE_REPLY, _tuple(ct.Path(endpoint.address, endpoint.port, client, port))),
                (ct.CTA_STATUS, int(ct.Status.SEEN_REPLY | ct.Status.ASSURED | ct.Status.CONFIRMED).to_bytes(4, "big")),
                (ct.CTA_TIMEOUT, (86400).to_bytes(4, "big")),
                (ct.CTA_PROTOINFO, ((1, ((1, bytes([ct.TCP_ESTABLISHED])),)),)),
            )
        ),
    )


def _tuple(path: ct.Path) -> tuple[tuple[int, tuple[tuple[int, bytes], ...]], ...]:
    """CTA_TUPLE_IP and CTA_TUPLE_PROTO."""
    source, destination = (port.to_bytes(2, "big") for port in (path.source_port, path.destination_port))
    return (
        (1, ((1, path.source), (2, path.destination))),
        (2, ((1, bytes([Protocol.TCP])), (2, source), (3, destination))),
    )


def _vip(service: int) -> bytes:
    return (0x0A600000 + service).to_bytes(4, "big")


def _pod(service: int, index: int) -> Endpoint:
    return Endpoint((0x0AF40000 + 2 * service + index).to_bytes(4, "big"), 8080)


if __name__ == "__main__":
    sys.exit(main())
