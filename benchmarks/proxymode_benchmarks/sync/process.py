"""The agent as users run it: one process in the current network namespace, watched from outside.

Its log tells when the kernel was in agreement for the first time; the kernel tells what it cost.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from proxymode_benchmarks.sync import cases, kernel
from proxymode_benchmarks.sync.proxy import ProcessError, Start

if TYPE_CHECKING:
    from types import TracebackType

    from proxymode_benchmarks.sync.cluster import Cluster

DEADLINE_SECONDS: Final = 120.0
_SYNCED: Final = re.compile(r"msg=synced .*\bkind=full written=(\d+) .*\bmilliseconds=([\d.]+)")


class Agent:
    """One run of proxymode-agent; see `proxy.Running`. Only if `verbose` it says that it has synced also where there
    was nothing to write."""

    def __init__(self, kubeconfig: Path, folder: Path, *, verbose: bool = False) -> None:
        self._log = folder / "agent.log"
        self._command = [
            str(Path(sys.executable).with_name("proxymode-agent")),
            f"--kubeconfig={kubeconfig}",
            f"--node-name={cases.NODE}",
            "--mode=nftables",
            f"--cluster-cidr={cases.POD_NETWORK}",
            f"--state-dir={folder / 'state'}",
            f"--v={4 if verbose else 0}",
        ]

    def __enter__(self) -> Self:
        with self._log.open("w") as log:
            self._began = time.monotonic()
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
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
        """Wait for the first complete sync. Raises ProcessError."""
        with self._log.open() as log:
            unfinished = ""
            while True:
                unfinished += log.readline()
                if not unfinished.endswith("\n"):
                    self._check()
                    time.sleep(0.002)
                    continue
                if found := _SYNCED.search(unfinished):
                    wall = time.monotonic() - self._began
                    return Start(wall, float(found[2]) / 1000, self.cpu(), int(found[1]), self.peak_rss())
                unfinished = ""

    def cpu(self) -> float:
        """Seconds of user and system time that the process has used."""
        return time.clock_gettime(~self._process.pid << 3 | 2)  # clock_getcpuclockid(3)

    def peak_rss(self) -> int:
        """The highest resident set so far, in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        if found is None:
            raise ProcessError(f"no VmHWM in /proc/{self._process.pid}/status")
        return int(found[1]) * 1024

    def _check(self) -> None:
        late = time.monotonic() - self._began > DEADLINE_SECONDS
        if late or self._process.poll() is not None:
            why = f"not synced within {DEADLINE_SECONDS:.0f} s" if late else f"status {self._process.returncode}"
            raise ProcessError(f"the agent: {why}; its log ends with:\n{self._log.read_text()[-2000:]}")


class Proxymode:
    """See `proxy.Proxy`."""

    restarts_write = False

    def start(self, cluster: Cluster, folder: Path, *, again: bool = False) -> Agent:
        return Agent(cluster.kubeconfig, folder, verbose=again)

    def endpoints(self) -> kernel.EndpointMap:
        return kernel.EndpointMap()

    def remove(self) -> None:
        for family in ("ip", "ip6"):
            subprocess.run(["nft", "delete", "table", family, "proxymode"], check=True)
