"""The switch between live modes while clients outside, in a pod and on the node itself keep opening connections."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from proxymode_agent.services.model import Protocol
from proxymode_agent.switch import Outcome, Switcher, SwitchError
from proxymode_agent.switch.plan import plan
from proxymode_api.modes import ConnectionPolicy, Mode, ObservedMode
from service_node import VIP, VIP6, service, state

if TYPE_CHECKING:
    from proxymode_agent.services.model import ServiceState
    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from proxymode_testbeds.topology import Topology
    from proxymode_testbeds.traffic.processes import TrafficProcess
    from service_node import NodeMaker, ServiceNode

NEW_RATE = 6.0  # per second and client: what an emulated node serves beside the rest


def services(node: ServiceNode) -> ServiceState:
    v4, v6 = node.pods(4), node.pods(6)
    return state(
        service(VIP, 80, v4[:2], node_port=30080),
        service(VIP, 53, v4[:2], target=5353, protocol=Protocol.UDP),
        service(VIP6, 80, v6[:2], node_port=30080),
        service("10.96.0.11", 81, (), name="empty"),
    )


def openers(node: ServiceNode, traffic: Traffic) -> list[TrafficProcess]:
    """Clients that open connections all the time: outside, on the node, in a pod, a pod that may meet itself."""
    topology = node.topology
    return [
        traffic.talk(topology, "client1", VIP, tcp=80, udp=53, new_rate=NEW_RATE, udp_rate=3.0),
        traffic.talk(topology, "node1", VIP, tcp=80, new_rate=NEW_RATE),
        traffic.talk(topology, "node1-pod3", VIP6, tcp=80, new_rate=NEW_RATE),
        traffic.talk(topology, "node1-pod1", VIP, tcp=80, new_rate=NEW_RATE),
        traffic.talk(topology, "client1", node.address(), tcp=30080, new_rate=NEW_RATE),
    ]


def residents(node: ServiceNode, traffic: Traffic, number: int = 8) -> list[TrafficProcess]:
    """Clients with long-lived connections, from the same places."""
    topology = node.topology
    return [
        traffic.talk(topology, "client1", VIP, tcp=80, established=number),
        traffic.talk(topology, "node1", VIP, tcp=80, established=number),
        traffic.talk(topology, "node1-pod3", VIP6, tcp=80, established=number),
        traffic.talk(topology, "node1-pod1", VIP, tcp=80, established=number),
        traffic.talk(topology, "client1", node.address(), tcp=30080, established=number),
    ]


def stop(clients: list[TrafficProcess]) -> dict[str, Any]:
    """The sum of what clients counted."""
    for client in clients:
        client.signal(signal.SIGTERM)
    results = [client.result() for client in clients]
    counts = ("established", "lost", "new", "failed", "udp_sent", "udp_lost")
    return {name: sum(result[name] for result in results) for name in counts} | {
        "why": [(result["failed_first"], result["lost_first"]) for result in results]
    }


def let_run(clients: list[TrafficProcess], seconds: int = 2) -> None:
    for client in clients:
        for _ in range(seconds):
            client.wait_for("second")


@pytest.fixture
def node(node_fleet: FleetMaker, service_node: NodeMaker, traffic: Traffic) -> ServiceNode:
    topology = node_fleet(nodes=1, pods=3, dual_stack=True)
    traffic.serve_all(topology)
    return service_node(topology)


def test_to_and_fro_under_load_no_new_connection_fails_and_nothing_stays_behind(
    node: ServiceNode, traffic: Traffic, tmp_path: Path
) -> None:
    ports = services(node)
    with closing(node.call(Switcher, node.config, tmp_path)) as switcher:
        record = node.call(switcher.switch, Mode.IPVS, ports, lambda step: None)
        assert (record.from_mode, record.outcome, record.connections) == (ObservedMode.NONE, Outcome.SUCCEEDED, None)
        beginning = node.snapshot()
        first = residents(node, traffic)
        opening = openers(node, traffic)
        let_run(opening)
        for turn in range(5):
            record = node.call(switcher.switch, Mode.NFTABLES, ports, lambda step: None)
            assert node.call(switcher.observe) is ObservedMode.NFTABLES
            assert node.call(switcher.dataplane(Mode.IPVS).present) is False
            assert record.outcome is Outcome.SUCCEEDED
            assert record.connections is not None
            if turn == 0:  # policy Cut: what was open on IPVS ends
                assert record.connections.found >= 40
                assert record.connections.kept == 0
                assert stop(first)["lost"] == 40
            second = residents(node, traffic)
            let_run(opening, 1)
            record = node.call(switcher.switch, Mode.IPVS, ports, lambda step: None)
            assert node.call(switcher.observe) is ObservedMode.IPVS
            assert node.call(switcher.dataplane(Mode.NFTABLES).present) is False
            assert record.connections is not None
            assert record.connections.found >= 40
            assert record.connections.lost == 0
            let_run(second, 1)
            survived = stop(second)
            assert (survived["established"], survived["lost"]) == (40, 0), survived["why"]
        assert node.snapshot() == beginning
        assert list(tmp_path.iterdir()) == []
    result = stop(opening)
    assert result["new"] > 100
    assert (result["failed"], result["udp_lost"]) == (0, 0), result["why"]


@pytest.mark.parametrize("to", list(Mode))
def test_killed_after_any_step_the_next_switch_finishes_and_no_new_connection_fails(
    node: ServiceNode, traffic: Traffic, tmp_path: Path, to: Mode
) -> None:
    ports = services(node)
    old = next(mode for mode in Mode if mode is not to)
    with closing(node.call(Switcher, node.config, tmp_path)) as switcher:
        node.call(switcher.switch, old, ports, lambda step: None)
        beginning = node.snapshot()
        opening = openers(node, traffic)
        let_run(opening, 1)
        for step in plan({old}, to, ConnectionPolicy.CUT).steps:
            switch_and_die(node, tmp_path, to, step, ports)
            assert node.call(switcher.unfinished) is to
            let_run(opening, 2)
            with closing(node.call(Switcher, node.config, tmp_path)) as next_agent:
                record = node.call(next_agent.switch, to, ports, lambda step: None)
                assert record.outcome is Outcome.RESUMED
                assert record.from_mode is ObservedMode(old)
                assert node.call(next_agent.unfinished) is None
                assert node.call(next_agent.observe) is ObservedMode(to)
                assert node.call(next_agent.dataplane(old).present) is False
                node.call(next_agent.switch, old, ports, lambda step: None)
        assert node.snapshot() == beginning
    result = stop(opening)
    assert (result["failed"], result["udp_lost"]) == (0, 0), result["why"]


def switch_and_die(node: ServiceNode, folder: Path, to: Mode, step: str, ports: ServiceState) -> None:
    victim = [sys.executable, str(Path(__file__).with_name("switch_victim.py")), str(folder), to, step]
    process = node.call(lambda: subprocess.Popen(victim, stdin=subprocess.PIPE))
    process.communicate(pickle.dumps((node.config, ports)), timeout=60)
    assert process.returncode == -signal.SIGKILL


def test_a_switch_that_fails_is_undone_and_says_why(
    node: ServiceNode, service_node: NodeMaker, traffic: Traffic, tmp_path: Path
) -> None:
    ports = services(node)
    crippled = service_node(node.topology, ipvs_scheduler="nonesuch")
    with closing(crippled.call(Switcher, crippled.config, tmp_path)) as switcher:
        node.call(switcher.switch, Mode.NFTABLES, ports, lambda step: None)
        clients = residents(node, traffic, 4)
        with pytest.raises(SwitchError, match=r"program-target: .*with scheduler nonesuch") as failure:
            node.call(switcher.switch, Mode.IPVS, ports, lambda step: None)
        assert failure.value.record.outcome is Outcome.ROLLED_BACK
        assert node.call(switcher.observe) is ObservedMode.NFTABLES
        assert node.call(switcher.unfinished) is None
        assert node.call(switcher.dataplane(Mode.IPVS).present) is False
        assert node.sh("ipvsadm -Sn") == ""
        let_run(clients, 1)
        assert stop(clients)["lost"] == 0


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
