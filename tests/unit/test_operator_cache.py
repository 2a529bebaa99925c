"""The cache only moves forward, asks for a reconcile only when a decision may change, and knows when it is complete."""

from __future__ import annotations

import itertools
import json
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from proxymode_operator.cache import RELEASE, Cache
from proxymode_operator.kubeapi import Kind, ListedObject

Json = dict[str, Any]
_versions = itertools.count(1000)


def node(name: str, *, uid: str = "", version: int | None = None, **more: Any) -> Json:
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    return {"metadata": _meta(name, uid, version, more.pop("labels", {})), "status": status} | more


def npm(name: str, *, uid: str = "", version: int | None = None, owner: str = "", **parts: Any) -> Json:
    # As the API server does it, another spec is another generation.
    of_spec = 10 + zlib.crc32(json.dumps(parts["spec"], sort_keys=True).encode()) if "spec" in parts else 1
    meta = _meta(name, uid or f"npm-{name}", version, {}) | {"generation": parts.pop("generation", of_spec)}
    if owner:
        meta["ownerReferences"] = [{"kind": "Node", "name": name, "uid": owner}]
    return {"metadata": meta} | parts


def pm(name: str, *, uid: str = "", version: int | None = None, **spec: Any) -> Json:
    return {"metadata": _meta(name, uid, version, {}), "spec": {"mode": "nftables"} | spec}


def _meta(name: str, uid: str, version: int | None, labels: dict[str, str]) -> Json:
    return {
        "name": name,
        "uid": uid or f"uid-{name}",
        "resourceVersion": str(version or next(_versions)),
        "labels": labels,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }


def listed(raw: Json) -> ListedObject:
    meta = raw["metadata"]
    return ListedObject(meta["name"], meta["uid"], int(meta["resourceVersion"]))


class Bench:
    """A cache and the keys that it asked for since last looked at."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.cache = Cache(self._keys.add, lambda: self.now)

    def heard_at(self) -> datetime:
        fleet = self.cache.fleet("a", None)
        assert fleet is not None
        assert fleet.nodes[0].report is not None
        return fleet.nodes[0].report.heard_at

    def asked(self) -> set[str]:
        self.cache.selection()
        keys = set(self._keys)
        self._keys.clear()
        return keys


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.cache.put(Kind.PROXY_MODE, pm("a", nodeSelector={"matchLabels": {"pool": "a"}}))
    bench.cache.put(Kind.PROXY_MODE, pm("b", nodeSelector={"matchLabels": {"pool": "b"}}))
    bench.cache.put(Kind.NODE, node("n1", labels={"pool": "a"}))
    bench.cache.put(Kind.NODE_PROXY_MODE, npm("n1", status=report("2026-01-01T00:00:00Z")))
    bench.asked()
    return bench


def report(heartbeat: str, **more: Any) -> Json:
    return {"heartbeatTime": heartbeat, "observedGeneration": 1, "mode": "ipvs", "phase": "Active"} | more


def test_a_heartbeat_asks_nobody_to_think_again(bench: Bench) -> None:
    bench.now += timedelta(minutes=1)
    bench.cache.put(Kind.NODE_PROXY_MODE, npm("n1", status=report("2026-01-01T00:01:00Z")))
    assert bench.asked() == set()
    assert bench.heard_at() == bench.now, "but it is known"


def test_a_kubelets_report_that_says_nothing_new_leaves_the_node_the_value_that_it_was(bench: Bench) -> None:
    def planned() -> object:
        fleet = bench.cache.fleet("a", None)
        assert fleet is not None
        return fleet.nodes[0]

    before = planned()
    bench.cache.put(Kind.NODE, node("n1", labels={"pool": "a"}))
    assert planned() is before
    bench.cache.put(Kind.NODE, node("n1", labels={"pool": "a", "new": "label"}))
    assert planned() is not before


def test_an_agent_that_was_silent_asks_again_with_its_heartbeat(bench: Bench) -> None:
    bench.now += timedelta(minutes=5)
    bench.cache.put(Kind.NODE_PROXY_MODE, npm("n1", status=report("2026-01-01T00:05:00Z")))
    assert bench.asked() == {"a"}


@pytest.mark.parametrize("skew", [timedelta(hours=-1), timedelta(hours=1)])
def test_an_agent_on_a_node_with_a_wrong_clock_is_not_silent(bench: Bench, skew: timedelta) -> None:
    for _ in range(3):
        bench.now += timedelta(minutes=1)
        wrong = f"{bench.now + skew:%Y-%m-%dT%H:%M:%SZ}"
        bench.cache.put(Kind.NODE_PROXY_MODE, npm("n1", status=report(wrong)))
        assert bench.heard_at() == bench.now


def test_a_node_whose_clock_is_ahead_is_ready_from_when_that_was_heard_of(bench: Bench) -> None:
    """minReadySeconds and progressDeadline would else begin only when our clock has come to where the node's was."""

    def ready_since() -> datetime | None:
        fleet = bench.cache.fleet("a", None)
        assert fleet is not None
        assert fleet.nodes[0].report is not None
        return fleet.nodes[0].report.ready_since

    def tell(status: str, since: datetime) -> None:
        changed = {"type": "Ready", "status": status, "lastTransitionTime": f"{since:%Y-%m-%dT%H:%M:%SZ}"}
        told = report(f"{bench.now + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}", conditions=[changed])
        bench.cache.put(Kind.NODE_PROXY_MODE, npm("n1", status=told))

    bench.now += timedelta(minutes=1)
    heard, ahead = bench.now, bench.now + timedelta(hours=1)
    tell("True", ahead)
    assert ready_since() == heard
    for _ in range(2):
        bench.now += timedelta(hours=2)
        tell("True", ahead)
        assert ready_since() == heard, "and it stays so, also when our clock has come there"
    tell("False", bench.now - timedelta(seconds=5))
    assert ready_since() == bench.now - timedelta(seconds=5)


