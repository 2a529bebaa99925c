"""Pure: two states to the changes that lead from one to the other, in an order that is right at every instant.

New before old: masquerading and acceptance of a frontend before its virtual server, a virtual server and its new real
servers before the weights of the old ones go to 0, and before its address makes the node take its packets. Going away
is the same backwards. A real server leaves as in kube-proxy: TCP and SCTP with weight 0 until IPVS knows no connection
of it any more (its own timeouts bound that, 15 minutes idle by default), UDP at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.ipvs.model import (
    AddRealServer,
    AddressChange,
    AddVirtualServer,
    BindAddress,
    DeleteRealServer,
    DeleteVirtualServer,
    Element,
    IpvsState,
    ReleaseAddress,
    ServerChange,
    SetScheduler,
    SetWeight,
    VirtualServer,
)
from proxymode_agent.services.model import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_agent.services.model import Endpoint, Frontend


@dataclass(frozen=True, slots=True)
class Changes:
    """To be done field by field, in this order."""

    add_elements: frozenset[Element]
    servers: tuple[ServerChange, ...]
    bind: tuple[AddressChange, ...]
    delete_servers: tuple[ServerChange, ...]
    release: tuple[AddressChange, ...]
    delete_elements: frozenset[Element]

    @property
    def count(self) -> int:
        """Kernel objects that change."""
        return (
            len(self.add_elements)
            + len(self.servers)
            + len(self.bind)
            + len(self.delete_servers)
            + len(self.release)
            + len(self.delete_elements)
        )


def diff(before: IpvsState, after: IpvsState) -> Changes:
    """The changes that make `before` into `after`. Nothing to do: `count` is 0."""
    servers: list[ServerChange] = []
    for frontend, wanted in after.virtual_servers.items():
        found = before.virtual_servers.get(frontend)
        if found is None:
            servers.append(AddVirtualServer(frontend, wanted.scheduler))
            servers += [AddRealServer(frontend, endpoint) for endpoint in wanted.real_servers]
        elif found != wanted:
            servers += _changed(frontend, found, wanted)
    return Changes(
        add_elements=after.elements - before.elements,
        servers=tuple(servers),
        bind=tuple(
            BindAddress(address, source)
            for address, source in after.addresses.items()
            if address not in before.addresses or before.addresses[address] != source
        ),
        delete_servers=tuple(
            DeleteVirtualServer(frontend)
            for frontend in before.virtual_servers
            if frontend not in after.virtual_servers
        ),
        release=tuple(ReleaseAddress(address) for address in before.addresses if address not in after.addresses),
        delete_elements=before.elements - after.elements,
    )


def _changed(frontend: Frontend, found: VirtualServer, wanted: VirtualServer) -> Iterator[ServerChange]:
    if found.scheduler != wanted.scheduler:
        yield SetScheduler(frontend, wanted.scheduler)
    for endpoint, server in wanted.real_servers.items():
        if endpoint not in found.real_servers:
            yield AddRealServer(frontend, endpoint)
        elif found.real_servers[endpoint].weight != server.weight:
            yield SetWeight(frontend, endpoint, server.weight)
    for endpoint in found.real_servers:
        if endpoint not in wanted.real_servers:
            yield from _leaving(frontend, endpoint, found)


def _leaving(frontend: Frontend, endpoint: Endpoint, found: VirtualServer) -> Iterator[ServerChange]:
    server = found.real_servers[endpoint]
    if frontend.protocol == Protocol.UDP or (server.weight == 0 and server.connections == 0):
        yield DeleteRealServer(frontend, endpoint)
    elif server.weight != 0:
        yield SetWeight(frontend, endpoint, 0)
