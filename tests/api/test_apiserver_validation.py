"""The API server bed refuses of built-in kinds what a real one refuses, as far as the product writes them.

An Event that is refused nobody sees: the product says so in its log and goes on.
"""

from __future__ import annotations

import copy
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from proxymode_testbeds.apiserver import KubectlError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from proxymode_testbeds.apiserver import ApiServer

Json = dict[str, Any]

TEMPLATES = "deprecated.daemonset.template.generation"
"""The annotation in which a DaemonSet's template generation shows."""


def event(**fields: Any) -> Json:
    """An Event about a cluster-scoped object; None takes a field away."""
    whole = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"e-{uuid.uuid4().hex}", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "example.org/bed",
        "reportingInstance": "bed-1",
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": "n1"},
        "type": "Normal",
        "reason": "Tried",
        "action": "Try",
        "note": "tried",
    }
    return {key: value for key, value in (whole | fields).items() if value is not None}


def lease(**fields: Any) -> Json:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": f"l-{uuid.uuid4().hex[:8]}", "namespace": "default"},
        "spec": fields,
    }


def daemon_set(name: str = "bed", *, labels: Json | None = None, affinity: Json | None = None, **spec: Any) -> Json:
    pod: Json = {"containers": [{"name": "c", "image": "i"}]}
    if affinity is not None:
        pod["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": affinity}}
    template = {"metadata": {"labels": labels or {"app": "bed"}}, "spec": pod}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "bed"}}, "template": template} | spec,
    }


def expression(**fields: Any) -> Json:
    return {"nodeSelectorTerms": [{"matchExpressions": [fields]}]}


REFUSED: dict[str, tuple[Json, str]] = {
    "an Event without time": (event(eventTime=None), "eventTime: Required value"),
    "an Event of a third type": (event(type="Error"), "type: Invalid value"),
    "an Event without action": (event(action=None), "action: Required value"),
    "an Event without reason": (event(reason=None), "reason: Required value"),
    "an Event by nobody": (event(reportingInstance=None), "reportingInstance: Required value"),
    "a reason that is a sentence": (event(reason="x" * 129), "reason: Invalid value.*at most 128 characters"),
    "a note that is a page": (event(note="ü" * 513), "message: Invalid value.*at most 1024 characters"),
    "a controller that is no name": (event(reportingController="the bed"), "reportingController: Invalid value"),
    "a series of one": (
        event(series={"count": 1, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}),
        "should be at least 2",
    ),
    "an Event counted as of old": (event(deprecatedCount=1), "count: Invalid value.*needs to be unset"),
    "an Event with a bad name": (event(metadata={"name": "a..b", "namespace": "default"}), r"metadata\.name: Invalid"),
    "a generated name after a dot": (
        event(metadata={"generateName": "n1.", "namespace": "default"}),
        r"metadata\.generateName: Invalid value",
    ),
    "a Lease of no time": (lease(leaseDurationSeconds=0), r"spec\.leaseDurationSeconds: Invalid value: 0"),
    "a Lease that went backwards": (lease(leaseTransitions=-1), r"spec\.leaseTransitions: Invalid value: -1"),
    "a DaemonSet of other Pods": (daemon_set(labels={"app": "other"}), "does not match template `labels`"),
    "a strategy that does not exist": (daemon_set(updateStrategy={"type": "Never"}), "supported values"),
    "an affinity to nothing": (daemon_set(affinity={"nodeSelectorTerms": []}), "at least one node selector term"),
    "NotIn nothing": (daemon_set(affinity=expression(key="k", operator="NotIn")), "must be specified when `operator`"),
    "a key that is no label": (
        daemon_set(affinity=expression(key="a b", operator="Exists")),
        r"matchExpressions\[0\]\.key: Invalid value",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_refused(api: ApiServer, case: str) -> None:
    body, words = REFUSED[case]
    with pytest.raises(KubectlError, match=words):
        await api.kubectl("create", "--filename=-", "--dry-run=server", stdin=json.dumps(body))


async def test_an_event_about_a_cluster_scoped_object_is_in_default_or_kube_system(
    api: ApiServer, namespace: str
) -> None:
    body = event(metadata={"name": "away", "namespace": namespace})
    with pytest.raises(KubectlError, match=r"involvedObject\.namespace: Invalid value"):
        await api.kubectl("create", "--filename=-", "--dry-run=server", stdin=json.dumps(body))


def crd(rule: str, items: Json) -> Json:
    schema = {"type": "object", "x-kubernetes-validations": [{"rule": rule}], "properties": {"items": items}}
    versions = [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "costs.bed.example.org"},
        "spec": {
            "group": "bed.example.org",
            "scope": "Cluster",
            "names": {"kind": "Cost", "plural": "costs"},
            "versions": versions,
        },
    }


async def test_a_rule_that_might_cost_too_much_is_refused_with_its_crd(api: ApiServer) -> None:
    """So that ours are taken says that all they look at is bounded enough."""
    rule = "self.items.all(x, self.items.all(y, x == y))"
    items: Json = {"type": "array", "items": {"type": "string"}}
    with pytest.raises(KubectlError, match="estimated rule cost exceeds budget"):
        await api.kubectl("create", "--filename=-", "--dry-run=server", stdin=json.dumps(crd(rule, items)))
    items = {"type": "array", "maxItems": 16, "items": {"type": "string", "maxLength": 64}}
    await api.kubectl("create", "--filename=-", "--dry-run=server", stdin=json.dumps(crd(rule, items)))


@pytest.mark.parametrize(
    "body",
    [
        event(),
        event(metadata={"generateName": "n1-", "namespace": "kube-system"}),
        event(note="ü" * 512, type="Warning"),
        lease(holderIdentity="", leaseDurationSeconds=1),
        daemon_set(affinity={"nodeSelectorTerms": [{}]}, updateStrategy={"type": "OnDelete"}),
    ],
)
async def test_taken(api: ApiServer, body: Json) -> None:
    await api.kubectl("create", "--filename=-", "--dry-run=server", stdin=json.dumps(body))


@pytest.fixture
async def patch(api: ApiServer) -> AsyncIterator[Callable[[Json], Any]]:
    """Patches a DaemonSet that was just made; its generation of Pods afterwards."""
    name = f"bed-{uuid.uuid4().hex[:8]}"
    await api.kubectl("create", "--filename=-", stdin=json.dumps(daemon_set(name)))

    async def patched(body: Json) -> str:
        said = await api.kubectl("patch", "daemonset", name, "--output=json", f"--patch={json.dumps(body)}")
        return str(said.json()["metadata"]["annotations"][TEMPLATES])

    yield patched
    await api.kubectl("delete", "daemonset", name)


async def test_a_daemon_set_counts_changes_of_its_pods_and_nobody_else_does(
    api: ApiServer, patch: Callable[[Json], Any]
) -> None:
    affinity = copy.deepcopy(daemon_set(affinity=expression(key="k", operator="Exists"))["spec"]["template"])
    assert await patch({"spec": {"updateStrategy": {"type": "OnDelete"}}}) == "1"
    assert await patch({"spec": {"template": affinity}}) == "2"
    assert await patch({"metadata": {"annotations": {TEMPLATES: "77"}}}) == "2"
