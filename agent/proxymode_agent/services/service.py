"""A Service to the compact entry that is kept of it: its frontends and policies, all ports and both families.

Semantics are those of newBaseServiceInfo (k8s.io/kubernetes pkg/proxy/serviceport.go). Which endpoints serve it is not
decided here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from proxymode_agent.services.addresses import network, packed
from proxymode_agent.services.labels import HEADLESS_LABEL, PROXY_NAME_LABEL
from proxymode_agent.services.model import Family, Network, Protocol
from proxymode_api.annotations import IPVS_SCHEDULER_ANNOTATION
from proxymode_api.modes import IpvsScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proxymode_agent.kube.objects import Service, ServicePortSpec, ServiceSpec

P = TypeVar("P")
E = TypeVar("E")

PROTOCOLS: Final = {protocol.name: protocol for protocol in Protocol}
AFFINITY_SECONDS: Final = 10800
"""Default of sessionAffinityConfig.clientIP.timeoutSeconds (k8s.io/api/core/v1)."""
_AFFINITY_MAXIMUM: Final = 86400


class PortEntry(NamedTuple):
    """A Service's port; `node_port` is None where the Service has none."""

    name: str
    protocol: Protocol
    port: int
    node_port: int | None


class External(NamedTuple):
    """Frontends besides cluster IPs and NodePorts, both families in one: packed external and load-balancer addresses
    (ipMode VIP) and the networks that may use the latter. Sorted; no address is in both."""

    ips: tuple[bytes, ...] = ()
    load_balancer: tuple[bytes, ...] = ()
    source_ranges: tuple[Network, ...] = ()

    def of(self, family: Family) -> External:
        """The part of one address family."""
        return External(
            tuple(address for address in self.ips if len(address) == family),
            tuple(address for address in self.load_balancer if len(address) == family),
            tuple(one for one in self.source_ranges if one.max_prefixlen == family * 8),
        )


NO_EXTERNAL: Final = External()


class ServiceEntry(msgspec.Struct, frozen=True, gc=False):
    """A Service that is ours: its packed cluster IPs, at most one of a family, its ports, and what else is said of it.

    `external_local` is what externalTrafficPolicy says where the Service's type or external IPs give it a meaning;
    `health_check_port` None: load balancers need not ask which nodes have endpoints. `ipvs_scheduler` None: the node's.
    """

    addresses: tuple[bytes, ...]
    ports: tuple[PortEntry, ...]
    external: External = NO_EXTERNAL
    internal_local: bool = False
    external_local: bool = False
    affinity_seconds: int | None = None
    health_check_port: int | None = None
    ipvs_scheduler: str | None = None


def service_entry(service: Service) -> tuple[ServiceEntry | None, tuple[str, ...]]:
    """The Service's entry, None where it is not ours: headless (also by label), ExternalName, or another proxy's.
    Then what is wrong with it, if anything."""
    spec, labels = service.spec, service.metadata.labels
    if spec.type == "ExternalName" or (labels and (PROXY_NAME_LABEL in labels or HEADLESS_LABEL in labels)):
        return None, ()
    ports, unusable = _ports(tuple(spec.ports or ()))
    problems = [*unusable]
    addresses: dict[int, bytes] = {}  # by their length
    for text in spec.cluster_ips or [spec.cluster_ip]:
        if text in ("", "None"):
            continue
        if (address := packed(text, "spec.clusterIPs", problems)) is not None:
            addresses.setdefault(len(address), address)
    if not addresses or not ports:
        return None, tuple(problems)
    has_external = spec.type in ("NodePort", "LoadBalancer") or bool(spec.external_ips)
    external_local = has_external and spec.external_traffic_policy == "Local"
    entry = ServiceEntry(
        addresses=tuple(addresses.values()),
        ports=ports,
        external=_external(service, problems),
        internal_local=spec.internal_traffic_policy == "Local",
        external_local=external_local,
        affinity_seconds=_affinity(spec, problems),
        health_check_port=_health_check(spec, problems) if external_local else None,
        ipvs_scheduler=_scheduler(service, problems),
    )
    return entry, tuple(problems)


