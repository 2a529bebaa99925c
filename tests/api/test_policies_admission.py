"""The admission policies: a warning when a mode on its way out is applied, and agents bound to their own node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from proxymode_api.deprecation import deprecation
from proxymode_api.modes import Mode
from proxymode_testbeds.apiserver import KubectlError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxymode_testbeds.apiserver import ApiServer

pytestmark = pytest.mark.api

AGENT = "system:serviceaccount:proxymode-system:proxymode-agent"
OPERATOR = "system:serviceaccount:proxymode-system:proxymode-operator"
NODE_NAME = "authentication.kubernetes.io/node-name"
NAMES = "--output=custom-columns=NAME:.metadata.name"


def proxy_mode(mode: str) -> str:
    return json.dumps(
        {
            "apiVersion": "proxymode.io/v1alpha1",
            "kind": "ProxyMode",
            "metadata": {"name": "policies"},
            "spec": {"mode": mode},
        }
    )


async def test_ipvs_is_taken_with_a_warning_that_begins_with_what_matters(manifests: ApiServer) -> None:
    taken = await manifests.kubectl("create", "--dry-run=server", "--filename=-", stdin=proxy_mode("ipvs"))
    assert "proxymode.proxymode.io/policies created" in taken.stdout
    (warning,) = taken.stderr.splitlines()
    fact = deprecation(Mode.IPVS, None)
    assert fact is not None
    assert f"': spec.mode: {fact.message}" in warning


async def test_nftables_is_taken_without_a_word(manifests: ApiServer) -> None:
    taken = await manifests.kubectl("create", "--dry-run=server", "--filename=-", stdin=proxy_mode("nftables"))
    assert taken.stderr == ""


async def test_going_back_to_ipvs_warns_too(manifests: ApiServer) -> None:
    await manifests.kubectl("create", "--filename=-", stdin=proxy_mode("nftables"))
    try:
        back = await manifests.kubectl(
            "patch", "proxymode", "policies", "--type=merge", '--patch={"spec":{"mode":"ipvs"}}'
        )
        assert "deprecated since 1.35" in back.stderr
        status = await manifests.kubectl(
            *("patch", "proxymode", "policies", "--subresource=status", "--type=merge"),
            '--patch={"status":{"status":"Progressing"}}',
        )
        assert status.stderr == "", "the operator's own writes are not the user's mistake"
    finally:
        await manifests.kubectl("delete", "proxymode", "policies")


def node_proxy_mode(name: str) -> dict[str, Any]:
    return {"apiVersion": "proxymode.io/v1alpha1", "kind": "NodeProxyMode", "metadata": {"name": name}}


@pytest.fixture
async def nodes(manifests: ApiServer) -> AsyncIterator[tuple[str, str]]:
    """Two NodeProxyModes, as the operator makes them."""
    names = ("policies-1", "policies-2")
    for name in names:
        await manifests.kubectl("create", "--filename=-", stdin=json.dumps(node_proxy_mode(name)))
    yield names
    await manifests.kubectl("delete", "nodeproxymode", *names)


STATUS = '{"status":{"phase":"Active"}}'
SPEC = '{"spec":{"mode":"nftables"}}'


def agent_of(api: ApiServer, extra: dict[str, list[str]]) -> str:
    """An agent's user; in a group that no authorizer stops, so that what refuses is the policy."""
    api.add_token(AGENT, ["system:masters"], extra)
    return AGENT


async def patched(api: ApiServer, user: str, name: str, patch: str, *more: str) -> None:
    await api.kubectl("patch", "nodeproxymode", name, "--type=merge", f"--patch={patch}", *more, user=user)


async def test_an_agent_writes_the_status_of_its_own_node(manifests: ApiServer, nodes: tuple[str, str]) -> None:
    agent = agent_of(manifests, {NODE_NAME: [nodes[0]]})
    await patched(manifests, agent, nodes[0], STATUS, "--subresource=status")
    body: dict[str, Any] = node_proxy_mode(nodes[0]) | {"status": {"phase": "Switching"}}
    applied = await manifests.kubectl(
        *("apply", "--server-side", "--subresource=status", "--field-manager=proxymode-agent", "--force-conflicts"),
        "--filename=-",
        stdin=json.dumps(body),
        user=agent,
    )
    assert "serverside-applied" in applied.stdout


