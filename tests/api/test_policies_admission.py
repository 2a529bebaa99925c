"""The admission policies: a warning when a mode on its way out is applied, and agents bound to their own node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from proxymode_api.deprecation import deprecation
from proxymode_api.modes import Mode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from proxymode_testbeds.apiserver import ApiServer

pytestmark = pytest.mark.api

AGENT = "system:serviceaccount:proxymode-system:proxymode-agent"
OPERATOR = "system:serviceaccount:proxymode-system:proxymode-operator"
NODE_NAME = "authentication.kubernetes.io/node-name"


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
    taken = await manifests.kubectl("create", "--dry-run=server", "--filename=-", input=proxy_mode("ipvs"))
    assert "proxymode.proxymode.io/policies created" in taken.stdout
    (warning,) = taken.stderr.splitlines()
    fact = deprecation(Mode.IPVS, None)
    assert fact is not None
    assert f"': spec.mode: {fact.message}" in warning


async def test_nftables_is_taken_without_a_word(manifests: ApiServer) -> None:
    taken = await manifests.kubectl("create", "--dry-run=server", "--filename=-", input=proxy_mode("nftables"))
    assert taken.stderr == ""


async def test_going_back_to_ipvs_warns_too(manifests: ApiServer) -> None:
    await manifests.kubectl("create", "--filename=-", input=proxy_mode("nftables"))
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


@pytest.fixture
async def nodes(manifests: ApiServer) -> AsyncIterator[tuple[str, str]]:
    """Two NodeProxyModes, as the operator makes them."""
    names = ("policies-1", "policies-2")
    for name in names:
        body = {"apiVersion": "proxymode.io/v1alpha1", "kind": "NodeProxyMode", "metadata": {"name": name}}
        await manifests.kubectl("create", "--filename=-", input=json.dumps(body))
    yield names
    await manifests.kubectl("delete", "nodeproxymode", *names)


STATUS = '{"status":{"phase":"Active"}}'
SPEC = '{"spec":{"mode":"nftables"}}'


async def attempt(api: ApiServer, kubeconfig: Path, name: str, patch: str, *more: str) -> tuple[bool, str]:
    done = await api.kubectl(
        *(f"--kubeconfig={kubeconfig}", "patch", "nodeproxymode", name, "--type=merge", f"--patch={patch}", *more),
        check=False,
    )
    return done.returncode == 0, done.stderr


async def test_an_agent_writes_the_status_of_its_own_node(manifests: ApiServer, nodes: tuple[str, str]) -> None:
    agent = manifests.kubeconfig(user=AGENT, extra={NODE_NAME: [nodes[0]]})
    assert await attempt(manifests, agent, nodes[0], STATUS, "--subresource=status") == (True, "")
    body: dict[str, Any] = {
        "apiVersion": "proxymode.io/v1alpha1",
        "kind": "NodeProxyMode",
        "metadata": {"name": nodes[0]},
        "status": {"phase": "Switching"},
    }
    applied = await manifests.kubectl(
        *(f"--kubeconfig={agent}", "apply", "--server-side", "--subresource=status"),
        *("--field-manager=proxymode-agent", "--force-conflicts", "--filename=-"),
        input=json.dumps(body),
    )
    assert "serverside-applied" in applied.stdout


async def test_an_agent_does_not_write_about_another_node(manifests: ApiServer, nodes: tuple[str, str]) -> None:
    agent = manifests.kubeconfig(user=AGENT, extra={NODE_NAME: [nodes[0]]})
    done, words = await attempt(manifests, agent, nodes[1], STATUS, "--subresource=status")
    assert not done
    assert f"this agent runs on node {nodes[0]} and must not write the status of NodeProxyMode {nodes[1]}" in words


async def test_an_agent_does_not_write_intent_not_even_its_own(manifests: ApiServer, nodes: tuple[str, str]) -> None:
    agent = manifests.kubeconfig(user=AGENT, extra={NODE_NAME: [nodes[0]]})
    done, words = await attempt(manifests, agent, nodes[0], SPEC)
    assert not done
    assert f"an agent writes the status of a NodeProxyMode and nothing else: not UPDATE of {nodes[0]}" in words


async def test_an_agent_neither_makes_nor_deletes(manifests: ApiServer, nodes: tuple[str, str]) -> None:
    agent = manifests.kubeconfig(user=AGENT, extra={NODE_NAME: ["policies-3"]})
    body = {"apiVersion": "proxymode.io/v1alpha1", "kind": "NodeProxyMode", "metadata": {"name": "policies-3"}}
    made = await manifests.kubectl(
        f"--kubeconfig={agent}", "create", "--filename=-", input=json.dumps(body), check=False
    )
    assert "nothing else: not CREATE of policies-3" in made.stderr
    deleted = await manifests.kubectl(f"--kubeconfig={agent}", "delete", "nodeproxymode", nodes[0], check=False)
    assert f"nothing else: not DELETE of {nodes[0]}" in deleted.stderr
    assert nodes[0] in (await manifests.kubectl("get", "nodeproxymodes", "--output=name")).stdout


async def test_a_token_that_is_bound_to_no_node_writes_nothing(manifests: ApiServer, nodes: tuple[str, str]) -> None:
    for extra in ({}, {"authentication.kubernetes.io/pod-name": [nodes[0]]}, {NODE_NAME: list(nodes)}):
        agent = manifests.kubeconfig(user=AGENT, extra=extra)
        done, words = await attempt(manifests, agent, nodes[0], STATUS, "--subresource=status")
        assert not done
        assert "the agent's token must be bound to a node" in words


async def test_operator_and_people_are_not_hindered(manifests: ApiServer, nodes: tuple[str, str]) -> None:
    operator = manifests.kubeconfig(user=OPERATOR, extra={NODE_NAME: ["some-other-node"]})
    assert await attempt(manifests, operator, nodes[0], SPEC) == (True, "")
    assert await attempt(manifests, manifests.kubeconfig(), nodes[1], STATUS, "--subresource=status") == (True, "")
