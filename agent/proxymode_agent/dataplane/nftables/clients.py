"""I/O: the clients that sticky Service ports remember, read from the affinity maps and written into them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_agent.dataplane.affinity import Remembered, addressed, sticky
from proxymode_agent.dataplane.nfnetlink import one_by_one
from proxymode_agent.dataplane.nfnetlink.elements import add_expiring
from proxymode_agent.dataplane.nftables.elements import INDEX_BYTES, nodeport_key, pack_endpoints, service_key
from proxymode_agent.dataplane.nftables.flows import endpoint_of
from proxymode_agent.services.model import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxymode_agent.dataplane.nfnetlink import Connection, Element
    from proxymode_agent.dataplane.nftables.draws import Space
    from proxymode_agent.dataplane.nftables.layout import Layout
    from proxymode_agent.services.model import ServicePort, ServicePortName


def read(kernel: Connection, layout: Layout, ports: Mapping[ServicePortName, ServicePort]) -> list[Remembered]:
    """Clients of these ports whose endpoint is still there. Raises NfnetlinkError."""
    endpoints = _endpoints(kernel, layout)
    found: dict[tuple[ServicePortName, bytes], Remembered] = {}
    for space in layout.spaces:
        names = {key: port.name for port in sticky(ports.values()) for key in _keys(layout, space, port)}
        for element, id_ in kernel.elements(space.affinity) if names else ():
            client, frontend = element[: layout.family], element[layout.family :]
            if frontend in names and id_ in endpoints:
                name = names[frontend]
                found.setdefault((name, client), Remembered(name, client, Endpoint(*endpoint_of(endpoints[id_]))))
    return list(found.values())


def write(
    kernel: Connection,
    layout: Layout,
    ports: Mapping[ServicePortName, ServicePort],
    clients: Iterable[Remembered],
) -> int:
    """Remember clients, where the port's frontends have the endpoint and know nothing of the client; how many elements
    were added. Raises NfnetlinkError."""
    mine = [one for one in clients if one.port in ports and one.port.family == layout.family]
    if not mine:
        return 0
    endpoints = _endpoints(kernel, layout)
    added = 0
    for space in layout.spaces:
        ids = {(key[:-INDEX_BYTES], endpoints.get(id_)): id_ for key, id_ in kernel.elements(space.ids)}
        known = {key for key, _ in kernel.elements(space.affinity)}
        new: dict[int, list[Element]] = {}
        for one in mine:
            port = ports[one.port]
            (packed,) = pack_endpoints([one.endpoint])
            for frontend in _keys(layout, space, port):
                id_ = ids.get((frontend, packed))
                key = one.client + frontend
                if id_ is not None and key not in known and port.affinity_seconds is not None:
                    new.setdefault(port.affinity_seconds, []).append((key, id_))
        for seconds, elements in new.items():
            added += kernel.commit_all(one_by_one(add_expiring(space.affinity, elements, seconds * 1000)))
    return added


def _endpoints(kernel: Connection, layout: Layout) -> dict[bytes, bytes]:
    """Packed endpoints by id, which is the last part of the map's key."""
    return {key[-INDEX_BYTES:]: endpoint for key, endpoint in kernel.elements(layout.by_id)}


def _keys(layout: Layout, space: Space, port: ServicePort) -> list[bytes]:
    """What a port's frontends are called in one of the spaces."""
    if space is layout.services:
        return [service_key(frontend) for frontend in addressed(port)]
    return [] if port.node_port is None else [nodeport_key(port.name.protocol, port.node_port)]
