"""ip_vs is taken out of the kernel under an agent that has no virtual server to hold it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ipvs_module
from proxymode_agent.dataplane.base import Finding
from service_node import VIP, service, state

if TYPE_CHECKING:
    from proxymode_testbeds.topology import Topology
    from service_node import NodeMaker


def test_ipvs_that_was_unloaded_is_seen_and_loaded_again(service_node: NodeMaker, one_node: Topology) -> None:
    node = service_node(one_node, ipvs_scheduler="sh")
    dataplane = node.ipvs()
    web = service(VIP, 80, node.pods())
    assert node.call(dataplane.sync, state()).refused == ()
    ipvs_module.unload()
    assert node.call(dataplane.look).finding is Finding.DOUBTFUL
    result = node.call(dataplane.sync, state(web), frozenset([web.name]))
    assert (result.refused, result.instead) == ((), "")
    assert f"-A -t {VIP}:80 -s sh" in node.sh("ipvsadm -Sn")

    node.call(dataplane.sync, state(), frozenset([web.name]))
    ipvs_module.unload()
    assert node.call(dataplane.sync, state(web)).refused == ()
    assert f"-A -t {VIP}:80 -s sh" in node.sh("ipvsadm -Sn")
    node.call(dataplane.remove)
