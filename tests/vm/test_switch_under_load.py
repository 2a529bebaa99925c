"""The switch between live modes while clients outside, in a pod and on the node itself keep opening connections."""

from __future__ import annotations

import itertools
import os
import signal
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from proxymode_agent.services.model import Protocol, ServiceState
from proxymode_agent.switch import Outcome, StepRecord, Switcher, SwitchError
from proxymode_agent.switch.plan import Step, plan
from proxymode_api.modes import ConnectionPolicy, Mode, ObservedMode
from service_node import VIP, VIP6, Idle, service, state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from proxymode_testbeds.topology import Topology
    from proxymode_testbeds.traffic.processes import TrafficProcess
    from service_node import NodeMaker, ServiceNode

ROUND_TRIPS = 5
VICTIM_SECONDS = 120  # a deadline under emulation, not an estimate
NEW_RATE = 6.0  # per second and client: what an emulated node serves beside the rest


def services(node: ServiceNode) -> ServiceState:
    v4, v6 = node.pods(4), node.pods(6)
    return state(
        service(VIP, 80, v4[:2], node_port=30080),
        service(VIP, 53, v4[:2], target=5353, protocol=Protocol.UDP),
        service(VIP6, 80, v6[:2], node_port=30080),
        service("10.96.0.11", 81, (), name="empty"),
    )


def clients(node: ServiceNode, traffic: Traffic) -> list[TrafficProcess]:
    """Outside, on the node and in a pod: long-lived connections that keep talking, new ones, and datagrams."""
    load = {"established": 5, "new_rate": NEW_RATE}
    return [
        traffic.talk(node.topology, "client1", VIP, tcp=80, udp=53, udp_rate=3.0, **load),
        traffic.talk(node.topology, "node1", VIP, tcp=80, **load),
        traffic.talk(node.topology, "node1-pod3", VIP6, tcp=80, **load),
    ]


def stop(running: list[TrafficProcess]) -> dict[str, Any]:
    """The sum of what clients counted."""
    for client in running:
        client.signal(signal.SIGTERM)
    results = [client.result() for client in running]
    counts = ("established", "lost", "new", "failed", "udp_sent", "udp_lost")
    return {name: sum(result[name] for result in results) for name in counts} | {
        "why": [(result["failed_first"], result["lost_first"]) for result in results]
    }


def let_run(running: list[TrafficProcess], seconds: int = 2) -> None:
    for client in running:
        for _ in range(seconds):
            client.wait_for("second")


@pytest.fixture
def node(node_fleet: FleetMaker, service_node: NodeMaker, traffic: Traffic) -> ServiceNode:
    topology = node_fleet(nodes=1, pods=3, dual_stack=True)
    traffic.serve_all(topology)
    return service_node(topology)


def agent(node: ServiceNode, folder: Path, policy: ConnectionPolicy) -> Switcher:
    return node.call(Switcher, replace(node.config, connections=policy), folder)


@pytest.fixture
def idle(node: ServiceNode) -> Iterator[Idle]:
    with closing(Idle(node)) as connections:
        yield connections


def test_to_and_fro_under_load_no_connection_is_lost_and_nothing_stays_behind(
    node: ServiceNode, traffic: Traffic, idle: Idle, tmp_path: Path
) -> None:
    ports = services(node)
    with closing(agent(node, tmp_path, ConnectionPolicy.HANDOVER)) as switcher:
        record = node.call(switcher.switch, Mode.IPVS, ports, lambda step: None)
        assert (record.from_mode, record.outcome, record.connections) == (ObservedMode.NONE, Outcome.SUCCEEDED, None)
        beginning = node.snapshot()
        running = clients(node, traffic)
        for _ in range(ROUND_TRIPS):
            for to, old in ((Mode.NFTABLES, Mode.IPVS), (Mode.IPVS, Mode.NFTABLES)):
                idle.open(1)  # on the old mode; those opened earlier were carried to it
                record = node.call(switcher.switch, to, ports, lambda step: None)
                assert node.call(switcher.observe) is ObservedMode(to)
                assert node.call(switcher.dataplane(old).present) is False
                assert record.outcome is Outcome.SUCCEEDED
                assert idle.broken() == []
                assert record.connections is not None
                assert record.connections.found >= 7
                assert record.connections.lost == 0
                let_run(running, 1)
        assert idle.number == 7 * 2 * ROUND_TRIPS
        assert node.snapshot() == beginning
        assert list(tmp_path.iterdir()) == []
    counted = stop(running)
    assert counted["established"] == 15
    assert counted["new"] > 100
    assert (counted["lost"], counted["failed"], counted["udp_lost"]) == (0, 0, 0), counted["why"]


def test_cut_ends_what_ipvs_holds_and_fails_no_new_connection(
    node: ServiceNode, traffic: Traffic, idle: Idle, tmp_path: Path
) -> None:
    ports = services(node)
    with closing(agent(node, tmp_path, ConnectionPolicy.CUT)) as switcher:
        node.call(switcher.switch, Mode.IPVS, ports, lambda step: None)
        idle.open(2)
        running = clients(node, traffic)
        record = node.call(switcher.switch, Mode.NFTABLES, ports, lambda step: None)
        let_run(running)
    assert record.connections is not None
    assert record.connections.found >= 14 + 15
    assert record.connections.kept < record.connections.found
    counted = stop(running)
    assert counted["lost"] > 0
    assert (counted["failed"], counted["udp_lost"]) == (0, 0), counted["why"]


