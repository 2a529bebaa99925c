"""Which Service port answers on which address and port: claims, conflicts, and objects that make no sense. Pure.

Two Service ports can claim one frontend while the API server's allocation is being repaired, or in a state that never
was consistent. The first by name gets it, so that the outcome does not depend on the order of events; the others are
reported. When the winner goes, the next one takes over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.dataplane.nftables.elements import nodeport_key, pack_endpoints, service_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from proxymode_agent.services.model import Endpoint, Family, ServicePort, ServicePortName

Endpoints = tuple[bytes, ...]


class Wants(NamedTuple):
    """Wanted endpoints by frontend key; None: no Service port has this frontend any more."""

    services: dict[bytes, Endpoints | None]
    nodeports: dict[bytes, Endpoints | None]


class _Claims:
    """Who claims which key of one verdict map: names in order, the first is the winner."""

    def __init__(self, what: str, key_of: Callable[[ServicePort], bytes | None]) -> None:
        self._what = what
        self._key_of = key_of
        self._names: dict[bytes, list[ServicePortName]] = {}
        self._contested: dict[bytes, None] = {}

    def add(self, port: ServicePort) -> bytes | None:
        """The port's key; None if it claims none."""
        key = self._key_of(port)
        if key is not None:
            names = self._names.setdefault(key, [])
            names.append(port.name)
            if len(names) > 1:
                names.sort()
                self._contested[key] = None
        return key

    def remove(self, port: ServicePort) -> bytes | None:
        """The key that the port claimed; None if it claimed none."""
        key = self._key_of(port)
        if key is not None:
            names = self._names[key]
            names.remove(port.name)
            if len(names) == 1:
                self._contested.pop(key, None)
            elif not names:
                del self._names[key]
        return key

    def winner(self, key: bytes) -> ServicePortName | None:
        names = self._names.get(key)
        return names[0] if names else None

    def losers(self) -> Iterator[tuple[ServicePortName, str]]:
        """Ports that do not get what they claim, and why."""
        for key in self._contested:
            winner, *losers = self._names[key]
            for name in losers:
                yield name, f"its {self._what} belongs to {winner}"


class Frontends:
    """The claims of one family's Service ports. `endpoints`: how many the valid ones have, all together."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._services = _Claims("cluster IP, protocol and port", lambda port: service_key(port.cluster_ip))
        self._nodeports = _Claims("protocol and node port", _nodeport_key)
        self._ports: dict[ServicePortName, ServicePort] = {}
        self._invalid: dict[ServicePortName, str] = {}
        self.endpoints = 0

    @property
    def services(self) -> int:
        """Number of valid Service ports."""
        return len(self._ports)

    def refused(self) -> list[tuple[ServicePortName, str]]:
        """Service ports that are not programmed, or not wholly, and why."""
        return [*self._invalid.items(), *self._services.losers(), *self._nodeports.losers()]

    def update(self, ports: Mapping[ServicePortName, ServicePort], changed: Iterable[ServicePortName]) -> Wants:
        """Take over the changed Service ports (gone, new or different) and say what that means for frontends."""
        services: dict[bytes | None, None] = {}
        nodeports: dict[bytes | None, None] = {}
        for name in changed:
            if name.family != self._family:
                continue
            self._invalid.pop(name, None)
            old = self._ports.pop(name, None)
            if old is not None:
                services[self._services.remove(old)] = None
                nodeports[self._nodeports.remove(old)] = None
                self.endpoints -= len(old.endpoints)
            new = ports.get(name)
            if new is None:
                continue
            reason = invalid(new)
            if reason is not None:
                self._invalid[name] = reason
                continue
            self._ports[name] = new
            services[self._services.add(new)] = None
            nodeports[self._nodeports.add(new)] = None
            self.endpoints += len(new.endpoints)
        return Wants(self._wanted(self._services, services), self._wanted(self._nodeports, nodeports))

    def _wanted(self, claims: _Claims, keys: Iterable[bytes | None]) -> dict[bytes, Endpoints | None]:
        wanted: dict[bytes, Endpoints | None] = {}
        for key in keys:
            if key is not None:
                winner = claims.winner(key)
                wanted[key] = None if winner is None else pack_endpoints(self._ports[winner].endpoints)
        return wanted


def _nodeport_key(port: ServicePort) -> bytes | None:
    return None if port.node_port is None else nodeport_key(port.name.protocol, port.node_port)


def invalid(port: ServicePort) -> str | None:
    """Why a Service port cannot be programmed; None if it can."""
    family = port.name.family
    if len(port.cluster_ip.address) != family:
        return f"cluster IP has {len(port.cluster_ip.address)} bytes, {family.name} addresses have {family.value}"
    if port.cluster_ip.protocol != port.name.protocol:
        return f"frontend is {port.cluster_ip.protocol.name}, the Service port {port.name.protocol.name}"
    if not _is_port(port.cluster_ip.port):
        return f"port is {port.cluster_ip.port}; ports are 1 to 65535"
    if port.node_port is not None and not _is_port(port.node_port):
        return f"node port is {port.node_port}; ports are 1 to 65535"
    return _invalid_endpoint(port.endpoints, family)


def _invalid_endpoint(endpoints: Iterable[Endpoint], family: Family) -> str | None:
    for address, port in endpoints:
        if len(address) != family:
            return f"an endpoint's address has {len(address)} bytes, {family.name} addresses have {family.value}"
        if not 0 < port <= 0xFFFF:
            return f"an endpoint's port is {port}; ports are 1 to 65535"
    return None


def _is_port(port: int) -> bool:
    return 0 < port <= 0xFFFF
