"""The product under test: API objects in, node1's kernel programmed, as the agent does it but for the API server.

Which dataplane is programmed is a parameter, so one table serves every mode.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from packet_network import NODE_POD_CIDRS, POD_CIDRS, POD_INTERFACE, SERVICE_CIDRS, places
from packet_objects import NAMESPACE, objects
from packet_table import TableError
from proxymode_agent.kube.objects import ObjectKey, decode_endpoint_slice, decode_service
from proxymode_agent.services.model import DataplaneConfig, PodInterface, PodNetworks
from proxymode_agent.services.tracker import ServiceTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from packet_table import Options
    from proxymode_agent.dataplane.base import Dataplane, SyncResult
    from proxymode_testbeds.topology import Topology

    DataplaneFactory = Callable[[DataplaneConfig], Dataplane]

NODE = "node1"


class NodeUnderTest:
    """node1 with Services from the table. Each :meth:`program` is one more change of the cluster."""

    def __init__(self, topology: Topology, make: DataplaneFactory, options: Options) -> None:
        self._topology = topology
        self._make = make
        self._config = config(topology, options)
        self._places = places(topology)
        self._tracker = ServiceTracker(NODE)
        self._tracker.set_zone(options.zone)
        self._objects: dict[tuple[str, str], bytes] = {}
        self._dataplane = topology.call(NODE, make, self._config)

    def program(self, services: Mapping[str, Mapping[str, Any]]) -> SyncResult:
        """The cluster has these Services and no others now; what changed is told and programmed."""
        wanted = {(found.kind, found.name): found.json for found in objects(services, self._places)}
        for kind, name in self._objects.keys() - wanted.keys():
            key = ObjectKey(NAMESPACE, name)
            if kind == "Service":
                self._tracker.drop_service(key)
            else:
                self._tracker.drop_slice(key)
        for (kind, name), json in wanted.items():
            if self._objects.get((kind, name)) == json:
                continue
            key = ObjectKey(NAMESPACE, name)
            if kind == "Service":
                self._tracker.set_service(key, decode_service(json))
            else:
                self._tracker.set_slice(key, decode_endpoint_slice(json))
        first = not self._objects
        self._objects = wanted
        update = self._tracker.take()
        self._state = update.state
        return self._topology.call(NODE, self._dataplane.sync, update.state, None if first else update.changed)

    def restart(self) -> SyncResult:
        """The agent ends and a new one starts: it reads the kernel back and writes what is not as it should be."""
        self._dataplane.close()
        self._dataplane = self._topology.call(NODE, self._make, self._config)
        return self._topology.call(NODE, self._dataplane.sync, self._state)

    def close(self) -> None:
        """Takes everything away."""
        self._topology.call(NODE, self._dataplane.remove)
        self._dataplane.close()


def config(topology: Topology, options: Options) -> DataplaneConfig:
    """What the agent resolves for node1 from its flags."""
    modes: dict[str, PodNetworks | PodInterface | None] = {
        "ClusterCIDR": PodNetworks(tuple(map(ipaddress.ip_network, POD_CIDRS))),
        "NodeCIDR": PodNetworks(tuple(map(ipaddress.ip_network, NODE_POD_CIDRS))),
        "InterfaceNamePrefix": PodInterface("veth", prefix=True),
        "BridgeInterface": PodInterface(POD_INTERFACE),
        "": None,
    }
    if options.detect_local not in modes:
        raise TableError(f"detectLocal is {options.detect_local!r}, not one of {', '.join(modes)}")
    on, cidrs = options.node_port_addresses, options.service_cidrs
    if isinstance(cidrs, bool):
        cidrs = SERVICE_CIDRS if cidrs else ()
    return DataplaneConfig(
        pods=modes[options.detect_local],
        masquerade_all=options.masquerade_all,
        masquerade_bit=options.masquerade_bit,
        node_port_addresses=None if on is None else tuple(map(ipaddress.ip_network, on)),
        node_ips=tuple(address.packed for address in topology.fleet.node(NODE).addresses),
        service_cidrs=tuple(map(ipaddress.ip_network, cidrs)),
        ipvs_scheduler="mh",  # by the client's port; round robin gives two clients in turn one endpoint each
    )
