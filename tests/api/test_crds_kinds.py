"""ProxyMode and NodeProxyMode as kubectl's user meets them: apply the CRDs, read about them, get and patch."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from proxymode_api.nodeproxymode import NodeProxyModeSpec, NodeProxyModeStatus
from proxymode_api.proxymode import ProxyModeSpec
from proxymode_api.proxymode_status import ProxyModeStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxymode_testbeds.apiserver import ApiServer

pytestmark = pytest.mark.api

CRDS = Path(__file__).parents[2] / "crds"
V1ALPHA1 = "proxymode.io/v1alpha1"
COLUMNS = ["NAME", "MODE", "STAGE", "UPDATED", "READY", "SWITCHING", "BLOCKED", "STATUS", "AGE"]
NODE_COLUMNS = ["NAME", "MODE", "DESIRED", "STAGE", "PHASE", "READY", "CONNECTIONS-KEPT", "LOST", "DEPRECATED", "AGE"]


def text_of(kind: str, name: str, **body: Any) -> str:
    return json.dumps({"apiVersion": V1ALPHA1, "kind": kind, "metadata": {"name": name}, **body})


async def got(api: ApiServer, *what: str) -> Any:
    return json.loads((await api.kubectl("get", *what, "--output=json")).stdout)


@pytest.fixture
async def fleet(crds: ApiServer) -> AsyncIterator[str]:
    """A ProxyMode with nothing in it but the mode."""
    await crds.kubectl("create", "--filename=-", stdin=text_of("ProxyMode", "kinds", spec={"mode": "nftables"}))
    yield "kinds"
    await crds.kubectl("delete", "proxymode", "kinds")


@pytest.fixture
async def node(crds: ApiServer) -> AsyncIterator[str]:
    await crds.kubectl("create", "--filename=-", stdin=text_of("NodeProxyMode", "kinds-1", spec={"mode": "ipvs"}))
    yield "kinds-1"
    await crds.kubectl("delete", "nodeproxymode", "kinds-1")


async def test_the_folder_applies_and_a_second_time_changes_nothing(crds: ApiServer) -> None:
    again = await crds.kubectl("apply", f"--filename={CRDS}")
    assert again.stdout.splitlines() == [
        "customresourcedefinition.apiextensions.k8s.io/nodeproxymodes.proxymode.io unchanged",
        "customresourcedefinition.apiextensions.k8s.io/proxymodes.proxymode.io unchanged",
    ]


@pytest.mark.parametrize("name", ["proxymodes.proxymode.io", "nodeproxymodes.proxymode.io"])
async def test_the_api_server_has_nothing_to_complain_about(crds: ApiServer, name: str) -> None:
    definition = await got(crds, "crd", name)
    conditions = {condition["type"]: condition for condition in definition["status"]["conditions"]}
    assert conditions["Established"]["status"] == "True"
    assert conditions["NamesAccepted"]["status"] == "True"
    assert "NonStructuralSchema" not in conditions
    assert conditions.get("KubernetesAPIApprovalPolicyConformant", {"status": "True"})["status"] == "True"


async def test_short_names_and_the_category(crds: ApiServer, fleet: str, node: str) -> None:
    assert fleet in (await crds.kubectl("get", "pmode")).stdout
    assert node in (await crds.kubectl("get", "npmode")).stdout
    assert fleet in (await crds.kubectl("get", "proxymode", fleet, "--output=name")).stdout
    both = (await crds.kubectl("get", "proxymode-all", "--output=name")).stdout.split()
    assert {f"proxymode.proxymode.io/{fleet}", f"nodeproxymode.proxymode.io/{node}"} <= set(both)


async def test_defaults_are_filled_in_and_are_the_models(crds: ApiServer, fleet: str) -> None:
    stored = (await got(crds, "proxymode", fleet))["spec"]
    assert stored == {
        "mode": "nftables",
        "ipvs": {
            "scheduler": "rr",
            "strictARP": False,
            "timeouts": {"tcp": "0", "tcpFin": "0", "udp": "0"},
            "drainTimeout": "0",
        },
        "nftables": {"masqueradeBit": 14},
        "masqueradeAll": False,
        "localhostNodePorts": False,
        "detectLocal": {"mode": "ClusterCIDR"},
        "kubeProxy": {"policy": "Ignore", "namespace": "kube-system", "daemonSet": "kube-proxy"},
        "priority": 0,
        "rollout": {
            "stages": [{"name": "all", "percent": 100, "soak": "0", "approval": "Automatic"}],
            "maxUnavailable": 1,
            "topologyPolicy": "Spread",
            "minReadySeconds": 0,
            "progressDeadline": "10m",
            "failureThreshold": 1,
            "onFailure": "Pause",
            "onBlocked": "Skip",
            "paused": False,
        },
        "switch": {"connections": "Handover", "drainTimeout": "5m"},
    }
    assert ProxyModeSpec.model_validate(stored) == ProxyModeSpec.model_validate({"mode": "nftables"})


async def test_a_node_without_a_spec_is_one_that_only_looks(crds: ApiServer) -> None:
    created = await crds.kubectl(
        "create", "--filename=-", "--dry-run=server", "--output=json", stdin=text_of("NodeProxyMode", "bare")
    )
    spec = json.loads(created.stdout)["spec"]
    assert "mode" not in spec
    assert NodeProxyModeSpec.model_validate(spec) == NodeProxyModeSpec()


async def test_columns(crds: ApiServer, fleet: str, node: str) -> None:
    status: dict[str, Any] = {
        "status": {
            "currentStage": "zone-b",
            "status": "Progressing",
            "nodes": {"progress": "412/800", "updated": 412, "ready": 410, "switching": 8, "blocked": 2},
        }
    }
    await crds.kubectl(
        "patch", "proxymode", fleet, "--subresource=status", "--type=merge", f"--patch={json.dumps(status)}"
    )
    header, row = (await crds.kubectl("get", "proxymode", fleet)).stdout.splitlines()
    assert header.split() == COLUMNS
    assert row.split()[:-1] == f"{fleet} nftables zone-b 412/800 410 8 2 Progressing".split()

    status = {
        "status": {
            "mode": "nftables",
            "phase": "Active",
            "deprecated": "1.43",
            "conditions": [condition("Ready")],
            "lastSwitch": {
                "fromMode": "ipvs",
                "toMode": "nftables",
                "startedAt": "2026-11-21T04:00:00Z",
                "connectionsKept": 1842,
                "connectionsLost": 0,
            },
        }
    }
    await crds.kubectl(
        "patch", "nodeproxymode", node, "--subresource=status", "--type=merge", f"--patch={json.dumps(status)}"
    )
    await crds.kubectl("patch", "nodeproxymode", node, "--type=merge", '--patch={"spec":{"stage":"zone-b"}}')
    header, row = (await crds.kubectl("get", "nodeproxymode", node)).stdout.splitlines()
    assert header.split() == NODE_COLUMNS
    assert row.split()[:-1] == f"{node} nftables ipvs zone-b Active True 1842 0 1.43".split()


def condition(of: str) -> dict[str, str]:
    return {
        "type": of,
        "status": "True",
        "reason": "Tested",
        "message": "",
        "lastTransitionTime": "2026-11-21T04:00:00Z",
    }


async def test_selecting_by_field(crds: ApiServer, fleet: str, node: str) -> None:
    async def named(resource: str, selector: str) -> str:
        return (await crds.kubectl("get", resource, f"--field-selector={selector}", "--output=name")).stdout

    await crds.kubectl(
        "patch", "nodeproxymode", node, "--subresource=status", "--type=merge", '--patch={"status":{"phase":"Blocked"}}'
    )
    assert node in await named("nodeproxymodes", "spec.mode=ipvs,status.phase=Blocked")
    assert node not in await named("nodeproxymodes", "spec.mode=nftables")
    assert node not in await named("nodeproxymodes", "status.phase=Active")
    assert fleet in await named("proxymodes", "spec.mode=nftables")


async def test_a_stage_put_in_between_by_server_side_apply_stays_in_between(crds: ApiServer) -> None:
    """Stages are merged by name; their order is their meaning."""

    async def applied(*names: str) -> list[str]:
        reach = {name: {"selector": {"matchLabels": {"stage": name}}} for name in names} | {"rest": {"percent": 100}}
        stages = [{"name": name} | reach[name] for name in names]
        body = text_of("ProxyMode", "kinds-order", spec={"mode": "nftables", "rollout": {"stages": stages}})
        await crds.kubectl("apply", "--server-side", "--field-manager=people", "--filename=-", stdin=body)
        stored = await got(crds, "proxymode", "kinds-order")
        return [stage["name"] for stage in stored["spec"]["rollout"]["stages"]]

    try:
        assert await applied("canary", "rest") == ["canary", "rest"]
        assert await applied("canary", "tenth", "half", "rest") == ["canary", "tenth", "half", "rest"]
        assert await applied("half", "tenth", "rest") == ["half", "tenth", "rest"]
    finally:
        await crds.kubectl("delete", "proxymode", "kinds-order")


def filled(annotation: Any, name: str = "") -> Any:
    """A JSON value of this type with every field of every level present."""
    if annotation is NoneType:
        return None
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return filled(arguments[0], name)
    if origin in (Union, UnionType):
        return filled(next(a for a in arguments if a is not NoneType), name)
    if origin is Literal:
        return arguments[0]
    if origin is list:
        return [filled(arguments[0], name)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {
            field.alias or field_name: filled(field.annotation, field_name)
            for field_name, field in annotation.model_fields.items()
        }
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return list(annotation)[-1].value
    if annotation is datetime:
        return datetime(2026, 11, 21, 4, 0, 0, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {str: f"Some{name.title().replace('_', '')}", int: 7, bool: True}[annotation]


@pytest.mark.parametrize(
    ("kind", "status"), [("ProxyMode", ProxyModeStatus), ("NodeProxyMode", NodeProxyModeStatus)], ids=str
)
async def test_no_field_of_a_status_is_pruned(crds: ApiServer, kind: str, status: type[BaseModel]) -> None:
    """What the schema lacks the API server drops without a word."""
    whole = filled(status)
    assert status.model_validate(whole).model_dump(mode="json", by_alias=True) == whole
    await crds.kubectl("create", "--filename=-", stdin=text_of(kind, "kinds-whole", spec={"mode": "nftables"}))
    try:
        await crds.kubectl(
            "patch",
            kind,
            "kinds-whole",
            "--subresource=status",
            "--type=merge",
            f"--patch={json.dumps({'status': whole})}",
        )
        assert (await got(crds, kind, "kinds-whole"))["status"] == whole
    finally:
        await crds.kubectl("delete", kind, "kinds-whole")


async def test_a_status_is_not_written_with_the_spec(crds: ApiServer, fleet: str) -> None:
    await crds.kubectl("patch", "proxymode", fleet, "--type=merge", '--patch={"status":{"currentStage":"x"}}')
    assert "status" not in await got(crds, "proxymode", fleet)


EXPLAINED = {
    "proxymode": (
        "ProxyMode says which Service dataplane the cluster's nodes shall run",
        "spec\t<Object> -required-",
    ),
    "proxymode.spec": (
        "The Service dataplane that the selected nodes shall run, and how they get there.",
        "How the fleet moves: in which stages, how many nodes at a time",
        "enum: ipvs, nftables",
        "The wanted mode: nftables, or ipvs",
    ),
    "proxymode.spec.rollout": (
        "Steps in order; the last must reach every selected node",
        "maxUnavailable\t",
        "Default: 1. Example: 10%.",
        "progressDeadline\t<string>",
    ),
    "proxymode.spec.rollout.stages": (
        "name\t<string> -required-",
        "How long the finished stage is watched",
        "enum: Automatic, Manual",
    ),
    "proxymode.spec.detectLocal": ("clusterCIDRs\t<[]string>", "only a pod's traffic to itself through a Service is"),
    "nodeproxymode.status": ("What this node runs and how it fares.", "lastSwitch\t<Object>"),
}


@pytest.mark.parametrize("path", EXPLAINED)
async def test_explain_reads_like_documentation(crds: ApiServer, path: str) -> None:
    text = (await crds.kubectl("explain", path)).stdout
    flowing = " ".join(text.split())
    for words in EXPLAINED[path]:
        assert words in text or " ".join(words.split()) in flowing, text
    assert "<no description>" not in text.replace("metadata", "").split("FIELDS:")[0]
