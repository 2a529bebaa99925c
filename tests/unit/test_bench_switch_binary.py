"""How bench-switch restarts kube-proxy's process in another mode, tried with a stand-in; and what it tells it of."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, TextIO

import pytest

from proxymode_api.modes import Mode
from proxymode_benchmarks.switch import kube_proxy, node

if TYPE_CHECKING:
    from pathlib import Path

STAND_IN = """
import json, pathlib, signal, sys
(flag,) = sys.argv[1:]
config = json.loads(pathlib.Path(flag.removeprefix("--config=")).read_text())
with (pathlib.Path(__file__).parent / "started").open("a") as log:
    print(config["mode"], config["hostnameOverride"], config["clusterCIDR"], file=log, flush=True)
signal.pause()
"""
SYNCED = 'kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} 1.7e+09\n'


class Spawned:
    """Starts the stand-in in place of the binary, and answers as its metrics do on the third time."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.processes: list[subprocess.Popen[str]] = []
        self.asked: list[str] = []

    def spawn(self, command: list[str], *, stdout: TextIO, stderr: TextIO) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, *command], stdout=stdout, stderr=stderr, text=True)
        self.processes.append(process)
        return process

    def ask(self, url: str) -> str:
        self.asked.append(url)
        return self._text if len(self.asked) % 3 == 0 else ""


def made(spawned: Spawned, folder: Path, program: str = STAND_IN) -> kube_proxy.Binary:
    path = folder / "kube-proxy"
    path.write_text(program)
    return kube_proxy.Binary(path, folder / "kubeconfig", node.fleet(), folder, spawn=spawned.spawn, ask=spawned.ask)


def test_a_restart_ends_the_one_and_waits_for_the_other(tmp_path: Path) -> None:
    spawned = Spawned(SYNCED)
    proxy = made(spawned, tmp_path)
    proxy.start(Mode.IPVS)
    while not (tmp_path / "started").exists():
        assert spawned.processes[0].poll() is None
    proxy.restart(Mode.NFTABLES)
    assert [process.poll() is None for process in spawned.processes] == [False, True]
    while len((tmp_path / "started").read_text().splitlines()) < 2:
        assert spawned.processes[1].poll() is None
    proxy.stop()
    assert spawned.processes[1].poll() is not None
    pods = "10.244.1.0/24,fd44:0:0:1::/64,10.244.2.0/24,fd44:0:0:2::/64"
    assert (tmp_path / "started").read_text().splitlines() == [f"ipvs node1 {pods}", f"nftables node1 {pods}"]
    assert set(spawned.asked) == {"http://127.0.0.1:10249/metrics"}


def test_one_that_ends_says_why(tmp_path: Path) -> None:
    proxy = made(Spawned(""), tmp_path, "import sys\nsys.exit('no such mode')")
    with pytest.raises(kube_proxy.NotSyncedError, match=r"mode ipvs: status 1; its log ends:\nno such mode"):
        proxy.start(Mode.IPVS)


def test_its_cluster_is_that_of_the_other_runs() -> None:
    fleet = node.fleet()
    objects = json.loads(json.dumps(list(kube_proxy.objects(fleet))))
    by_kind: dict[str, list[dict[str, object]]] = {}
    for one in objects:
        by_kind.setdefault(one["kind"], []).append(one)
    assert {kind: len(some) for kind, some in by_kind.items()} == {"Node": 2, "Service": 1, "EndpointSlice": 2}
    ours = {str(port.cluster_ip): port for port in node.services(fleet).ports.values()}
    assert len(ours) == 3
    listed = {
        endpoint["addresses"][0] for one in objects if one["kind"] == "EndpointSlice" for endpoint in one["endpoints"]
    }
    assert listed == {str(address) for version in (4, 6) for _, address in node.backends(fleet, version)}
    assert len(listed) == 2 * len(node.BACKENDS)
