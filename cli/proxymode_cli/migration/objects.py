"""The fields of API objects that rules look at, decoded without trust: what is not as expected counts as not there."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml
from proxymode_api.annotations import IPVS_SCHEDULER_ANNOTATION
from proxymode_api.deprecation import default_mode
from proxymode_cli.migration.family import Family

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxymode_api.deprecation import Minor

SERVICE_PROXY_LABEL: Final = "service.kubernetes.io/service-proxy-name"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFacts:
    """A Service that a service proxy handles. `node_ports`: as `30080/TCP`. `vips`: external and load balancer IPs."""

    namespace: str
    name: str
    node_ports: tuple[str, ...] = ()
    vips: tuple[str, ...] = ()
    local: bool = False
    scheduler: str = ""
    load_balancer: bool = False

    @property
    def subject(self) -> str:
        return f"Service {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """A Linux node. `primary` and `others`: its addresses as status.addresses has them; kernel as (6, 1)."""

    name: str
    family: Family
    kernel: tuple[int, int] | None = None
    release: str = ""
    primary: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        return f"Node {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeProxyConfig:
    """KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1), what matters of it."""

    family: Family
    scheduler: str = ""
    strict_arp: bool = False
    localhost_node_ports: bool = True
    node_port_addresses: tuple[str, ...] = ()
    tcp_be_liberal: bool = False
    timeouts: tuple[str, ...] = ()
    cluster_cidrs: tuple[str, ...] = ()
    masquerade_all: bool = False
    exclude_cidrs: tuple[str, ...] = ()
    detect_local_mode: str = ""
    conntrack: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSet:
    """Images, arguments and environment of all its containers."""

    namespace: str
    name: str
    images: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str]

    @property
    def subject(self) -> str:
        return f"DaemonSet {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calico:
    """`dataplane`: Installation's linuxDataplane (Iptables, Nftables, BPF); `nftables_mode`, `bpf`: of Felix."""

    dataplane: str = ""
    nftables_mode: str = ""
    bpf: bool = False


def service(item: Mapping[str, Any]) -> ServiceFacts | None:
    """None: nothing of it is a service proxy's, or it is another's (label service-proxy-name)."""
    metadata, spec = _map(item, "metadata"), _map(item, "spec")
    headless = spec.get("clusterIP") in (None, "", "None")
    if headless or spec.get("type") == "ExternalName" or SERVICE_PROXY_LABEL in _map(metadata, "labels"):
        return None
    ingress = _map(_map(item, "status"), "loadBalancer").get("ingress") or []
    balanced = [str(entry["ip"]) for entry in ingress if entry.get("ip") and entry.get("ipMode", "VIP") == "VIP"]
    return ServiceFacts(
        namespace=str(metadata.get("namespace", "default")),
        name=str(metadata.get("name", "")),
        node_ports=tuple(
            f"{port['nodePort']}/{port.get('protocol', 'TCP')}"
            for port in spec.get("ports") or []
            if port.get("nodePort")
        ),
        vips=tuple(dict.fromkeys([*map(str, spec.get("externalIPs") or []), *balanced])),
        local=spec.get("externalTrafficPolicy") == "Local",
        scheduler=str(_map(metadata, "annotations").get(IPVS_SCHEDULER_ANNOTATION, "")),
        load_balancer=spec.get("type") == "LoadBalancer",
    )


def node(item: Mapping[str, Any], family: Family) -> NodeFacts:
    """A Node; `family` is found elsewhere."""
    status = _map(item, "status")
    release = str(_map(status, "nodeInfo").get("kernelVersion", ""))
    match = re.match(r"(\d+)\.(\d+)", release)
    primary, others = _addresses(status.get("addresses") or [])
    return NodeFacts(
        name=str(_map(item, "metadata").get("name", "")),
        family=family,
        kernel=(int(match[1]), int(match[2])) if match else None,
        release=release,
        primary=primary,
        others=others,
    )


