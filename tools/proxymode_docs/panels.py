"""What the dashboard shows, row by row: titles, units, queries. How Grafana wants it is `dashboard`'s business.

In queries `$__rate_interval` is Grafana's. Metrics with the prefix proxymode_ are ours wherever they come from; those
with names that others use too are told by the job that the PodMonitors give.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_AGENT: Final = '{job=~".*proxymode-agent"}'
_BOTH: Final = '{job=~".*proxymode-(agent|operator)"}'
_OURS: Final = "proxymode_agent"
_OPERATOR: Final = "proxymode_operator"


class Query(NamedTuple):
    expr: str
    legend: str


class Panel(NamedTuple):
    """`unit` as Grafana calls it. `stat`: only the latest values, as words and figures."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    text: str = ""
    stat: bool = False


class Row(NamedTuple):
    title: str
    panels: tuple[Panel, ...]


def _now(title: str, expr: str, legend: str) -> Panel:
    return Panel(title, "none", (Query(expr, legend),), stat=True)


def _line(title: str, expr: str, legend: str, unit: str = "none", text: str = "") -> Panel:
    return Panel(title, unit, (Query(expr, legend),), text)


def _rate(counter: str, by: str = "") -> str:
    return f"sum{_by(by)}(rate({counter}[$__rate_interval]))"


def _count(counter: str, by: str) -> str:
    return f"sum{_by(by)}(increase({counter}[$__rate_interval]))"


def _quantiles(histogram: str, by: str = "", legend: str = "", where: str = "") -> tuple[Query, ...]:
    labels = f"le, {by}" if by else "le"
    return tuple(
        Query(
            f"histogram_quantile({quantile}, sum by ({labels}) (rate({histogram}_bucket{where}[$__rate_interval])))",
            f"p{round(quantile * 100)} {legend}".strip(),
        )
        for quantile in (0.5, 0.99)
    )


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