def test_an_agent_is_listened_to_from_the_first_sight_on(bench: Bench) -> None:
    first = bench.now
    bench.now += timedelta(minutes=1)
    bench.cache.put(Kind.NODE_PROXY_MODE, npm("n1", status=report("2026-01-01T00:01:00Z")))
    fleet = bench.cache.fleet("a", None)
    assert fleet is not None
    assert fleet.nodes[0].report is not None
    assert fleet.nodes[0].report.known_since == first


def test_what_the_operator_itself_writes_is_no_sign_of_the_agent(bench: Bench) -> None:
    before = bench.heard_at()
    bench.now += timedelta(minutes=4)
    written = npm("n1", status=report("2026-01-01T00:00:00Z"), spec={"targetMode": "nftables"}, generation=2)
    bench.cache.put(Kind.NODE_PROXY_MODE, written)
    assert bench.heard_at() == before


def test_a_heartbeat_of_the_future_counts_from_when_it_was_first_seen() -> None:
    bench = Bench()
    bench.cache.put(Kind.PROXY_MODE, pm("a"))
    bench.cache.put(Kind.NODE, node("n1"))
    bench.cache.put(Kind.NODE_PROXY_MODE, npm("n1", status=report("2027-01-01T00:00:00Z")))
    assert bench.heard_at() == bench.now


def test_a_report_concerns_the_proxy_mode_that_decides_and_no_other(bench: Bench) -> None:
    bench.cache.put(Kind.NODE_PROXY_MODE, npm("n1", status=report("2026-01-01T00:00:30Z", phase="Failed")))
    assert bench.asked() == {"a"}


def test_a_nodes_kubelet_heartbeat_asks_nobody_and_a_cordon_asks_its_proxy_mode(bench: Bench) -> None:
    bench.cache.put(Kind.NODE, node("n1", labels={"pool": "a"}))
    assert bench.asked() == set()
    bench.cache.put(Kind.NODE, node("n1", labels={"pool": "a"}, spec={"unschedulable": True}))
    assert bench.asked() == {"a"}


