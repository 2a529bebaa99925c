"""kube-proxy's own metrics, by its names, where the agent means the same by them: dashboards and alerts that a fleet
has go on while its nodes move from kube-proxy to the agent.

Names, meanings and buckets are those of k8s.io/kubernetes/pkg/proxy/metrics and k8s.io/component-base/metrics. One sync
of ours writes both families, so there is no label ip_family. Left out is what has no counterpart here: pending changes
(they are not counted one by one), iptables, localhost conntrack marks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_agent.instruments import Instruments

_PREFIX: Final = "kubeproxy"
_SYNC_BUCKETS: Final = tuple(0.001 * 2**power for power in range(15))
_PROGRAMMING_BUCKETS: Final = (
    *(0.0, 0.25, 0.5),
    *map(float, range(1, 60)),
    *map(float, range(60, 120, 5)),
    *map(float, range(120, 301, 30)),
)
_REQUEST_BUCKETS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)


class KubeProxyMetrics:
    """Beside the agent's own metrics."""

    def __init__(self, made: Instruments) -> None:
        self.sync_duration: Final = made.histogram(
            f"{_PREFIX}_sync_proxy_rules_duration_seconds",
            "As kube-proxy: time of one sync.",
            _SYNC_BUCKETS,
        )
        self._by_kind: Final = {
            "full": made.histogram(
                f"{_PREFIX}_sync_full_proxy_rules_duration_seconds",
                "As kube-proxy: time of one sync of everything; here it begins by reading the kernel back.",
                _SYNC_BUCKETS,
            ),
            "incremental": made.histogram(
                f"{_PREFIX}_sync_partial_proxy_rules_duration_seconds",
                "As kube-proxy: time of one sync of what has changed.",
                _SYNC_BUCKETS,
            ),
        }
        self._last_sync: Final = made.gauge(
            f"{_PREFIX}_sync_proxy_rules_last_timestamp_seconds",
            "As kube-proxy: when the last successful sync ended, Unix time.",
        )
        self._last_queued: Final = made.gauge(
            f"{_PREFIX}_sync_proxy_rules_last_queued_timestamp_seconds",
            "As kube-proxy: when a change last asked for a sync, Unix time.",
        )
        self.programming: Final = made.histogram(
            f"{_PREFIX}_network_programming_duration_seconds",
            "As kube-proxy: from the change of a pod or Service that the control plane has noted on the EndpointSlice "
            "to the end of the sync that brought it to this kernel. By two clocks: they should agree.",
            _PROGRAMMING_BUCKETS,
        )
        self.service_changes: Final = made.counter(
            f"{_PREFIX}_sync_proxy_rules_service_changes_total",
            "As kube-proxy: Services received, changed or gone.",
        )
        self.endpoint_changes: Final = made.counter(
            f"{_PREFIX}_sync_proxy_rules_endpoint_changes_total",
            "As kube-proxy: EndpointSlices received, changed or gone.",
        )

        self._none_here: Final = made.gauges(
            f"{_PREFIX}_sync_proxy_rules_no_local_endpoints",
            "As kube-proxy: Service ports with endpoints elsewhere but not on this node, where the traffic policy "
            "(internal, external) is Local.",
            ("traffic_policy",),
        )
        self._probes: Final = {
            path: made.counters(
                f"{_PREFIX}_proxy_{path[1:]}_total",
                f"As kube-proxy: answers on {path}, by status code.",
                ("code",),
            )
            for path in ("/healthz", "/livez")
        }
        self.requests: Final = made.counters(
            "rest_client_requests_total",
            "As kube-proxy and all that uses client-go: requests to the API server, by status code (<error>: no "
            "answer), verb and host.",
            ("code", "method", "host"),
        )
        self._request_seconds: Final = made.histograms(
            "rest_client_request_duration_seconds",
            "As kube-proxy and all that uses client-go: time until the API server answers a request, by verb and "
            "host; of a list or a watch until the answer begins.",
            ("verb", "host"),
            _REQUEST_BUCKETS,
        )

    def requests_to(self, host: str) -> Callable[[str, str, float], None]:
        """A callback for KubeClient that counts the answers of one API server."""

        def count(method: str, code: str, seconds: float) -> None:
            self.requests.labels(code, method, host).inc()
            self._request_seconds.labels(method, host).observe(seconds)

        return count

    def none_here(self, internal: int, external: int) -> None:
        """Service ports that drop what comes by a traffic policy Local."""
        self._none_here.labels("internal").set(internal)
        self._none_here.labels("external").set(external)

    def probed(self, path: str, status: int) -> None:
        """Note an answer on /healthz or /livez."""
        self._probes[path].labels(str(status)).inc()

    def queued(self) -> None:
        """A sync is asked for now."""
        self._last_queued.set_to_current_time()

    def synced(self, kind: str, seconds: float, now: float) -> None:
        """Note a successful sync; `kind` is full or incremental, `now` Unix time."""
        self.sync_duration.observe(seconds)
        self._by_kind[kind].observe(seconds)
        self._last_sync.set(now)
