"""The dashboard is what Grafana's own model of one knows: no field of ours is one that Grafana would pass over."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.common import BigValueTextMode, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import Dashboard, VariableType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILE = Path(__file__).parents[2] / "manifests/monitoring/dashboard.json"
OURS: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
PANELS = [panel for panel in OURS["panels"] if panel["type"] != "row"]


@pytest.fixture(autouse=True, scope="module")
def plugins() -> None:
    """Panels and queries are models of their own."""
    register_default_plugins()


def read_and_written(board: dict[str, Any]) -> Any:
    """What is left of a dashboard that Grafana's model has read."""
    return json.loads(JSONEncoder().encode(Dashboard.from_json(board)))


def differences(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """Where something of ours is missing or another; what is added are defaults."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key in theirs:
                yield from differences(value, theirs[key], f"{where}.{key}")
            else:
                yield f"{where}.{key}"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(*pair, f"{where}[{index}]")
    elif ours != theirs:
        yield where


def first(board: dict[str, Any], kind: str) -> dict[str, Any]:
    """The board's first panel of a kind."""
    return next(panel for panel in board["panels"] if panel["type"] == kind)


def test_grafana_knows_every_field() -> None:
    assert list(differences(OURS, read_and_written(OURS))) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda board: board.update(refreshes="30s"),
        lambda board: board["templating"]["list"][0].update(querry="prometheus"),
        *(
            lambda board, kind=kind, part=part: first(board, kind)[part].update(misspelt=1)
            for kind in ("stat", "timeseries")
            for part in ("gridPos", "options", "fieldConfig")
        ),
        lambda board: board["panels"][-1]["targets"][0].update(expression="up"),
    ],
)
def test_a_field_that_grafana_does_not_know_is_found(spoil: Callable[[dict[str, Any]], None]) -> None:
    board = copy.deepcopy(OURS)
    spoil(board)
    assert len(list(differences(board, read_and_written(board)))) == 1


def test_words_are_among_those_that_grafana_takes() -> None:
    for panel in PANELS:
        if panel["type"] == "stat":
            assert panel["options"]["textMode"] in list(BigValueTextMode)
        else:
            assert panel["options"]["tooltip"]["mode"] in list(TooltipDisplayMode)
    assert {variable["type"] for variable in OURS["templating"]["list"]} <= set(VariableType)