async def test_an_agent_does_not_write_about_another_node(manifests: ApiServer, nodes: tuple[str, str]) -> None:
    agent = agent_of(manifests, {NODE_NAME: [nodes[0]]})
    words = f"this agent runs on node {nodes[0]} and must not write the status of NodeProxyMode {nodes[1]}"
    with pytest.raises(KubectlError, match=words):
        await patched(manifests, agent, nodes[1], STATUS, "--subresource=status")


async def test_an_agent_does_not_write_intent_not_even_its_own(manifests: ApiServer, nodes: tuple[str, str]) -> None:
    agent = agent_of(manifests, {NODE_NAME: [nodes[0]]})
    words = f"an agent writes the status of a NodeProxyMode and nothing else: not UPDATE of {nodes[0]}"
    with pytest.raises(KubectlError, match=words):
        await patched(manifests, agent, nodes[0], SPEC)


async def test_an_agent_neither_makes_nor_deletes(manifests: ApiServer, nodes: tuple[str, str]) -> None:
    agent = agent_of(manifests, {NODE_NAME: ["policies-3"]})
    with pytest.raises(KubectlError, match=r"nothing else: not CREATE of policies-3"):
        await manifests.kubectl("create", "--filename=-", stdin=json.dumps(node_proxy_mode("policies-3")), user=agent)
    with pytest.raises(KubectlError, match=f"nothing else: not DELETE of {nodes[0]}"):
        await manifests.kubectl("delete", "nodeproxymode", nodes[0], user=agent)
    with pytest.raises(KubectlError, match="nothing else: not DELETE of"):
        await manifests.kubectl("delete", "nodeproxymode", "--all", user=agent)
    assert set(nodes) <= set((await manifests.kubectl("get", "nodeproxymodes", NAMES)).stdout.split())


@pytest.mark.parametrize(
    "extra",
    [{}, {"authentication.kubernetes.io/pod-name": ["policies-1"]}, {NODE_NAME: ["policies-1", "policies-2"]}],
    ids=["nothing", "a pod only", "two nodes"],
)
async def test_a_token_that_is_bound_to_no_one_node_writes_nothing(
    manifests: ApiServer, nodes: tuple[str, str], extra: dict[str, list[str]]
) -> None:
    agent = agent_of(manifests, extra)
    with pytest.raises(KubectlError, match="the agent's token must be bound to a node: use the token of its Pod"):
        await patched(manifests, agent, nodes[0], STATUS, "--subresource=status")


async def test_operator_and_people_are_not_hindered(manifests: ApiServer, nodes: tuple[str, str]) -> None:
    manifests.add_token(OPERATOR, ["system:masters"], {NODE_NAME: ["some-other-node"]})
    await patched(manifests, OPERATOR, nodes[0], SPEC)
    manifests.add_token("somebody", ["system:masters"])
    await patched(manifests, "somebody", nodes[1], STATUS, "--subresource=status")


async def test_the_operator_takes_an_annotation_away_and_leaves_the_spec(manifests: ApiServer) -> None:
    manifests.add_token(OPERATOR, ["system:masters"])

    async def patch(text: str, *more: str) -> None:
        await manifests.kubectl(
            *("patch", "proxymode", "policies", "--type=merge", f"--patch={text}", *more), user=OPERATOR
        )

    promoted = json.loads(proxy_mode("nftables"))
    promoted["metadata"]["annotations"] = {"proxymode.io/promote": "all"}
    await manifests.kubectl("create", "--filename=-", stdin=json.dumps(promoted))
    try:
        await patch('{"metadata":{"annotations":{"proxymode.io/promote":null}}}')
        with pytest.raises(
            KubectlError, match="the operator carries ProxyMode policies out and must not change its spec"
        ):
            await patch('{"spec":{"rollout":{"paused":true}}}')
        await patch('{"status":{"status":"Progressing"}}', "--subresource=status")
        stored = (await manifests.kubectl("get", "proxymode", "policies", "--output=json")).json()
        assert "proxymode.io/promote" not in stored["metadata"].get("annotations", {})
        assert stored["spec"]["rollout"]["paused"] is False
    finally:
        await manifests.kubectl("delete", "proxymode", "policies")
