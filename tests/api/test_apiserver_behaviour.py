"""The API server bed behaves as a real API server does wherever other tests rely on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from proxymode_testbeds.apiserver import ApiServer, KubectlError
from proxymode_testbeds.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

GADGETS = "/apis/bed.example.org/v1/gadgets"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
STRATEGIC = "application/strategic-merge-patch+json"

GADGET_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "gadgets.bed.example.org"},
    "spec": {
        "group": "bed.example.org",
        "scope": "Cluster",
        "names": {"kind": "Gadget", "plural": "gadgets", "singular": "gadget", "shortNames": ["gdg"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "selectableFields": [{"jsonPath": ".spec.colour"}],
                "additionalPrinterColumns": [
                    {"name": "Colour", "type": "string", "jsonPath": ".spec.colour"},
                    {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
                ],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "description": "What the gadget shall be.",
                                "x-kubernetes-validations": [
                                    {
                                        "rule": "self.least <= self.most",
                                        "message": "least must not be above most",
                                    }
                                ],
                                "properties": {
                                    "colour": {
                                        "type": "string",
                                        "enum": ["red", "green"],
                                        "default": "red",
                                        "description": "The gadget's colour.",
                                    },
                                    "least": {"type": "integer", "default": 1},
                                    "most": {"type": "integer", "default": 5},
                                },
                            },
                            "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
                        },
                    }
                },
            }
        ],
    },
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gadgets(api: ApiServer) -> str:
    """The path of a custom resource that has a bit of everything."""
    await api.kubectl("apply", "--filename=-", stdin=json.dumps(GADGET_CRD))
    await api.served("gadgets.bed.example.org")
    return GADGETS


@pytest.fixture
async def name(http: aiohttp.ClientSession, gadgets: str) -> AsyncIterator[str]:
    """A name for one gadget, which is gone after the test."""
    unique = f"g-{uuid.uuid4().hex[:12]}"
    yield unique
    await call(http, "PATCH", f"{gadgets}/{unique}", {"metadata": {"finalizers": None}}, MERGE)
    await call(http, "DELETE", f"{gadgets}/{unique}")


async def call(
    http: aiohttp.ClientSession,
    method: str,
    path: str,
    body: Any = None,
    content: str = "application/json",
    **query: str,
) -> tuple[int, Any]:
    """One request; returns the status and the decoded answer."""
    data = None if body is None else json.dumps(body)
    async with http.request(method, path, data=data, params=query, headers={"Content-Type": content}) as answer:
        return answer.status, await answer.json()


def gadget(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "bed.example.org/v1", "kind": "Gadget", "metadata": {"name": name}, "spec": spec}


async def watched(http: aiohttp.ClientSession, path: str, until: int, **query: str) -> list[dict[str, Any]]:
    """The first `until` events of a watch."""
    events = []
    async with asyncio.timeout(30), http.get(path, params={"watch": "true", **query}) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            events.append(json.loads(line))
            if len(events) == until:
                break
    return events


class TestCustomResources:
    async def test_a_value_outside_the_enum_is_refused_by_field_name(
        self, http: aiohttp.ClientSession, gadgets: str, name: str
    ) -> None:
        status, answer = await call(http, "POST", gadgets, gadget(name, colour="blue"))
        assert status == 422
        assert answer["details"]["causes"][0]["field"] == "spec.colour"
        assert 'supported values: "red", "green"' in answer["message"]

    async def test_a_cel_rule_refuses_with_its_own_message(
        self, http: aiohttp.ClientSession, gadgets: str, name: str
    ) -> None:
        status, answer = await call(http, "POST", gadgets, gadget(name, least=9))
        assert status == 422
        assert "least must not be above most" in answer["message"]

    async def test_defaults_are_filled_in_and_unknown_fields_pruned(
        self, http: aiohttp.ClientSession, gadgets: str, name: str
    ) -> None:
        status, answer = await call(http, "POST", gadgets, gadget(name, junk=1))
        assert status == 201
        assert answer["spec"] == {"colour": "red", "least": 1, "most": 5}

    async def test_kubectl_is_told_of_unknown_fields(self, api: ApiServer, gadgets: str, name: str) -> None:
        with pytest.raises(KubectlError, match=r'strict decoding error: unknown field "spec\.junk"'):
            await api.kubectl("create", "--filename=-", stdin=json.dumps(gadget(name, junk=1)))

    async def test_spec_and_status_are_written_apart_and_only_spec_counts_as_a_generation(
        self, http: aiohttp.ClientSession, gadgets: str, name: str
    ) -> None:
        await call(http, "POST", gadgets, gadget(name))
        both = {"spec": {"colour": "green"}, "status": {"phase": "Done"}}
        _, through_status = await call(http, "PATCH", f"{gadgets}/{name}/status", both, MERGE)
        assert (through_status["spec"]["colour"], through_status["status"]) == ("red", {"phase": "Done"})
        assert through_status["metadata"]["generation"] == 1

        both["status"] = {"phase": "Changed"}
        _, through_main = await call(http, "PATCH", f"{gadgets}/{name}", both, MERGE)
        assert (through_main["spec"]["colour"], through_main["status"]) == ("green", {"phase": "Done"})
        assert through_main["metadata"]["generation"] == 2

    async def test_a_finalizer_holds_a_deleted_object_until_it_is_taken_away(
        self, http: aiohttp.ClientSession, gadgets: str, name: str
    ) -> None:
        held = gadget(name)
        held["metadata"]["finalizers"] = ["bed.example.org/hold"]
        await call(http, "POST", gadgets, held)
        await call(http, "DELETE", f"{gadgets}/{name}")
        status, dying = await call(http, "GET", f"{gadgets}/{name}")
        assert (status, "deletionTimestamp" in dying["metadata"]) == (200, True)

        await call(http, "PATCH", f"{gadgets}/{name}", {"metadata": {"finalizers": None}}, MERGE)
        assert (await call(http, "GET", f"{gadgets}/{name}"))[0] == 404

    async def test_printer_columns_in_a_table(
        self, http: aiohttp.ClientSession, api: ApiServer, gadgets: str, name: str
    ) -> None:
        await call(http, "POST", gadgets, gadget(name, colour="green"))
        await call(http, "PATCH", f"{gadgets}/{name}/status", {"status": {"phase": "Done"}}, MERGE)
        table = (await api.kubectl("get", "gdg", name)).stdout.splitlines()
        assert [line.split()[:3] for line in table] == [["NAME", "COLOUR", "PHASE"], [name, "green", "Done"]]

    async def test_objects_are_selected_by_a_declared_field(
        self, http: aiohttp.ClientSession, gadgets: str, name: str
    ) -> None:
        await call(http, "POST", gadgets, gadget(name, colour="green"))
        _, green = await call(http, "GET", gadgets, fieldSelector="spec.colour=green")
        _, red = await call(http, "GET", gadgets, fieldSelector="spec.colour=red")
        assert name in [item["metadata"]["name"] for item in green["items"]]
        assert name not in [item["metadata"]["name"] for item in red["items"]]

    async def test_kubectl_explains_them(self, api: ApiServer, gadgets: str) -> None:
        explained = (await api.kubectl("explain", "gadget.spec.colour")).stdout
        assert "The gadget's colour." in explained
        assert "ENUM:\n    red\n    green" in explained


class TestWrites:
    async def test_server_side_apply_creates_and_names_who_is_in_the_way(
        self, http: aiohttp.ClientSession, gadgets: str, name: str
    ) -> None:
        path = f"{gadgets}/{name}"
        status, created = await call(http, "PATCH", path, gadget(name, colour="green"), APPLY, fieldManager="one")
        assert status == 201
        assert [entry["manager"] for entry in created["metadata"]["managedFields"]] == ["one"]

        status, conflict = await call(http, "PATCH", path, gadget(name, colour="red"), APPLY, fieldManager="two")
        assert status == 409
        assert 'conflict with "one": .spec.colour' in conflict["message"]

        status, forced = await call(
            http, "PATCH", path, gadget(name, colour="red"), APPLY, fieldManager="two", force="true"
        )
        assert (status, forced["spec"]["colour"]) == (200, "red")

    async def test_a_patch_that_changes_nothing_is_no_new_version(
        self, http: aiohttp.ClientSession, gadgets: str, name: str
    ) -> None:
        _, created = await call(http, "POST", gadgets, gadget(name, colour="green"))
        _, patched = await call(http, "PATCH", f"{gadgets}/{name}", {"spec": {"colour": "green"}}, MERGE)
        assert patched["metadata"]["resourceVersion"] == created["metadata"]["resourceVersion"]

    async def test_of_two_who_take_a_lease_one_loses(self, http: aiohttp.ClientSession, namespace: str) -> None:
        leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "lead"}, "spec": {}}
        _, read = await call(http, "POST", leases, lease)
        mine, theirs = ({**read, "spec": {"holderIdentity": who}} for who in ("mine", "theirs"))
        assert (await call(http, "PUT", f"{leases}/lead", mine))[0] == 200
        status, refused = await call(http, "PUT", f"{leases}/lead", theirs)
        assert (status, refused["reason"]) == (409, "Conflict")

    async def test_a_node_keeps_the_status_that_it_registers_with_and_conditions_merge_by_type(
        self, http: aiohttp.ClientSession
    ) -> None:
        node = f"node-{uuid.uuid4().hex[:8]}"
        ready = {"type": "Ready", "status": "True"}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "status": {"conditions": [ready]}}
        await call(http, "POST", "/api/v1/nodes", body)
        pressure = {"status": {"conditions": [{"type": "DiskPressure", "status": "False"}]}}
        _, patched = await call(http, "PATCH", f"/api/v1/nodes/{node}/status", pressure, STRATEGIC)
        assert {condition["type"] for condition in patched["status"]["conditions"]} == {"Ready", "DiskPressure"}
        await call(http, "DELETE", f"/api/v1/nodes/{node}")

    async def test_a_service_has_the_defaults_of_a_cluster(self, http: aiohttp.ClientSession, namespace: str) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"clusterIP": "10.96.0.77", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]},
        }
        _, created = await call(http, "POST", f"/api/v1/namespaces/{namespace}/services", body)
        assert created["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
        assert created["spec"]["internalTrafficPolicy"] == "Cluster"
        assert created["spec"]["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}

    async def test_an_object_in_a_namespace_that_is_not_there_is_refused(self, http: aiohttp.ClientSession) -> None:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "lost"}}
        status, refused = await call(http, "POST", "/api/v1/namespaces/nowhere/configmaps", body)
        assert status == 404
        assert 'namespaces "nowhere" not found' in refused["message"]


class TestEvents:
    async def test_an_event_is_the_same_object_in_both_api_groups(
        self, http: aiohttp.ClientSession, namespace: str
    ) -> None:
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": "seen"},
            "eventTime": "2026-01-02T03:04:05.000000Z",
            "reportingController": "proxymode.io/agent",
            "reportingInstance": "node-1",
            "action": "ProxyModeCheck",
            "reason": "IPVSDeprecation",
            "regarding": {"kind": "Service", "namespace": namespace, "name": "web"},
            "note": "ipvs is deprecated",
            "type": "Warning",
        }
        new = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        old = f"/api/v1/namespaces/{namespace}/events"
        status, created = await call(http, "POST", new, event)
        assert (status, created["note"]) == (201, "ipvs is deprecated")

        _, listed = await call(http, "GET", old, fieldSelector="involvedObject.name=web,reason=IPVSDeprecation")
        (seen,) = listed["items"]
        assert (seen["message"], seen["reportingComponent"]) == ("ipvs is deprecated", "proxymode.io/agent")

        seen["metadata"]["name"] = "again"
        seen["metadata"].pop("resourceVersion")
        seen["metadata"].pop("uid")
        await call(http, "POST", old, {**seen, "apiVersion": "v1", "kind": "Event"})
        _, both = await call(http, "GET", new, fieldSelector="regarding.name=web")
        assert {item["metadata"]["name"] for item in both["items"]} == {"seen", "again"}
        assert {item["note"] for item in both["items"]} == {"ipvs is deprecated"}


class TestWatches:
    async def test_from_a_list_only_what_came_after_it(
        self, http: aiohttp.ClientSession, gadgets: str, name: str
    ) -> None:
        _, listed = await call(http, "GET", gadgets)
        await call(http, "POST", gadgets, gadget(name))
        await call(http, "PATCH", f"{gadgets}/{name}", {"spec": {"colour": "green"}}, MERGE)
        events = await watched(http, gadgets, 2, resourceVersion=listed["metadata"]["resourceVersion"])
        assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [
            ("ADDED", name),
            ("MODIFIED", name),
        ]

    async def test_leaving_a_selector_looks_like_a_deletion(
        self, http: aiohttp.ClientSession, gadgets: str, name: str
    ) -> None:
        labelled = gadget(name)
        labelled["metadata"]["labels"] = {"watched": name}
        _, created = await call(http, "POST", gadgets, labelled)
        await call(http, "PATCH", f"{gadgets}/{name}", {"metadata": {"labels": {"watched": None}}}, MERGE)
        version = created["metadata"]["resourceVersion"]
        (event,) = await watched(http, gadgets, 1, labelSelector=f"watched={name}", resourceVersion=version)
        assert event["type"] == "DELETED"

    async def test_initial_events_end_with_a_bookmark(
        self, http: aiohttp.ClientSession, gadgets: str, name: str
    ) -> None:
        labelled = gadget(name)
        labelled["metadata"]["labels"] = {"watched": name}
        await call(http, "POST", gadgets, labelled)
        added, bookmark = await watched(
            *(http, gadgets, 2),
            labelSelector=f"watched={name}",
            sendInitialEvents="true",
            resourceVersionMatch="NotOlderThan",
            allowWatchBookmarks="true",
        )
        assert (added["type"], bookmark["type"]) == ("ADDED", "BOOKMARK")
        assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}

    async def test_from_a_version_that_is_forgotten_is_410_gone(
        self, http: aiohttp.ClientSession, gadgets: str, name: str
    ) -> None:
        """The server's window on this resource begins when its CRD was made, long after version 1."""
        await call(http, "POST", gadgets, gadget(name))
        (event,) = await watched(http, gadgets, 1, resourceVersion="1")
        assert event["type"] == "ERROR"
        assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")

    async def test_a_timeout_ends_the_stream_quietly(self, http: aiohttp.ClientSession, gadgets: str) -> None:
        _, listed = await call(http, "GET", gadgets)
        version = listed["metadata"]["resourceVersion"]
        assert await watched(http, gadgets, 1, resourceVersion=version, timeoutSeconds="1") == []


