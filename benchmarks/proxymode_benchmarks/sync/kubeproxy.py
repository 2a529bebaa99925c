"""kube-proxy itself in nftables mode, where `KUBEBUILDER_ASSETS` has its binary: the peer that counts.

Its process is driven as a node drives it: a configuration file, metrics, SIGTERM. When it has synced its own metrics
tell; whether an endpoint is in the kernel, the kernel does, whether a Service's chain draws from a map of addresses or
from a chain for each endpoint. What was not measured: IPv6, which it syncs too, as we do.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from proxymode_agent.dataplane.nfnetlink.attributes import fields, to_text
from proxymode_agent.dataplane.nfnetlink.uapi import DataAttr, VerdictAttr
from proxymode_benchmarks.sync import cases, kernel
from proxymode_benchmarks.sync.netlink import NfTables
from proxymode_benchmarks.sync.proxy import ProcessError, Start

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from proxymode_benchmarks.sync.cluster import Cluster

DEADLINE_SECONDS: Final = 300.0
"""Peers take minutes to start over a large table."""
_POLL_SECONDS: Final = 0.02
_TABLE: Final = "kube-proxy"
_SERVICES: Final = "service-ips"
_ANONYMOUS: Final = re.compile(rb"__(?:map|set)\d+")
_METRIC: Final = r"^kubeproxy_sync_proxy_rules_{}(?:\{{[^}}]*\}})? ([\d.e+-]+)$"
_LAST_SYNC: Final = re.compile(_METRIC.format("last_timestamp_seconds"), re.MULTILINE)
_SYNC_SECONDS: Final = re.compile(_METRIC.format("duration_seconds_sum"), re.MULTILINE)
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def binary() -> Path | None:
    """kube-proxy of the folder that KUBEBUILDER_ASSETS names; None: there is none."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    found = Path(folder) / "kube-proxy" if folder else None
    return found if found is not None and os.access(found, os.X_OK) else None


def configuration(kubeconfig: Path, metrics_port: int, health_port: int) -> str:
    """KubeProxyConfiguration, with the defaults of kubeadm where the case says nothing; JSON is YAML."""
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "hostnameOverride": cases.NODE,
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "clusterCIDR": str(cases.POD_NETWORK),
            "detectLocalMode": "ClusterCIDR",
            "metricsBindAddress": f"127.0.0.1:{metrics_port}",
            "healthzBindAddress": f"127.0.0.1:{health_port}",
            "conntrack": {"maxPerCore": 0, "min": 0},  # the namespace's conntrack table is the host's
        }
    )


class KubeProxyRun:
    """One run of the binary; see `proxy.Running`. `generation`: changes when anybody writes to nf_tables."""

    def __init__(
        self, program: Path, kubeconfig: Path, folder: Path, generation: Callable[[], int] = kernel.generation
    ) -> None:
        self._metrics, health = _free_ports()
        self._log = folder / "kube-proxy.log"
        self._config = folder / "kube-proxy.yaml"
        self._config.write_text(configuration(kubeconfig, self._metrics, health))
        self._program = program
        self._generation = generation
        self._largest_child = 0

    def __enter__(self) -> Self:
        self._before = self._generation()
        with self._log.open("w") as log:
            self._began = time.monotonic()
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", str(self._program), f"--config={self._config}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_until_synced(self) -> Start:
        """Wait for the first sync of both families. Raises ProcessError.

        Its metrics are asked for only once something was written, and then every 20 ms, for that costs it CPU time.
        """
        while self._generation() == self._before:
            self._check()
            time.sleep(0.002)
        while True:
            text = self._scrape()
            ended = [float(value) for value in _LAST_SYNC.findall(text)]
            if ended and all(ended):
                wall = time.monotonic() - self._began
                sync = sum(float(value) for value in _SYNC_SECONDS.findall(text))
                return Start(wall, sync, self.cpu(), None, self.peak_rss())
            self._check()
            time.sleep(_POLL_SECONDS)

    def cpu(self) -> float:
        """Seconds of user and system time; of children those that have ended."""
        self._look_at_children()
        stat = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2].split()
        return sum(map(int, stat[11:15])) / _TICKS  # utime, stime, cutime, cstime

    def peak_rss(self) -> int:
        """The highest resident set so far, and that of the largest child that was seen."""
        self._look_at_children()
        return _peak_rss(self._process.pid) + self._largest_child

    def _look_at_children(self) -> None:
        for task in Path(f"/proc/{self._process.pid}/task").glob("*/children"):
            for child in task.read_text().split():
                self._largest_child = max(self._largest_child, _peak_rss(int(child)))

    def _scrape(self) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=5) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            return ""  # not yet

    def _check(self) -> None:
        self._look_at_children()
        late = time.monotonic() - self._began > DEADLINE_SECONDS
        if late or self._process.poll() is not None:
            why = f"not synced within {DEADLINE_SECONDS:.0f} s" if late else f"status {self._process.returncode}"
            raise ProcessError(f"kube-proxy: {why}; its log ends with:\n{self._log.read_text()[-2000:]}")


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


def _peak_rss(pid: int) -> int:
    """In bytes; 0: it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])
