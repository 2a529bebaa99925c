"""Preflight facts of a real network namespace: what is seen there, and that looking changes nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from proxymode_agent.dataplane.nfnetlink import Connection
from proxymode_agent.preflight.checks import run
from proxymode_agent.preflight.facts import collect
from proxymode_agent.preflight.model import KubeProxyFound, NatChain
from proxymode_agent.services.model import DataplaneConfig
from proxymode_api.modes import Mode
from proxymode_api.nodeproxymode import Verdict
from proxymode_testbeds.topology import build, make_fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proxymode_testbeds.topology import Topology

NODE = "node1"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Topology]:
    """One fleet for all: making one takes seconds in the VM."""
    with build(make_fleet(nodes=1, pods=0)) as topology:
        yield topology


@pytest.fixture
def one_node(fleet: Topology) -> Iterator[Topology]:
    yield fleet
    fleet.run(NODE, ["nft", "flush", "ruleset"])


def load(topology: Topology, script: str) -> None:
    topology.run(NODE, ["nft", "--file", "-"], input=script)


def generation() -> int:
    with Connection() as kernel:
        return kernel.generation()


def test_this_kernel_takes_everything_that_nftables_mode_needs(one_node: Topology) -> None:
    facts = one_node.call(NODE, collect)
    assert facts.nft.error == ""
    assert facts.nft.missing == frozenset()
    results = run(Mode.NFTABLES, facts, DataplaneConfig())
    assert [result.id for result in results if result.verdict is Verdict.BLOCK] == []


def test_looking_changes_nothing(one_node: Topology) -> None:
    load(one_node, "table ip mine { chain c { type nat hook prerouting priority -100; }; }")
    listing = one_node.run(NODE, ["nft", "list", "ruleset"]).stdout
    before = one_node.call(NODE, generation)
    one_node.call(NODE, collect)
    assert one_node.call(NODE, generation) == before
    assert one_node.run(NODE, ["nft", "list", "ruleset"]).stdout == listing


def test_only_this_namespaces_interfaces_and_rules_are_seen(one_node: Topology) -> None:
    load(one_node, "table ip kube-proxy { }")
    one_node.run(NODE, ["ip", "link", "add", "cilium_host", "type", "veth", "peer", "name", "cilium_net"])
    inside, outside = one_node.call(NODE, collect), one_node.call("client1", collect)
    assert "cilium_host" in inside.interfaces
    assert "cilium_host" not in outside.interfaces
    assert inside.kube_proxy.rules == ("table ip kube-proxy",)
    assert outside.kube_proxy == KubeProxyFound()


def test_kube_proxys_chains_are_known_in_iptables_tables_too(one_node: Topology) -> None:
    load(
        one_node,
        "table ip nat { chain KUBE-SERVICES { }; chain PREROUTING { type nat hook prerouting priority -100; }; }",
    )
    facts = one_node.call(NODE, collect)
    assert facts.kube_proxy.rules == ("table ip nat",)
    assert facts.nat_chains == (NatChain("ip", "nat", "PREROUTING", "prerouting", -100),)


def test_nat_chains_of_others_are_seen_in_every_family_and_ours_are_not(one_node: Topology) -> None:
    load(
        one_node,
        """
        table inet mesh { chain early { type nat hook output priority -150; }; }
        table ip6 other { chain late { type nat hook postrouting priority 100; }; }
        table ip filter { chain forward { type filter hook forward priority 0; }; }
        table ip proxymode { chain services { type nat hook prerouting priority -100; }; }
        """,
    )
    facts = one_node.call(NODE, collect)
    assert set(facts.nat_chains) == {
        NatChain("ip6", "other", "late", "postrouting", 100),
        NatChain("inet", "mesh", "early", "output", -150),
    }


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_running_kube_proxy_is_noticed_in_its_own_namespace_only(one_node: Topology, tmp_path: Path) -> None:
    program = tmp_path / "kube-proxy"
    shutil.copy("/bin/sleep", program)
    with ended(one_node.popen(NODE, [program, "600"])) as process:
        facts = one_node.call(NODE, collect)
        assert facts.kube_proxy.running == f"process {process.pid}"
        assert one_node.call("client1", collect).kube_proxy.running == ""
        (result,) = [r for r in run(Mode.NFTABLES, facts, DataplaneConfig()) if r.id == "kube-proxy-present"]
        assert result.verdict is Verdict.BLOCK
    assert one_node.call(NODE, collect).kube_proxy.running == ""


SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ipvs")
server = http.server.HTTPServer(("127.0.0.1", 10249), Handler)
print("ready", flush=True)
server.serve_forever()
"""


def test_a_kube_proxy_whose_process_cannot_be_seen_is_noticed_by_its_answer(one_node: Topology) -> None:
    server = one_node.popen(NODE, [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with ended(server) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        facts = one_node.call(NODE, collect)
        process.stdout.close()
    assert facts.kube_proxy.running == "answers on 127.0.0.1:10249"
    assert facts.kube_proxy.mode == "ipvs"


def test_without_the_right_to_change_the_network_the_check_says_so(one_node: Topology) -> None:
    script = "from proxymode_agent.preflight.nftprobe import view_nft; print(view_nft().probe.error)"
    command = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-c", script]
    ran = one_node.run(NODE, command)
    assert "permitted" in ran.stdout, ran.stderr


@pytest.mark.parametrize("mode", Mode)
def test_every_check_has_an_answer_for_a_real_node(one_node: Topology, mode: Mode) -> None:
    results = run(mode, one_node.call(NODE, collect), DataplaneConfig())
    assert all(result.found for result in results)
    assert all(bool(result.remedy) == (result.verdict is not Verdict.PASS) for result in results)
