"""Which node belongs to which stage, and that membership stays put."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxymode_api.rollout import Stage
from proxymode_api.selector import LabelSelector
from proxymode_operator.rollout.model import Node
from proxymode_operator.rollout.stages import Candidate, Topology, place, roster, rounded_up
from proxymode_operator.rollout.stages import membership as membership_of
from rollout_world import percent_stages

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

BORN = datetime(2026, 1, 1, tzinfo=UTC)


class Placed(NamedTuple):
    """A node and the facts that place it."""

    node: Node
    candidate: Candidate


def candidate(
    index: int,
    *,
    zone: str = "",
    told: int | None = None,
    runs: bool = False,
    unsettled: bool = False,
    passed_over: bool = False,
) -> Placed:
    labels = {"zone": zone} if zone else {}
    node = Node(name=f"n{index:02}", uid=f"u{index}", labels=labels, created=BORN + timedelta(seconds=index))
    told_at = BORN + timedelta(days=1, seconds=told) if told is not None else None
    return Placed(node, Candidate(told_at, runs or told is not None, unsettled, passed_over, stage=""))


def ordered(
    candidates: Iterable[Placed], topology: Topology, stages: Sequence[Stage] = ()
) -> tuple[list[str], dict[str, Candidate], Mapping[str, frozenset[str]]]:
    """The nodes by rule 1, their facts, and whom selectors meet."""
    everyone = list(candidates)
    found = roster([each.node for each in everyone], stages, topology)
    facts = {each.node.name: each.candidate for each in everyone}
    order = sorted(facts, key=lambda name: place(facts[name], found.ranks[name]))
    return order, facts, found.selected


def names(candidates: Iterable[Placed], topology: Topology) -> list[str]:
    return ordered(candidates, topology)[0]


def membership(
    stages: Sequence[Stage], complete: Mapping[str, datetime], candidates: Iterable[Placed], topology: Topology
) -> Mapping[str, tuple[str, ...]]:
    return membership_of(stages, complete, *ordered(candidates, topology, stages))


def test_age_decides_the_order() -> None:
    assert names([candidate(2), candidate(0), candidate(1)], Topology()) == ["n00", "n01", "n02"]


def test_the_order_is_spread_over_the_topology_key() -> None:
    zones = [candidate(i, zone="aaaabb"[i]) for i in range(6)]
    assert names(zones, Topology("zone")) == ["n00", "n04", "n01", "n05", "n02", "n03"]


def test_with_one_domain_at_a_time_the_order_goes_domain_by_domain() -> None:
    zones = [candidate(i, zone="bababa"[i]) for i in range(6)]
    assert names(zones, Topology("zone", one_domain=True)) == ["n01", "n03", "n05", "n00", "n02", "n04"]


def test_told_nodes_come_first_in_the_order_they_were_told_then_unsettled_ones_and_blocked_ones_last() -> None:
    found = names(
        [
            candidate(0, passed_over=True),
            candidate(1),
            candidate(2, unsettled=True),
            candidate(3, told=9),
            candidate(4, told=5),
        ],
        Topology(),
    )
    assert found == ["n04", "n03", "n02", "n01", "n00"]


@pytest.mark.parametrize(
    ("percent", "total", "expected"), [(10, 10, 1), (10, 11, 2), (1, 3, 1), (100, 7, 7), (50, 5, 3)]
)
def test_percent_is_rounded_up(percent: int, total: int, expected: int) -> None:
    assert rounded_up(percent, total) == expected


def test_stages_are_cumulative() -> None:
    stages = [
        Stage(name="zone-b", selector=LabelSelector(match_labels={"zone": "b"})),
        Stage(name="four", count=4),
        Stage(name="rest", percent=100),
    ]
    found = membership(stages, {}, [candidate(i, zone="aabbaaa"[i]) for i in range(7)], Topology())
    assert found == {"zone-b": ("n02", "n03"), "four": ("n00", "n01"), "rest": ("n04", "n05", "n06")}


def test_a_count_beyond_the_fleet_takes_everybody() -> None:
    stages = [Stage(name="nine", count=9), Stage(name="rest", percent=100)]
    found = membership(stages, {}, [candidate(0), candidate(1)], Topology())
    assert found == {"nine": ("n00", "n01"), "rest": ()}


def test_a_node_that_joins_pulls_nobody_into_a_finished_stage() -> None:
    """25 % of 8 are 2, of 9 they are 3; but the first stage is complete."""
    stages = percent_stages(25, 100)
    old = [candidate(0, told=0), candidate(1, told=1), *(candidate(i) for i in range(2, 8))]
    before = membership(stages, {"p25": BORN + timedelta(days=1, seconds=1)}, old, Topology())
    after = membership(stages, {"p25": BORN + timedelta(days=1, seconds=1)}, [*old, candidate(8)], Topology())
    assert before["p25"] == after["p25"] == ("n00", "n01")
    assert after["p100"] == (*before["p100"], "n08")


def test_nodes_told_later_do_not_fill_up_a_finished_stage_that_has_grown() -> None:
    stages = percent_stages(25, 100)
    nodes = [candidate(i, told=i) for i in range(12)]
    found = membership(stages, {"p25": BORN + timedelta(days=1, seconds=1)}, nodes, Topology())
    assert found["p25"] == ("n00", "n01")


def test_a_node_that_leaves_pushes_no_told_node_out_of_the_stages_under_way() -> None:
    stages = percent_stages(50, 100)
    old = [candidate(i, told=i if i < 3 else None) for i in range(6)]
    assert membership(stages, {}, old, Topology())["p50"] == ("n00", "n01", "n02")
    assert membership(stages, {}, old[:1] + old[2:], Topology())["p50"] == ("n00", "n02", "n03")


def test_a_node_that_joins_in_mid_stage_does_not_take_the_place_of_a_told_one() -> None:
    """A zone's first node would come before others by rule; the told ones keep their places."""
    stages = [Stage(name="two", count=2), Stage(name="rest", percent=100)]
    old = [candidate(i, zone="a", told=i if i < 2 else None) for i in range(4)]
    found = membership(stages, {}, [*old, candidate(9, zone="b")], Topology("zone"))
    assert found["two"] == ("n00", "n01")


