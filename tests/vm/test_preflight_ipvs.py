"""Preflight on Debian's stock kernel, which has IPVS: modules, virtual servers, verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_agent.preflight.checks import run
from proxymode_agent.preflight.facts import collect
from proxymode_agent.preflight.model import IpvsTable, ModuleState
from proxymode_agent.services.model import DataplaneConfig
from proxymode_api.modes import Mode
from proxymode_api.nodeproxymode import Verdict

if TYPE_CHECKING:
    from proxymode_testbeds.topology import Topology

NODE = "node1"


def test_a_stock_node_can_run_both_modes(one_node: Topology) -> None:
    facts = one_node.call(NODE, collect)
    assert facts.nft.missing == frozenset()
    for mode in Mode:
        results = run(mode, facts, DataplaneConfig())
        assert [result for result in results if result.verdict is Verdict.BLOCK] == []


def test_modules_are_known_by_their_state(one_node: Topology) -> None:
    modules = one_node.call(NODE, collect).modules
    assert modules["ip_vs"] is ModuleState.LOADED
    assert modules["nf_tables"] is ModuleState.LOADED
    assert modules["ip_vs_dh"] in (ModuleState.LOADED, ModuleState.LOADABLE)


def test_virtual_servers_of_this_namespace_are_counted(one_node: Topology) -> None:
    for command in (
        ["-A", "-t", "10.96.0.10:80", "-s", "rr"],
        ["-A", "-u", "10.96.0.10:53", "-s", "wlc", "-p", "10800"],
        ["-a", "-t", "10.96.0.10:80", "-r", "10.244.0.11:8080", "-m"],
        ["-a", "-u", "10.96.0.10:53", "-r", "10.244.0.12:53", "-g"],
        ["-A", "-t", "[fd00:10::10]:80", "-s", "rr"],
    ):
        one_node.run(NODE, ["ipvsadm", *command])
    facts = one_node.call(NODE, collect)
    assert facts.ipvs_reachable
    assert facts.ipvs == IpvsTable(schedulers={"rr": 2, "wlc": 1}, forwarding={"Masq": 1, "Route": 1})
    assert one_node.call("client1", collect).ipvs == IpvsTable()
    verdicts = {result.id: result.verdict for result in run(Mode.NFTABLES, facts, DataplaneConfig())}
    assert verdicts["ipvs-forwarding"] is Verdict.WARN
    assert verdicts["ipvs-scheduling"] is Verdict.WARN
    # A fresh namespace has net.ipv4.vs.conntrack=0, which neither kube-proxy nor this agent leaves so.
    assert verdicts["ipvs-conntrack"] is Verdict.WARN
