"""Monitoring says nothing of metrics that do not exist: documents, alerts and dashboard against the registries."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

import yaml
from proxymode_docs import alerts, dashboard, metrics
from proxymode_docs.__main__ import main
from proxymode_docs.panels import ROWS

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "manifests/monitoring"
ALERTS = alerts.read(ROOT / alerts.FILE)
PANELS = [panel for row in ROWS for panel in row.panels]
EXPRESSIONS = [alert.expr for alert in ALERTS] + [query.expr for panel in PANELS for query in panel.queries]
DOCUMENTED = {metric.name: metric for metric in (*metrics.agent(), *metrics.operator())}
OF_SCRAPING = {"job", "node", "instance"}


def metric(name: str) -> metrics.Documented | None:
    """The metric that a series is of."""
    return DOCUMENTED.get(name) or DOCUMENTED.get(re.sub(r"_(bucket|count|sum)$", "", name))


def test_generated_files_are_up_to_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(ROOT)]) == 0, capsys.readouterr().err
    (tmp_path / alerts.FILE).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / alerts.FILE).write_text((ROOT / alerts.FILE).read_text())
    (tmp_path / "docs/reference").mkdir(parents=True)
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    for file in ("docs/metrics.md", "docs/reference/api.md", "manifests/monitoring/dashboard.json"):
        assert (tmp_path / file).read_text() == (ROOT / file).read_text()
    (tmp_path / "docs/metrics.md").write_text("changed by hand")
    assert main(["--check", str(tmp_path)]) == 1
    assert "docs/metrics.md is stale" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0


def test_a_metric_is_documented_with_labels_also_before_it_has_a_value() -> None:
    registry = CollectorRegistry()
    Counter("a_things", "Things.", ["kind"], registry=registry)
    assert metrics.of(registry) == [metrics.Documented("a_things_total", "counter", ("kind",), "Things.")]


def test_names_have_the_prefix_of_their_program_and_a_meaning() -> None:
    for found in metrics.agent():
        assert found.name.startswith(("proxymode_agent_", "kubeproxy_", "rest_client_")), found
    for found in metrics.operator():
        assert found.name.startswith("proxymode_operator_"), found
    assert all(found.text.endswith(".") for found in DOCUMENTED.values())


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_queries_ask_for_metrics_and_labels_that_exist(expr: str) -> None:
    names = set(re.findall(r"\b(?:proxymode|kubeproxy|rest_client)_\w+", expr))
    assert names or "job=" in expr
    labels = {"le"} if "_bucket" in expr else set()
    for name in names:
        found = metric(name)
        assert found is not None, f"no metric {name}"
        labels |= {*found.labels}
    asked = {label for listed in re.findall(r"\b(?:by|on) \(([^)]*)\)", expr) for label in listed.split(", ")}
    asked |= set(re.findall(r"(\w+)=~?\"", expr))
    assert asked <= labels | OF_SCRAPING


def test_alerts_say_what_is_and_what_to_do() -> None:
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)
    for alert in ALERTS:
        assert alert.severity in {"warning", "critical"}
        assert alert.summary.endswith(".")
        assert "`kubectl " in alert.description, f"{alert.name} tells nobody what to type"


def test_annotations_use_labels_that_the_alert_has() -> None:
    for alert in ALERTS:
        used = set(re.findall(r"\$labels\.(\w+)", alert.summary + alert.description))
        kept = {label for listed in re.findall(r"\bby \(([^)]*)\)", alert.expr) for label in listed.split(", ")}
        assert used <= kept, alert.name


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = yaml.safe_load((ROOT / "tests/api/alerts.yaml").read_text())["tests"]
    rules = [rule for case in cases for rule in case.get("alert_rule_test", ())]
    assert {rule["alertname"] for rule in rules if rule["exp_alerts"]} == {alert.name for alert in ALERTS}
    assert {rule["alertname"] for rule in rules if not rule["exp_alerts"]} == {alert.name for alert in ALERTS}


def test_the_dashboard_has_every_panel_once_and_none_over_another() -> None:
    drawn = dashboard.dashboard()["panels"]
    assert [panel["title"] for panel in drawn if panel["type"] != "row"] == [panel.title for panel in PANELS]
    assert [panel["title"] for panel in drawn if panel["type"] == "row"] == [row.title for row in ROWS]
    assert len({panel["id"] for panel in drawn}) == len(drawn)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in drawn):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def load(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize(
    ("name", "workload"),
    [("proxymode-agent", "agent/daemonset.yaml"), ("proxymode-operator", "operator/deployment.yaml")],
)
def test_pod_monitors_find_the_pods_and_their_port(name: str, workload: str) -> None:
    (monitor,) = (found for found in load(MONITORING / "podmonitors.yaml") if found["metadata"]["name"] == name)
    (pods,) = load(ROOT / "manifests/base" / workload)
    assert monitor["metadata"]["namespace"] == pods["metadata"]["namespace"]
    template = pods["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    (flag,) = (argument for argument in container["args"] if argument.startswith("--metrics-bind-address="))
    assert flag.endswith(f":{ports[endpoint['port']]}")


def test_the_component_has_every_file_of_its_folder() -> None:
    (component,) = load(MONITORING / "kustomization.yaml")
    (generated,) = component["configMapGenerator"]
    listed = {*component["resources"], *(entry.partition("=")[2] for entry in generated["files"])}
    assert listed == {path.name for path in MONITORING.iterdir()} - {"kustomization.yaml"}
    assert json.loads((MONITORING / "dashboard.json").read_text())["uid"] == "proxymode"