nodes = st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.booleans(), st.booleans()), min_size=1, max_size=25)
reach = st.one_of(st.integers(1, 30).map(lambda n: {"count": n}), st.integers(1, 100).map(lambda n: {"percent": n}))


@given(nodes=nodes, reaches=st.lists(reach, max_size=4), key=st.sampled_from([None, "zone"]), one_domain=st.booleans())
def test_every_node_is_in_exactly_one_stage_and_every_stage_reaches_as_far_as_it_says(
    nodes: list[tuple[str, bool, bool]], reaches: list[dict[str, int]], key: str | None, one_domain: bool
) -> None:
    stages = [Stage(name=f"s{i}", **how) for i, how in enumerate(reaches)] + [Stage(name="last", percent=100)]
    candidates = [candidate(i, zone=z, told=i if t else None, passed_over=p) for i, (z, t, p) in enumerate(nodes)]
    found = membership(stages, {}, candidates, Topology(key, one_domain))
    everyone = [name for members in found.values() for name in members]
    assert sorted(everyone) == sorted(c.node.name for c in candidates)
    reached = 0
    for stage in stages:
        reached += len(found[stage.name])
        wanted = stage.count if stage.count is not None else rounded_up(stage.percent or 0, len(nodes))
        assert reached >= min(wanted, len(nodes))
    assert membership(stages, {}, reversed(candidates), Topology(key, one_domain)) == found, (
        "the order of the input does not matter"
    )


@given(
    told=st.integers(0, 12),
    untold=st.integers(0, 8),
    finished=st.integers(0, 3),
    joined=st.integers(1, 4),
    percents=st.sampled_from([(10, 50, 100), (34, 67, 100), (1, 2, 99, 100)]),
)
def test_nodes_that_join_change_no_finished_stage(
    told: int, untold: int, finished: int, joined: int, percents: tuple[int, ...]
) -> None:
    stages = percent_stages(*percents)
    old = [candidate(i, told=i if i < told else None) for i in range(told + untold)]
    # A stage is completed a moment after the last of its nodes was told, and before the next one's are.
    first = membership(stages, {}, old, Topology())
    complete = {}
    for stage in stages[: min(finished, len(stages) - 1)]:
        tellings = [c.candidate.told_at for c in old if c.node.name in first[stage.name]]
        if all(tellings):
            complete[stage.name] = max([when for when in tellings if when], default=BORN)
    before = membership(stages, complete, old, Topology())
    after = membership(stages, complete, [*old, *(candidate(50 + i) for i in range(joined))], Topology())
    for name in complete:
        assert after[name] == before[name] == first[name]
    assert {n for members in after.values() for n in members} >= {n for members in before.values() for n in members}
