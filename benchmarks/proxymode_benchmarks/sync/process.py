"""The agent as users run it: one process in the current network namespace, watched from outside.

Its log tells when the kernel was in agreement for the first time; the kernel tells what it cost.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from typing import TYPE_CHECKING, Final

import yaml
from proxymode_benchmarks.sync import cases, installed, kernel
from proxymode_benchmarks.sync.child import Child, peak_rss
from proxymode_benchmarks.sync.proxy import Start

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_benchmarks.sync.cluster import Cluster

DEADLINE_SECONDS: Final = 300.0
_SYNCED: Final = re.compile(r"msg=synced .*\bkind=full written=(\d+) .*\bmilliseconds=([\d.]+)")


class Agent(Child):
    """One run of proxymode-agent; see `proxy.Running`. Only if `verbose` it says that it has synced also where there
    was nothing to write."""

    def __init__(self, program: list[str], kubeconfig: Path, folder: Path, *, verbose: bool = False) -> None:
        # In a Pod the agent reads a token and no YAML, which takes 10 ms to import; JSON is next to that.
        as_json = folder / "kubeconfig.json"
        as_json.write_text(json.dumps(yaml.safe_load(kubeconfig.read_text())))
        command = [
            *program,
            f"--kubeconfig={as_json}",
            f"--node-name={cases.NODE}",
            "--mode=nftables",
            f"--cluster-cidr={cases.POD_NETWORK}",
            f"--state-dir={folder / 'state'}",
            f"--v={4 if verbose else 0}",
        ]
        super().__init__("the agent", command, folder / "agent.log", DEADLINE_SECONDS)

    def wait_until_synced(self) -> Start:
        """Wait for the first complete sync. Raises ProcessError."""
        with self._log.open() as log:
            unfinished = ""
            while True:
                unfinished += log.readline()
                if not unfinished.endswith("\n"):
                    self.check()
                    time.sleep(0.002)
                    continue
                if found := _SYNCED.search(unfinished):
                    return Start(self.age, float(found[2]) / 1000, self.cpu(), int(found[1]), self.peak_rss())
                unfinished = ""

    def cpu(self) -> float:
        """Seconds of user and system time that the process has used."""
        return time.clock_gettime(~self.pid << 3 | 2)  # clock_getcpuclockid(3)

    def peak_rss(self) -> int:
        """The highest resident set so far, in bytes."""
        return peak_rss(self.pid)


class Proxymode:
    """See `proxy.Proxy`. Installed as its image has it, in the environment that `installed` makes."""

    restarts_write = False

    def __init__(self, environment: Path) -> None:
        self._program = installed.command(environment)

    def start(self, cluster: Cluster, folder: Path, *, again: bool = False) -> Agent:
        return Agent(self._program, cluster.kubeconfig, folder, verbose=again)

    def endpoints(self) -> kernel.EndpointMap:
        return kernel.EndpointMap()

    def remove(self) -> None:
        # Added first, for it may never have been made.
        lines = [f"{verb} table {family} proxymode" for family in ("ip", "ip6") for verb in ("add", "delete")]
        subprocess.run(["nft", "-f", "-"], input="\n".join(lines), text=True, check=True)
