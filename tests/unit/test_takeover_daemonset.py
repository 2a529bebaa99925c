"""How kube-proxy's DaemonSet is kept off labelled nodes, and put back: on a model of the controller's node affinity."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxymode_api.labels import SERVICE_PROXY_AGENT, SERVICE_PROXY_LABEL
from proxymode_operator.takeover.daemonset import BEFORE_ANNOTATION, edit, kept_off

Json = dict[str, Any]

OURS = {SERVICE_PROXY_LABEL: SERVICE_PROXY_AGENT}


def daemon_set(required: Json | None = None, strategy: str = "RollingUpdate") -> Json:
    spec: Json = {"containers": [{"name": "kube-proxy", "image": "kube-proxy:1"}]}
    if required is not None:
        spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    return {
        "metadata": {"name": "kube-proxy", "namespace": "kube-system", "uid": "u", "resourceVersion": "1"},
        "spec": {
            "updateStrategy": {"type": strategy, "rollingUpdate": {"maxUnavailable": "10%"}},
            "template": {"spec": spec},
        },
    }


def applied(found: Json, body: Json) -> Json:
    """What a server-side apply of ours makes of it: the affinity and the note go when we no longer name them."""
    after = copy.deepcopy(found)
    assert body["metadata"]["uid"] == found["metadata"]["uid"]
    assert body["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]
    after["spec"]["updateStrategy"]["type"] = body["spec"]["updateStrategy"]["type"]
    after["spec"]["template"]["spec"].pop("affinity", None)
    after["spec"]["template"]["spec"].update(body["spec"].get("template", {"spec": {}})["spec"])
    after["metadata"].pop("annotations", None)
    if "annotations" in body["metadata"]:
        after["metadata"]["annotations"] = body["metadata"]["annotations"]
    return after


def put(found: Json, *, keep_off: bool) -> Json:
    body = edit(found, keep_off=keep_off)
    assert body is not None
    return applied(found, body)


def runs_on(found: Json, labels: dict[str, str]) -> bool:
    """nodeaffinity.GetRequiredNodeAffinity(pod).Match, for the operators used here; matchFields match."""
    affinity = found["spec"]["template"]["spec"].get("affinity")
    if affinity is None:
        return True
    terms = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return any(_matches(term, labels) for term in terms)


def _matches(term: Json, labels: dict[str, str]) -> bool:
    expressions = term.get("matchExpressions", [])
    if not expressions and not term.get("matchFields"):
        return False
    return all((labels.get(each["key"]) in each["values"]) is (each["operator"] == "In") for each in expressions)


expressions = st.builds(
    lambda key, operator, values: {"key": key, "operator": operator, "values": values},
    st.sampled_from(["zone", "os"]),
    st.sampled_from(["In", "NotIn"]),
    st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2, unique=True),
)
terms = st.builds(
    lambda some, fields: ({"matchExpressions": some} if some else {}) | ({"matchFields": fields} if fields else {}),
    st.lists(expressions, max_size=2),
    st.sampled_from([[], [{"key": "metadata.name", "operator": "NotIn", "values": ["x"]}]]),
)
affinities = st.none() | st.builds(lambda some: {"nodeSelectorTerms": some}, st.lists(terms, min_size=1, max_size=3))
node_labels = st.fixed_dictionaries({}, optional={"zone": st.sampled_from("ab"), "os": st.sampled_from("ab")})


@settings(deadline=None)
@given(affinities, node_labels)
def test_it_leaves_labelled_nodes_and_no_other(required: Json | None, labels: dict[str, str]) -> None:
    before = daemon_set(required)
    after = put(before, keep_off=True)
    assert runs_on(after, labels) is runs_on(before, labels)
    assert not runs_on(after, labels | OURS)
    assert after["spec"]["updateStrategy"]["type"] == "OnDelete"
    assert kept_off(after) or not any(runs_on(before, each) for each in ({}, {"zone": "a"}, {"os": "a"}))


@settings(deadline=None)
@given(affinities, st.sampled_from(["RollingUpdate", "OnDelete"]))
def test_putting_back_leaves_the_template_and_the_strategy_as_they_were(required: Json | None, strategy: str) -> None:
    before = daemon_set(required, strategy)
    back = put(put(before, keep_off=True), keep_off=False)
    assert back == before


@settings(deadline=None)
@given(affinities)
def test_what_is_as_it_should_be_is_not_written(required: Json | None) -> None:
    before = daemon_set(required)
    assert edit(before, keep_off=False) is None
    if runs_on(put(before, keep_off=True), {}):
        assert edit(put(before, keep_off=True), keep_off=True) is None


@settings(deadline=None)
@given(affinities, affinities)
def test_an_affinity_that_somebody_replaced_meanwhile_is_kept_off_anew_and_is_what_comes_back(
    first: Json | None, second: Json | None
) -> None:
    assume(any(runs_on(daemon_set(second), labels) for labels in ({}, {"zone": "a"}, {"os": "a"}, {"zone": "b"})))
    ours = put(daemon_set(first), keep_off=True)
    replaced = daemon_set(second, "OnDelete")
    replaced["metadata"]["annotations"] = ours["metadata"]["annotations"]
    again = put(replaced, keep_off=True)
    assert not runs_on(again, OURS)
    assert put(again, keep_off=False) == daemon_set(second)


def test_an_object_that_was_replaced_as_a_whole_is_a_new_one() -> None:
    """kubeadm upgrade writes the DaemonSet anew: affinity, annotation and strategy are its own again."""
    again = put(daemon_set(None, "RollingUpdate"), keep_off=True)
    assert kept_off(again)


@pytest.mark.parametrize("note", ["", "{}", "[1]", "no json"])
def test_a_note_that_somebody_made_unreadable_is_written_anew_from_what_is_there(note: str) -> None:
    found = put(
        daemon_set({"nodeSelectorTerms": [{"matchExpressions": [{"key": "os", "operator": "In", "values": ["a"]}]}]}),
        keep_off=True,
    )
    found["metadata"]["annotations"][BEFORE_ANNOTATION] = note
    assert not kept_off(found)
    again = put(found, keep_off=True)
    assert kept_off(again)
    back = put(again, keep_off=False)
    assert back["spec"]["updateStrategy"]["type"] == "OnDelete"
    assert runs_on(back, {"os": "a"} | OURS)
    assert not runs_on(back, {"os": "b"})
