"""What ProxyMode and NodeProxyMode share: modes, durations, conditions, object metadata, options of a dataplane.

Field names are camelCase on the wire and snake_case in Python. Unknown fields are ignored when an object is read, so
that an older agent can read what a newer operator wrote; a user's typo is refused by the API server's own strict field
validation, before it is stored.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic resolves annotations at run time
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from proxymode_api import rules
from proxymode_api.durations import parse_duration
from proxymode_api.modes import ConnectionPolicy as ConnectionPolicy
from proxymode_api.modes import DetectLocalMode as DetectLocalMode
from proxymode_api.modes import IpvsScheduler as IpvsScheduler
from proxymode_api.modes import KubeProxyPolicy as KubeProxyPolicy
from proxymode_api.modes import Mode as Mode


class Model(BaseModel):
    """Base of every API type: immutable, camelCase on the wire."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    def wire(self) -> dict[str, Any]:
        """The object as Kubernetes JSON: camelCase, unset optionals left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _checked_duration(text: str) -> str:
    parse_duration(text)
    return text


Duration = Annotated[
    str,
    Field(max_length=20, examples=["30s", "10m", "1h30m"], json_schema_extra=rules.extra(rules.DURATION)),
    AfterValidator(_checked_duration),
]
"""A non-negative length of time, as Go writes it, in whole hours, minutes and seconds."""

Cidr = Annotated[str, Field(max_length=43, json_schema_extra=rules.extra(rules.CIDR))]
"""An IPv4 or IPv6 prefix."""

KubernetesName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""Name of an object or a namespace (RFC 1123 label)."""

Interface = Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[^/:\s]+$")]
"""A network interface's name or its beginning; bounds are the kernel's (dev_valid_name, IFNAMSIZ)."""


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One aspect of the object's state, as of observedGeneration (metav1.Condition)."""

    type: str = Field(max_length=316, description="Type of the condition in CamelCase.")
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        description="Programmatic reason for the last transition, in CamelCase.",
    )
    message: str = Field(max_length=32768, description="What it means, for people; may be empty.")
    observed_generation: int | None = Field(
        default=None, ge=0, description="metadata.generation that this condition was computed from."
    )
    last_transition_time: datetime = Field(description="When status last changed from one value to another.")


class ManagedFields(BaseModel):
    """The part of metav1.ManagedFieldsEntry that this project reads: who wrote which fields, and when."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    manager: str = ""
    time: datetime | None = None
    subresource: str = ""
    fields_v1: dict[str, Any] = Field(default_factory=dict, alias="fieldsV1")


class ObjectMeta(BaseModel):
    """The part of metav1.ObjectMeta that this project reads; the rest is the API server's business."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    name: str
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    managed_fields: list[ManagedFields] = Field(default_factory=list)


class DetectLocal(Model):
    """How traffic from pods is told from traffic from outside; the latter is masqueraded."""

    model_config = ConfigDict(json_schema_extra=rules.extra(*rules.DETECT_LOCAL))

    mode: DetectLocalMode = Field(
        default=DetectLocalMode.CLUSTER_CIDR,
        description="What identifies traffic from pods: the cluster's pod CIDRs (ClusterCIDR), this node's own "
        "(NodeCIDR), or the interface it comes in by (InterfaceNamePrefix, BridgeInterface); kube-proxy: "
        "--detect-local-mode.",
    )
    cluster_cidrs: list[Cidr] = Field(
        default_factory=list,
        alias="clusterCIDRs",
        max_length=8,
        description="Pod CIDRs of the cluster, IPv4 and IPv6; for mode ClusterCIDR. With none given nothing is taken "
        "for traffic from outside, so that only a pod's traffic to itself through a Service is masqueraded "
        "(kube-proxy: --cluster-cidr).",
        examples=[["10.244.0.0/16"]],
    )
    interface: Interface | None = Field(
        default=None,
        description="Beginning of the interface names for mode InterfaceNamePrefix, name of the bridge for mode "
        "BridgeInterface (kube-proxy: --pod-interface-name-prefix, --pod-bridge-interface).",
        examples=["cni0", "veth"],
    )


class IpvsTimeouts(Model):
    """How long IPVS remembers a connection without packets; 0: as long as the kernel does by itself."""

    tcp: Duration = Field(
        default="0", description="An established TCP connection; 0: the kernel's 15m (kube-proxy: --ipvs-tcp-timeout)."
    )
    tcp_fin: Duration = Field(
        default="0",
        description="A TCP connection after the first FIN; 0: the kernel's 2m (kube-proxy: --ipvs-tcpfin-timeout).",
    )
    udp: Duration = Field(default="0", description="UDP; 0: the kernel's 5m (kube-proxy: --ipvs-udp-timeout).")


