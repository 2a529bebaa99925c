"""Which loopback ports are to be answered, and which endpoints a connection may go to. Pure.

As kube-proxy does it (KEP-6032, k8s.io/kubernetes pkg/proxy/localnodeportproxy): TCP only; policy Local takes this
node's endpoints, and without any the port is not listened on, so that a connection is refused. Unlike that of the
node's other addresses, traffic of policy Local is not short-circuited to other nodes' endpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.services.model import Endpoint, Family, Protocol, ServicePortName

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Mapping

    from proxymode_agent.services.model import ServicePort

DIALS: Final = 3
"""So many endpoints are tried for one connection."""


class Address(NamedTuple):
    """A loopback address to listen on."""

    family: Family
    port: int

    @property
    def host(self) -> str:
        return "127.0.0.1" if self.family is Family.IPV4 else "::1"

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.family is Family.IPV4 else f"[{self.host}]:{self.port}"


class Target(NamedTuple):
    """Where connections to one loopback address go. `affinity_seconds`: as in ServicePort."""

    name: ServicePortName
    endpoints: tuple[Endpoint, ...]
    affinity_seconds: int | None


class Pin(NamedTuple):
    """The endpoint that a client stays with until then (seconds, monotonic). All clients on loopback are one."""

    endpoint: Endpoint
    until: float


class NodePorts:
    """The loopback addresses to listen on, kept up to date at a cost proportional to the change."""

    def __init__(self) -> None:
        self._by_name: dict[ServicePortName, tuple[Address, Target]] = {}
        self._all: dict[Address, Target] = {}

    def update(
        self, ports: Mapping[ServicePortName, ServicePort], changed: Collection[ServicePortName] | None
    ) -> dict[Address, Target]:
        """All of them, when these ports differ from the last update's; None: all may. Of two Services that claim one
        port the first by name has it; the API server does not let that happen."""
        if changed is None:
            changed = self._by_name.keys() | ports.keys()
        before = {name: self._by_name.pop(name) for name in changed if name in self._by_name}
        after = {name: found for name in changed if name in ports and (found := _of(ports[name])) is not None}
        self._by_name |= after
        if before != after:
            self._all = dict(sorted(self._by_name.values(), key=lambda one: one[1].name, reverse=True))
        return self._all


def _of(port: ServicePort) -> tuple[Address, Target] | None:
    if port.node_port is None or port.name.protocol is not Protocol.TCP or not port.external_endpoints:
        return None
    target = Target(port.name, port.external_endpoints, port.affinity_seconds)
    return Address(port.name.family, port.node_port), target


def candidates(target: Target, pin: Pin | None, now: float, chance: random.Random) -> list[Endpoint]:
    """Endpoints to try for a new connection, in this order: the pinned one if it still counts, then any."""
    order = chance.sample(target.endpoints, min(DIALS, len(target.endpoints)))
    if target.affinity_seconds is None or pin is None or pin.until <= now or pin.endpoint not in target.endpoints:
        return order
    return [pin.endpoint, *(endpoint for endpoint in order if endpoint != pin.endpoint)][:DIALS]


def pinned(target: Target, endpoint: Endpoint, now: float) -> Pin | None:
    """What is remembered of a connection made to `endpoint` now."""
    return None if target.affinity_seconds is None else Pin(endpoint, now + target.affinity_seconds)
