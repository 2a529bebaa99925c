"""The fields of Service, EndpointSlice, ServiceCIDR and Node that the agent reads; decoding skips all others.

Shapes follow k8s.io/api core/v1, discovery/v1 and networking/v1. What the API marks optional is optional here, null
included.
"""

from __future__ import annotations

from sys import intern
from typing import Final, NamedTuple

import msgspec

from proxymode_api.annotations import IPVS_SCHEDULER_ANNOTATION


class ObjectKey(NamedTuple):
    """An object's identity within its kind; `namespace` is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Annotations(msgspec.Struct, frozen=True, gc=False):
    """Of EndpointSlices (core/v1, EndpointsLastChangeTriggerTime) and of Services."""

    last_change_trigger_time: str | None = msgspec.field(
        name="endpoints.kubernetes.io/last-change-trigger-time", default=None
    )
    ipvs_scheduler: str | None = msgspec.field(name=IPVS_SCHEDULER_ANNOTATION, default=None)


class ObjectMeta(msgspec.Struct, rename="camel", frozen=True, gc=False):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: Annotations | None = None


class ServicePortSpec(msgspec.Struct, rename="camel", frozen=True, gc=False):
    port: int
    name: str = ""
    protocol: str = "TCP"
    node_port: int = 0


class ClientIPConfig(msgspec.Struct, rename="camel", frozen=True, gc=False):
    timeout_seconds: int | None = None


class SessionAffinityConfig(msgspec.Struct, frozen=True, gc=False):
    client_ip: ClientIPConfig | None = msgspec.field(name="clientIP", default=None)


class ServiceSpec(msgspec.Struct, rename="camel", frozen=True, gc=False):
    type: str = "ClusterIP"
    ports: list[ServicePortSpec] | None = None
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: list[str] | None = msgspec.field(name="clusterIPs", default=None)
    external_ips: list[str] | None = msgspec.field(name="externalIPs", default=None)
    internal_traffic_policy: str | None = None
    external_traffic_policy: str = ""
    load_balancer_source_ranges: list[str] | None = None
    session_affinity: str = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    health_check_node_port: int = 0


class LoadBalancerIngress(msgspec.Struct, rename="camel", frozen=True, gc=False):
    ip: str = ""
    ip_mode: str | None = None


class LoadBalancerStatus(msgspec.Struct, frozen=True, gc=False):
    ingress: list[LoadBalancerIngress] | None = None


class ServiceStatus(msgspec.Struct, rename="camel", frozen=True, gc=False):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(msgspec.Struct, frozen=True, gc=False):
    metadata: ObjectMeta
    spec: ServiceSpec
    status: ServiceStatus = ServiceStatus()


class EndpointConditions(msgspec.Struct, frozen=True, gc=False):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(msgspec.Struct, frozen=True, gc=False):
    """ForZone and ForNode of discovery/v1."""

    name: str


class EndpointHints(msgspec.Struct, rename="camel", frozen=True, gc=False):
    for_zones: list[Hint] | None = None
    for_nodes: list[Hint] | None = None


class SliceEndpoint(msgspec.Struct, rename="camel", frozen=True, gc=False):
    addresses: list[str]
    conditions: EndpointConditions = EndpointConditions()
    node_name: str | None = None
    hints: EndpointHints | None = None


class SlicePort(msgspec.Struct, frozen=True, gc=False):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class EndpointSlice(msgspec.Struct, rename="camel", frozen=True, gc=False):
    metadata: ObjectMeta
    address_type: str
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None


class ServiceCIDRSpec(msgspec.Struct, frozen=True, gc=False):
    cidrs: list[str] | None = None


class ServiceCIDR(msgspec.Struct, frozen=True, gc=False):
    metadata: ObjectMeta
    spec: ServiceCIDRSpec = ServiceCIDRSpec()


class NodeAddress(msgspec.Struct, frozen=True, gc=False):
    type: str
    address: str


class Taint(msgspec.Struct, frozen=True, gc=False):
    key: str


class NodeSpec(msgspec.Struct, frozen=True, gc=False):
    pod_cidrs: list[str] | None = msgspec.field(name="podCIDRs", default=None)
    taints: list[Taint] | None = None


class NodeStatus(msgspec.Struct, frozen=True, gc=False):
    addresses: list[NodeAddress] | None = None


class Node(msgspec.Struct, frozen=True, gc=False):
    metadata: ObjectMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


decode_service = msgspec.json.Decoder(Service).decode
decode_endpoint_slice = msgspec.json.Decoder(EndpointSlice).decode
decode_service_cidr = msgspec.json.Decoder(ServiceCIDR).decode
decode_node = msgspec.json.Decoder(Node).decode

_services: Final = msgspec.json.Decoder(list[Service]).decode
_endpoint_slices: Final = msgspec.json.Decoder(list[EndpointSlice]).decode


def decode_services(array: memoryview) -> list[tuple[ObjectKey, str, Service]]:
    """A JSON array of them, each with its key and resourceVersion. Raises msgspec.MsgspecError."""
    return [(_key(one.metadata), one.metadata.resource_version, one) for one in _services(array)]


def decode_endpoint_slices(array: memoryview) -> list[tuple[ObjectKey, str, EndpointSlice]]:
    """A JSON array of them, each with its key and resourceVersion. Raises msgspec.MsgspecError."""
    return [(_key(one.metadata), one.metadata.resource_version, one) for one in _endpoint_slices(array)]


def _key(metadata: ObjectMeta) -> ObjectKey:
    """A cluster has few namespaces and many objects: they share the text."""
    return ObjectKey(intern(metadata.namespace), metadata.name)