_FLEET: Final = (
    _now("Rollouts", f"{_OPERATOR}_rollout_status == 1", "{{proxymode}}: {{status}}"),
    _now("Silent agents", f"max({_OPERATOR}_silent_agents)", "silent"),
    _now("Replicas that lead", f"sum({_OPERATOR}_leader)", "leaders"),
    _line("Nodes by mode in the kernel", f"sum by (mode) ({_OURS}_mode)", "{{mode}}"),
    _line("Nodes by state", f"sum by (proxymode, state) ({_OPERATOR}_nodes)", "{{proxymode}} {{state}}"),
    _line(
        "Preflight",
        f"sum by (mode, verdict) ({_OURS}_preflight_checks)",
        "{{mode}} {{verdict}}",
        text="Checks of all nodes; what blocks keeps its node out of the rollout.",
    ),
    _line(
        "Minors until the mode is given up",
        f"min by (mode, step) ({_OURS}_deprecation_minors)",
        "{{mode}} {{step}}",
        text="Only where nodes run a mode that kube-proxy gives up.",
    ),
    _line("Agents by version", f"count by (version) ({_OURS}_build_info)", "{{version}}"),
)
_SWITCHES: Final = (
    _line("Switches", _count(f"{_OURS}_switch_duration_seconds_count", "to, result"), "to {{to}}: {{result}}"),
    Panel(
        "Duration", "s", _quantiles(f"{_OURS}_switch_duration_seconds", "to", "to {{to}}", where='{result="success"}')
    ),
    _line("Connections found open", _count(f"{_OURS}_switch_connections_total", "outcome"), "{{outcome}}"),
)
_SYNCS: Final = (
    Panel("Duration", "s", _quantiles(f"{_OURS}_sync_duration_seconds", "kind", "{{kind}}")),
    _line("Syncs", _rate(f"{_OURS}_syncs_total", "kind, result"), "{{kind}}: {{result}}", "ops"),
    Panel(
        "Network programming",
        "s",
        _quantiles("kubeproxy_network_programming_duration_seconds"),
        "From a pod's change to the kernel; kube-proxy's metric, so nodes that it still serves are in it.",
    ),
    _line("Furthest behind", f"topk(5, max by (node) ({_OURS}_behind_seconds))", "{{node}}", "s"),
    _line("Kernel objects written", _rate(f"{_OURS}_sync_written_objects_total"), "objects", "ops"),
    Panel(
        "Changes received",
        "ops",
        (
            Query(_rate(f"kubeproxy_sync_proxy_rules_service_changes_total{_AGENT}"), "Services"),
            Query(_rate(f"kubeproxy_sync_proxy_rules_endpoint_changes_total{_AGENT}"), "EndpointSlices"),
        ),
    ),
)
_DATAPLANE: Final = (
    Panel(
        "Programmed on a node, at most",
        "none",
        (Query(f"max({_OURS}_services)", "Service ports"), Query(f"max({_OURS}_endpoints)", "endpoints")),
    ),
    _line("Refused Service ports", f"topk(5, max by (node) ({_OURS}_refused_services))", "{{node}}"),
    _line("Drift put back", f"topk(5, {_count(f'{_OURS}_drift_repairs_total', 'node')})", "{{node}}"),
    _line("Looks for drift", _rate(f"{_OURS}_drift_looks_total", "finding"), "{{finding}}", "ops"),
    _line("Unusable fields in objects", _count(f"{_OURS}_object_problems_total", "kind"), "{{kind}}"),
    _line("healthCheckNodePorts", f"sum by (state) ({_OURS}_health_check_servers)", "{{state}}"),
    _line(
        "NodePorts on loopback",
        _rate(f"{_OURS}_localhost_nodeport_connections_total", "result"),
        "{{result}}",
        "ops",
    ),
)
_API_SERVER: Final = (
    _line(
        "Requests of the operator", _rate(f"{_OPERATOR}_api_requests_total", "verb, code"), "{{verb}} {{code}}", "reqps"
    ),
    _line("Nodes written by the operator", _count(f"{_OPERATOR}_node_writes_total", "kind"), "{{kind}}"),
    _line("Reconciles", _rate(f"{_OPERATOR}_reconciles_total", "outcome"), "{{outcome}}", "ops"),
    Panel("Reconcile, from the change to its end", "s", _quantiles(f"{_OPERATOR}_reaction_seconds")),
    _line(
        "Requests of agents",
        _rate(f"rest_client_requests_total{_AGENT}", "method, code"),
        "{{method}} {{code}}",
        "reqps",
    ),
    _line("Status writes of agents", _rate(f"{_OURS}_status_writes_total", "result"), "{{result}}", "reqps"),
    _line("Events of agents", _rate(f"{_OURS}_object_events_total", "result"), "{{result}}", "reqps"),
    _line(
        "Watches begun anew by agents",
        _rate(f"{_OURS}_watch_restarts_total", "resource, reason"),
        "{{resource}}: {{reason}}",
        "ops",
    ),
)
_PROCESSES: Final = (
    _line("Scraped", f"sum by (job) (up{_BOTH})", "{{job}}"),
    _line("Resident memory, largest", f"max by (job) (process_resident_memory_bytes{_BOTH})", "{{job}}", "bytes"),
    _line(
        "CPU, busiest",
        f"max by (job) (rate(process_cpu_seconds_total{_BOTH}[$__rate_interval]))",
        "{{job}}",
        "percentunit",
    ),
    Panel(
        "Sync, under kube-proxy's name",
        "s",
        _quantiles("kubeproxy_sync_proxy_rules_duration_seconds", where=_AGENT),
    ),
)
ROWS: Final = (
    Row("Fleet", _FLEET),
    Row("Switches", _SWITCHES),
    Row("Syncs", _SYNCS),
    Row("Dataplane", _DATAPLANE),
    Row("API server", _API_SERVER),
    Row("Processes", _PROCESSES),
)
