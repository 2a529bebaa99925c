"""Inside the guest: one node, the same clients for each change of mode, one JSON object a line for each.

python -m proxymode_benchmarks.switch.guest [--connections N] [--new-rate R]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxymode_agent.services.model import (
    DataplaneConfig,
    Endpoint,
    Family,
    Frontend,
    PodNetworks,
    Protocol,
    ServicePort,
    ServicePortName,
    ServiceState,
)
from proxymode_agent.switch import Switcher
from proxymode_api.modes import Mode
from proxymode_benchmarks.switch import peer
from proxymode_testbeds.topology import build, make_fleet
from proxymode_testbeds.traffic.processes import TrafficProcess, client_command, server_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxymode_testbeds.topology import Topology

VIP, VIP6 = "10.96.0.10", "fd96::10"
NODE_PORT: Final = 30080
NODE: Final = "node1"
BEFORE_SECONDS, AFTER_SECONDS = 3, 8
OURS, NOBODY = "proxymode", "nobody"
DIRECTIONS: Final = ((Mode.IPVS, Mode.NFTABLES), (Mode.NFTABLES, Mode.IPVS))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proxymode_benchmarks.switch.guest", description=__doc__)
    parser.add_argument("--connections", type=int, default=100, help="long-lived ones (default: %(default)s)")
    parser.add_argument("--new-rate", type=float, default=10.0, help="new ones a second (default: %(default)s)")
    options = parser.parse_args()
    for module in ("ip_vs", "ip_vs_rr", "dummy", "nf_tables", "ip_set"):
        subprocess.run(["modprobe", module], check=True)
    runs = [(NOBODY, *DIRECTIONS[0]), *((who, *way) for way in DIRECTIONS for who in (OURS, peer.NAME))]
    for who, old, to in runs:
        print(json.dumps(measure(who, old, to, options.connections, options.new_rate)), flush=True)
    return 0


def measure(who: str, old: Mode, to: Mode, connections: int, new_rate: float) -> dict[str, Any]:
    """A node in mode `old`, clients, the change, and what the clients counted."""
    fleet = make_fleet(nodes=2, pods=3, dual_stack=True)
    with build(fleet) as topology, contextlib.ExitStack() as stack:
        for pod in ("node1-pod1", "node1-pod2", "node2-pod1"):
            started = _start(stack, topology, pod, server_command(pod, tcp=8080, udp=5353))
            started.wait_for("ready")
        change = stack.enter_context(_node(who, topology, old, to))
        running = [
            _start(stack, topology, name, client_command(address, **load))
            for name, address, load in clients(topology, connections, new_rate)
        ]
        for client in running:
            client.wait_for("ready")
        _let_run(running, BEFORE_SECONDS)
        began = time.monotonic()
        change()
        seconds = time.monotonic() - began
        _let_run(running, AFTER_SECONDS)
        for client in running:
            client.signal(signal.SIGTERM)
        results = [client.result() for client in running]
    names = ("established", "lost", "new", "failed", "udp_sent", "udp_lost")
    return {
        "who": who,
        "direction": f"{old}->{to}",
        **{name: sum(result[name] for result in results) for name in names},
        "max_gap_ms": max(result["longest_gap_ms"] or 0 for result in results),
        "seconds": round(seconds, 1),
    }


def clients(topology: Topology, connections: int, new_rate: float) -> list[tuple[str, str, dict[str, float]]]:
    """Outside, by NodePort, on the node, in a pod over IPv6, in a pod that meets itself; each a share of the load."""
    share = max(4, connections // 5)
    talk, rate = share - 3, new_rate / 5
    own = str(topology.fleet.node(NODE).addresses[0])
    long_lived: dict[str, float] = {"established": talk, "bulk": 1, "push": 2, "new_rate": rate, "interval": 1.0}
    return [
        ("client1", VIP, {"tcp": 80, "udp": 53, **long_lived, "udp_rate": 5.0, "udp_streams": 3}),
        ("client1", own, {"tcp": NODE_PORT, **long_lived}),
        (NODE, VIP, {"tcp": 80, **long_lived}),
        ("node1-pod3", VIP6, {"tcp": 80, **long_lived}),
        ("node1-pod1", VIP, {"tcp": 80, "udp": 53, **long_lived, "udp_streams": 1}),
    ]


@contextlib.contextmanager
def _node(who: str, topology: Topology, old: Mode, to: Mode) -> Iterator[Callable[[], object]]:
    """A node in mode `old`; what is given changes its mode to `to`."""
    fleet = topology.fleet
    v4, v6 = ([_pods(topology, version)[index] for index in (0, 1, 3)] for version in (4, 6))
    if who == peer.NAME:
        proxy = peer.KubeProxy(topology, NODE, (VIP, v4), (VIP6, v6), NODE_PORT)
        proxy.start(old)
        yield lambda: proxy.restart(old, to)
        return
    ports = _services(v4, v6)
    config = DataplaneConfig(
        pods=PodNetworks(tuple(cidr for node in fleet.nodes for cidr in node.pod_cidrs)),
        node_ips=tuple(address.packed for address in fleet.node(NODE).addresses),
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(topology.call(NODE, Switcher, config, Path(folder))) as switcher,
    ):
        topology.call(NODE, switcher.switch, old, ports, lambda step: None)
        yield lambda: who == OURS and topology.call(NODE, switcher.switch, to, ports, lambda step: None)


def _services(v4: list[bytes], v6: list[bytes]) -> ServiceState:
    ports = {}
    for vip, pods, number, target, protocol, node_port in (
        (VIP, v4, 80, 8080, Protocol.TCP, NODE_PORT),
        (VIP, v4, 53, 5353, Protocol.UDP, None),
        (VIP6, v6, 80, 8080, Protocol.TCP, NODE_PORT),
    ):
        name = ServicePortName("bench", "web", f"{protocol.name.lower()}-{number}", protocol, Family(len(pods[0])))
        ports[name] = ServicePort(
            name,
            Frontend(peer.packed(vip), protocol, number),
            tuple(sorted(Endpoint(pod, target) for pod in pods)),
            node_port,
            hairpin=tuple(sorted(pods)),
        )
    return ServiceState(ports)


def _pods(topology: Topology, version: int) -> list[bytes]:
    return [
        address.packed
        for node in topology.fleet.nodes
        for pod in node.pods
        for address in pod.addresses
        if address.version == version
    ]


def _start(stack: contextlib.ExitStack, topology: Topology, name: str, command: list[str]) -> TrafficProcess:
    return stack.enter_context(TrafficProcess(topology.popen(name, command, stdout=subprocess.PIPE)))


def _let_run(running: list[TrafficProcess], seconds: int) -> None:
    for _ in range(seconds):
        for client in running:
            client.wait_for("second")


if __name__ == "__main__":
    sys.exit(main())