def test_a_person_who_skips_a_node_asks_its_proxy_mode(bench: Bench) -> None:
    skipped = npm("n1")
    skipped["metadata"]["annotations"] = {"proxymode.io/skip": "broken NIC"}
    bench.cache.put(Kind.NODE_PROXY_MODE, skipped)
    assert bench.asked() == {"a"}


def test_labels_that_select_nobody_else_concern_who_decides_about_the_node(bench: Bench) -> None:
    selection = bench.cache.selection()
    bench.cache.put(Kind.NODE, node("n1", labels={"pool": "a", "proxymode.io/service-proxy": "agent"}))
    assert bench.cache.selection() is selection
    assert bench.asked() == {"a"}
    fleet = bench.cache.fleet("a", None)
    assert fleet is not None
    assert "proxymode.io/service-proxy" in fleet.nodes[0].labels


def test_labels_that_another_selects_too_concern_both(bench: Bench) -> None:
    bench.cache.put(Kind.PROXY_MODE, pm("c", nodeSelector={"matchLabels": {"extra": "c"}}))
    bench.asked()
    bench.cache.put(Kind.NODE, node("n1", labels={"pool": "a", "extra": "c"}))
    assert bench.asked() >= {"a", "c"}
    assert bench.cache.selection().overridden == {"c": {"n1": "a"}}
    bench.cache.put(Kind.NODE, node("n1", labels={"pool": "a"}))
    assert bench.cache.selection().overridden == {}


def test_other_labels_may_concern_everybody(bench: Bench) -> None:
    bench.cache.put(Kind.NODE, node("n1", labels={"pool": "b"}))
    assert bench.asked() >= {"a", "b"}
    assert [n.name for n in bench.cache.fleet("b", None).nodes] == ["n1"]  # type: ignore[union-attr]


def test_the_operators_own_status_write_asks_nobody(bench: Bench) -> None:
    answer = pm("a", nodeSelector={"matchLabels": {"pool": "a"}}) | {"status": {"revision": 3}}
    bench.cache.put(Kind.PROXY_MODE, answer)
    bench.asked()
    bench.cache.put(Kind.PROXY_MODE, answer)
    assert bench.asked() == set()


def test_a_late_event_does_not_bring_an_older_version_back(bench: Bench) -> None:
    newer = npm("n1", version=9000, spec={"mode": "nftables"}, generation=2)
    bench.cache.put(Kind.NODE_PROXY_MODE, newer)
    bench.cache.put(Kind.NODE_PROXY_MODE, npm("n1", version=8999, spec={"mode": "ipvs"}))
    fleet = bench.cache.fleet("a", None)
    assert fleet is not None
    assert fleet.nodes[0].asked is not None
    assert fleet.nodes[0].asked.intent.mode == "nftables"


def test_a_late_answer_does_not_bring_a_deleted_object_back(bench: Bench) -> None:
    bench.cache.delete(Kind.PROXY_MODE, pm("a", version=9001))
    bench.cache.put(Kind.PROXY_MODE, pm("a", version=9000))
    assert "a" not in bench.cache.proxy_modes()


def test_the_deletion_of_an_earlier_object_of_the_name_leaves_the_new_one(bench: Bench) -> None:
    """kopf handles objects by uid: the new one may come before the end of the old one."""
    bench.cache.put(Kind.PROXY_MODE, pm("a", uid="second", version=9005, mode="ipvs"))
    bench.cache.delete(Kind.PROXY_MODE, pm("a", version=9003))
    assert bench.cache.proxy_modes()["a"].metadata.uid == "second"


