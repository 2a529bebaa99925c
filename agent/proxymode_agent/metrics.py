"""Every metric of the agent, in one place, named with its unit. Prefix: proxymode_agent_; kube-proxy's own names are in
`metrics_kubeproxy`.

Label values that are known beforehand are there from the start, with 0: a rate over what was never there has no first
step, and an alert on the first failure would miss it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.base import Finding
from proxymode_agent.instruments import Instruments
from proxymode_agent.kube.restarts import RestartReason
from proxymode_agent.metrics_kubeproxy import KubeProxyMetrics
from proxymode_agent.version import VERSION
from proxymode_api.modes import Mode, ObservedMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

    from proxymode_agent.dataplane.base import SyncResult
    from proxymode_agent.switch.record import SwitchRecord
    from proxymode_api.deprecation import Deprecation

_PREFIX: Final = "proxymode_agent"
_KINDS: Final = ("full", "incremental")
_SYNC_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SWITCH_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The agent's metrics."""

    def __init__(self) -> None:
        self.instruments: Final = Instruments()
        made = self.instruments
        self.kube_proxy: Final = KubeProxyMetrics(made)
        self.sync_duration: Final = made.histograms(
            f"{_PREFIX}_sync_duration_seconds",
            "Time to bring the kernel into agreement with Services; kind is full (kernel read back) or incremental.",
            ("kind",),
            _SYNC_BUCKETS,
        )
        self.syncs: Final = made.counters(
            f"{_PREFIX}_syncs_total",
            "Syncs by kind (full, incremental) and result (success, failure).",
            ("kind", "result"),
        )
        self.sync_written: Final = made.counter(
            f"{_PREFIX}_sync_written_objects_total",
            "Kernel objects that syncs added, changed or removed.",
        )
        self.last_sync: Final = made.gauge(
            f"{_PREFIX}_last_successful_sync_timestamp_seconds",
            "When the last successful sync ended, Unix time.",
        )
        self.behind: Final = made.gauge(
            f"{_PREFIX}_behind_seconds",
            "How long the kernel has been waiting for something to be written; 0: it is up to date.",
        )
        self.services: Final = made.gauge(
            f"{_PREFIX}_services",
            "Service ports programmed.",
        )
        self.endpoints: Final = made.gauge(
            f"{_PREFIX}_endpoints",
            "Endpoints programmed.",
        )
        self.refused: Final = made.gauge(
            f"{_PREFIX}_refused_services",
            "Service ports that the kernel would not take.",
        )
        self.looks: Final = made.counters(
            f"{_PREFIX}_drift_looks_total",
            "Looks whether others changed what is programmed, by finding (untouched, nothing-seen, doubtful, changed).",
            ("finding",),
        )
        self.drift_repairs: Final = made.counter(
            f"{_PREFIX}_drift_repairs_total",
            "Times that what others had changed was put back.",
        )
        self.object_problems: Final = made.counters(
            f"{_PREFIX}_object_problems_total",
            "Things in Services and EndpointSlices that cannot be used and were left out, by kind of object.",
            ("kind",),
        )
        self.events: Final = made.counters(
            f"{_PREFIX}_object_events_total",
            "Warning Events about Services and EndpointSlices, by result (success, failure, dropped: too many at once, "
            "or the object was gone).",
            ("result",),
        )
        self.health_check_servers: Final = made.gauges(
            f"{_PREFIX}_health_check_servers",
            "Services with a healthCheckNodePort, by whether it is answered (listening, failed).",
            ("state",),
        )
        self.localhost_listeners: Final = made.gauge(
            f"{_PREFIX}_localhost_nodeport_listeners",
            "Loopback addresses on which NodePorts are answered.",
        )
        self.localhost_connections: Final = made.counters(
            f"{_PREFIX}_localhost_nodeport_connections_total",
            "Connections to NodePorts on loopback, by result (accepted, failed: no endpoint answered, "
            "refused: too many).",
            ("result",),
        )
        self.watch_restarts: Final = made.counters(
            f"{_PREFIX}_watch_restarts_total",
            "Watches begun anew, by resource and reason.",
            ("resource", "reason"),
        )
        self.mode: Final = made.gauges(
            f"{_PREFIX}_mode",
            "1 for the Service dataplane that is in the kernel now, 0 for the others.",
            ("mode",),
        )
        self.switch_duration: Final = made.histograms(
            f"{_PREFIX}_switch_duration_seconds",
            "Time to move from one mode to another, by target mode and result (success, failure).",
            ("to", "result"),
            _SWITCH_BUCKETS,
        )
        self.switch_connections: Final = made.counters(
            f"{_PREFIX}_switch_connections_total",
            "Established connections that switches found on the old mode, by what became of them (kept, drained, "
            "lost).",
            ("outcome",),
        )
        self.deprecation_minors: Final = made.gauges(
            f"{_PREFIX}_deprecation_minors",
            "Kubernetes minors until the cluster's kube-proxy gives up the mode that the node runs, by mode and step "
            "(off-by-default, removed); 0 and less: it has. Only where the mode is deprecated, and not with --mode.",
            ("mode", "step"),
        )
        self.status_writes: Final = made.counters(
            f"{_PREFIX}_status_writes_total",
            "Writes of the NodeProxyMode's status, by result (success, failure).",
            ("result",),
        )
        self.preflight: Final = made.gauges(
            f"{_PREFIX}_preflight_checks",
            "Checks of the last preflight, by the mode that they are about and by verdict (pass, warn, block).",
            ("mode", "verdict"),
        )
        made.gauges(
            f"{_PREFIX}_build_info",
            "1, labelled with the agent's version.",
            ("version",),
        ).labels(VERSION).set(1)
        self._begin_at_zero()
        self._by_kind = {kind: (self.syncs.labels(kind, "success"), self.sync_duration.labels(kind)) for kind in _KINDS}
        self._observed: ObservedMode | None = None

    @property
    def registry(self) -> CollectorRegistry:
        """For Prometheus' client library, which is imported only now."""
        return self.instruments.registry

    def _begin_at_zero(self) -> None:
        for result in ("success", "failure"):
            for kind in _KINDS:
                self.syncs.labels(kind, result)
            for mode in Mode:
                self.switch_duration.labels(mode.value, result)
            self.status_writes.labels(result)
        for kind in _KINDS:
            self.sync_duration.labels(kind)
        for finding in Finding:
            self.looks.labels(finding.value)
        for outcome in ("kept", "drained", "lost"):
            self.switch_connections.labels(outcome)
        for result in ("success", "failure", "dropped"):
            self.events.labels(result)
        for result in ("accepted", "failed", "refused"):
            self.localhost_connections.labels(result)
        for kind in ("Service", "EndpointSlice"):
            self.object_problems.labels(kind)

    def watch_restarted(self, resource: str) -> Callable[[RestartReason], None]:
        """A callback for ListWatch that counts restarts of one resource's watch."""

        for reason in RestartReason:
            self.watch_restarts.labels(resource, reason.value)

        def count(reason: RestartReason) -> None:
            self.watch_restarts.labels(resource, reason.value).inc()

        return count

    def synced(self, result: SyncResult, kind: str, seconds: float, now: float) -> None:
        """Note a successful sync; `now` is Unix time."""
        count, duration = self._by_kind[kind]
        count.inc()
        duration.observe(seconds)
        self.sync_written.inc(result.written)
        self.last_sync.set(now)
        self.kube_proxy.synced(kind, seconds, now)
        self.services.set(result.services)
        self.endpoints.set(result.endpoints)
        self.refused.set(len(result.refused))

    def switched(self, record: SwitchRecord) -> None:
        """Note what became of connections in a switch, whether or not it succeeded."""
        if record.connections is not None:
            self.switch_connections.labels("kept").inc(record.connections.kept)
            self.switch_connections.labels("drained").inc(record.connections.drained)
            self.switch_connections.labels("lost").inc(record.connections.lost)

    def deprecated(self, found: Deprecation | None) -> None:
        """Set what upstream plans for the mode in the kernel; None: nothing."""
        self.deprecation_minors.clear()
        if found is None or found.cluster is None:
            return
        plan = found.retirement
        for step, minor in (("off-by-default", plan.off_by_default), ("removed", plan.removed)):
            if minor is not None:
                self.deprecation_minors.labels(found.mode.value, step).set(minor.minor - found.cluster.minor)

    def observed(self, mode: ObservedMode) -> None:
        """Set the mode gauge."""
        if mode is self._observed:
            return
        self._observed = mode
        for candidate in ObservedMode:
            self.mode.labels(candidate.value).set(1 if candidate is mode else 0)
