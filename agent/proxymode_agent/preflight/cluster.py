"""Judgements about how the cluster is set up, where a mistake shows only later: after a reboot, or in network policies.

Pure; `checks` has the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxymode_agent.preflight.model import Facts, Finding
from proxymode_agent.services.model import PodNetworks
from proxymode_api.modes import KubeProxyPolicy
from proxymode_api.nodeproxymode import Verdict

if TYPE_CHECKING:
    from proxymode_agent.services.model import DataplaneConfig, Network
    from proxymode_api.modes import Mode


def api_server_address(_mode: Mode, facts: Facts, config: DataplaneConfig) -> Finding:
    """Blocks only while the node still has a kube-proxy to lose: a node that is the agent's is not helped by it."""
    if not facts.kubernetes_service or urlsplit(f"//{facts.api_server}").hostname != facts.kubernetes_service:
        return Finding(Verdict.PASS, "the API server is reached without a Service")
    leaves_kube_proxy = bool(facts.kube_proxy.running) and config.kube_proxy is not KubeProxyPolicy.HAND_BACK
    return Finding(
        Verdict.BLOCK if leaves_kube_proxy else Verdict.WARN,
        f"the agent reaches the API server by the Service kubernetes ({facts.kubernetes_service}), which this node has "
        "after a reboot only when its agent has reached the API server",
        "Set KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT of the ConfigMap api-server "
        "(manifests/base/api-server.env, or your overlay) to an address that every node reaches without a Service.",
    )


def pod_networks(_mode: Mode, facts: Facts, config: DataplaneConfig) -> Finding:
    if not isinstance(config.pods, PodNetworks):
        told = "nothing is taken for traffic from outside" if config.pods is None else "pods are told by interface"
        return Finding(Verdict.PASS, told)
    outside = [str(network) for network in facts.pod_networks if not _within(network, config.pods)]
    if not outside:
        return Finding(Verdict.PASS, "the Node's podCIDRs, as far as it has any, are in spec.detectLocal.clusterCIDRs")
    return Finding(
        Verdict.WARN,
        f"the Node's podCIDRs {', '.join(outside)} are not in spec.detectLocal.clusterCIDRs "
        f"({', '.join(map(str, config.pods.networks))}): traffic of its pods would be masqueraded",
        "Write the pods' networks into spec.detectLocal.clusterCIDRs, as kube-proxy has them in clusterCIDR. Where a "
        "CNI plugin gives addresses from networks of its own instead of podCIDRs, write those, and this is no matter.",
    )


def _within(network: Network, pods: PodNetworks) -> bool:
    return any(
        network.version == other.version and network.network_address in other and network.broadcast_address in other
        for other in pods.networks
    )
