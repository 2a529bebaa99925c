"""Pure: two states to the changes that lead from one to the other, in an order that is right at every instant.

New before old, and closed before open. What restricts or masquerades a frontend comes before its virtual server; a
virtual server and its new real servers before the weights of the old ones go to 0; then the frontend is accepted; then
its address makes the node take its packets. Going away is the same backwards. A real server leaves as in kube-proxy:
TCP and SCTP with weight 0 until IPVS knows no connection of it any more (its own timeouts bound that, 15 minutes idle
by default) or its time is over, UDP at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.ipvs.model import (
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    DeleteRealServer,
    DeleteVirtualServer,
    Element,
    IpvsState,
    RealServerName,
    ReleaseAddress,
    ServerChange,
    Set,
    SetScheduling,
    SetWeight,
    Verdict,
    VirtualServer,
)
from proxymode_agent.services.model import Protocol

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from proxymode_agent.services.model import Endpoint, Frontend


@dataclass(frozen=True, slots=True)
class Changes:
    """To be done field by field, in this order; `outdated` goes in one transaction with `close`: source ranges in the
    place of which others come, with which they could overlap, which the kernel refuses. `there`: those of `close` and
    `open` that have another verdict now. `sweep`: real servers that have drained; that they are there was right."""

    outdated: frozenset[Element]
    close: Mapping[Element, Verdict | None]
    servers: tuple[ServerChange, ...]
    open: Mapping[Element, Verdict | None]
    bind: tuple[BindAddress, ...]
    forget: frozenset[Element]
    delete_servers: tuple[ServerChange, ...]
    release: tuple[ReleaseAddress, ...]
    delete: frozenset[Element]
    there: frozenset[Element]
    sweep: tuple[DeleteRealServer, ...]

    @property
    def count(self) -> int:
        """Kernel objects that are not as they should be."""
        return (
            len(self.outdated)
            + len(self.close)
            + len(self.servers)
            + len(self.open)
            + len(self.bind)
            + len(self.forget)
            + len(self.delete_servers)
            + len(self.release)
            + len(self.delete)
        )


def draining(before: IpvsState, after: IpvsState) -> Iterator[RealServerName]:
    """The real servers of `before` that take no new connections and of whose virtual servers they are no part any
    more, but IPVS may know connections of them."""
    for frontend, found in before.virtual_servers.items():
        wanted = after.virtual_servers.get(frontend)
        if wanted is None or frontend.protocol == Protocol.UDP:
            continue
        if found.real_servers.keys() != wanted.real_servers.keys():
            for endpoint, server in found.real_servers.items():
                if server.weight == 0 and endpoint not in wanted.real_servers:
                    yield RealServerName(frontend, endpoint)


def diff(before: IpvsState, after: IpvsState, overdue: Container[RealServerName] = ()) -> Changes:
    """The changes that make `before` into `after`. Nothing to do: `count` is 0, and `sweep` is empty.

    `overdue`: draining real servers that go whatever connections they have.
    """
    servers: list[ServerChange] = []
    for frontend, wanted in after.virtual_servers.items():
        found = before.virtual_servers.get(frontend)
        if found is None:
            servers.append(AddVirtualServer(frontend, wanted.scheduling))
            servers += [AddRealServer(frontend, endpoint) for endpoint in wanted.real_servers]
        elif found != wanted:
            servers += _changed(frontend, found, wanted)
    old, new = before.elements, after.elements
    changed = {element: value for element, value in new.items() if element not in old or old[element] is not value}
    gone = old.keys() - new.keys()
    outdated = frozenset(
        element for element in gone if element.set is Set.SOURCE_RANGES and _restricted(element) in new
    )
    return Changes(
        outdated=outdated,
        close={element: value for element, value in changed.items() if not opens(element, value)},
        servers=tuple(servers),
        open={element: value for element, value in changed.items() if opens(element, value)},
        bind=tuple(
            BindAddress(address, source)
            for address, source in after.addresses.items()
            if address not in before.addresses or before.addresses[address] != source
        ),
        forget=frozenset(element for element in gone if element.set is Set.FRONTENDS),
        delete_servers=tuple(
            DeleteVirtualServer(frontend)
            for frontend in before.virtual_servers
            if frontend not in after.virtual_servers
        ),
        release=tuple(ReleaseAddress(address) for address in before.addresses if address not in after.addresses),
        delete=frozenset(element for element in gone - outdated if element.set is not Set.FRONTENDS),
        there=frozenset(changed.keys() & old.keys()),
        sweep=tuple(
            DeleteRealServer(*name)
            for name in draining(before, after)
            if name in overdue or before.virtual_servers[name.frontend].real_servers[name.endpoint].connections == 0
        ),
    )


def rerouted(before: IpvsState, after: IpvsState) -> Iterator[tuple[Frontend, frozenset[Endpoint]]]:
    """UDP frontends that lead elsewhere than before, with all the endpoints that they lead to now.

    conntrack carries on what a client sent there earlier, also before there was a Service.
    """
    old, new = before.virtual_servers, after.virtual_servers
    for frontend in old.keys() | new.keys():
        if frontend.protocol == Protocol.UDP:
            found, wanted = _serving(old.get(frontend)), _serving(new.get(frontend))
            if found != wanted:
                yield frontend, wanted or frozenset()


def _serving(server: VirtualServer | None) -> frozenset[Endpoint] | None:
    if server is None:
        return None
    return frozenset(endpoint for endpoint, real_server in server.real_servers.items() if real_server.weight)


def opens(element: Element, value: Verdict | None) -> bool:
    """Whether an element is for later: acceptance of a frontend, and that a bound address refuses all others."""
    return value is Verdict.ACCEPT or element.set is Set.ADDRESSES


def _restricted(source_range: Element) -> Element:
    """The element that says that the frontend of a source range is restricted."""
    key = source_range.key[: len(source_range.key) // 2 - source_range.family]
    return Element(Set.RESTRICTED, source_range.family, key)


def _changed(frontend: Frontend, found: VirtualServer, wanted: VirtualServer) -> Iterator[ServerChange]:
    if found.scheduling != wanted.scheduling:
        yield SetScheduling(frontend, wanted.scheduling)
    for endpoint, server in wanted.real_servers.items():
        if endpoint not in found.real_servers:
            yield AddRealServer(frontend, endpoint)
        elif found.real_servers[endpoint].weight != server.weight:
            yield SetWeight(frontend, endpoint, server.weight)
    for endpoint in found.real_servers:
        if endpoint not in wanted.real_servers:
            yield from _leaving(frontend, endpoint, found)


def _leaving(frontend: Frontend, endpoint: Endpoint, found: VirtualServer) -> Iterator[ServerChange]:
    if frontend.protocol == Protocol.UDP:
        yield DeleteRealServer(frontend, endpoint)
    elif found.real_servers[endpoint].weight != 0:
        yield SetWeight(frontend, endpoint, 0)
