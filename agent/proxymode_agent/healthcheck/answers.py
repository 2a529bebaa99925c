"""What a load balancer is told, and on which of the node's addresses it may ask. Pure.

Status, headers and body are byte for byte those of kube-proxy (k8s.io/kubernetes pkg/proxy/healthcheck/
service_health.go): load balancers have been taught to read them.
"""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.services.model import Family
from proxymode_api.modes import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.services.model import DataplaneConfig, ServiceName

EVERYWHERE: Final[tuple[None]] = (None,)
"""All addresses of both families."""

_BODY: Final = """{
\t"service": {
\t\t"namespace": %s,
\t\t"name": %s
\t},
\t"localEndpoints": %d,
\t"serviceProxyHealthy": %s
}"""


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: str


def answer(service: ServiceName, local_endpoints: int, *, healthy: bool) -> Answer:
    """200 where the node has ready endpoints of the Service and programs them, else 503; their number is the node's
    weight for load balancers that look at it."""
    return Answer(
        status=200 if local_endpoints and healthy else 503,
        headers={
            "Content-Type": "application/json",
            "X-Content-Type-Options": "nosniff",
            "X-Load-Balancing-Endpoint-Weight": str(local_endpoints),
        },
        body=_BODY % (json.dumps(service.namespace), json.dumps(service.service), local_endpoints, json.dumps(healthy)),
    )


def hosts(mode: Mode, config: DataplaneConfig, local: Iterable[bytes]) -> tuple[str | None, ...]:
    """Where to listen: the NodePort addresses among `local`, the node's packed ones and the loopback's; all where that
    is none, as kube-proxy does rather than leave load balancers without an answer."""
    if config.node_port_addresses is None:
        # The modes' own defaults: the primary addresses, and every address.
        if mode is Mode.IPVS:
            return EVERYWHERE
        networks = [ipaddress.ip_network(address) for address in config.node_ips]
    else:
        networks = [network for family in Family for network in config.node_port_networks(family) or ()]
        if len({network.version for network in networks if network.prefixlen == 0}) == len(Family):
            return EVERYWHERE
    addresses = sorted({ipaddress.ip_address(packed) for packed in local}, key=lambda one: (one.version, one.packed))
    return tuple(str(one) for one in addresses if any(one in network for network in networks)) or EVERYWHERE