@pytest.mark.parametrize("policy", list(ConnectionPolicy))
def test_killed_after_any_step_the_next_agent_finishes_and_no_new_connection_fails(
    node: ServiceNode, traffic: Traffic, idle: Idle, tmp_path: Path, policy: ConnectionPolicy
) -> None:
    ports = services(node)
    with closing(agent(node, tmp_path, policy)) as switcher:
        node.call(switcher.switch, Mode.IPVS, ports, lambda step: None)
    beginning = node.snapshot()
    idle.open(1)
    running = clients(node, traffic)
    forth = plan({Mode.IPVS}, Mode.NFTABLES, policy).steps
    back = plan({Mode.NFTABLES}, Mode.IPVS, policy).steps
    for there, home in itertools.zip_longest(forth, back):
        for to, step in ((Mode.NFTABLES, there), (Mode.IPVS, home)):
            if step is not None:
                switch_and_die(node, tmp_path, policy, to, step, ports)
                let_run(running, 1)
            with closing(agent(node, tmp_path, policy)) as next_agent:
                assert node.call(next_agent.unfinished) is (to if step else None)
                record = node.call(next_agent.switch, to, ports, lambda step: None)
                assert record.outcome is (Outcome.RESUMED if step else Outcome.SUCCEEDED)
                assert record.from_mode is not ObservedMode(to)
                assert node.call(next_agent.unfinished) is None
                assert node.call(next_agent.observe) is ObservedMode(to)
        if policy is ConnectionPolicy.HANDOVER:
            assert idle.broken() == [], (there, home)
            idle.open(1)
    assert node.snapshot() == beginning
    assert list(tmp_path.iterdir()) == []
    counted = stop(running)
    assert (counted["failed"], counted["udp_lost"]) == (0, 0), counted["why"]
    if policy is ConnectionPolicy.HANDOVER:
        assert counted["lost"] == 0, counted["why"]


def switch_and_die(
    node: ServiceNode, folder: Path, policy: ConnectionPolicy, to: Mode, step: Step, ports: ServiceState
) -> None:
    """A process that begins a switch and is killed, with SIGKILL, right after that step."""

    def die(record: StepRecord) -> None:
        if record.name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def victim() -> int:
        process = os.fork()
        if process == 0:
            signal.alarm(VICTIM_SECONDS)
            try:
                Switcher(replace(node.config, connections=policy), folder).switch(to, ports, die)
            finally:
                os._exit(1)
        return os.waitpid(process, 0)[1]

    assert os.waitstatus_to_exitcode(node.call(victim)) == -signal.SIGKILL


def test_a_switch_that_fails_is_undone_and_says_why(node: ServiceNode, idle: Idle, tmp_path: Path) -> None:
    """IPVS refuses a real server that is no unicast address (ip_vs_new_dest), which the agent never asks for."""
    refused = service("10.96.0.12", 82, ["224.0.0.1"], name="refused")
    ports = ServiceState({**services(node).ports, refused.name: refused})
    with closing(node.call(Switcher, node.config, tmp_path)) as switcher:
        node.call(switcher.switch, Mode.NFTABLES, ports, lambda step: None)
        idle.open(1)
        with pytest.raises(SwitchError, match=r"program-target: .*224\.0\.0\.1") as failure:
            node.call(switcher.switch, Mode.IPVS, ports, lambda step: None)
        assert failure.value.record.outcome is Outcome.ROLLED_BACK
        assert node.call(switcher.observe) is ObservedMode.NFTABLES
        assert node.call(switcher.unfinished) is None
        assert node.call(switcher.dataplane(Mode.IPVS).present) is False
        assert node.sh("ipvsadm -Sn") == ""
        assert idle.broken() == []


def test_it_sees_whose_services_the_node_has(one_node: Topology, service_node: NodeMaker, tmp_path: Path) -> None:
    node = service_node(one_node)
    with closing(node.call(Switcher, node.config, tmp_path)) as switcher:
        assert node.call(switcher.observe) is ObservedMode.NONE
        assert node.call(switcher.unfinished) is None
        node.sh("nft add table ip nat; nft add chain ip nat KUBE-KUBELET-CANARY")
        assert node.call(switcher.observe) is ObservedMode.NONE
        node.sh("nft add chain ip nat KUBE-SERVICES")
        assert node.call(switcher.observe) is ObservedMode.KUBE_PROXY_IPTABLES
        node.sh("ip link add kube-ipvs0 type dummy")
        assert node.call(switcher.observe) is ObservedMode.KUBE_PROXY_IPVS
        node.sh("nft add table ip6 kube-proxy")
        assert node.call(switcher.observe) is ObservedMode.KUBE_PROXY_NFTABLES
