"""The peer itself: kube-proxy's binary on the node, restarted in another mode as a DaemonSet's new Pod is.

It removes by itself, when it starts, what its other mode has left. Its API server is on the host, where there is room.
"""

from __future__ import annotations

import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING, Any, Final

from proxymode_benchmarks import binary
from proxymode_benchmarks.switch import node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from proxymode_api.modes import Mode
    from proxymode_testbeds.topology import Fleet

NAME: Final = "kube-proxy"
SYNC_SECONDS: Final = 300.0
"""A deadline under emulation, not an estimate."""
_METRICS, _HEALTH = 10249, 10256
_STOP_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.1
_FAMILIES: Final = {4: "IPv4", 6: "IPv6"}


class NotSyncedError(Exception):
    """kube-proxy ended, or wrote no rules in time; the message has the end of its log."""


class Binary:
    """A process that programs one node. `spawn` starts a command there, `ask` answers with the body of a GET there."""

    def __init__(
        self,
        program: Path,
        kubeconfig: Path,
        fleet: Fleet,
        folder: Path,
        *,
        spawn: Callable[..., subprocess.Popen[str]],
        ask: Callable[[str], str],
    ) -> None:
        self._program = program
        self._kubeconfig = kubeconfig
        self._fleet = fleet
        self._folder = folder
        self._spawn = spawn
        self._ask = ask
        self._process: subprocess.Popen[str] | None = None

    def start(self, mode: Mode) -> None:
        """Run it until it has synced both families once. Raises NotSyncedError."""
        config, log = self._folder / f"{mode}.yaml", self._folder / f"{mode}.log"
        config.write_text(
            binary.configuration(
                mode,
                node=node.NAME,
                cluster_cidrs=[cidr for spec in self._fleet.nodes for cidr in spec.pod_cidrs],
                kubeconfig=self._kubeconfig,
                metrics_port=_METRICS,
                health_port=_HEALTH,
            )
        )
        with log.open("w") as output:
            self._process = self._spawn([str(self._program), f"--config={config}"], stdout=output, stderr=output)
        deadline = time.monotonic() + SYNC_SECONDS
        while binary.synced(self._ask(f"http://127.0.0.1:{_METRICS}/metrics")) is None:
            late = time.monotonic() > deadline
            if late or self._process.poll() is not None:
                why = f"not synced within {SYNC_SECONDS:.0f} s" if late else f"status {self._process.returncode}"
                raise NotSyncedError(f"kube-proxy in mode {mode}: {why}; its log ends:\n{log.read_text()[-2000:]}")
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """End it as a kubelet does; its rules stay."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def restart(self, to: Mode) -> None:
        """The change of mode as a cluster makes it today. Raises NotSyncedError."""
        self.stop()
        self.start(to)


def ask(url: str) -> str:
    """The body of a GET; empty: no answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


def objects(fleet: Fleet) -> Iterator[dict[str, Any]]:
    """What a cluster would have: Nodes, a Service of both families and one EndpointSlice for each family."""
    for spec in fleet.nodes:
        yield {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": spec.name},
            "spec": {"podCIDR": str(spec.pod_cidrs[0]), "podCIDRs": [str(cidr) for cidr in spec.pod_cidrs]},
        }
    meta = {"name": "web", "namespace": "default"}
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "type": "NodePort",
            "clusterIP": node.VIP,
            "clusterIPs": [node.VIP, node.VIP6],
            "ipFamilyPolicy": "RequireDualStack",
            "ipFamilies": list(_FAMILIES.values()),
            "ports": [
                {"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": node.NODE_PORT},
                {"name": "udp", "protocol": "UDP", "port": 53, "targetPort": 5353, "nodePort": node.NODE_PORT + 1},
            ],
        },
    }
    for version, family in _FAMILIES.items():
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**meta, "name": f"web-{version}", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": family,
            "ports": [
                {"name": "tcp", "protocol": "TCP", "port": 8080},
                {"name": "udp", "protocol": "UDP", "port": 5353},
            ],
            "endpoints": [
                {"addresses": [str(pod)], "conditions": {"ready": True}, "nodeName": on}
                for on, pod in node.backends(fleet, version)
            ],
        }


def addresses(fleet: Fleet) -> Iterator[tuple[str, dict[str, Any]]]:
    """The status of each Node by its name."""
    for spec in fleet.nodes:
        internal = [{"type": "InternalIP", "address": str(address)} for address in spec.addresses]
        yield spec.name, {"status": {"addresses": internal}}
