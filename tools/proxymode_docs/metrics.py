"""docs/metrics.md: every metric of agent and operator, and every alert.

The operator's registry does not tell the labels of a metric that has no value yet, so they are read off the metric
objects.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client.metrics import MetricWrapperBase

from proxymode_agent.metrics import Metrics
from proxymode_operator.metrics import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry

    from proxymode_docs.alerts import Alert

_OPENING: Final = """# Metrics and alerts

Agent and operator answer `/metrics` for Prometheus: the agent on port 10349 of its node, the operator on port 8080
(`--metrics-bind-address`). `manifests/monitoring` has PodMonitors, the alerts below and a Grafana dashboard. This page
is written from the code (`make generate`). `process_*` of both is what Prometheus' client libraries have for every
process.

Where `kubeproxy_*` and `rest_client_*` are served by agents, dashboards of kube-proxy show them beside nodes that
kube-proxy still serves; they may have to be told of the job `proxymode-system/proxymode-agent`.
"""


class Documented(NamedTuple):
    """A metric as a query names it. `kind`: counter, gauge or histogram."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def of(registry: CollectorRegistry) -> list[Documented]:
    """The registry's own metrics, those of the process left out; sorted by name."""
    found = set()
    for collector in registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            for family in collector.describe():
                name = f"{family.name}_total" if family.type == "counter" else family.name
                found.add(Documented(name, family.type, tuple(collector._labelnames), family.documentation))
    return sorted(found)


def agent() -> list[Documented]:
    return sorted(Documented(one.name, one.kind, one.labels, one.text) for one in Metrics().instruments.all)


def operator() -> list[Documented]:
    return of(REGISTRY)


def render(alerts: Iterable[Alert]) -> str:
    """The document's text."""
    of_agent = agent()
    own = [metric for metric in of_agent if metric.name.startswith("proxymode_")]
    kube_proxys = [metric for metric in of_agent if metric not in own]
    return "\n".join(
        [
            _OPENING,
            "## Agent",
            "",
            *_table(own),
            "",
            "## Agent, by kube-proxy's names",
            "",
            *_table(kube_proxys),
            "",
            "## Operator",
            "",
            *_table(operator()),
            "",
            "## Alerts",
            "",
            *(line for alert in alerts for line in _alert(alert)),
        ]
    )


def _table(metrics: Iterable[Documented]) -> list[str]:
    rows = [f"| `{m.name}` | {m.kind} | {', '.join(f'`{x}`' for x in m.labels)} | {m.text} |" for m in metrics]
    return ["| Name | Type | Labels | Meaning |", "|---|---|---|---|", *rows]


def _alert(alert: Alert) -> list[str]:
    waits = f", after {alert.wait}" if alert.wait else ""
    return [
        f"### {alert.name}",
        "",
        f"{alert.severity.capitalize()}{waits}. {_plain(alert.summary)}",
        "",
        _plain(alert.description),
        "",
        "```promql",
        alert.expr.strip(),
        "```",
        "",
    ]


def _plain(template: str) -> str:
    """An annotation without its templates' syntax: `{{ $labels.node }}` is NODE, `{{ $value }}` N."""
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: found[1].upper(), template.strip())
    return re.sub(r"\{\{ \$value.*? \}\}", "N", text)
