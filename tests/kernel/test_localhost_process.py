"""NodePorts on the node's own loopback, answered by the agent as a process where it is asked to."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from proxymode_testbeds.agentbed import (
    NODE_PORT,
    agent,
    api,
    apply,
    eventually,
    kubeconfig,
    node,
    relay,
    set_up_cluster,
    slices,
)

if TYPE_CHECKING:
    from proxymode_testbeds.agentbed import Agent
    from proxymode_testbeds.apiserver import ApiServer
    from proxymode_testbeds.fixtures import Traffic
    from proxymode_testbeds.topology import Topology

__all__ = ["agent", "api", "kubeconfig", "node", "relay"]

LOOPBACK = ("127.0.0.1", "::1")


async def test_node_ports_answer_on_loopback_where_asked_for(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    await set_up_cluster(api, node, traffic, "node1-pod1")

    def server(address: str) -> str:
        return traffic.ask(node, "node1", address, NODE_PORT).server

    def refused(address: str) -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            server(address)
            return False
        return True

    agent.start()
    assert all(map(refused, LOOPBACK))
    assert agent.stop() == 0

    agent.start("--localhost-nodeports")
    node1 = node.fleet.nodes[0]
    for address in LOOPBACK:
        eventually(lambda address=address: not refused(address), agent)  # type: ignore[misc]
        assert server(address) == "node1-pod1"
    assert agent.metric("localhost_nodeport_listeners") == 2
    assert traffic.ask(node, "client1", str(node1.addresses[0]), NODE_PORT).server == "node1-pod1"

    await apply(api, *slices(node, "node1-pod2"))
    for address in LOOPBACK:
        eventually(lambda address=address: server(address) == "node1-pod2", agent)  # type: ignore[misc]
    await apply(api, *slices(node))
    for address in LOOPBACK:
        eventually(lambda address=address: refused(address), agent)  # type: ignore[misc]
