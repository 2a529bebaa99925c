"""The clusters that are measured: how many Services with how many endpoints, and their objects. Pure.

Addresses are numbered, so that anybody can tell from a Service's and an endpoint's number where they are. Services
have one TCP port and no other frontend than the cluster IP, as in the measurements of kube-proxy in the README.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT: Final = 80
TARGET_PORT: Final = 8080
POD_NETWORK: Final = ipaddress.ip_network("10.128.0.0/9")
PROBE_ADDRESS: Final = "10.255.255.1"
CLIENT_ADDRESS: Final = "10.255.255.2"
"""Both are the namespace's own: the one endpoint of the Service that is connected to, and who connects."""
SLICE_ENDPOINTS: Final = 100
"""Endpoints in one EndpointSlice at most (the slice controller's default)."""

_FIRST_SERVICE: Final = int(ipaddress.ip_address("10.96.1.0"))
"""In the API server's Service network, behind what a real one gives out by itself."""
_FIRST_POD: Final = int(POD_NETWORK.network_address) + 1
_NAMESPACES: Final = 10
_NODES: Final = 1000

NODE: Final = "node-0"
"""The node that is measured: it has every thousandth pod."""


@dataclass(frozen=True, slots=True)
class Case:
    """A cluster of `services` Services with `endpoints` endpoints each, and one more Service with the endpoint
    PROBE_ADDRESS: its number is `services`."""

    services: int
    endpoints: int

    @classmethod
    def parse(cls, text: str) -> Case:
        """The case written as `1000x2`. Raises ValueError."""
        services, cross, endpoints = text.partition("x")
        if not (cross and services.isdecimal() and endpoints.isdecimal()):
            raise ValueError(f"case {text!r} must look like 1000x2: Services x endpoints of each")
        case = cls(int(services), int(endpoints))
        if not (0 < case.services <= 50_000 and 0 < case.endpoints <= 1_000):
            raise ValueError(f"case {text!r}: up to 50000 Services and 1000 endpoints of each, at least one of both")
        return case

    def __str__(self) -> str:
        return f"{self.services}x{self.endpoints}"

    @property
    def probe(self) -> int:
        """The Service to connect to."""
        return self.services

    def targets(self, service: int) -> tuple[str, ...]:
        """The addresses of a Service's endpoints."""
        if service == self.probe:
            return (PROBE_ADDRESS,)
        first = service * self.endpoints
        return tuple(pod_address(first + number) for number in range(self.endpoints))

    @property
    def spare_pods(self) -> Iterator[str]:
        """Addresses that no endpoint has, for endpoints that are replaced."""
        number = self.services * self.endpoints
        while True:
            yield pod_address(number)
            number += 1

    def objects(self) -> Iterator[dict[str, Any]]:
        """All Services and EndpointSlices, in order."""
        for service in range(self.services + 1):
            yield service_object(service)
            targets = self.targets(service)
            for start in range(0, len(targets), SLICE_ENDPOINTS):
                yield slice_object(self, service, start, targets[start : start + SLICE_ENDPOINTS])


CASES: Final = (Case(1000, 2), Case(1000, 10), Case(5000, 10), Case(10_000, 2), Case(5006, 50))


def namespace(service: int) -> str:
    """The namespace of a Service."""
    return f"bench-{service % _NAMESPACES}"


def namespaces() -> list[str]:
    """All namespaces."""
    return [namespace(number) for number in range(_NAMESPACES)]


def cluster_ip(service: int) -> str:
    """The cluster IP of a Service."""
    return str(ipaddress.ip_address(_FIRST_SERVICE + service))


def pod_address(number: int) -> str:
    """The address of a pod."""
    return str(ipaddress.ip_address(_FIRST_POD + number))


def slice_path(service: int, start: int = 0) -> str:
    """The EndpointSlice that holds a Service's endpoints from the one with number `start`."""
    name = _slice_name(service, start)
    return f"/apis/discovery.k8s.io/v1/namespaces/{namespace(service)}/endpointslices/{name}"


def node_of(case: Case, service: int, endpoint: int) -> str:
    """The node on which a Service's endpoint runs."""
    return f"node-{(service * case.endpoints + endpoint) % _NODES}"


def service_object(service: int) -> dict[str, Any]:
    """A Service."""
    address = cluster_ip(service)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"service-{service}", "namespace": namespace(service)},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "selector": {"app": f"service-{service}"},
            "ports": [{"name": "http", "port": PORT, "protocol": "TCP", "targetPort": TARGET_PORT}],
        },
    }


def slice_object(case: Case, service: int, start: int, targets: tuple[str, ...]) -> dict[str, Any]:
    """An EndpointSlice with what the slice controller writes into it."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": _slice_name(service, start),
            "namespace": namespace(service),
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": f"service-{service}",
            },
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": node_of(case, service, number),
                "targetRef": {"kind": "Pod", "namespace": namespace(service), "name": f"service-{service}-{number}"},
            }
            for number, address in enumerate(targets, start)
        ],
        "ports": [{"name": "http", "port": TARGET_PORT, "protocol": "TCP"}],
    }


def _slice_name(service: int, start: int) -> str:
    return f"service-{service}-{start // SLICE_ENDPOINTS:05}"
