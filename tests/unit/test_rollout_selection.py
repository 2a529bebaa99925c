"""Which ProxyMode decides about which node."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxymode_api.common import Mode, ObjectMeta
from proxymode_api.proxymode import ProxyMode, ProxyModeSpec
from proxymode_api.selector import LabelSelector
from proxymode_operator.rollout.selection import holds, matches, select

BORN = datetime(2026, 1, 1, tzinfo=UTC)


def proxy_mode(name: str, *, priority: int = 0, age: int = 0, **labels: str) -> ProxyMode:
    meta = ObjectMeta(name=name, creation_timestamp=BORN - timedelta(days=age))
    spec = ProxyModeSpec(mode=Mode.NFTABLES, priority=priority, node_selector=LabelSelector(match_labels=labels))
    return ProxyMode(metadata=meta, spec=spec)


@pytest.mark.parametrize(
    ("requirement", "labels", "expected"),
    [
        ({"key": "a", "operator": "In", "values": ["1", "2"]}, {"a": "2"}, True),
        ({"key": "a", "operator": "In", "values": ["1"]}, {}, False),
        ({"key": "a", "operator": "NotIn", "values": ["1"]}, {"a": "1"}, False),
        ({"key": "a", "operator": "NotIn", "values": ["1"]}, {}, True),
        ({"key": "a", "operator": "Exists"}, {"a": ""}, True),
        ({"key": "a", "operator": "Exists"}, {}, False),
        ({"key": "a", "operator": "DoesNotExist"}, {}, True),
        ({"key": "a", "operator": "DoesNotExist"}, {"a": "x"}, False),
    ],
)
def test_requirements_mean_what_they_mean_everywhere_in_kubernetes(
    requirement: dict[str, object], labels: dict[str, str], expected: bool
) -> None:
    selector = LabelSelector.model_validate({"matchExpressions": [requirement]})
    assert matches(selector, labels) is expected


def test_all_requirements_must_be_met_and_an_empty_selector_takes_everything() -> None:
    selector = LabelSelector.model_validate(
        {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}
    )
    assert matches(selector, {"a": "1", "b": ""})
    assert not matches(selector, {"a": "1"})
    assert not matches(selector, {"b": ""})
    assert matches(LabelSelector(), {})


def test_only_linux_nodes_are_selected() -> None:
    labels = {"l": {"kubernetes.io/os": "linux"}, "w": {"kubernetes.io/os": "windows"}, "unlabelled": {}}
    assert select([proxy_mode("all")], labels).decided == {"l": "all", "unlabelled": "all"}


def test_priority_wins_then_age_then_name() -> None:
    everyone = [
        proxy_mode("a-young", priority=1, age=1),
        proxy_mode("old", priority=1, age=9),
        proxy_mode("high", priority=2, a="1"),
        proxy_mode("b-same-age", priority=1, age=9),
    ]
    selection = select(everyone, {"n1": {"a": "1"}, "n2": {}})
    assert selection.decided == {"n1": "high", "n2": "b-same-age"}
    assert selection.members["high"] == ("n1",)
    assert selection.overridden["old"] == {"n1": "high", "n2": "b-same-age"}
    assert selection.overridden["b-same-age"] == {"n1": "high"}
    assert "high" not in selection.overridden


def test_a_node_that_none_selects_is_decided_by_none() -> None:
    assert select([proxy_mode("some", a="1")], {"n": {}}).decided == {}


def test_nodes_of_a_proxy_mode_that_cannot_be_read_are_left_alone() -> None:
    selection = select(
        [proxy_mode("readable")],
        {"n1": {}, "n2": {}},
        holders={"n1": "garbled", "n2": "readable"},
        unreadable=frozenset({"garbled"}),
    )
    assert selection.decided == {"n2": "readable"}
    assert selection.held == {"n1"}


labels = st.dictionaries(st.sampled_from(["pool", "tier", "other"]), st.sampled_from("ab"))
fleets = st.lists(
    st.tuples(st.integers(0, 2), st.dictionaries(st.sampled_from(["pool", "tier"]), st.sampled_from("ab")))
)


@given(fleets=fleets, before=labels, after=labels, neighbour=labels)
def test_a_selection_holds_for_a_relabelled_node_exactly_where_all_nodes_would_be_selected_as_before(
    fleets: list[tuple[int, dict[str, str]]], before: dict[str, str], after: dict[str, str], neighbour: dict[str, str]
) -> None:
    proxy_modes = [
        proxy_mode(f"pm{index}", priority=priority, age=0, **wanted) for index, (priority, wanted) in enumerate(fleets)
    ]
    known = select(proxy_modes, {"n": before, "m": neighbour})
    anew = select(proxy_modes, {"n": after, "m": neighbour})
    assert holds(known, proxy_modes, "n", after) == (known == anew)
