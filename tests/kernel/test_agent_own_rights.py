"""The agent as a process with no more rights than its ServiceAccount has. That it needs them all: tests/api."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxymode_testbeds.agentbed import agent, api, apply, node, relay, set_up_cluster
from proxymode_testbeds.apiserver.rights import NAMESPACE, granted, used
from proxymode_testbeds.polling import eventually

if TYPE_CHECKING:
    from proxymode_testbeds.agentbed import Agent
    from proxymode_testbeds.apiserver import ApiServer
    from proxymode_testbeds.fixtures import Traffic
    from proxymode_testbeds.relay import Relay
    from proxymode_testbeds.topology import Topology

__all__ = ["agent", "api", "node", "relay"]

MANIFESTS = Path(__file__).parents[2] / "manifests"


@pytest.fixture
async def kubeconfig(api: ApiServer, relay: Relay) -> Path:
    """The agent's own, on a cluster where proxymode is installed."""
    await api.kubectl("apply", f"--kustomize={MANIFESTS}")
    await api.served("proxymodes.proxymode.io", "nodeproxymodes.proxymode.io")
    holder = api.add_service_account(NAMESPACE, "proxymode-agent", node="node1")
    return api.kubeconfig(holder, server=f"https://127.0.0.1:{relay.port}")


async def test_nothing_is_refused_to_the_agent(api: ApiServer, node: Topology, agent: Agent, traffic: Traffic) -> None:
    """Asked for ipvs first, which is worth an Event: that it is deprecated, or that this kernel has none."""
    await set_up_cluster(api, node, traffic, "node1-pod1", "node1-pod2")
    await ask(api, "ipvs")
    agent.launch(mode=None)
    await eventually(partial(_has_event, api), "an Event")
    await ask(api, "nftables")
    await eventually(partial(_is_active, api), "the node Active in nftables")
    assert used("agent", api.requests()) <= granted("agent")


async def ask(api: ApiServer, mode: str) -> None:
    """What the operator writes."""
    body = {
        "apiVersion": "proxymode.io/v1alpha1",
        "kind": "NodeProxyMode",
        "metadata": {"name": "node1"},
        "spec": {"mode": mode, "proxyMode": "fleet", "revision": 1},
    }
    await apply(api, body)


async def _has_event(api: ApiServer) -> bool:
    events = (await api.kubectl("get", "events", "--namespace=default", "--output=json")).json()
    return any(event["involvedObject"]["name"] == "node1" for event in events["items"])


async def _is_active(api: ApiServer) -> bool:
    status = (await api.kubectl("get", "nodeproxymode", "node1", "--output=json")).json().get("status", {})
    return (status.get("phase"), status.get("mode")) == ("Active", "nftables")