class TestAdmissionPolicies:
    async def test_warn_lets_pass_and_says_why(self, api: ApiServer, gadgets: str, name: str) -> None:
        async with policy(api, {"expression": "object.spec.colour != 'red'", "message": "red is old"}, action="Warn"):
            body = json.dumps(gadget(name, colour="red"))

            async def warned() -> bool:
                return "red is old" in (await api.kubectl("create", "--dry-run=server", "-f", "-", stdin=body)).stderr

            await eventually(warned, "the policy warns")
            created = await api.kubectl("create", "--filename=-", stdin=body)
            assert "created" in created.stdout
            assert "Warning: " in created.stderr

    async def test_deny_by_what_the_token_is_bound_to(self, api: ApiServer, gadgets: str, name: str) -> None:
        key = "authentication.kubernetes.io/node-name"
        await api.kubectl("create", "clusterrole", name, "--verb=*", "--resource=gadgets.bed.example.org")
        for node in ("node-1", "node-2"):
            api.add_token(f"{name}-{node}", ["agents"], {key: [node]})
            await api.kubectl(
                "create", "clusterrolebinding", f"{name}-{node}", f"--clusterrole={name}", f"--user={name}-{node}"
            )
        rule = {
            "expression": f"!('agents' in request.userInfo.groups) || request.userInfo.extra['{key}'] == ['node-1']",
            "messageExpression": f"'not for ' + request.userInfo.extra['{key}'][0]",
        }
        async with policy(api, rule, action="Deny"):
            create = ["create", "--dry-run=server", "--filename=-"]
            body = json.dumps(gadget(name))

            async def in_force() -> bool:
                try:
                    await api.kubectl(*create, user=f"{name}-node-2", stdin=body)
                except KubectlError as error:
                    return "not for node-2" in str(error)
                return False

            await eventually(in_force, "the policy denies")
            assert "created" in (await api.kubectl(*create, user=f"{name}-node-1", stdin=body)).stdout
            assert "created" in (await api.kubectl(*create, stdin=body)).stdout

    async def test_a_policy_with_a_broken_expression_is_refused(self, api: ApiServer) -> None:
        with pytest.raises(KubectlError, match=r"spec\.validations\[0\]\.expression.*undeclared reference to 'nobody'"):
            async with policy(api, {"expression": "nobody.home"}, action="Warn"):
                pass


@contextlib.asynccontextmanager
async def policy(api: ApiServer, validation: dict[str, str], *, action: str) -> AsyncIterator[None]:
    """A policy on gadgets; stored, but not yet in force, when the block begins."""
    name = f"policy-{uuid.uuid4().hex[:8]}"
    rules = {
        "apiGroups": ["bed.example.org"],
        "apiVersions": ["*"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["gadgets"],
    }
    kind = "ValidatingAdmissionPolicy"
    admission = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    spec = {"matchConstraints": {"resourceRules": [rules]}, "validations": [validation]}
    objects = [
        {**admission, "kind": kind, "spec": spec},
        {**admission, "kind": f"{kind}Binding", "spec": {"policyName": name, "validationActions": [action]}},
    ]
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    await api.kubectl("create", "--filename=-", stdin=json.dumps(listed))
    try:
        yield
    finally:
        await api.kubectl("delete", "--filename=-", stdin=json.dumps(listed))
