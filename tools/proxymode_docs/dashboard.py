"""manifests/monitoring/dashboard.json: the rows of `panels` as Grafana's dashboard model (schema version 36: Grafana 9
and newer). The data source is a variable, so that the file can be imported as it is."""

from __future__ import annotations

import json
from typing import Any, Final

from proxymode_docs.panels import ROWS, Panel

_COLUMNS: Final = 4
_WIDTH: Final = 24 // _COLUMNS
_HEIGHT: Final = 7
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def render() -> str:
    """The file's text."""
    return json.dumps(dashboard(), indent=2) + "\n"


def dashboard() -> dict[str, Any]:
    """The dashboard: every row a heading, below it its panels, four to a line."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in ROWS:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"h": 1, "w": 24, "x": 0, "y": top},
            }
        )
        for index, panel in enumerate(row.panels):
            line, column = divmod(index, _COLUMNS)
            place = {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": top + 1 + line * _HEIGHT}
            panels.append({"id": len(panels) + 1, "gridPos": place} | _panel(panel))
        top += 1 + -(-len(row.panels) // _COLUMNS) * _HEIGHT
    return {
        "uid": "proxymode",
        "title": "proxymode",
        "tags": ["kubernetes", "proxymode"],
        "schemaVersion": 36,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}]
        },
        "panels": panels,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": _SOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
            "instant": panel.stat,
            "range": not panel.stat,
        }
        for index, query in enumerate(panel.queries)
    ]
    return {
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"textMode": "value_and_name"} if panel.stat else {"tooltip": {"mode": "multi"}},
        "targets": targets,
    }
