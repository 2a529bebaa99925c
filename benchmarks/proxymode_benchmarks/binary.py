"""kube-proxy's binary, where `KUBEBUILDER_ASSETS` has one: its configuration file, and what its metrics say of it.

How its process is run, and what is measured meanwhile, is each benchmark's own.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_api.modes import Mode

_METRIC: Final = r"^kubeproxy_sync_proxy_rules_{}(?:\{{[^}}]*\}})? ([\d.e+-]+)$"
_LAST_SYNC: Final = re.compile(_METRIC.format("last_timestamp_seconds"), re.MULTILINE)
_SYNC_SECONDS: Final = re.compile(_METRIC.format("duration_seconds_sum"), re.MULTILINE)


def find() -> Path | None:
    """kube-proxy of the folder that KUBEBUILDER_ASSETS names; None: there is none."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    found = Path(folder) / "kube-proxy" if folder else None
    return found if found is not None and os.access(found, os.X_OK) else None


def configuration(
    mode: Mode, *, node: str, cluster_cidrs: Iterable[object], kubeconfig: Path, metrics_port: int, health_port: int
) -> str:
    """KubeProxyConfiguration, with the defaults of kubeadm for what is not asked; JSON is YAML."""
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": mode.value,
            "hostnameOverride": node,
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "clusterCIDR": ",".join(map(str, cluster_cidrs)),
            "detectLocalMode": "ClusterCIDR",
            "metricsBindAddress": f"127.0.0.1:{metrics_port}",
            "healthzBindAddress": f"127.0.0.1:{health_port}",
            "conntrack": {"maxPerCore": 0, "min": 0},  # a namespace's conntrack table is the machine's
        }
    )


def synced(metrics: str) -> float | None:
    """How many seconds the syncs took, of both families, once each has made one; None: not yet."""
    ended = [float(value) for value in _LAST_SYNC.findall(metrics)]
    if not ended or not all(ended):
        return None
    return sum(float(value) for value in _SYNC_SECONDS.findall(metrics))
