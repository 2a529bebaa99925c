"""A client of a Service with session affinity meets the same endpoint, whichever mode the node is in."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from proxymode_agent.switch import Outcome
from proxymode_api.modes import ConnectionPolicy, Mode
from proxymode_testbeds.traffic.ask import ask
from service_node import ANSWER_SECONDS, VIP, VIP6, service, state
from switch_load import NODE_PORT, agent, serve, switch

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from service_node import NodeMaker, ServiceNode

CLIENTS = ("client1", "client2", "node1", "node1-pod1", "node1-pod2", "node1-pod3")
SEVERAL = 4


def test_stickiness_goes_with_the_node_there_and_back(
    node_fleet: FleetMaker, service_node: NodeMaker, traffic: Traffic, tmp_path: Path
) -> None:
    topology = node_fleet(nodes=2, pods=3, clients=2, dual_stack=True)
    serve(traffic, topology)
    node = service_node(topology)
    v4, v6 = ([pods[0], pods[1], pods[3]] for pods in (node.pods(4), node.pods(6)))
    ports = state(
        service(VIP, 80, v4, node_port=NODE_PORT, affinity_seconds=10800),
        service(VIP6, 80, v6, node_port=NODE_PORT, affinity_seconds=10800),
    )
    with closing(agent(node, tmp_path, ConnectionPolicy.HANDOVER)) as switcher:
        switch(node, switcher, Mode.IPVS, ports)
        before = servers(node)
        for to in (Mode.NFTABLES, Mode.IPVS, Mode.NFTABLES):
            assert switch(node, switcher, to, ports).outcome is Outcome.SUCCEEDED
            for _ in range(SEVERAL):
                assert servers(node) == before, to


def servers(node: ServiceNode) -> dict[tuple[str, str], str]:
    """Who answers each client by its next connection. client2's gateway is the other node: it knows NodePorts only."""
    asked = [(client, address, 80) for client in CLIENTS if client != "client2" for address in (VIP, VIP6)]
    asked += [("client2", node.address(version), NODE_PORT) for version in (4, 6)]
    return {
        (client, address): node.topology.call(client, ask, address, port, timeout=ANSWER_SECONDS).server
        for client, address, port in asked
    }
