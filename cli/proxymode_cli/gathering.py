"""Reads what overview and migration report are made of; what the user may not read is a note, not an error."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from proxymode_api.common import DataplaneOptions
from proxymode_api.deprecation import KubeProxyMode, default_mode, minor_if_any
from proxymode_api.modes import Mode
from proxymode_cli.asking import NODES, OS_LABEL, labels
from proxymode_cli.errors import NotInstalledError
from proxymode_cli.joining import fleet_view, with_configured
from proxymode_cli.migration import objects
from proxymode_cli.migration.family import FAMILIES, Family
from proxymode_cli.migration.model import Situation
from proxymode_cli.migration.table import analyse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxymode_api.deprecation import Minor
    from proxymode_api.nodeproxymode import NodeProxyMode
    from proxymode_cli.cluster import Cluster
    from proxymode_cli.migration.model import Report
    from proxymode_cli.view import FleetView

DAEMON_SETS: Final = "/apis/apps/v1/daemonsets"
KUBE_PROXY: Final = "/api/v1/namespaces/kube-system/configmaps/kube-proxy"
INSTALLATION: Final = "/apis/operator.tigera.io/v1/installations/default"
FELIX: Final = "/apis/crd.projectcalico.org/v1/felixconfigurations/default"
L2_ADVERTISEMENTS: Final = "/apis/metallb.io/v1beta1/l2advertisements"
CNI_SETTINGS: Final = {"cilium": "cilium-config", "antrea-agent": "antrea-config"}
"""ConfigMaps beside a DaemonSet of this name."""


class _Reader:
    """Answers of the API server, and notes on what it did not answer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.notes: list[str] = []

    def items(self, path: str, what: str) -> list[dict[str, Any]]:
        """The list; empty where there is no such kind, or with a note where it may not be read."""
        found, note = self._cluster.listed_or_note(path, what)
        self.notes += [note] if note else []
        return found

    def one(self, path: str, what: str) -> dict[str, Any] | None:
        """The object; None where there is none, or with a note where it may not be read."""
        found, note = self._cluster.read_or_note(path, what)
        self.notes += [note] if note else []
        return found


def overview(cluster: Cluster) -> FleetView:
    """The fleet, also of a cluster that does not know our kinds yet. Raises UserError.

    Nodes that no agent reports on count as kube-proxy's ConfigMap has them.
    """
    machines = cluster.machines()
    try:
        view = cluster.fleet(machines)
    except NotInstalledError:
        view = replace(fleet_view((), (), machines, cluster.version(), cluster.now()), installed=False)
    if all(node.mode is not None for node in view.nodes):
        return view
    config_map, _ = cluster.read_or_note(KUBE_PROXY, "kube-proxy's ConfigMap")
    version = minor_if_any(view.cluster_version)
    kube_proxy = objects.kube_proxy_config(config_map, version) if config_map is not None else None
    return view if kube_proxy is None else with_configured(view, KubeProxyMode(kube_proxy.family.value))


def migration(cluster: Cluster, to: Mode | None, name: str | None, namespace: str | None) -> Report:
    """What changes when nodes go `to` a mode: by default to what the ProxyMode asks for, else to nftables.

    Raises UserError. Works on a cluster that has no ProxyMode yet, and on one that does not know the kind.
    """
    reader = _Reader(cluster)
    known = cluster.proxy_mode_if_any(name)
    states = cluster.node_proxy_modes_if_any()
    daemon_sets = tuple(map(objects.daemon_set, reader.items(DAEMON_SETS, "DaemonSets")))
    config_map = reader.one(KUBE_PROXY, "kube-proxy's ConfigMap")
    version = minor_if_any(cluster.version())
    kube_proxy = objects.kube_proxy_config(config_map, version) if config_map is not None else None
    nodes = _nodes(reader, states, kube_proxy.family if kube_proxy is not None else None, version)
    services = [objects.service(item) for item in _services(reader, namespace)]
    situation = Situation(
        to=to or (known.spec.mode if known is not None else Mode.NFTABLES),
        nodes=nodes,
        services=tuple(service for service in services if service is not None),
        options=known.spec if known is not None else DataplaneOptions(),
        kube_proxy=kube_proxy,
        daemon_sets=daemon_sets,
        settings=_settings(reader, daemon_sets),
        calico=objects.calico(
            reader.one(INSTALLATION, "Calico's Installation"), reader.one(FELIX, "Calico's FelixConfiguration")
        ),
        metallb_l2=bool(reader.items(L2_ADVERTISEMENTS, "MetalLB's L2Advertisements")),
        cluster=version,
    )
    return analyse(situation, tuple(reader.notes))


def _nodes(
    reader: _Reader, states: Mapping[str, NodeProxyMode], configured: Family | None, version: Minor | None
) -> tuple[objects.NodeFacts, ...]:
    items = {
        str(item["metadata"]["name"]): item
        for item in reader.items(NODES, "Nodes")
        if labels(item).get(OS_LABEL, "linux") == "linux"
    }
    default = Family(default_mode(version).value)
    found = []
    assumed = []
    for name in sorted(items.keys() | states.keys()):
        family = FAMILIES.get(states[name].status.mode) if name in states else None
        if family is None:
            assumed.append(name)
            family = configured or default
        found.append(objects.node(items.get(name, {"metadata": {"name": name}}), family))
    if assumed and configured is None:
        reader.notes.append(
            f"what {len(assumed)} nodes run is not known: no agent has reported and kube-proxy's ConfigMap is not "
            f"there; taken for {default}, Kubernetes' default"
        )
    return tuple(found)


def _settings(reader: _Reader, daemon_sets: tuple[objects.DaemonSet, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for daemon in daemon_sets:
        if (name := CNI_SETTINGS.get(daemon.name)) is not None:
            item = reader.one(f"/api/v1/namespaces/{daemon.namespace}/configmaps/{name}", f"ConfigMap {name}")
            found |= {f"{name}/{key}": str(value) for key, value in ((item or {}).get("data") or {}).items()}
    return found


def _services(reader: _Reader, namespace: str | None) -> list[dict[str, Any]]:
    """A namespace that is not there has an empty list, so a misspelt one would look as if all were well."""
    if namespace is None:
        return reader.items("/api/v1/services", "Services")
    already = len(reader.notes)
    found = reader.items(f"/api/v1/namespaces/{quote(namespace, safe='')}/services", "Services")
    if not found and len(reader.notes) == already:
        reader.notes.append(f"namespace {namespace!r} has no Services, or is not there")
    return found
