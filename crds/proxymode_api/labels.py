"""Labels of Nodes: the one that the operator writes, part of the API, and one that all read. Pure."""

from __future__ import annotations

from typing import Final

SERVICE_PROXY_LABEL: Final = "proxymode.io/service-proxy"
"""On a Node: who handles its Services. The operator keeps kube-proxy's DaemonSet off Nodes where it is
SERVICE_PROXY_AGENT; without the label it is kube-proxy."""

SERVICE_PROXY_AGENT: Final = "agent"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
"""Of a Node, Kubernetes' own (k8s.io/api)."""
