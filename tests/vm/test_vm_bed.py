"""The guest is what the tests in it rely on: Debian's kernel, the host's checkout, traces of nothing."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxymode_testbeds.fixtures import Traffic
    from proxymode_testbeds.topology import Topology

CHECKOUT = Path(__file__).parents[2]
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh")


def test_the_kernel_is_debians_stock_kernel() -> None:
    assert "Debian" in Path("/proc/version").read_text()
    assert Path("/lib/modules", platform.release()).is_dir()


def test_the_guest_runs_the_checkouts_own_python() -> None:
    assert Path(sys.executable).is_relative_to(CHECKOUT)
    assert Path.cwd() == CHECKOUT


def test_what_the_guest_writes_stays_in_its_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("written")
    assert (tmp_path / "file").read_text() == "written"
    root = next(line.split() for line in Path("/proc/mounts").read_text().splitlines() if line.split()[1] == "/")
    assert root[2] == "overlay"
    assert os.statvfs("/").f_flag & os.ST_RDONLY == 0


def test_the_kernel_loads_every_ipvs_scheduler_by_itself(one_node: Topology) -> None:
    """ipvsadm asks for a scheduler by name only: loading its module is the kernel's and modprobe's doing."""
    for port, scheduler in enumerate(SCHEDULERS, start=80):
        one_node.run("node1", ["ipvsadm", "-A", "-t", f"10.96.0.10:{port}", "-s", scheduler])
    listing = one_node.run("node1", ["ipvsadm", "-Ln"]).stdout
    for port, scheduler in enumerate(SCHEDULERS, start=80):
        assert f"10.96.0.10:{port} {scheduler}" in listing


def test_ipvs_is_per_node_and_forwards(two_nodes: Topology, traffic: Traffic) -> None:
    """A virtual server on node1, its address on a dummy device as kube-proxy has it, real servers on both nodes."""
    traffic.serve_all(two_nodes)
    pods = [pod for node in two_nodes.fleet.nodes for pod in node.pods]
    two_nodes.run("node1", ["ip", "link", "add", "kube-ipvs0", "type", "dummy"])
    two_nodes.run("node1", ["ip", "address", "add", "10.96.0.10/32", "dev", "kube-ipvs0"])
    two_nodes.run("node1", ["ipvsadm", "-A", "-t", "10.96.0.10:80", "-s", "rr"])
    for pod in pods:
        two_nodes.run("node1", ["ipvsadm", "-a", "-t", "10.96.0.10:80", "-r", f"{pod.address}:8080", "-m"])
    two_nodes.run(
        "node1",
        ["nft", "-f", "-"],
        input="""
        table ip outgoing {
            chain out {
                type nat hook postrouting priority srcnat;
                ip daddr 10.244.0.0/16 masquerade
            }
        }
        """,
    )
    two_nodes.run("node1", ["sysctl", "-qw", "net.ipv4.vs.conntrack=1"])

    answers = [traffic.ask(two_nodes, "client1", "10.96.0.10", 80) for _ in pods]

    assert sorted(answer.server for answer in answers) == sorted(pod.name for pod in pods)
    assert {answer.source for answer in answers} <= {two_nodes.fleet.nodes[0].address, "10.244.1.1"}
    assert "10.96.0.10" not in two_nodes.run("node2", ["ipvsadm", "-Ln"]).stdout
    assert subprocess.run(["ipvsadm", "-Ln"], check=True, capture_output=True, text=True).stdout.count("->") == 1