class IpvsOptions(Model):
    """Options of the ipvs dataplane."""

    scheduler: IpvsScheduler = Field(
        default=IpvsScheduler.RR,
        description="IPVS scheduler of every virtual server (kube-proxy: --ipvs-scheduler); the annotation "
        "proxymode.io/ipvs-scheduler of a Service says otherwise for this one. Where the kernel lacks it, rr.",
    )
    strict_arp: bool = Field(
        default=False,
        alias="strictARP",
        description="Set arp_ignore and arp_announce so that the node does not answer ARP for Service addresses; "
        "MetalLB in layer 2 mode needs it (kube-proxy: --ipvs-strict-arp).",
    )
    exclude_cidrs: list[Cidr] = Field(
        default_factory=list,
        alias="excludeCIDRs",
        max_length=64,
        description="Virtual servers in these CIDRs are somebody else's and never touched (kube-proxy: "
        "--ipvs-exclude-cidrs).",
        examples=[["203.0.113.0/24"]],
    )
    timeouts: IpvsTimeouts = Field(
        default_factory=IpvsTimeouts, description="How long IPVS remembers a connection without packets."
    )
    drain_timeout: Duration = Field(
        default="0",
        description="How long an endpoint that leaves a Service may keep its TCP and SCTP connections: until then its "
        "real server stays with weight 0, and what is still open is cut. 0: until IPVS knows no connection of it.",
        examples=["10m"],
    )


class NftablesOptions(Model):
    """Options of the nftables dataplane."""

    masquerade_bit: int = Field(
        default=14,
        ge=0,
        le=31,
        description="Bit of the packet mark that asks for masquerading (kube-proxy: --iptables-masquerade-bit).",
    )


class KubeProxyOptions(Model):
    """kube-proxy's DaemonSet, and who handles the Services of its nodes."""

    policy: KubeProxyPolicy = Field(
        default=KubeProxyPolicy.IGNORE,
        description="Ignore: a node where kube-proxy runs is blocked. TakeOver: when a node's turn comes, kube-proxy's "
        "DaemonSet is kept off it by the label proxymode.io/service-proxy, what kube-proxy had in the kernel is handed "
        "over and removed. HandBack: the other way round, kube-proxy comes back and this agent's tables go; it needs "
        "mode nftables, through which nodes in ipvs mode pass.",
    )
    namespace: KubernetesName = Field(default="kube-system", description="Namespace of the DaemonSet.")
    daemon_set: KubernetesName = Field(default="kube-proxy", description="Name of the DaemonSet.")


class DataplaneOptions(Model):
    """Everything about a node's Service dataplane but the mode; resolved by the operator, read by the agent."""

    ipvs: IpvsOptions = Field(default_factory=IpvsOptions, description="Options of the ipvs dataplane.")
    nftables: NftablesOptions = Field(default_factory=NftablesOptions, description="Options of the nftables dataplane.")
    masquerade_all: bool = Field(
        default=False,
        description="Masquerade all traffic to Service addresses (kube-proxy: --masquerade-all).",
    )
    node_port_addresses: list[Annotated[str, Field(max_length=43)]] = Field(
        default_factory=list,
        max_length=64,
        description="CIDRs of the node's addresses on which NodePorts answer, or the one word primary. Empty: the "
        "primary addresses in nftables mode, all local addresses in ipvs mode. CIDRs of one address family only: all "
        "local addresses of the other. All as kube-proxy does (kube-proxy: --nodeport-addresses).",
        examples=[["primary"], ["192.168.0.0/16"]],
        json_schema_extra=rules.extra(rules.NODE_PORT_ADDRESSES),
    )
    localhost_node_ports: bool = Field(
        default=False,
        description="Answer TCP NodePorts also on 127.0.0.1 and [::1] of the node itself, by a small proxy in the "
        "agent (KEP-6032; kube-proxy: --nodeport-addresses with localhost). Those connections end when the agent "
        "does. In nftables mode only: in ipvs mode NodePorts never answer there, as with kube-proxy.",
    )
    detect_local: DetectLocal = Field(
        default_factory=DetectLocal,
        description="How pod traffic is told from traffic from outside; the latter is masqueraded.",
    )
    kube_proxy: KubeProxyOptions = Field(
        default_factory=KubeProxyOptions,
        description="Whether nodes are taken over from kube-proxy, or handed back to it.",
    )
