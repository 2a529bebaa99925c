"""The table itself: what can be written in it, and that it does not shrink unnoticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import yaml
from packet_behaviour import DOCUMENT, OTHERS, render
from packet_cases import DIFFERENCES, cases
from packet_table import (
    Answered,
    Flow,
    Observed,
    Outcome,
    Refusal,
    Server,
    TableError,
    enough,
    merge,
    read,
    with_differences,
    wrong,
)

if TYPE_CHECKING:
    from pathlib import Path

    from packet_table import Case

LOCAL, REMOTE = Server("local1", 8080), Server("remote1", 8443)
BOTH = Answered(frozenset({LOCAL, REMOTE}))
OWN, NODE = frozenset({"10.0.0.1"}), frozenset({"192.168.0.1"})

CASE = """
- case: {title}
  published: [somewhere]
  services: {{web: {{spec: {{clusterIPs: [10.96.0.1]}}}}}}
  flows: |
    {flow}
"""


def write(folder: Path, flow: str, title: str = "one", more: str = "") -> list[Path]:
    file = folder / "cases.yaml"
    file.write_text(CASE.format(title=title, flow=flow) + more)
    return [file]


def read_one(files: list[Path]) -> tuple[Case, ...]:
    [cases_of_file] = read(files).values()
    return cases_of_file


@pytest.mark.parametrize("mode", ["nftables", "ipvs"])
def test_the_table_has_its_size(mode: str) -> None:
    table = cases(mode)
    assert sum(len(step.flows) for case in table for step in case.steps) >= 300


def test_the_document_says_what_the_table_says() -> None:
    assert DOCUMENT.read_text() == render(), f"{DOCUMENT} is stale: run `make generate`"


def test_what_no_line_can_say_names_the_test_that_shows_it() -> None:
    entries = yaml.safe_load(OTHERS.read_text())
    named = [entry["tested"].split(", ") for entry in entries if "tested" in entry]
    assert len(named) > len(entries) / 2
    for file, function in named:
        assert f"def {function}(" in (OTHERS.parents[1] / "vm" / file).read_text()


def test_every_difference_of_a_mode_is_one() -> None:
    for mode in DIFFERENCES:
        assert len(cases(mode)) == len(cases("nftables"))


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("local1 remote1:8443", BOTH),
        ("local1 masq", Answered(frozenset({LOCAL}), frozenset({LOCAL}))),
        ("local1(masq) remote1:8443", Answered(frozenset({LOCAL, REMOTE}), frozenset({LOCAL}))),
        ("one of local1 remote1:8443 masq", Answered(frozenset({LOCAL, REMOTE}), frozenset({LOCAL, REMOTE}), True)),
        ("rejected", Refusal.REJECTED),
        ("dropped", Refusal.DROPPED),
    ],
)
def test_an_outcome_is_read_and_printed_alike(tmp_path: Path, text: str, outcome: Outcome) -> None:
    [case] = read_one(write(tmp_path, f"pod -> web:80 = {text}   # why"))
    assert dict(case.steps[0].flows) == {Flow("pod", "web", 80, "tcp"): outcome}
    assert str(outcome) == text


def test_one_line_may_name_several_protocols_and_addresses(tmp_path: Path) -> None:
    [case] = read_one(write(tmp_path, "pod -> 10.0.0.1,fd00::1:53/udp,sctp = dropped"))
    assert list(case.steps[0].flows) == [
        Flow("pod", "10.0.0.1,fd00::1", 53, "udp"),
        Flow("pod", "10.0.0.1,fd00::1", 53, "sctp"),
    ]


@pytest.mark.parametrize("flow", ["pod web:80 = dropped", "pod -> web = dropped", "pod -> web:80/icmp = dropped"])
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, flow: str) -> None:
    with pytest.raises(TableError, match=r"'one': .*web"):
        read(write(tmp_path, flow))


def test_a_case_like_another_must_differ_from_it(tmp_path: Path) -> None:
    like = "- {{case: two, published: [x], like: one, flows: 'pod -> web:{}'}}\n"
    _, two = read_one(write(tmp_path, "pod -> web:80 = dropped", more=like.format("80 = rejected")))
    assert dict(two.steps[0].flows) == {Flow("pod", "web", 80, "tcp"): Refusal.REJECTED}
    for same in ("80 = dropped", "81 = rejected"):
        with pytest.raises(TableError, match="'two'"):
            read(write(tmp_path, "pod -> web:80 = dropped", more=like.format(same)))


def test_a_mode_s_difference_needs_a_reason_and_a_place(tmp_path: Path) -> None:
    table = read_one(write(tmp_path, "pod -> web:80 = dropped"))
    difference = {"case": "one", "flow": "pod -> web:80 = rejected", "because": "so it is"}
    [changed] = with_differences(table, [difference])
    assert dict(changed.steps[0].flows) == {Flow("pod", "web", 80, "tcp"): Refusal.REJECTED}
    for bad in ({"case": "two"}, {"because": ""}, {"step": "later"}, {"flow": "pod -> web:80 = dropped"}):
        with pytest.raises(TableError):
            with_differences(table, [difference | bad])


def test_a_merge_patch_changes_neither_argument() -> None:
    target = {"spec": {"type": "ClusterIP", "ports": [1]}}
    assert merge(target, {"spec": {"type": None, "ports": [2]}, "status": {}}) == {"spec": {"ports": [2]}, "status": {}}
    assert target == {"spec": {"type": "ClusterIP", "ports": [1]}}


def test_what_is_wrong() -> None:
    local, remote = Observed(LOCAL, "10.0.0.1", None), Observed(REMOTE, "10.0.0.1", None)
    refused = Observed(None, "", Refusal.REJECTED)
    assert wrong(BOTH, [local, remote], OWN, NODE) is None
    assert wrong(BOTH, [local], OWN, NODE) is not None
    assert wrong(BOTH, [local, remote, refused], OWN, NODE) is not None
    assert wrong(Answered(frozenset({LOCAL})), [local, remote], OWN, NODE) is not None
    assert wrong(Answered(BOTH.servers, sticky=True), [local, local], OWN, NODE) is None
    assert wrong(Answered(BOTH.servers, sticky=True), [local, remote], OWN, NODE) is not None
    assert wrong(Answered(BOTH.servers, BOTH.servers), [local, remote], OWN, NODE) is not None
    assert wrong(BOTH, [local, remote._replace(source="192.168.0.1")], OWN, NODE) is not None
    assert wrong(Refusal.REJECTED, [refused, refused], OWN, NODE) is None
    assert wrong(Refusal.DROPPED, [refused], OWN, NODE) == "rejected"


def test_a_flow_is_tried_until_it_is_clear() -> None:
    local, remote = Observed(LOCAL, "", None), Observed(REMOTE, "", None)
    assert not enough(BOTH, [])
    assert not enough(BOTH, [local] * 50)
    assert enough(BOTH, [local] * 50 + [remote])
    assert enough(BOTH, [Observed(None, "", Refusal.DROPPED)])
    assert enough(Refusal.REJECTED, [Observed(None, "", Refusal.REJECTED)])
