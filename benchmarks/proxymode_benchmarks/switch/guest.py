"""Inside the guest: one node, the same clients for each change of mode, one JSON object a line for each.

python -m proxymode_benchmarks.switch.guest [--connections N] [--new-rate R] [--kube-proxy PROGRAM --kubeconfig FILE]
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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxymode_agent.switch import Switcher
from proxymode_api.modes import Mode
from proxymode_benchmarks.switch import kube_proxy, node, peer
from proxymode_testbeds.topology import build
from proxymode_testbeds.traffic.processes import TrafficProcess, client_command, server_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxymode_testbeds.topology import Topology

BEFORE_SECONDS, AFTER_SECONDS = 3, 8
OURS, NOBODY = "proxymode", "nobody"
DIRECTIONS: Final = ((Mode.IPVS, Mode.NFTABLES), (Mode.NFTABLES, Mode.IPVS))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proxymode_benchmarks.switch.guest", description=__doc__)
    parser.add_argument("--connections", type=int, default=100, help="long-lived ones (default: %(default)s)")
    parser.add_argument("--new-rate", type=float, default=10.0, help="new ones a second (default: %(default)s)")
    parser.add_argument("--kube-proxy", type=Path, help="the binary (default: its operations are replayed)")
    parser.add_argument("--kubeconfig", type=Path, help="kube-proxy's, of an API server that has the node's objects")
    options = parser.parse_args()
    if (options.kube_proxy is None) is not (options.kubeconfig is None):
        parser.error("--kube-proxy and --kubeconfig go together")
    for module in ("ip_vs", "ip_vs_rr", "dummy", "nf_tables", "ip_set"):
        subprocess.run(["modprobe", module], check=True)
    other = peer.NAME if options.kube_proxy is None else kube_proxy.NAME
    runs = [(NOBODY, *DIRECTIONS[0]), *((who, *way) for way in DIRECTIONS for who in (OURS, other))]
    for who, old, to in runs:
        print(json.dumps(measure(who, old, to, options)), flush=True)
    return 0


def measure(who: str, old: Mode, to: Mode, options: argparse.Namespace) -> dict[str, Any]:
    """A node in mode `old`, clients, the change, and what the clients counted."""
    with build(node.fleet(), with_uplink=who == kube_proxy.NAME) as topology, contextlib.ExitStack() as stack:
        for pod in node.BACKENDS:
            started = _start(stack, topology, pod, server_command(pod, tcp=8080, udp=5353))
            started.wait_for("ready")
        change = stack.enter_context(_node(who, topology, old, to, options))
        running = [
            _start(stack, topology, name, client_command(address, **load))
            for name, address, load in node.clients(topology.fleet, options.connections, options.new_rate)
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


@contextlib.contextmanager
def _node(
    who: str, topology: Topology, old: Mode, to: Mode, options: argparse.Namespace
) -> Iterator[Callable[[], object]]:
    """A node in mode `old`; what is given changes its mode to `to`."""
    fleet = topology.fleet
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if who == peer.NAME:
            replay = peer.KubeProxy(topology)
            replay.start(old)
            yield lambda: replay.restart(old, to)
        elif who == kube_proxy.NAME:
            at_node = partial(topology.call, node.NAME, kube_proxy.ask)
            spawn = partial(topology.popen, node.NAME)
            program = kube_proxy.Binary(options.kube_proxy, options.kubeconfig, fleet, folder, spawn=spawn, ask=at_node)
            with contextlib.ExitStack() as stack:
                stack.callback(program.stop)
                program.start(old)
                yield lambda: program.restart(to)
        else:
            ports = node.services(fleet)
            switcher = topology.call(node.NAME, Switcher, node.config(fleet), folder)
            with contextlib.closing(switcher):
                topology.call(node.NAME, switcher.switch, old, ports, lambda step: None)
                yield lambda: who == OURS and topology.call(node.NAME, switcher.switch, to, ports, lambda step: None)


def _start(stack: contextlib.ExitStack, topology: Topology, name: str, command: list[str]) -> TrafficProcess:
    return stack.enter_context(TrafficProcess(topology.popen(name, command, stdout=subprocess.PIPE)))


def _let_run(running: list[TrafficProcess], seconds: int) -> None:
    for _ in range(seconds):
        for client in running:
            client.wait_for("second")


if __name__ == "__main__":
    sys.exit(main())
