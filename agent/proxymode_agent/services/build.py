"""One Service and its EndpointSlices to service ports, as kube-proxy decides them.

Two steps: each API object is reduced to a compact entry when it arrives (`service_entry`, `slice_entry`), with what
cannot be used reported as text; `service_ports` then joins the entries of one Service. Whatever the API server should
have refused is left out and reported rather than trusted: the agent also runs beside API servers and controllers that
are not Kubernetes' own. Today all endpoints of the cluster are used for every frontend: traffic policies, topology
hints and session affinity are not looked at.
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_pton
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.services.model import Endpoint, Family, Frontend, Protocol, ServicePort, ServicePortName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.kube.objects import EndpointSlice, ObjectKey, Service, SliceEndpoint

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
PROXY_NAME_LABEL: Final = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
OURS_SELECTOR: Final = f"!{PROXY_NAME_LABEL},!{HEADLESS_LABEL}"
"""Label selector that spares the API server sending what is not ours (the endpoint slice controller copies the first
label from the Service and sets the second one)."""

_FAMILIES: Final = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}
_UNSPECIFIED6: Final = bytes(16)
_LOOPBACK6: Final = bytes(15) + b"\x01"
_PROTOCOLS: Final = {protocol.name: protocol for protocol in Protocol}


class PortEntry(NamedTuple):
    """A Service's port; `node_port` is None where the Service has none."""

    name: str
    protocol: Protocol
    port: int
    node_port: int | None


class ServiceEntry(NamedTuple):
    """A Service that is ours: its packed cluster IPs, at most one of a family, and its ports."""

    addresses: tuple[bytes, ...]
    ports: tuple[PortEntry, ...]


class SlicePortEntry(NamedTuple):
    """A port of an EndpointSlice, which belongs to the Service port of the same name and protocol."""

    name: str
    protocol: Protocol
    port: int


class SliceEntry(NamedTuple):
    """An EndpointSlice of a Service: the packed addresses that take traffic, and those that do if there is no other
    (serving though terminating, KEP-1669)."""

    family: Family
    ports: tuple[SlicePortEntry, ...]
    ready: tuple[bytes, ...]
    draining: tuple[bytes, ...]


def service_entry(service: Service) -> tuple[ServiceEntry | None, tuple[str, ...]]:
    """The Service's entry, None where it is not ours: headless, ExternalName, or given to another proxy by label.
    Then what is wrong with it, if anything."""
    spec = service.spec
    if spec.type == "ExternalName" or PROXY_NAME_LABEL in (service.metadata.labels or {}):
        return None, ()
    problems: list[str] = []
    addresses: dict[Family, bytes] = {}
    for text in spec.cluster_ips or [spec.cluster_ip]:
        if text in ("", "None"):
            continue
        if (packed := _unicast(text, "spec.clusterIPs", problems)) is not None:
            addresses.setdefault(Family(len(packed)), packed)
    ports: list[PortEntry] = []
    for port in spec.ports or ():
        protocol = _PROTOCOLS.get(port.protocol)
        if protocol is None:
            problems.append(f"spec.ports[{port.name}].protocol is {port.protocol!r}, not one of TCP, UDP, SCTP")
        elif not 0 < port.port < 65536:
            problems.append(f"spec.ports[{port.name}].port is {port.port}, not within 1 to 65535")
        elif not 0 <= port.node_port < 65536:
            problems.append(f"spec.ports[{port.name}].nodePort is {port.node_port}, not within 1 to 65535")
        else:
            ports.append(PortEntry(port.name, protocol, port.port, port.node_port or None))
    if not addresses or not ports:
        return None, tuple(problems)
    return ServiceEntry(tuple(addresses.values()), tuple(ports)), tuple(problems)


def slice_service(key: ObjectKey, endpoint_slice: EndpointSlice) -> ObjectKey | None:
    """The Service that the slice belongs to; None: to none."""
    name = (endpoint_slice.metadata.labels or {}).get(SERVICE_NAME_LABEL)
    return key._replace(name=name) if name else None


