"""Reads what a report is made of, and writes it in the form that was asked for."""

from __future__ import annotations

from enum import StrEnum
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from proxymode_cli import output
from proxymode_cli.asking import choose
from proxymode_cli.report.evidence import evidence, happening
from proxymode_cli.report.html import html
from proxymode_cli.report.markdown import markdown

if TYPE_CHECKING:
    from proxymode_cli.cluster import Cluster
    from proxymode_cli.report.evidence import Evidence

EVENTS: Final = "/apis/events.k8s.io/v1/namespaces/default/events"
"""Where Events about cluster-scoped objects are."""


class ReportFormat(StrEnum):
    """-o of `report`."""

    HTML = "html"
    MARKDOWN = "md"
    JSON = "json"


def gather(cluster: Cluster, name: str | None) -> Evidence:
    """The evidence about the present revision of a ProxyMode. Raises UserError."""
    view = cluster.fleet()
    rollout = view.rollout(choose(name, (rollout.name for rollout in view.rollouts)))
    assert rollout is not None
    items, note = cluster.listed_or_note(EVENTS, "Events")
    happenings = [event for event in map(happening, items) if event is not None]
    return evidence(
        view,
        rollout,
        happenings,
        server=cluster.server,
        plugin=version("proxymode"),
        notes=(note,) if note else (),
    )


def written(seen: Evidence, form: ReportFormat) -> str:
    """The report as text."""
    match form:
        case ReportFormat.HTML:
            return html(seen)
        case ReportFormat.MARKDOWN:
            return markdown(seen)
        case ReportFormat.JSON:
            return output.text(seen, output.Format.JSON)
