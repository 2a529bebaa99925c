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
    from proxymode_agent.dataplane.nftables.draws import Memory, Space
    from proxymode_agent.dataplane.nftables.layout import Layout
    from proxymode_agent.services.model import ServicePort, ServicePortName


def read(kernel: Connection, layout: Layout, ports: Mapping[ServicePortName, ServicePort]) -> list[Remembered]:
    """Clients of these ports whose endpoint is still there. Raises NfnetlinkError."""
    names = {group: name for name, group in _groups(kernel, layout, ports).items()}
    if not names:
        return []
    found: dict[tuple[ServicePortName, bytes], Remembered] = {}
    for memory in layout.memories.values():
        endpoints = _endpoints(kernel, memory)
        for element, id_ in kernel.elements(memory.clients):
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
    which is one for each pool that the endpoint is in. Raises NfnetlinkError."""
    mine = [one for one in clients if one.port in ports and one.port.family == layout.family]
    groups = _groups(kernel, layout, ports) if mine else {}
    return sum(_write(kernel, memory, ports, mine, groups) for memory in layout.memories.values()) if groups else 0


def _write(
    kernel: Connection,
    memory: Memory,
    ports: Mapping[ServicePortName, ServicePort],
    clients: Iterable[Remembered],
    groups: Mapping[ServicePortName, int],
) -> int:
    ids = {(group_of(id_), endpoint): id_ for id_, endpoint in _endpoints(kernel, memory).items()}
    known = {key for key, _ in kernel.elements(memory.clients)}
    new: dict[int, list[Element]] = {}
    for one in clients:
        seconds, group = ports[one.port].affinity_seconds, groups.get(one.port)
        if seconds is None or group is None:
            continue
        id_, key = ids.get((group, one.endpoint)), one.client + any_of(group)
        if id_ is not None and key not in known:
            new.setdefault(seconds, []).append((key, id_))
    return sum(
        kernel.commit_all(one_by_one(add_expiring(memory.clients, elements, seconds * 1000)))
        for seconds, elements in new.items()
    )


def _endpoints(kernel: Connection, memory: Memory) -> dict[bytes, bytes]:
    """Packed endpoints of a pool by id, which is the last part of the map's key."""
    return {key[-INDEX_BYTES:]: endpoint for key, endpoint in kernel.elements(memory.by_id)}


def _groups(
    kernel: Connection, layout: Layout, ports: Mapping[ServicePortName, ServicePort]
) -> dict[ServicePortName, int]:
    """The numbers of the groups of sticky ports, as the ids that their frontends draw from tell."""
    groups: dict[ServicePortName, int] = {}
    mine = [port for port in sticky(ports.values()) if port.name.family == layout.family]  # NodePorts are both's
    for space in layout.spaces:
        names = {key: port.name for port in mine for key in _keys(layout, space, port)}
        for key, id_ in kernel.elements(space.ids) if names else ():
            if (name := names.get(key[:-INDEX_BYTES])) is not None:
                groups[name] = group_of(id_)
    return groups


def _keys(layout: Layout, space: Space, port: ServicePort) -> list[bytes]:
    """What a port's frontends are called in one of the spaces."""
    if space is layout.services:
        return [service_key(frontend) for frontend in addressed(port)]
    return [] if port.node_port is None else [nodeport_key(port.name.protocol, port.node_port)]
