"""An EndpointSlice to the compact entry that is kept of it: addresses in groups of the same placement.

Everything that decides about an endpoint but its address and port is its placement, and the endpoints of a slice have
few different ones; so decisions are made once a group, and an endpoint costs no more than its packed address.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from proxymode_agent.kube.objects import ObjectKey
from proxymode_agent.services.addresses import all_packed
from proxymode_agent.services.labels import HEADLESS_LABEL, SERVICE_NAME_LABEL
from proxymode_agent.services.model import Family, Protocol
from proxymode_agent.services.service import PROTOCOLS, readable

if TYPE_CHECKING:
    from proxymode_agent.kube.objects import EndpointSlice, SliceEndpoint, SlicePort

_FAMILIES: Final = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}


class Place(IntEnum):
    """Where an endpoint runs, as seen from this node."""

    HERE = 0
    UNKNOWN = 1
    ELSEWHERE = 2


class NodeHint(IntEnum):
    """For which nodes an endpoint is meant to be, as seen from this one."""

    HERE = 0
    ELSEWHERE = 1
    NONE = 2
    """No hint at all."""


class Placement(NamedTuple):
    """What decides where an endpoint takes part.

    `draining`: serving though terminating, so that it takes traffic only where no other does (KEP-1669). The hints are
    those of discovery/v1; draining endpoints have none, for nobody asks. Ordered so that of two placements of one
    endpoint, as happens while the slice controller moves it from slice to slice, the least holds.
    """

    draining: bool
    place: Place
    node_hint: NodeHint = NodeHint.NONE
    zones: tuple[str, ...] = ()


class SlicePortEntry(NamedTuple):
    """A port of an EndpointSlice, which belongs to the Service port of the same name and protocol."""

    name: str
    protocol: Protocol
    port: int


class SliceEntry(msgspec.Struct, frozen=True, gc=False):
    """An EndpointSlice of a Service: its ports and the packed addresses that may take traffic, by placement, each once
    and in order.

    `waiting`: addresses of pods that run and are not ready. One that has the address of a draining pod has taken it
    over: what is sent there would meet it, not the one that still serves (EndpointSliceCache of
    k8s.io/kubernetes pkg/proxy).
    """

    family: Family
    ports: tuple[SlicePortEntry, ...]
    groups: tuple[tuple[Placement, tuple[bytes, ...]], ...]
    waiting: tuple[bytes, ...] = ()

    @property
    def zoned(self) -> bool:
        """Whether it matters in which zone this node is."""
        return any(placement.zones for placement, _ in self.groups)


# An enumeration's members are found through a descriptor, and a large cluster asks 250,000 times.
_HERE, _UNKNOWN, _ELSEWHERE = Place
_READY: Final = tuple(Placement(False, place) for place in Place)
_DRAINING: Final = tuple(Placement(True, place) for place in Place)


def slice_service(key: ObjectKey, endpoint_slice: EndpointSlice) -> ObjectKey | None:
    """The Service that the slice belongs to; None: to none, or to a headless one."""
    labels = endpoint_slice.metadata.labels
    if not labels or HEADLESS_LABEL in labels:
        return None
    name = labels.get(SERVICE_NAME_LABEL)
    return ObjectKey(key.namespace, name) if name else None


def slice_entry(endpoint_slice: EndpointSlice, node_name: str | None) -> tuple[SliceEntry | None, tuple[str, ...]]:
    """The slice's entry as seen from the node called `node_name` (None: from nowhere), None where its addresses are
    names (FQDN). Then what is wrong with it, if anything."""
    family = _FAMILIES.get(endpoint_slice.address_type)
    if family is None:
        return None, ()
    ports, unusable = _ports(tuple(endpoint_slice.ports or ()))
    problems = [*unusable]
    groups: dict[Placement, list[str]] = {}
    waiting: list[str] = []
    last, group = None, []  # neighbours mostly have the same placement
    for endpoint in endpoint_slice.endpoints or ():
        name = endpoint.node_name
        place = _UNKNOWN if name is None else _HERE if name == node_name else _ELSEWHERE
        placement = _READY[place]  # as of most
        if endpoint.hints is not None or endpoint.conditions.ready is False:
            other = _placement(endpoint, place, node_name)
            if other is None:
                if not endpoint.conditions.terminating:
                    waiting += endpoint.addresses[:1]
                continue
            placement = other
        if not endpoint.addresses:
            problems.append("endpoints.addresses is empty")
            continue
        if placement is not last:
            last, group = placement, groups.setdefault(placement, [])
        group.append(endpoint.addresses[0])  # all of one endpoint are fungible; consumers use the first (KEP-752)
    # Sorted, so that an order that means nothing does not look like a change, and a Service's endpoints sort quickly.
    ordered = []
    for placement in sorted(groups):
        addresses = all_packed(groups[placement], family, "endpoints.addresses", problems)
        if addresses:
            ordered.append((placement, tuple(sorted(dict.fromkeys(addresses)))))
    taken = all_packed(waiting, family, "endpoints.addresses", []) if waiting else ()  # no problem before it is ready
    return SliceEntry(family, ports, tuple(ordered), tuple(sorted(set(taken)))), tuple(problems)


@lru_cache(maxsize=1024)  # most slices of a cluster have the same
def _ports(ports: tuple[SlicePort, ...]) -> tuple[tuple[SlicePortEntry, ...], tuple[str, ...]]:
    return readable(ports, _port)


def _port(port: SlicePort, problems: list[str]) -> SlicePortEntry | None:
    name = port.name or ""
    protocol = PROTOCOLS.get(port.protocol or "TCP")
    if protocol is None:
        problems.append(f"ports[{name}].protocol is {port.protocol!r}, not one of TCP, UDP, SCTP")
        return None
    if port.port is None or not 0 < port.port < 65536:
        problems.append(f"ports[{name}].port is {port.port}, not within 1 to 65535")
        return None
    return SlicePortEntry(name, protocol, port.port)


def _placement(endpoint: SliceEndpoint, place: Place, node_name: str | None) -> Placement | None:
    """None: it takes no traffic. Absent conditions as kube-proxy takes them: ready and serving for true, terminating
    for false."""
    conditions, hints = endpoint.conditions, endpoint.hints
    if conditions.ready is False:
        return None if conditions.serving is False or not conditions.terminating else _DRAINING[place]
    if hints is None:
        return _READY[place]
    hint = NodeHint.NONE
    if hints.for_nodes:
        hint = NodeHint.HERE if any(node.name == node_name for node in hints.for_nodes) else NodeHint.ELSEWHERE
    return _hinted(place, hint, tuple(zone.name for zone in hints.for_zones or ()))


@lru_cache(maxsize=1024)
def _hinted(place: Place, hint: NodeHint, zones: tuple[str, ...]) -> Placement:
    """A placement with hints; one object serves all slices of a cluster."""
    return Placement(False, place, hint, tuple(sorted(set(zones))))
