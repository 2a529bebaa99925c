"""The alerts as manifests/monitoring has them: for the documentation, and as Prometheus' own rule groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

FILE: Final = Path("manifests/monitoring/alerts.yaml")


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; `wait`: so long its expression must hold, empty: not at all."""

    name: str
    expr: str
    wait: str
    severity: str
    summary: str
    description: str


def read(path: Path) -> list[Alert]:
    """The alerts of a PrometheusRule. Raises KeyError where one lacks what it must have."""
    return [
        Alert(
            rule["alert"],
            rule["expr"],
            rule.get("for", ""),
            rule["labels"]["severity"],
            rule["annotations"]["summary"],
            rule["annotations"]["description"],
        )
        for group in groups(path)
        for rule in group["rules"]
    ]


def groups(path: Path) -> list[dict[str, Any]]:
    """The rule groups of a PrometheusRule, as Prometheus' own rule files have them."""
    found: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]["groups"]
    return found
