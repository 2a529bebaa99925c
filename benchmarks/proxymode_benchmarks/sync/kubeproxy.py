"""kube-proxy itself in nftables mode, where `KUBEBUILDER_ASSETS` has its binary: the peer that counts.

Its process is driven as a node drives it: a configuration file, metrics, SIGTERM. When it has synced its own metrics
tell; whether an endpoint is in the kernel, the kernel does, whether a Service's chain draws from a map of addresses or
from a chain for each endpoint. What was not measured: IPv6, which it syncs too, as we do.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from proxymode_agent.dataplane.nfnetlink.attributes import fields, to_text
from proxymode_agent.dataplane.nfnetlink.uapi import DataAttr, VerdictAttr
from proxymode_api.modes import Mode
from proxymode_benchmarks import binary
from proxymode_benchmarks.sync import cases, kernel
from proxymode_benchmarks.sync.child import Child, peak_rss
from proxymode_benchmarks.sync.netlink import NfTables
from proxymode_benchmarks.sync.proxy import Start

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_benchmarks.sync.cluster import Cluster

DEADLINE_SECONDS: Final = 300.0
"""Peers take minutes to start over a large table."""
_POLL_SECONDS: Final = 0.02
_TABLE: Final = "kube-proxy"
_SERVICES: Final = "service-ips"
_ANONYMOUS: Final = re.compile(rb"__(?:map|set)\d+")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class KubeProxyRun(Child):
    """One run of the binary; see `proxy.Running`. `generation`: changes when anything was written to the kernel."""

    def __init__(
        self,
        program: Path,
        kubeconfig: Path,
        folder: Path,
        mode: Mode = Mode.NFTABLES,
        generation: Callable[[], int] = kernel.generation,
    ) -> None:
        self._metrics, health = _free_ports()
        config = folder / "kube-proxy.yaml"
        config.write_text(
            binary.configuration(
                mode,
                node=cases.NODE,
                cluster_cidrs=[cases.POD_NETWORK],
                kubeconfig=kubeconfig,
                metrics_port=self._metrics,
                health_port=health,
            )
        )
        command = [str(program), f"--config={config}"]
        super().__init__("kube-proxy", command, folder / "kube-proxy.log", DEADLINE_SECONDS)
        self._generation = generation
        self._largest_child = 0

    def __enter__(self) -> Self:
        self._before = self._generation()
        return super().__enter__()

    def wait_until_synced(self) -> Start:
        """Wait for the first sync of both families. Raises ProcessError.

        Its metrics are asked for only once something was written, and then every 20 ms, for that costs it CPU time.
        """
        while self._generation() == self._before:
            self.check()
            time.sleep(0.002)
        while True:
            sync = binary.synced(self._scrape())
            if sync is not None:
                return Start(self.age, sync, self.cpu(), None, self.peak_rss())
            self.check()
            time.sleep(_POLL_SECONDS)

    def cpu(self) -> float:
        """Seconds of user and system time; of children those that have ended."""
        self._look_at_children()
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return sum(map(int, stat[11:15])) / _TICKS  # utime, stime, cutime, cstime

    def peak_rss(self) -> int:
        """The highest resident set so far, and that of the largest child that was seen."""
        self._look_at_children()
        return peak_rss(self.pid) + self._largest_child

    def _look_at_children(self) -> None:
        for task in Path(f"/proc/{self.pid}/task").glob("*/children"):
            for child in task.read_text().split():
                self._largest_child = max(self._largest_child, peak_rss(int(child)))

    def _scrape(self) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=5) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            return ""  # not yet

    def check(self) -> None:
        """See `Child.check`; children live for moments, so they are looked at whenever there is time."""
        self._look_at_children()
        super().check()


class KubeProxyEndpoints:
    """What kube-proxy's table `ip kube-proxy` says of a Service; see `proxy.Endpoints`."""

    def __init__(self) -> None:
        self._tables = NfTables(_TABLE)

    def close(self) -> None:
        self._tables.close()

    def index(self, service: int, address: str, count: int) -> int:
        """0, for where in a Service's chain it is does not matter. Raises LookupError."""
        if not self.holds(service, 0, address):
            raise LookupError(f"no endpoint {address} of Service {service} in kube-proxy's table")
        return 0

    def holds(self, service: int, index: int, address: str) -> bool:
        """Whether the Service's chain leads to the endpoint. Raises OSError."""
        del index
        key = socket.inet_aton(cases.cluster_ip(service)) + _padded(bytes([socket.IPPROTO_TCP])) + _port(cases.PORT)
        data = self._tables.element(_SERVICES, key)
        if data is None:
            return False
        chain = to_text(fields(data[DataAttr.VERDICT])[VerdictAttr.CHAIN])
        rules = self._tables.rules(chain)
        drawn = rules + b"".join(self._tables.elements(name.decode()) for name in _ANONYMOUS.findall(rules))
        # An element's data in a map, or the end of the name of the endpoint's own chain.
        mapped = socket.inet_aton(address) + _port(cases.TARGET_PORT)
        named = f"__{address}/{cases.TARGET_PORT}\0".encode()
        return mapped in drawn or named in drawn


class KubeProxy:
    """See `proxy.Proxy`."""

    restarts_write = True

    def __init__(self, program: Path) -> None:
        self._program = program

    def start(self, cluster: Cluster, folder: Path, *, again: bool = False) -> KubeProxyRun:
        del again  # it always tells
        return KubeProxyRun(self._program, cluster.kubeconfig, folder)

    def endpoints(self) -> KubeProxyEndpoints:
        return KubeProxyEndpoints()

    def remove(self) -> None:
        for family in ("ip", "ip6"):
            subprocess.run(["nft", "delete", "table", family, _TABLE], check=True)


def _padded(value: bytes) -> bytes:
    """As in a concatenation of nf_tables, whose fields are multiples of four bytes."""
    return value + bytes(-len(value) % 4)


def _port(number: int) -> bytes:
    return _padded(number.to_bytes(2, "big"))


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])
