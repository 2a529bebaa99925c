"""A look at the kernel in ipvs mode: what it sees of other people's work, and what only reading back finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_agent.dataplane.base import Finding
from proxymode_agent.dataplane.ipvs.model import DeleteVirtualServer
from proxymode_agent.dataplane.ipvs.servers import Servers
from service_node import VIP, service, state

if TYPE_CHECKING:
    from proxymode_agent.services.model import Frontend
    from proxymode_testbeds.topology import Topology
    from service_node import NodeMaker


def test_what_others_do_to_ipvs_and_our_table_is_seen_and_put_back(service_node: NodeMaker, one_node: Topology) -> None:
    node = service_node(one_node)
    dataplane = node.ipvs()
    web = service(VIP, 80, node.pods(), node_port=30080)
    other = service("10.96.0.12", 82, node.pods(), name="other")
    node.call(dataplane.sync, state(web))
    for _ in range(2):
        assert node.call(dataplane.look).finding is Finding.NOTHING_SEEN, "IPVS says nothing of who wrote"
    node.call(dataplane.sync, state(web, other), frozenset([other.name]))
    assert node.call(dataplane.look).finding is Finding.NOTHING_SEEN, "our own virtual server is expected"
    before = node.snapshot()

    assert node.call(_delete, web.cluster_ip) == []
    assert node.call(dataplane.look).finding is Finding.DOUBTFUL, "there is one virtual server less"
    assert node.call(dataplane.sync, state(web, other)).written > 0
    assert node.snapshot() == before
    assert node.call(dataplane.look).finding is Finding.NOTHING_SEEN

    node.sh("nft flush table ip proxymode-ipvs")
    look = node.call(dataplane.look)
    assert look.finding is Finding.CHANGED
    assert "chain ip proxymode-ipvs" in look.changed
    assert node.call(dataplane.sync, state(web, other)).written > 0
    assert node.snapshot() == before

    node.sh("nft add table ip theirs")
    assert node.call(dataplane.look).finding in (Finding.NOTHING_SEEN, Finding.DOUBTFUL)
    assert node.call(dataplane.sync, state(web, other)).written == 0


def _delete(frontend: Frontend) -> list[object]:
    servers = Servers()
    try:
        return list(servers.apply([DeleteVirtualServer(frontend)]))
    finally:
        servers.close()
