"""Pure: Service ports to the state that the ipvs mode shall have, one port at a time.

Several ports share an address (ports of one Service) and an endpoint's address (pods behind several Services), so
both are counted. The cost of a change is the cost of the changed ports. What becomes of a single frontend is decided
in `frontends.py`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.ipvs import frontends as decisions
from proxymode_agent.dataplane.ipvs.frontends import Kind
from proxymode_agent.dataplane.ipvs.model import (
    Element,
    Hashing,
    IpvsState,
    RealServer,
    Scheduling,
    Set,
    Verdict,
    VirtualServer,
    frontend_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxymode_agent.services.model import Frontend, ServicePort, ServicePortName

_WANTED = RealServer(weight=1, connections=0)
_HASHING = {"sh": Hashing.FALLBACK, "mh": Hashing.FALLBACK | Hashing.PORT}
"""kube-proxy has the port flag of mh. Without the fallback flag new connections are refused as long as a real server
drains that their hash leads to."""


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """The node's addresses, packed: those on which NodePorts answer, by family the one from which it speaks to
    Services, and all that are on other devices than kube-ipvs0."""

    node_ports: frozenset[bytes] = frozenset()
    sources: Mapping[int, bytes] = field(default_factory=dict)
    own: frozenset[bytes] = frozenset()


class Wanted:
    """The wanted state of all Service ports.

    A frontend that several ports claim, which the API server does not allow for cluster IPs and NodePorts, belongs to
    the least name; when that port goes, the next one gets it in the same change.
    """

    def __init__(
        self,
        scheduler: str,
        node: NodeAddresses,
        replacements: Mapping[str, str] | None = None,
        ports: Mapping[ServicePortName, ServicePort] | None = None,
    ) -> None:
        """`scheduler`: of Services that ask for none; `replacements`: what those get that the kernel does not have;
        `ports`: those to begin with."""
        self.node = node
        self._scheduler = scheduler
        self._replacements = replacements or {}
        self._ports: dict[ServicePortName, ServicePort] = {}
        self._owners: dict[Frontend, ServicePortName] = {}
        self._claimed: dict[Frontend, set[ServicePortName]] = {}  # who else would have a frontend; few ever have one
        self._addresses: Counter[bytes] = Counter()
        self._hairpin: Counter[bytes] = Counter()
        self._endpoints = 0
        for name, port in (ports or {}).items():
            self._learn(name, port)

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
        """The Service ports that have this address on kube-ipvs0."""
        return [name for name, port in self._ports.items() if address in self._bound(port)]

    def replaced_schedulers(self) -> dict[str, list[ServicePortName]]:
        """The Service ports that ask for a scheduler that the kernel does not have, by its name."""
        found: dict[str, list[ServicePortName]] = {}
        if self._replacements:
            for name in sorted(self._ports):
                asked = self._ports[name].ipvs_scheduler or self._scheduler
                if asked in self._replacements:
                    found.setdefault(asked, []).append(name)
        return found

    def conflicts(self) -> Iterable[tuple[ServicePortName, ServicePortName, Frontend]]:
        """Ports that lack a frontend because another port has it: (port, the other, frontend)."""
        yield from sorted(
            (name, self._owners[frontend], frontend) for frontend, names in self._claimed.items() for name in names
        )

    def state(self) -> IpvsState:
        """The whole wanted state."""
        return self._part(self._owners, self._addresses, self._hairpin)

    def replace(self, changes: Mapping[ServicePortName, ServicePort | None]) -> tuple[IpvsState, IpvsState]:
        """Change ports (None: gone); returns the wanted state before and after, of only what the change touches."""
        frontends: set[Frontend] = set()
        addresses: set[bytes] = set()
        hairpin: set[bytes] = set()
        for port in (found for name, new in changes.items() for found in (self._ports.get(name), new) if found):
            frontends.update(self._frontends(port))
            addresses.update(self._bound(port))
            hairpin.update(port.hairpin)
        before = self._part(frontends, addresses, hairpin)
        for name in changes:
            self._forget(name)
        for name, new in changes.items():
            if new is not None:
                self._learn(name, new)
        return before, self._part(frontends, addresses, hairpin)

    def _frontends(self, port: ServicePort) -> set[Frontend]:
        return decisions.frontends(port, self.node.node_ports)

    def _bound(self, port: ServicePort) -> set[bytes]:
        """Its addresses that go to kube-ipvs0: as in kube-proxy, external ones that the node has elsewhere do not."""
        return {port.cluster_ip.address} | ({*port.external_ips, *port.load_balancer_ips} - self.node.own)

    def _forget(self, name: ServicePortName) -> None:
        port = self._ports.pop(name, None)
        if port is None:
            return
        for frontend in self._frontends(port):
            others = self._claimed.get(frontend, set())
            if self._owners[frontend] != name:
                others.discard(name)
            elif others:
                self._owners[frontend] = min(others)
                others.remove(self._owners[frontend])
            else:
                del self._owners[frontend]
            if not others:
                self._claimed.pop(frontend, None)
        self._count(port, -1)

    def _learn(self, name: ServicePortName, port: ServicePort) -> None:
        self._ports[name] = port
        for frontend in self._frontends(port):
            owner = self._owners.setdefault(frontend, name)
            if owner != name:
                self._owners[frontend] = min(owner, name)
                self._claimed.setdefault(frontend, set()).add(max(owner, name))
        self._count(port, 1)

    def _count(self, port: ServicePort, step: int) -> None:
        for address in self._bound(port):
            self._addresses[address] += step
        for address in port.hairpin:
            self._hairpin[address] += step
        self._endpoints += step * len({*port.cluster_endpoints, *port.local_endpoints})

    def _part(self, frontends: Iterable[Frontend], addresses: Iterable[bytes], hairpin: Iterable[bytes]) -> IpvsState:
        servers: dict[Frontend, VirtualServer] = {}
        elements: dict[Element, Verdict | None] = {}
        for frontend in frontends:
            owner = self._owners.get(frontend)
            if owner is not None:
                port = self._ports[owner]
                kind = decisions.kind_of(frontend, port)
                real_servers = dict.fromkeys(decisions.real_servers(port, kind), _WANTED)
                servers[frontend] = VirtualServer(self._scheduling(port), real_servers)
                elements |= self._elements(port, frontend, kind)
        bound = {address for address in addresses if self._addresses[address] > 0}
        elements |= dict.fromkeys(Element(Set.ADDRESSES, len(address), address) for address in bound)
        elements |= dict.fromkeys(
            Element(Set.HAIRPIN, len(address), address + address) for address in hairpin if self._hairpin[address] > 0
        )
        return IpvsState(
            virtual_servers=servers,
            addresses={address: self.node.sources.get(len(address)) for address in bound},
            elements=elements,
        )

    def _scheduling(self, port: ServicePort) -> Scheduling:
        asked = port.ipvs_scheduler or self._scheduler
        scheduler = self._replacements.get(asked, asked)
        return Scheduling(scheduler, port.affinity_seconds, _HASHING.get(scheduler, Hashing.PLAIN))

    def _elements(self, port: ServicePort, frontend: Frontend, kind: Kind) -> dict[Element, Verdict | None]:
        key, family = frontend_key(frontend), port.name.family
        found: dict[Element, Verdict | None] = {
            Element(Set.FRONTENDS, family, key): decisions.verdict(port, kind),
            Element(decisions.masquerading(port, kind), family, key): None,
        }
        if frontend.address in self.node.own:
            found[Element(Set.NODE_FRONTENDS, family, key)] = None
        if kind is Kind.LOAD_BALANCER and port.source_ranges:
            found[Element(Set.RESTRICTED, family, key)] = None
            for first, last in decisions.sources(port, self.node.sources.get(family)):
                found[Element(Set.SOURCE_RANGES, family, key + first + key + last)] = None
        return found
