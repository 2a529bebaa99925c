"""The fields of Service, EndpointSlice and Node that the agent reads, and nothing more: decoding skips the rest.

Shapes follow k8s.io/api core/v1 and discovery/v1. What the API marks optional is optional here, null included.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class ObjectKey(NamedTuple):
    """An object's identity within its kind; `namespace` is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class ObjectMeta(msgspec.Struct, rename="camel", frozen=True, gc=False):
    name: str
    namespace: str = ""
    uid: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None


class ServicePortSpec(msgspec.Struct, rename="camel", frozen=True, gc=False):
    port: int
    name: str = ""
    protocol: str = "TCP"
    node_port: int = 0


class ServiceSpec(msgspec.Struct, frozen=True, gc=False):
    type: str = "ClusterIP"
    ports: list[ServicePortSpec] | None = None
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: list[str] | None = msgspec.field(name="clusterIPs", default=None)


class Service(msgspec.Struct, frozen=True, gc=False):
    metadata: ObjectMeta
    spec: ServiceSpec


class EndpointConditions(msgspec.Struct, frozen=True, gc=False):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class SliceEndpoint(msgspec.Struct, frozen=True, gc=False):
    addresses: list[str]
    conditions: EndpointConditions = EndpointConditions()


class SlicePort(msgspec.Struct, frozen=True, gc=False):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class EndpointSlice(msgspec.Struct, rename="camel", frozen=True, gc=False):
    metadata: ObjectMeta
    address_type: str
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None


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
decode_node = msgspec.json.Decoder(Node).decode
