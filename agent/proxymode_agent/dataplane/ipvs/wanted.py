"""Pure: Service ports to the state that the ipvs mode shall have, one port at a time.

Several ports share an address (ports of one Service) and an endpoint's address (pods behind several Services), so
both are counted. The cost of a change is the cost of the changed ports.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.ipvs.model import (
    Element,
    IpvsState,
    RealServer,
    Set,
    VirtualServer,
    frontend_key,
)
from proxymode_agent.services.model import Frontend

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxymode_agent.services.model import ServicePort, ServicePortName

_WANTED = RealServer(weight=1, connections=0)


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """The node's own addresses, packed: on which NodePorts answer, and from which it speaks to Services, by family."""

    node_ports: frozenset[bytes] = frozenset()
    sources: Mapping[int, bytes] = field(default_factory=dict)


class Wanted:
    """The wanted state of all Service ports.

    A frontend that two ports claim, which the API server does not allow, belongs to the lesser name; when that port
    goes, the other gets it at the next full sync.
    """

    def __init__(self, scheduler: str, node: NodeAddresses) -> None:
        self.node = node
        self._scheduler = scheduler
        self._ports: dict[ServicePortName, ServicePort] = {}
        self._owners: dict[Frontend, ServicePortName] = {}
        self._losers: set[ServicePortName] = set()
        self._addresses: Counter[bytes] = Counter()
        self._endpoint_addresses: Counter[bytes] = Counter()
        self._endpoints = 0

    @property
    def services(self) -> int:
        """Service ports."""
        return len(self._ports)

    @property
    def endpoints(self) -> int:
        """Endpoints of all Service ports."""
        return self._endpoints

    def owner(self, frontend: Frontend) -> ServicePortName | None:
        """The Service port that a virtual server belongs to."""
        return self._owners.get(frontend)

    def owners_of(self, address: bytes) -> list[ServicePortName]:
        """The Service ports whose cluster IP this is."""
        return [name for name, port in self._ports.items() if port.cluster_ip.address == address]

    def conflicts(self) -> Iterable[tuple[ServicePortName, ServicePortName, Frontend]]:
        """Ports that lack a frontend because another port has it: (port, the other, frontend)."""
        for name in sorted(self._losers):
            for frontend in self.frontends(self._ports[name]):
                owner = self._owners.get(frontend)
                if owner is not None and owner != name:
                    yield name, owner, frontend

    def frontends(self, port: ServicePort) -> list[Frontend]:
        """The virtual servers of a port: its cluster IP, then its NodePort on each node address of its family."""
        found = [port.cluster_ip]
        if port.node_port is not None:
            found += [
                Frontend(address, port.name.protocol, port.node_port)
                for address in sorted(self.node.node_ports)
                if len(address) == port.name.family
            ]
        return found

    def state(self) -> IpvsState:
        """The whole wanted state."""
        return self._part(self._owners, self._addresses, self._endpoint_addresses)

    def replace(self, changes: Mapping[ServicePortName, ServicePort | None]) -> tuple[IpvsState, IpvsState]:
        """Change ports (None: gone); returns the wanted state before and after, of only what the change touches."""
        frontends: set[Frontend] = set()
        addresses: set[bytes] = set()
        endpoint_addresses: set[bytes] = set()
        for port in (found for name, new in changes.items() for found in (self._ports.get(name), new) if found):
            frontends.update(self.frontends(port))
            addresses.add(port.cluster_ip.address)
            endpoint_addresses.update(endpoint.address for endpoint in port.endpoints)
        before = self._part(frontends, addresses, endpoint_addresses)
        for name in changes:
            self._forget(name)
        for name, new in changes.items():
            if new is not None:
                self._learn(name, new)
        return before, self._part(frontends, addresses, endpoint_addresses)

    def _forget(self, name: ServicePortName) -> None:
        port = self._ports.pop(name, None)
        if port is None:
            return
        self._losers.discard(name)
        for frontend in self.frontends(port):
            if self._owners.get(frontend) == name:
                del self._owners[frontend]
        self._count(port, -1)

    def _learn(self, name: ServicePortName, port: ServicePort) -> None:
        self._ports[name] = port
        for frontend in self.frontends(port):
            owner = self._owners.setdefault(frontend, name)
            if owner != name:
                self._owners[frontend] = min(owner, name)
                self._losers.add(max(owner, name))
        self._count(port, 1)

    def _count(self, port: ServicePort, step: int) -> None:
        self._addresses[port.cluster_ip.address] += step
        for endpoint in port.endpoints:
            self._endpoint_addresses[endpoint.address] += step
        self._endpoints += step * len(port.endpoints)

    def _part(
        self, frontends: Iterable[Frontend], addresses: Iterable[bytes], endpoint_addresses: Iterable[bytes]
    ) -> IpvsState:
        servers: dict[Frontend, VirtualServer] = {}
        elements: set[Element] = set()
        for frontend in frontends:
            owner = self._owners.get(frontend)
            if owner is None:
                continue
            port = self._ports[owner]
            servers[frontend] = VirtualServer(self._scheduler, dict.fromkeys(port.endpoints, _WANTED))
            key, family = frontend_key(frontend), len(frontend.address)
            if frontend != port.cluster_ip:
                elements.add(Element(Set.NODE_PORTS, family, key))
            elif port.endpoints:
                elements.add(Element(Set.SERVICES, family, key))
        bound = {address for address in addresses if self._addresses[address] > 0}
        elements.update(Element(Set.ADDRESSES, len(address), address) for address in bound)
        elements.update(
            Element(Set.HAIRPIN, len(address), address + address)
            for address in endpoint_addresses
            if self._endpoint_addresses[address] > 0
        )
        return IpvsState(
            virtual_servers=servers,
            addresses={address: self.node.sources.get(len(address)) for address in bound},
            elements=frozenset(elements),
        )
