"""RBAC of the API server bed: what Roles and bindings allow, and that nothing else is; a real one says the same."""

from __future__ import annotations

import json
import uuid
from functools import partial
from typing import Any

import pytest

from proxymode_testbeds.apiserver import ApiServer, KubectlError
from proxymode_testbeds.polling import eventually

GROUP = "rbac.authorization.k8s.io"


async def bind(api: ApiServer, subject: dict[str, str], *rules: dict[str, Any], namespace: str | None = None) -> None:
    """Bind rules to a subject, in a namespace or everywhere."""
    name, cluster = f"rbac-{uuid.uuid4().hex[:10]}", "" if namespace else "Cluster"
    meta: dict[str, str] = {"name": name} | ({"namespace": namespace} if namespace else {})
    role: dict[str, Any] = {"apiVersion": f"{GROUP}/v1", "kind": f"{cluster}Role", "metadata": meta, "rules": rules}
    reference = {"apiGroup": GROUP, "kind": f"{cluster}Role", "name": name}
    binding: dict[str, Any] = {"apiVersion": f"{GROUP}/v1", "kind": f"{cluster}RoleBinding", "metadata": meta}
    binding |= {"roleRef": reference, "subjects": [subject]}
    for body in (role, binding):
        await api.kubectl("create", "--filename=-", stdin=json.dumps(body))


def user(name: str) -> dict[str, str]:
    return {"kind": "User", "name": name, "apiGroup": GROUP}


@pytest.fixture
def person(api: ApiServer) -> str:
    name = f"person-{uuid.uuid4().hex[:10]}"
    api.add_token(name)
    return name


async def allowed(api: ApiServer, who: str, *arguments: str) -> bool:
    """Whether a kubectl command is; anything but 403 is an error."""
    try:
        await api.kubectl(*arguments, user=who)
    except KubectlError as error:
        if "forbidden" not in str(error).lower():
            raise
        return False
    return True


async def until_allowed(api: ApiServer, who: str, *arguments: str) -> None:
    """Roles take effect a moment after they are stored."""
    await eventually(partial(allowed, api, who, *arguments), f"{who} may {' '.join(arguments)}")


async def test_who_has_no_role_may_only_find_out_what_is_served(api: ApiServer, person: str) -> None:
    with pytest.raises(KubectlError, match=r'nodes is forbidden: User "person-\w+" cannot list resource "nodes"'):
        await api.kubectl("get", "nodes", user=person)
    assert await allowed(api, person, "get", "--raw=/apis")
    assert await allowed(api, person, "get", "--raw=/version")
    assert not await allowed(api, person, "get", "--raw=/metrics")


async def test_a_rule_allows_its_verbs_on_its_resources_and_not_their_subresources(api: ApiServer, person: str) -> None:
    name = f"rbac-{person}"
    await api.kubectl(
        "create", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    )
    await bind(api, user(person), {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"]})
    patch = ("patch", "node", name, "--patch")
    await until_allowed(api, person, "get", "node", name)
    assert await allowed(api, person, *patch, '{"metadata":{"labels":{"a":"b"}}}')
    assert not await allowed(api, person, *patch, '{"status":{}}', "--subresource=status")
    assert not await allowed(api, person, "get", "nodes")
    assert not await allowed(api, person, "delete", "node", name)
    assert not await allowed(api, person, "get", "configmaps", "--namespace=default")
    await bind(api, user(person), {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["get", "patch"]})
    await until_allowed(api, person, *patch, '{"status":{}}', "--subresource=status")


async def test_a_role_ends_at_its_namespace(api: ApiServer, namespace: str, person: str) -> None:
    rule = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["list"]}
    await bind(api, user(person), rule, namespace=namespace)
    await until_allowed(api, person, "get", "leases", f"--namespace={namespace}")
    assert not await allowed(api, person, "get", "leases", "--namespace=default")
    assert not await allowed(api, person, "get", "leases", "--all-namespaces")


async def test_a_rule_with_names_allows_no_other_object(api: ApiServer, namespace: str, person: str) -> None:
    for name in ("mine", "theirs"):
        await api.kubectl("create", "configmap", name, f"--namespace={namespace}")
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"], "verbs": ["get", "create"]}
    await bind(api, user(person), rule, namespace=namespace)
    await until_allowed(api, person, "get", "configmap", "mine", f"--namespace={namespace}")
    assert not await allowed(api, person, "get", "configmap", "theirs", f"--namespace={namespace}")
    assert not await allowed(api, person, "create", "configmap", "mine", f"--namespace={namespace}"), "no name yet"


async def test_groups_and_service_accounts_are_subjects_too(api: ApiServer, namespace: str) -> None:
    rule = {"apiGroups": [""], "resources": ["services"], "verbs": ["list"]}
    await bind(api, {"kind": "ServiceAccount", "name": "worker", "namespace": namespace}, rule)
    worker, idler = (api.add_service_account(namespace, name) for name in ("worker", "idler"))
    await until_allowed(api, worker, "get", "services", "--all-namespaces")
    assert not await allowed(api, idler, "get", "services", "--all-namespaces")
    group = {"kind": "Group", "name": f"system:serviceaccounts:{namespace}", "apiGroup": GROUP}
    await bind(api, group, rule)
    await until_allowed(api, idler, "get", "services", "--all-namespaces")


async def test_what_service_accounts_ask_for_is_on_record(api: ApiServer, namespace: str) -> None:
    holder = api.add_service_account(namespace, "asker")
    assert not await allowed(api, holder, "get", "services", f"--namespace={namespace}")
    name = f"system:serviceaccount:{namespace}:asker"
    (request,) = [found for found in api.requests() if found.user == name]
    assert request.right == ("list", "", "services", namespace)
    assert not request.allowed