def _addresses(found: list[Mapping[str, Any]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The first address of each IP family, InternalIP before ExternalIP (kube-proxy: GetNodeHostIPs), and the rest."""
    ranked = [
        str(entry.get("address", ""))
        for kind in ("InternalIP", "ExternalIP")
        for entry in found
        if entry.get("type") == kind
    ]
    primary: dict[int, str] = {}
    others = []
    for address in dict.fromkeys(ranked):
        try:
            version = ipaddress.ip_address(address).version
        except ValueError:
            continue
        if primary.setdefault(version, address) != address:
            others.append(address)
    return tuple(primary.values()), tuple(others)


_CONNTRACK: Final = {
    "maxPerCore": 32768,
    "min": 131072,
    "tcpEstablishedTimeout": "24h0m0s",
    "tcpCloseWaitTimeout": "1h0m0s",
}
"""kube-proxy's defaults, which are the agent's too (pkg/proxy/apis/config/v1alpha1/defaults.go)."""


def kube_proxy_config(config_map: Mapping[str, Any], cluster: Minor | None) -> KubeProxyConfig | None:
    """Of kube-proxy's ConfigMap as kubeadm makes it (key config.conf); None: it holds no such configuration.

    `cluster`: its version decides what an empty mode means.
    """
    text = _map(config_map, "data").get("config.conf") or _map(config_map, "data").get("config") or ""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    if not isinstance(found, dict):
        return None
    ipvs, iptables = _map(found, "ipvs"), _map(found, "iptables")
    mode = found.get("mode") or default_mode(cluster).value
    if mode not in list(Family):
        return None
    localhost = iptables.get("localhostNodePorts")
    return KubeProxyConfig(
        family=Family(mode),
        scheduler=str(ipvs.get("scheduler") or ""),
        strict_arp=bool(ipvs.get("strictARP")),
        localhost_node_ports=True if localhost is None else bool(localhost),
        node_port_addresses=tuple(map(str, found.get("nodePortAddresses") or [])),
        cluster_cidrs=tuple(filter(None, str(found.get("clusterCIDR") or "").split(","))),
        masquerade_all=any(bool(_map(found, part).get("masqueradeAll")) for part in ("iptables", "nftables")),
        exclude_cidrs=tuple(map(str, ipvs.get("excludeCIDRs") or [])),
        detect_local_mode=str(found.get("detectLocalMode") or ""),
        conntrack=tuple(
            f"{name}: {value}"
            for name, default in _CONNTRACK.items()
            if (value := _map(found, "conntrack").get(name)) not in (None, default)
        ),
        tcp_be_liberal=bool(_map(found, "conntrack").get("tcpBeLiberal")),
        timeouts=tuple(
            f"{name}: {ipvs[name]}"
            for name in ("tcpTimeout", "tcpFinTimeout", "udpTimeout")
            if ipvs.get(name) not in (None, "", "0s")
        ),
    )


def daemon_set(item: Mapping[str, Any]) -> DaemonSet:
    """A DaemonSet, its init containers left out."""
    metadata = _map(item, "metadata")
    containers = _map(_map(_map(item, "spec"), "template"), "spec").get("containers") or []
    return DaemonSet(
        namespace=str(metadata.get("namespace", "")),
        name=str(metadata.get("name", "")),
        images=tuple(str(container.get("image", "")) for container in containers),
        arguments=tuple(_arguments(containers)),
        environment={
            str(entry.get("name")): str(entry.get("value", ""))
            for container in containers
            for entry in container.get("env") or []
        },
    )


def _arguments(containers: list[Mapping[str, Any]]) -> Iterator[str]:
    for container in containers:
        yield from map(str, [*(container.get("command") or []), *(container.get("args") or [])])


def calico(installation: Mapping[str, Any] | None, felix: Mapping[str, Any] | None) -> Calico | None:
    """Of Installation (operator.tigera.io/v1) and FelixConfiguration, both called default; None: neither is there."""
    if installation is None and felix is None:
        return None
    network = _map(_map(installation or {}, "spec"), "calicoNetwork")
    spec = _map(felix or {}, "spec")
    return Calico(
        dataplane=str(network.get("linuxDataplane") or ""),
        nftables_mode=str(spec.get("nftablesMode") or ""),
        bpf=bool(spec.get("bpfEnabled")),
    )


def _map(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = item.get(key)
    return found if isinstance(found, dict) else {}
