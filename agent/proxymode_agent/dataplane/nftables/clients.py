"""I/O: the clients that sticky Service ports remember, read from the map of clients and written into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_agent.dataplane.affinity import Remembered, addressed, sticky
from proxymode_agent.dataplane.conntrack.stale import endpoint_of
from proxymode_agent.dataplane.nfnetlink import one_by_one
from proxymode_agent.dataplane.nfnetlink.elements import add_expiring
from proxymode_agent.dataplane.nftables.elements import INDEX_BYTES, nodeport_key, service_key
from proxymode_agent.dataplane.nftables.ids import any_of, group_of
from proxymode_agent.services.model import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxymode_agent.dataplane.nfnetlink import Connection, Element
    from proxymode_agent.dataplane.nftables.draws import Space
    from proxymode_agent.dataplane.nftables.layout import Layout
    from proxymode_agent.services.model import ServicePort, ServicePortName


def read(kernel: Connection, layout: Layout, ports: Mapping[ServicePortName, ServicePort]) -> list[Remembered]:
    """Clients of these ports whose endpoint is still there. Raises NfnetlinkError."""
    names = {group: name for name, groups in _groups(kernel, layout, ports).items() for group in groups}
    if not names:
        return []
    endpoints = _endpoints(kernel, layout)
    found: dict[tuple[ServicePortName, bytes], Remembered] = {}
    for element, id_ in kernel.elements(layout.clients):
        client, name = element[: layout.family], names.get(group_of(id_))
        if name is not None and id_ in endpoints:
            found.setdefault((name, client), Remembered(name, client, Endpoint(*endpoint_of(endpoints[id_]))))
    return list(found.values())


def write(
    kernel: Connection,
    layout: Layout,
    ports: Mapping[ServicePortName, ServicePort],
    clients: Iterable[Remembered],
) -> int:
    """Remember clients, where the port has the endpoint and knows nothing of the client; how many elements were added,
    which is one for each traffic policy. Raises NfnetlinkError."""
    mine = [one for one in clients if one.port in ports and one.port.family == layout.family]
    if not mine:
        return 0
    groups = _groups(kernel, layout, ports)
    ids = {(group_of(id_), endpoint): id_ for id_, endpoint in _endpoints(kernel, layout).items()}
    known = {key for key, _ in kernel.elements(layout.clients)}
    new: dict[int, list[Element]] = {}
    for one in mine:
        seconds = ports[one.port].affinity_seconds
        for group in groups.get(one.port, ()):
            id_ = ids.get((group, one.endpoint))
            key = one.client + any_of(group)
            if id_ is not None and key not in known and seconds is not None:
                new.setdefault(seconds, []).append((key, id_))
    return sum(
        kernel.commit_all(one_by_one(add_expiring(layout.clients, elements, seconds * 1000)))
        for seconds, elements in new.items()
    )


def _endpoints(kernel: Connection, layout: Layout) -> dict[bytes, bytes]:
    """Packed endpoints by id, which is the last part of the map's key."""
    return {key[-INDEX_BYTES:]: endpoint for key, endpoint in kernel.elements(layout.by_id)}


def _groups(
    kernel: Connection, layout: Layout, ports: Mapping[ServicePortName, ServicePort]
) -> dict[ServicePortName, set[int]]:
    """The numbers of the groups of sticky ports, as the ids that their frontends draw from tell."""
    groups: dict[ServicePortName, set[int]] = {}
    for space in layout.spaces:
        names = {key: port.name for port in sticky(ports.values()) for key in _keys(layout, space, port)}
        for key, id_ in kernel.elements(space.ids) if names else ():
            if (name := names.get(key[:-INDEX_BYTES])) is not None:
                groups.setdefault(name, set()).add(group_of(id_))
    return groups


def _keys(layout: Layout, space: Space, port: ServicePort) -> list[bytes]:
    """What a port's frontends are called in one of the spaces."""
    if space is layout.services:
        return [service_key(frontend) for frontend in addressed(port)]
    return [] if port.node_port is None else [nodeport_key(port.name.protocol, port.node_port)]
