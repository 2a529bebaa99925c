"""How the benchmark drives kube-proxy's process, tried with a stand-in: no machine of ours has the binary."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from proxymode_api.modes import Mode
from proxymode_benchmarks import binary
from proxymode_benchmarks.sync import kubeproxy
from proxymode_benchmarks.sync.kubeproxy import KubeProxyRun
from proxymode_benchmarks.sync.proxy import ProcessError

if TYPE_CHECKING:
    from pathlib import Path

STAND_IN = """#!{python}
import json, pathlib, subprocess, sys, http.server
(flag,) = sys.argv[1:]
config = json.loads(pathlib.Path(flag.removeprefix("--config=")).read_text())
assert config["kind"] == "KubeProxyConfiguration" and config["mode"] == "nftables", config
spent = "data = bytearray(30_000_000)\\nfor _ in range(3_000_000): pass\\nprint(flush=True)"
subprocess.run([sys.executable, "-c", spent + "\\ninput()"], stdout=subprocess.PIPE, input=b"\\n", check=True)
child = subprocess.Popen([sys.executable, "-c", spent + "\\ninput()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
scrapes = 0

class Metrics(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        global scrapes
        scrapes += 1
        name = "kubeproxy_sync_proxy_rules"
        ended = {{"IPv4": 1.7637e+09, "IPv6": 0 if scrapes < 3 else 1.7637e+09}}
        lines = []
        for family, at in ended.items():
            label = f'{{{{ip_family="{{family}}"}}}}'
            lines.append(f"{{name}}_last_timestamp_seconds{{label}} {{at}}")
            lines.append(f"{{name}}_duration_seconds_sum{{label}} 0.25")
        self.send_response(200)
        self.end_headers()
        self.wfile.write("\\n".join(["# HELP x y", *lines, ""]).encode())

host, port = config["metricsBindAddress"].split(":")
http.server.HTTPServer((host, int(port)), Metrics).serve_forever()
"""


def stand_in(folder: Path, text: str = STAND_IN) -> Path:
    program = folder / "kube-proxy"
    program.write_text(text.format(python=sys.executable))
    program.chmod(0o755)
    return program


def test_a_run_is_measured_with_its_children(tmp_path: Path) -> None:
    generations = iter([7, 7, 7])
    run = KubeProxyRun(stand_in(tmp_path), tmp_path / "kubeconfig", tmp_path, generation=lambda: next(generations, 8))
    with run as process:
        start = process.wait_until_synced()
        assert start.sync == 0.5, "of both families"
        assert start.cpu > 0.05, "of a child that has ended too"
        assert start.rss > 50_000_000, "the process and its largest child"
        assert start.written is None
        assert process.cpu() >= start.cpu
        pid = run.pid
    assert run._process.returncode is not None, pid


def test_a_run_that_ends_says_why(tmp_path: Path) -> None:
    program = stand_in(tmp_path, "#!{python}\nimport sys\nsys.exit('no such mode')\n")
    with (
        pytest.raises(ProcessError, match=r"status 1[\s\S]*no such mode"),
        KubeProxyRun(program, tmp_path / "kubeconfig", tmp_path, generation=lambda: 7) as process,
    ):
        process.wait_until_synced()


def test_a_run_that_does_not_sync_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeproxy, "DEADLINE_SECONDS", 0.05)
    with (
        pytest.raises(ProcessError, match="not synced within"),
        KubeProxyRun(stand_in(tmp_path), tmp_path / "kubeconfig", tmp_path, generation=lambda: 7) as process,
    ):
        process.wait_until_synced()


def test_the_configuration_names_the_mode_and_where_the_cluster_is(tmp_path: Path) -> None:
    text = binary.configuration(
        Mode.IPVS,
        node="node1",
        cluster_cidrs=["10.244.0.0/16", "fd00::/64"],
        kubeconfig=tmp_path / "kubeconfig",
        metrics_port=1,
        health_port=2,
    )
    config = json.loads(text)
    assert config["clientConnection"] == {"kubeconfig": str(tmp_path / "kubeconfig")}
    assert (config["mode"], config["detectLocalMode"]) == ("ipvs", "ClusterCIDR")
    assert (config["hostnameOverride"], config["clusterCIDR"]) == ("node1", "10.244.0.0/16,fd00::/64")
    assert (config["metricsBindAddress"], config["healthzBindAddress"]) == ("127.0.0.1:1", "127.0.0.1:2")


def test_the_binary_is_where_envtest_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    assert binary.find() is None
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert binary.find() is None
    program = stand_in(tmp_path)
    assert binary.find() == program
    program.chmod(0o644)
    assert binary.find() is None
