"""A cluster's network out of network namespaces: nodes, their pods, clients outside, real packets between them.

The same code serves on the host and in the guest. Describe a fleet, build it, run things in it:

    with build(make_fleet(nodes=2, pods=2)) as topology:
        topology.run("client1", ["ping", "-c1", topology.fleet.nodes[0].address])

It makes no Services and runs no programs of its own; `python -m proxymode_testbeds.topology` holds a fleet open for
humans, and for hosts that want one in a guest.
"""

from proxymode_testbeds.topology.build import Topology, build
from proxymode_testbeds.topology.fleet import ClientSpec, Fleet, NodeSpec, PodSpec, make_fleet

__all__ = ["ClientSpec", "Fleet", "NodeSpec", "PodSpec", "Topology", "build", "make_fleet"]