def readable(ports: Iterable[P], read: Callable[[P, list[str]], E | None]) -> tuple[tuple[E, ...], tuple[str, ...]]:
    """What `read` makes of ports that can be used, and what it says is wrong with the others."""
    problems: list[str] = []
    entries = [read(port, problems) for port in ports]
    return tuple([entry for entry in entries if entry is not None]), tuple(problems)


@lru_cache(maxsize=1024)  # many Services of a cluster have the same
def _ports(ports: tuple[ServicePortSpec, ...]) -> tuple[tuple[PortEntry, ...], tuple[str, ...]]:
    return readable(ports, _port)


def _port(port: ServicePortSpec, problems: list[str]) -> PortEntry | None:
    protocol = PROTOCOLS.get(port.protocol)
    if protocol is None:
        problems.append(f"spec.ports[{port.name}].protocol is {port.protocol!r}, not one of TCP, UDP, SCTP")
        return None
    if not 0 < port.port < 65536:
        problems.append(f"spec.ports[{port.name}].port is {port.port}, not within 1 to 65535")
        return None
    if not 0 <= port.node_port < 65536:
        problems.append(f"spec.ports[{port.name}].nodePort is {port.node_port}, not within 1 to 65535")
        return None
    return PortEntry(port.name, protocol, port.port, port.node_port or None)


def _external(service: Service, problems: list[str]) -> External:
    """Cluster-wide frontends. An address that is both is the load balancer's: its source ranges are to hold."""
    spec, ingress = service.spec, service.status.load_balancer.ingress
    if not (spec.external_ips or ingress):
        return NO_EXTERNAL
    vips = [one.ip for one in ingress or () if one.ip and one.ip_mode in (None, "", "VIP")]
    load_balancer = _addresses(vips, "status.loadBalancer.ingress", problems)
    external_ips = _addresses(spec.external_ips or (), "spec.externalIPs", problems) - load_balancer
    ranges: set[Network] = set()
    for text in (spec.load_balancer_source_ranges or ()) if load_balancer else ():
        try:
            ranges.add(network(text))
        except ValueError:
            problems.append(f"spec.loadBalancerSourceRanges has {text!r}, which is not a network such as 10.0.0.0/8")
    return External(
        tuple(sorted(external_ips)),
        tuple(sorted(load_balancer)),
        tuple(sorted(ranges, key=lambda one: (one.version, one.network_address.packed, one.prefixlen))),
    )


def _addresses(texts: Iterable[str], field: str, problems: list[str]) -> set[bytes]:
    return {address for address in (packed(text, field, problems) for text in texts) if address is not None}


def _affinity(spec: ServiceSpec, problems: list[str]) -> int | None:
    if spec.session_affinity != "ClientIP":
        return None
    client_ip = spec.session_affinity_config.client_ip if spec.session_affinity_config else None
    seconds = client_ip.timeout_seconds if client_ip else None
    if seconds is not None and not 0 < seconds <= _AFFINITY_MAXIMUM:
        problems.append(
            f"spec.sessionAffinityConfig.clientIP.timeoutSeconds is {seconds}, not within 1 to {_AFFINITY_MAXIMUM}"
        )
        return AFFINITY_SECONDS
    return AFFINITY_SECONDS if seconds is None else seconds


def _scheduler(service: Service, problems: list[str]) -> str | None:
    annotations = service.metadata.annotations
    asked = annotations.ipvs_scheduler if annotations is not None else None
    if asked is None:
        return None
    try:
        return IpvsScheduler(asked).value
    except ValueError:
        known = ", ".join(IpvsScheduler)
        problems.append(f"metadata.annotations[{IPVS_SCHEDULER_ANNOTATION}] is {asked!r}, not one of {known}")
        return None


def _health_check(spec: ServiceSpec, problems: list[str]) -> int | None:
    """Load balancers ask only where the policy is Local; every other Service is to be had on all nodes."""
    if spec.type != "LoadBalancer" or not spec.health_check_node_port:
        return None
    if not 0 < spec.health_check_node_port < 65536:
        problems.append(f"spec.healthCheckNodePort is {spec.health_check_node_port}, not within 1 to 65535")
        return None
    return spec.health_check_node_port
