"""The hand-over of many established connections among many Services: CPU and memory, on this host's kernel.

    python -m proxymode_benchmarks.switch.scale [--tries N] [CONNECTIONS ...]

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
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxymode_agent.dataplane.conntrack import flow as ct
from proxymode_agent.dataplane.conntrack import messages
from proxymode_agent.dataplane.conntrack.layout import ATTRIBUTE, CTA_ID, CTA_MARK, CTA_TIMEOUT
from proxymode_agent.dataplane.conntrack.table import ConntrackTable
from proxymode_agent.dataplane.netlink import NLM_F_CREATE, NLM_F_EXCL, NetlinkSocket, request_header
from proxymode_agent.dataplane.nfnetlink import (
    Chain,
    Connection,
    CtState,
    NfProto,
    Rule,
    Table,
    Transaction,
    ct_state,
)
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
from proxymode_benchmarks.sync import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES: Final = (10_000, 50_000)
SERVICES: Final = 5_000
TRIES: Final = 3
TARGET_MS: Final = {10_000: 200, 50_000: 1_000}
TARGET_MB: Final = 150
_NETLINK_NETFILTER: Final = 12


class Phase(NamedTuple):
    """One part of the hand-over."""

    name: str
    user_ms: float
    system_ms: float
    wall_ms: float

    @property
    def cpu_ms(self) -> float:
        return self.user_ms + self.system_ms


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proxymode_benchmarks.switch.scale", description=__doc__)
    parser.add_argument("connections", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--tries", type=int, default=TRIES, help="the best of so many (default: %(default)s)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.connections[0])))
        return 0
    runs = []
    for number in options.connections:
        runs.append(in_process(number, options.tries))
        print(table(runs[-1]), flush=True)
    print(json.dumps({"handover": runs}))
    return 0


def in_process(number: int, tries: int = TRIES) -> dict[str, Any]:
    """`measure` in processes of their own: the try with the least CPU time, for on a busy machine all cost more."""
    command = [sys.executable, "-m", "proxymode_benchmarks.switch.scale", "--child", str(number)]
    found: list[dict[str, Any]] = [
        json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout) for _ in range(tries)
    ]
    return min(found, key=lambda run: int(run["cpu_ms"])) | {"tries": tries}


def table(run: dict[str, Any]) -> str:
    """One size's figures for people."""
    phases = "  ".join(f"{name} {ms}" for name, ms in run["cpu_ms_by_phase"].items())
    return (
        f"{run['connections']:>6} connections, {SERVICES} Services: {run['cpu_ms']} ms CPU (user {run['user_ms']}, "
        f"system {run['system_ms']}), {run['wall_ms']} ms, {run['rss_mb']} MB, lost {run['lost']}  (CPU ms: {phases})"
    )


def measure(number: int) -> dict[str, Any]:
    """Hand over so many connections in a new network namespace."""
    kernel.own_namespace()
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as another:  # whose memory is not ours
        another.submit(fill, number).result()
    _use_conntrack()
    state = services()
    gc.collect()
    gc.freeze()  # as the agent does after its first sync
    phases: list[Phase] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Carrier(Path(folder))) as carrier:
        with _timed("catch", phases):
            held = carrier.catch(state)
        with _timed("carry", phases):
            carrier.carry(state)
        with ConntrackTable() as found:
            found.delete(list(found.flows()))
        with _timed("restore", phases):
            carrier.restore(state)
        with _timed("end", phases):
            carrier.end()
        with _timed("compare", phases), ConntrackTable() as found:
            result = connections.compare(held, found.check(held))
    if result.found != number:
        raise RuntimeError(f"{result.found} of {number} connections were found")
    return {
        "connections": number,
        "services": SERVICES,
        "lost": result.lost,
        "cpu_ms": round(sum(phase.cpu_ms for phase in phases)),
        "user_ms": round(sum(phase.user_ms for phase in phases)),
        "system_ms": round(sum(phase.system_ms for phase in phases)),
        "wall_ms": round(sum(phase.wall_ms for phase in phases)),
        "cpu_ms_by_phase": {phase.name: round(phase.cpu_ms) for phase in phases},
        "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "target_cpu_ms": TARGET_MS.get(number),
        "target_rss_mb": TARGET_MB,
    }


def _use_conntrack() -> None:
    """As the nftables mode does, which a node has before connections are handed over to it. When the first rule comes
    that asks conntrack for something, the kernel goes through all entries."""
    with Connection() as nf_tables:
        for family in (NfProto.IPV4, NfProto.IPV6):
            table = Table(family, "bench")
            chain = Chain(table, "chain")
            nf_tables.commit(Transaction.of(table.add(), chain.add(), Rule(chain, ct_state(CtState.NEW)).add()))


@contextlib.contextmanager
def _timed(name: str, phases: list[Phase]) -> Iterator[None]:
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    yield
    after, wall = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - began
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    phases.append(Phase(name, user * 1000, system * 1000, wall * 1000))


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
        refused = netlink.submit(map(_through_ipvs, range(number)))
    finally:
        netlink.close()
    if refused:
        raise OSError(next(iter(refused)), f"{refused.total()} conntrack entries not made: {dict(refused)}")


def _through_ipvs(index: int) -> bytes:
    """A request for an entry as IPVS leaves it."""
    client, port = (0x0A010000 + index % 200).to_bytes(4, "big"), _number(1024 + index // 200)
    service = index % SERVICES
    endpoint = _pod(service, index // SERVICES % 2)
    state = bytes((ct.TCP_ESTABLISHED, 0, 0, 0))
    entry = messages.dumped(
        ct.Flow(
            client,
            _vip(service),
            bytes((Protocol.TCP, 0, 0, 0)),
            port,
            _number(80),
            endpoint.address,
            client,
            _number(endpoint.port),
            port,
            ct.Status.SEEN_REPLY | ct.Status.ASSURED | ct.Status.CONFIRMED,
            ATTRIBUTE.pack(8, CTA_MARK) + bytes(4),
            ATTRIBUTE.pack(8, CTA_ID) + bytes(4),
            ATTRIBUTE.pack(8, CTA_TIMEOUT) + (86400).to_bytes(4, "big"),
            b"".join(
                head + value
                for head, value in zip(ct.info_headers(Protocol.TCP), (state, *[bytes(4)] * 4), strict=True)
            ),
        )
    )
    return request_header(messages.CT_NEW, NLM_F_CREATE | NLM_F_EXCL, len(entry)) + entry


def _number(port: int) -> bytes:
    """As it is in a message."""
    return port.to_bytes(2, "big") + bytes(2)


def _vip(service: int) -> bytes:
    return (0x0A600000 + service).to_bytes(4, "big")


def _pod(service: int, index: int) -> Endpoint:
    return Endpoint((0x0AF40000 + 2 * service + index).to_bytes(4, "big"), 8080)


if __name__ == "__main__":
    sys.exit(main())
