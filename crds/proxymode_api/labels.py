"""Labels that the operator writes. Pure; part of the API."""

from __future__ import annotations

from typing import Final

SERVICE_PROXY_LABEL: Final = "proxymode.io/service-proxy"
"""On a Node: who handles its Services. The operator keeps kube-proxy's DaemonSet off Nodes where it is
SERVICE_PROXY_AGENT; without the label it is kube-proxy."""

SERVICE_PROXY_AGENT: Final = "agent"
