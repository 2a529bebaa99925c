"""A node with Services of every kind, all kinds of clients of them, and agents that switch the node's mode."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from proxymode_agent.services.model import Protocol, ServiceState
from proxymode_agent.switch import Switcher
from service_node import VIP, VIP6, Idle, packed, service, state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from proxymode_agent.switch import StepRecord, SwitchRecord
    from proxymode_agent.switch.plan import Step
    from proxymode_api.modes import ConnectionPolicy, Mode
    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from proxymode_testbeds.topology import Topology
    from proxymode_testbeds.traffic.processes import TrafficProcess
    from service_node import NodeMaker, ServiceNode

    Client = tuple[str, str, dict[str, float]]

VICTIM_SECONDS = 600  # a deadline under emulation, not an estimate
NODE_PORT, LOCAL_NODE_PORT = 30080, 30081
EXTERNAL = "10.96.1.1"  # in the Service network, so that clients have a route to it


@pytest.fixture
def node(node_fleet: FleetMaker, service_node: NodeMaker, traffic: Traffic) -> ServiceNode:
    """The first of two nodes, with everybody in place that the Services below lead to."""
    topology = node_fleet(nodes=2, pods=3, dual_stack=True)
    serve(traffic, topology)
    return service_node(topology)


@pytest.fixture
def idle(node: ServiceNode) -> Iterator[Idle]:
    with closing(Idle(node)) as connections:
        yield connections


def serve(traffic: Traffic, topology: Topology) -> None:
    """Backends in the pods that `services` names."""
    for pod in ("node1-pod1", "node1-pod2", "node2-pod1"):
        traffic.serve(topology, pod)


def services(node: ServiceNode) -> ServiceState:
    """Two endpoints here and one on another node; external frontends of both policies; one without endpoints."""
    v4, v6 = ([pods[0], pods[1], pods[3]] for pods in (node.pods(4), node.pods(6)))
    here = tuple(endpoint for pod in v4[:2] for endpoint in service(VIP, 80, [pod]).cluster_endpoints)
    return state(
        service(VIP, 80, v4, node_port=NODE_PORT, external_ips=(packed(EXTERNAL),)),
        service(VIP, 53, v4, target=5353, protocol=Protocol.UDP),
        service(VIP6, 80, v6, node_port=NODE_PORT),
        service(
            "10.96.0.12", 80, v4, name="local", node_port=LOCAL_NODE_PORT, external_local=True, local_endpoints=here
        ),
        service("10.96.0.11", 81, (), name="empty"),
    )


def clients(node: ServiceNode) -> list[Client]:
    """Outside, on the node, in a pod, in a pod that may meet itself; by every kind of frontend."""
    loads: list[Client] = [
        ("client1", VIP, {"tcp": 80, "udp": 53, "established": 2, "bulk": 1, "push": 2, "new_rate": 2.0}
         | {"udp_rate": 1.0, "udp_streams": 1}),
        ("node1", VIP, {"tcp": 80, "established": 2, "bulk": 1, "push": 1, "new_rate": 2.0}),
        ("node1-pod3", VIP6, {"tcp": 80, "established": 2, "bulk": 1, "push": 1, "new_rate": 1.0}),
        ("node1-pod1", VIP, {"tcp": 80, "udp": 53, "established": 2, "new_rate": 0.5, "udp_streams": 1}),
        ("client1", EXTERNAL, {"tcp": 80, "established": 2, "new_rate": 0.5}),
        ("client1", node.address(4), {"tcp": LOCAL_NODE_PORT, "established": 1, "push": 1, "new_rate": 0.5}),
        ("client1", node.address(6), {"tcp": NODE_PORT, "established": 2, "new_rate": 0.5}),
    ]  # fmt: skip
    return [(name, address, {"interval": 1.0, **load}) for name, address, load in loads]


ESTABLISHED = 5 + 4 + 4 + 2 + 2 + 2 + 2
"""Long-lived connections of `clients`."""


def stop(running: list[TrafficProcess]) -> dict[str, Any]:
    """The sum of what clients counted."""
    for client in running:
        client.signal(signal.SIGTERM)
    results = [client.result() for client in running]
    counts = ("established", "lost", "new", "failed", "udp_sent", "udp_lost")
    return {name: sum(result[name] for result in results) for name in counts} | {
        "why": [
            (number, result["failed_first"], result["lost_first"], result["udp_lost_reasons"])
            for number, result in enumerate(results)
            if result["failed"] or result["lost"] or result["udp_lost"]
        ]
    }


def let_run(running: list[TrafficProcess], seconds: int = 2) -> None:
    for client in running:
        for _ in range(seconds):
            client.wait_for("second")


def agent(node: ServiceNode, folder: Path, policy: ConnectionPolicy, **options: Any) -> Switcher:
    return node.call(Switcher, replace(node.config, connections=policy, **options), folder)


def switch(
    node: ServiceNode,
    switcher: Switcher,
    to: Mode,
    ports: ServiceState,
    on_step: Callable[[StepRecord], None] = lambda step: None,
) -> SwitchRecord:
    return node.call(switcher.switch, to, ports, on_step)


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
