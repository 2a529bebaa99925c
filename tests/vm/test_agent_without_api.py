"""The agent as a process switches while its API server is away: the node ends where it was asked to be, and says so
as soon as somebody listens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from proxymode_api.modes import ObservedMode
from proxymode_api.nodeproxymode import NodeProxyMode, Phase, SwitchOutcome
from proxymode_testbeds import polling
from proxymode_testbeds.agentbed import (
    DEADLINE_SECONDS,
    WEB,
    agent,
    api,
    apply,
    eventually,
    kubeconfig,
    node,
    relay,
    set_up_cluster,
    slices,
)

if TYPE_CHECKING:
    from proxymode_testbeds.agentbed import Agent
    from proxymode_testbeds.apiserver import ApiServer
    from proxymode_testbeds.fixtures import Traffic
    from proxymode_testbeds.relay import Relay
    from proxymode_testbeds.topology import Topology

__all__ = ["agent", "api", "kubeconfig", "node", "relay"]

CRDS = Path(__file__).parents[2] / "crds"
OPTIONS = {"detectLocal": {"clusterCIDRs": ["10.244.0.0/16", "fd44::/48"]}}


async def read(api: ApiServer) -> NodeProxyMode:
    return NodeProxyMode.model_validate((await api.kubectl("get", "nodeproxymode", "node1", "--output=json")).json())


async def test_the_switch_goes_on_and_is_told_afterwards(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic, relay: Relay
) -> None:
    await api.kubectl("apply", f"--filename={CRDS}")
    await api.served("nodeproxymodes.proxymode.io")
    await set_up_cluster(api, node, traffic, "node1-pod1", "node1-pod2")
    spec = {"mode": "ipvs", **OPTIONS}
    meta = {"apiVersion": "proxymode.io/v1alpha1", "kind": "NodeProxyMode", "metadata": {"name": "node1"}}
    await apply(api, {**meta, "spec": spec})
    agent.start(mode=None)
    eventually(lambda: agent.mode() == "ipvs", agent)
    load = traffic.talk(node, "client1", WEB, tcp=80, established=5, new_rate=5)

    await api.kubectl("patch", "nodeproxymode", "node1", "--type=merge", '--patch={"spec":{"mode":"nftables"}}')
    eventually(lambda: re.search(r"switch begins.*to_mode=nftables", agent.log()), agent)
    relay.cut()
    eventually(lambda: agent.mode() == "nftables", agent)
    eventually(lambda: re.search(r"switch ended.*to_mode=nftables", agent.log()), agent)
    untold = (await read(api)).status
    assert (untold.phase, untold.mode) != (Phase.ACTIVE, ObservedMode.NFTABLES)
    assert agent.get("/livez")[0] == 200
    await apply(api, *slices(node, "node1-pod3"))  # unseen for now

    relay.join()
    eventually(lambda: traffic.ask(node, "client1", WEB, 80).server == "node1-pod3", agent)

    async def told() -> bool:
        status = (await read(api)).status
        return (status.phase, status.mode) == (Phase.ACTIVE, ObservedMode.NFTABLES)

    await polling.eventually(told, "the status says so", DEADLINE_SECONDS)
    last = (await read(api)).status.last_switch
    assert last is not None
    assert (last.outcome, last.connections_lost) == (SwitchOutcome.SUCCEEDED, 0)
    result = load.stop()
    assert (result["established"], result["lost"], result["failed"]) == (5, 0, 0), json.dumps(result)
