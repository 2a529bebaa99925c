"""One Service and its EndpointSlices to service ports, as kube-proxy decides them.

Each API object is reduced to a compact entry when it arrives (`service`, `slices`), with what cannot be used reported
as text; here the entries of one Service are joined. What only load balancers ask for stands beside (`health_check`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxymode_agent.services.model import (
    Endpoint,
    Family,
    Frontend,
    HealthCheck,
    Protocol,
    ServicePort,
    ServicePortName,
)
from proxymode_agent.services.service import NO_EXTERNAL
from proxymode_agent.services.slices import Place
from proxymode_agent.services.topology import usable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.kube.objects import ObjectKey
    from proxymode_agent.services.service import ServiceEntry
    from proxymode_agent.services.slices import Placement, SliceEntry
    from proxymode_agent.services.topology import Usable

    # By placement, each endpoint once, and mostly in order: what is sorted already sorts in a third of the time.
    Groups = dict[Placement, list[Endpoint]]

_NOTHING: Final[Groups] = {}
_UDP: Final = Protocol.UDP  # an enumeration's members are found through a descriptor
_FAMILIES: Final = {int(family): family for family in Family}


def service_ports(
    key: ObjectKey, service: ServiceEntry, slices: Iterable[SliceEntry], zone: str
) -> tuple[ServicePort, ...]:
    """The Service's ports, one for each port and address family, with their usable endpoints as seen from a node in
    `zone`. The result does not depend on the order of slices."""
    groups = _groups(slices)
    ports = []
    for address in service.addresses:
        family = _FAMILIES[len(address)]
        external = NO_EXTERNAL if service.external is NO_EXTERNAL else service.external.of(family)
        for port in service.ports:
            accessible = bool(port.node_port or external.ips or external.load_balancer)
            external_local = accessible and service.external_local
            of_port = groups.get((family, port.name, port.protocol), _NOTHING)
            endpoints = usable(
                of_port,
                # A Local external frontend needs the endpoints of policy Cluster too, for clients in the cluster.
                cluster=accessible or not service.internal_local,
                local=external_local or service.internal_local,
                zone=zone,
            )
            ports.append(
                ServicePort(
                    name=ServicePortName(key.namespace, key.name, port.name, port.protocol, family),
                    cluster_ip=Frontend(address, port.protocol, port.port),
                    cluster_endpoints=endpoints.cluster,
                    node_port=port.node_port,
                    local_endpoints=endpoints.local,
                    elsewhere=endpoints.elsewhere,
                    internal_local=service.internal_local,
                    external_local=external_local,
                    external_ips=external.ips,
                    load_balancer_ips=external.load_balancer,
                    source_ranges=external.source_ranges if external.load_balancer else (),
                    affinity_seconds=service.affinity_seconds,
                    hairpin=endpoints.hairpin,
                    ipvs_scheduler=service.ipvs_scheduler,
                    lingering_endpoints=_lingering(of_port, endpoints) if port.protocol is _UDP else (),
                )
            )
    return tuple(ports)


def health_check(service: ServiceEntry, slices: Iterable[SliceEntry]) -> HealthCheck | None:
    """What load balancers are to be told of the Service; None: they do not ask.

    A pod counts once, whatever its ports; of a dual-stack Service the family with more pods counts, for kube-proxy
    counts each by itself and the pods of both are the same.
    """
    if service.health_check_port is None:
        return None
    addresses: dict[Family, set[bytes]] = {}
    for entry in slices:
        for placement, group in entry.groups if entry.ports else ():
            if placement.place is Place.HERE and not placement.draining:
                addresses.setdefault(entry.family, set()).update(group)
    return HealthCheck(service.health_check_port, max(map(len, addresses.values()), default=0))


def _lingering(groups: Groups, endpoints: Usable) -> tuple[Endpoint, ...]:
    """Those that are not usable. kube-proxy ends a UDP flow only when its endpoint does not serve any more, whatever
    policies, topology and termination say of new ones (CleanStaleEntries of pkg/proxy/conntrack)."""
    if len(groups) == 1 and endpoints.cluster:
        return ()
    all_of_them = {one for group in groups.values() for one in group}
    return tuple(sorted(all_of_them.difference(endpoints.cluster, endpoints.local)))


def _groups(slices: Iterable[SliceEntry]) -> dict[tuple[Family, str, Protocol], Groups]:
    """The slices' endpoints by the Service port that they belong to, and by placement. An endpoint that several slices
    list is in one group: that of its least placement. One that drains, and whose address a waiting pod has, is none."""
    found: dict[tuple[Family, str, Protocol], Groups] = {}
    merged: set[tuple[Family, str, Protocol]] = set()
    waiting: dict[tuple[Family, str, Protocol], set[Endpoint]] = {}
    for entry in slices:
        for name, protocol, number in entry.ports:
            key = entry.family, name, protocol
            groups = found.setdefault(key, {})
            for placement, addresses in entry.groups:
                endpoints = Endpoint.all_at(addresses, number)
                if placement in groups:
                    groups[placement] += endpoints
                    merged.add(key)
                else:
                    groups[placement] = endpoints
            if entry.waiting:
                waiting.setdefault(key, set()).update(Endpoint.all_at(entry.waiting, number))
    for key, groups in found.items():
        if key in merged or len(groups) > 1:
            _make_disjoint(groups)
    for key, taken in waiting.items():
        _leave_out_draining(found[key], taken)
    return found


def _leave_out_draining(groups: Groups, taken: set[Endpoint]) -> None:
    for placement in [one for one in groups if one.draining]:
        left = [endpoint for endpoint in groups[placement] if endpoint not in taken]
        if left:
            groups[placement] = left
        else:
            del groups[placement]


def _make_disjoint(groups: Groups) -> None:
    seen: set[Endpoint] = set()
    for placement in sorted(groups):
        left = [endpoint for endpoint in dict.fromkeys(groups[placement]) if endpoint not in seen]
        seen.update(left)
        if left:
            groups[placement] = left
        else:
            del groups[placement]
