"""Which client stays with which endpoint, as both modes can tell it and be told. Pure.

Between modes stickiness is carried over by Service port, as kube-proxy has it: whichever of the port's frontends the
client used, the others know it too. The time for which a client is remembered begins anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.services.model import Endpoint, Frontend, ServicePort, ServicePortName


class Remembered(NamedTuple):
    """A client, by its packed address, and the endpoint that its next connection to the Service port shall meet."""

    port: ServicePortName
    client: bytes
    endpoint: Endpoint


def addressed(port: ServicePort) -> list[Frontend]:
    """The frontends that have an address of the Service's own."""
    addresses = (port.cluster_ip.address, *port.external_ips, *port.load_balancer_ips)
    return [port.cluster_ip._replace(address=address) for address in addresses]


def sticky(ports: Iterable[ServicePort]) -> list[ServicePort]:
    """Those with session affinity."""
    return [port for port in ports if port.affinity_seconds is not None]