def slice_entry(endpoint_slice: EndpointSlice) -> tuple[SliceEntry | None, tuple[str, ...]]:
    """The slice's entry, None where its addresses are names (FQDN). Then what is wrong with it, if anything."""
    family = _FAMILIES.get(endpoint_slice.address_type)
    if family is None:
        return None, ()
    problems: list[str] = []
    ports: list[SlicePortEntry] = []
    for port in endpoint_slice.ports or ():
        name = port.name or ""
        protocol = _PROTOCOLS.get(port.protocol or "TCP")
        if protocol is None:
            problems.append(f"ports[{name}].protocol is {port.protocol!r}, not one of TCP, UDP, SCTP")
        elif port.port is None or not 0 < port.port < 65536:
            problems.append(f"ports[{name}].port is {port.port}, not within 1 to 65535")
        else:
            ports.append(SlicePortEntry(name, protocol, port.port))
    ready: list[bytes] = []
    draining: list[bytes] = []
    for index, endpoint in enumerate(endpoint_slice.endpoints or ()):
        group = _group(endpoint, ready, draining)
        if group is None:
            continue
        if not endpoint.addresses:
            problems.append(f"endpoints[{index}].addresses is empty")
            continue
        # All addresses of one endpoint are fungible; consumers use the first (KEP-752).
        packed = _unicast(endpoint.addresses[0], f"endpoints[{index}].addresses", problems)
        if packed is None:
            continue
        if len(packed) != family:
            problems.append(
                f"endpoints[{index}].addresses has {endpoint.addresses[0]}, which is not {endpoint_slice.address_type}"
            )
            continue
        group.append(packed)
    return SliceEntry(family, tuple(ports), tuple(ready), tuple(draining)), tuple(problems)


def service_ports(key: ObjectKey, service: ServiceEntry, slices: Iterable[SliceEntry]) -> tuple[ServicePort, ...]:
    """The Service's ports, one for each port and address family, with their usable endpoints.

    An address that several slices list, as happens while the slice controller moves it, is one endpoint, and ready
    when any of them says so: the result does not depend on the order of slices.
    """
    ready: dict[tuple[Family, str, Protocol], set[Endpoint]] = {}
    draining: dict[tuple[Family, str, Protocol], set[Endpoint]] = {}
    for entry in slices:
        for name, protocol, number in entry.ports:
            where = (entry.family, name, protocol)
            ready.setdefault(where, set()).update([Endpoint(address, number) for address in entry.ready])
            draining.setdefault(where, set()).update([Endpoint(address, number) for address in entry.draining])
    ports = []
    for address in service.addresses:
        family = Family(len(address))
        for port in service.ports:
            where = (family, port.name, port.protocol)
            ports.append(
                ServicePort(
                    name=ServicePortName(key.namespace, key.name, port.name, port.protocol, family),
                    cluster_ip=Frontend(address, port.protocol, port.port),
                    cluster_endpoints=tuple(sorted(ready.get(where) or draining.get(where) or ())),
                    node_port=port.node_port,
                )
            )
    return tuple(ports)


def _group(endpoint: SliceEndpoint, ready: list[bytes], draining: list[bytes]) -> list[bytes] | None:
    """Where the endpoint belongs; None: it takes no traffic. Absent conditions as discovery/v1 defines them: ready is
    to be taken for true, serving for the same as ready, terminating for false."""
    conditions = endpoint.conditions
    is_ready = conditions.ready is not False
    if is_ready:
        return ready
    serving = is_ready if conditions.serving is None else conditions.serving
    return draining if serving and conditions.terminating else None


def _unicast(text: str, field: str, problems: list[str]) -> bytes | None:
    """The packed address; None, and a word in `problems`, for what is none or must not be a destination.

    Source of the ranges: ValidateEndpointIP of k8s.io/kubernetes; a Service whose endpoint is 127.0.0.1 would open the
    node's own loopback to the cluster.
    """
    try:
        # Not `ipaddress`: it takes twenty times as long, and a large cluster has 500,000 of these.
        packed = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):
        problems.append(f"{field} has {text!r}, which is not an IP address")
        return None
    if _special(packed):
        problems.append(
            f"{field} has {text}; loopback, link-local, multicast and unspecified addresses are not allowed"
        )
        return None
    return packed


def _special(packed: bytes) -> bool:
    """Whether the address is unspecified, loopback, link-local, multicast or (IPv4) broadcast and reserved."""
    first = packed[0]
    if len(packed) == 4:
        return first in (0, 127) or first >= 224 or (first == 169 and packed[1] == 254)
    return first == 0xFF or (first == 0xFE and packed[1] & 0xC0 == 0x80) or packed in (_UNSPECIFIED6, _LOOPBACK6)
