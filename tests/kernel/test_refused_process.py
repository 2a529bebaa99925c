"""A Service that cannot be programmed is told to its owner, and holds up no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_testbeds.agentbed import (
    WEB,
    agent,
    api,
    apply,
    eventually,
    kubeconfig,
    node,
    relay,
    service,
    set_up_cluster,
    slices,
)

if TYPE_CHECKING:
    from proxymode_testbeds.agentbed import Agent
    from proxymode_testbeds.apiserver import ApiServer
    from proxymode_testbeds.fixtures import Traffic
    from proxymode_testbeds.topology import Topology

__all__ = ["agent", "api", "kubeconfig", "node", "relay"]


async def test_a_service_that_cannot_be_programmed_is_told_to_its_owner_and_holds_up_nobody(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    await set_up_cluster(api, node, traffic, "node1-pod1")
    agent.start()
    thief = service(
        type="ClusterIP",
        clusterIPs=[WEB],
        ipFamilies=["IPv4"],
        ipFamilyPolicy="SingleStack",
        ports=[{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
    )
    thief["metadata"]["name"] = "zz-thief"
    await apply(api, thief)
    eventually(lambda: agent.metric("refused_services") == 1, agent)
    eventually(lambda: agent.metric("object_events_total") > 0, agent)
    listed = await api.kubectl("get", "events.events.k8s.io", "--output=json")
    (event,) = listed.json()["items"]
    assert (event["type"], event["reason"]) == ("Warning", "RefusedByKernel")
    assert (event["regarding"]["kind"], event["regarding"]["name"]) == ("Service", "zz-thief")
    assert "belongs to default/web" in event["note"]

    await apply(api, *slices(node, "node1-pod2"))
    eventually(lambda: traffic.ask(node, "client1", WEB, 80).server == "node1-pod2", agent)
    assert agent.get("/readyz")[0] == 200
    await api.kubectl("delete", "service", "zz-thief")
    eventually(lambda: agent.metric("refused_services") == 0, agent)
    assert traffic.ask(node, "client1", WEB, 80).server == "node1-pod2"