def test_a_proxy_mode_that_is_being_deleted_decides_no_more(bench: Bench) -> None:
    raw = pm("a", version=9000)
    raw["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
    bench.cache.put(Kind.PROXY_MODE, raw)
    assert bench.cache.fleet("a", None) is None
    assert bench.asked() >= {"a", RELEASE}


def test_a_node_proxy_mode_of_an_earlier_node_is_foreign(bench: Bench) -> None:
    bench.cache.put(Kind.NODE_PROXY_MODE, npm("n1", owner="uid-of-the-machine-before"))
    fleet = bench.cache.fleet("a", None)
    assert fleet is not None
    assert fleet.nodes[0].foreign


def test_a_node_proxy_mode_that_cannot_be_read_is_left_alone(bench: Bench) -> None:
    bench.cache.put(Kind.NODE_PROXY_MODE, npm("n1", spec={"mode": "ebpf"}))
    fleet = bench.cache.fleet("a", None)
    assert fleet is not None
    assert fleet.nodes[0].foreign


def test_nodes_of_a_proxy_mode_that_cannot_be_read_are_not_given_to_another(bench: Bench) -> None:
    bench.cache.put(Kind.NODE_PROXY_MODE, npm("n1", spec={"mode": "ipvs", "proxyMode": "a"}))
    bench.cache.put(Kind.PROXY_MODE, pm("low", priority=-5))
    bench.cache.put(Kind.PROXY_MODE, pm("a", mode="something of 2030"))
    assert bench.cache.unreadable()["a"].error
    assert bench.cache.fleet("low", None).nodes == ()  # type: ignore[union-attr]
    assert bench.cache.released() == ({}, {})


def test_released_are_the_nodes_that_nobody_decides_about_but_that_name_somebody(bench: Bench) -> None:
    bench.cache.put(Kind.NODE_PROXY_MODE, npm("n1", spec={"mode": "ipvs", "proxyMode": "a"}))
    assert bench.cache.released() == ({}, {})
    bench.cache.delete(Kind.PROXY_MODE, pm("a"))
    asked, uids = bench.cache.released()
    assert list(asked) == ["n1"]
    assert uids == {"n1": "uid-n1"}


def test_the_cache_is_behind_until_every_listed_version_has_come(bench: Bench) -> None:
    first, second = node("n1", version=9000, labels={"pool": "a"}), node("n2", version=9001)
    items = [listed(first), listed(second)]
    assert bench.cache.behind(Kind.NODE, items) == 2
    bench.cache.put(Kind.NODE, first)
    assert bench.cache.behind(Kind.NODE, items) == 1
    bench.cache.put(Kind.NODE, node("n2", version=9002))
    assert bench.cache.behind(Kind.NODE, items) == 0


def test_what_was_deleted_after_the_list_is_not_waited_for(bench: Bench) -> None:
    gone = node("n3", version=9000)
    bench.cache.delete(Kind.NODE, gone)
    assert bench.cache.behind(Kind.NODE, [listed(gone)]) == 0


def test_ghosts_are_dropped_and_those_concerned_asked(bench: Bench) -> None:
    known = bench.cache.known(Kind.NODE)
    newcomer = node("n2")
    bench.cache.put(Kind.NODE, newcomer)
    bench.asked()
    bench.cache.drop_ghosts(Kind.NODE, [], known)
    assert set(bench.cache.known(Kind.NODE)) == {"n2"}, "it came after the list had begun"
    assert "a" in bench.asked()


def test_nodes_are_handed_as_long_as_they_are_told_another_policy_than_ignore(bench: Bench) -> None:
    assert bench.cache.handed() == ()
    take_over = npm("n1", spec={"mode": "ipvs", "kubeProxy": {"policy": "TakeOver"}})
    bench.cache.put(Kind.NODE_PROXY_MODE, take_over)
    bench.cache.put(Kind.NODE_PROXY_MODE, npm("nowhere", spec={"kubeProxy": {"policy": "TakeOver"}}))
    assert [each.name for each in bench.cache.handed()] == ["n1"], "and none without a Node"
    bench.cache.put(Kind.NODE_PROXY_MODE, npm("n1", spec={"mode": "ipvs"}))
    assert bench.cache.handed() == ()
    bench.cache.put(Kind.NODE_PROXY_MODE, npm("n1", spec={"kubeProxy": {"policy": "HandBack"}}))
    assert [each.name for each in bench.cache.handed()] == ["n1"]
    bench.cache.delete(Kind.NODE_PROXY_MODE, npm("n1"))
    assert bench.cache.handed() == ()
