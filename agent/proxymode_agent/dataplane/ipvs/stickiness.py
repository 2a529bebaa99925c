"""Pure: which client stays with which endpoint, between persistence templates of IPVS and what a switch carries over.

IPVS remembers a client by virtual server, others by Service port: what one of a port's virtual servers knows holds for
all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_agent.dataplane.affinity import Remembered, addressed, sticky
from proxymode_agent.dataplane.ipvs.templates import Template
from proxymode_agent.services.model import Frontend

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from proxymode_agent.services.model import ServicePortName, ServiceState


def frontends(state: ServiceState, node_ports: Collection[bytes]) -> dict[Frontend, ServicePortName]:
    """The virtual servers with persistence; `node_ports`: the addresses on which NodePorts answer."""
    names: dict[Frontend, ServicePortName] = {}
    for port in sticky(state.ports.values()):
        names |= dict.fromkeys(addressed(port), port.name)
        if port.node_port is not None:
            own = [address for address in node_ports if len(address) == port.name.family]
            names |= dict.fromkeys(
                [Frontend(address, port.name.protocol, port.node_port) for address in own], port.name
            )
    return names


def remembered(names: Mapping[Frontend, ServicePortName], templates: Iterable[Template]) -> list[Remembered]:
    """Which client stays with which endpoint: the last that any of the port's virtual servers knows."""
    found = {
        (names[template.frontend], template.client): template.endpoint
        for template in templates
        if template.frontend in names
    }
    return [Remembered(name, client, endpoint) for (name, client), endpoint in found.items()]


def missing(
    state: ServiceState,
    names: Mapping[Frontend, ServicePortName],
    known: Iterable[Remembered],
    there: Iterable[Template],
) -> dict[int, list[Template]]:
    """The templates to be made, by how many seconds they live: of endpoints that the port still has, for clients that a
    virtual server does not know."""
    of_port: dict[ServicePortName, list[Frontend]] = {}
    for frontend, name in names.items():
        of_port.setdefault(name, []).append(frontend)
    taken = {(template.frontend, template.client) for template in there}
    wanted: dict[int, list[Template]] = {}
    for name, client, endpoint in known:
        port = state.ports.get(name)
        if port is not None and port.affinity_seconds is not None:
            wanted.setdefault(port.affinity_seconds, []).extend(
                Template(frontend, client, endpoint)
                for frontend in of_port.get(name, ())
                if (frontend, client) not in taken and endpoint in (*port.cluster_endpoints, *port.local_endpoints)
            )
    return wanted
