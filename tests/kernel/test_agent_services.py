"""The agent as users run it: what it does beside programming packets, and what of Services follows the node itself."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from proxymode_testbeds.agentbed import (
    WEB,
    agent,
    api,
    apply,
    eventually,
    kubeconfig,
    node,
    node_object,
    relay,
    ruleset,
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

HEALTH_PORT = 32100


def asked(node: Topology, host: str, port: int) -> tuple[int, str]:
    """Status and body that a load balancer outside gets; 0: nobody answers."""

    def fetch() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/healthz", timeout=60) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    return node.call("client1", fetch)


def placed(node: Topology, pods: dict[str, str], **hints: str) -> list[dict[str, Any]]:
    """Slices whose pods run on these nodes; hints: zone by pod, written with underscores."""
    found = slices(node, *pods)
    for one in found:
        for (pod, where), endpoint in zip(pods.items(), one["endpoints"], strict=True):
            endpoint["nodeName"] = where
            if zone := hints.get(pod.replace("-", "_")):
                endpoint["hints"] = {"forZones": [{"name": zone}]}
    return found


def local_load_balancer() -> dict[str, Any]:
    return service(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=HEALTH_PORT)


async def events(api: ApiServer) -> list[dict[str, Any]]:
    listed = await api.kubectl("get", "events.v1.events.k8s.io", "--namespace=default", "--output=json")
    return [event for event in listed.json()["items"] if event["reportingController"] == "proxymode.io/agent"]


async def test_a_load_balancer_hears_whether_this_node_has_endpoints(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    await set_up_cluster(api, node, traffic)
    await apply(api, local_load_balancer(), *placed(node, {"node1-pod1": "node1", "node1-pod2": "node2"}))
    agent.start()
    four, six = node.fleet.nodes[0].addresses
    expected = {
        "service": {"namespace": "default", "name": "web"},
        "localEndpoints": 1,
        "serviceProxyHealthy": True,
    }
    eventually(lambda: asked(node, str(four), HEALTH_PORT)[0] == 200, agent)
    assert json.loads(asked(node, str(four), HEALTH_PORT)[1]) == expected
    assert json.loads(asked(node, f"[{six}]", HEALTH_PORT)[1]) == expected
    taint = {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule", "value": "1"}
    await api.kubectl("patch", "node", "node1", "--patch", json.dumps({"spec": {"taints": [taint]}}))
    eventually(lambda: agent.get("/healthz")[0] == 503, agent)
    assert asked(node, str(four), HEALTH_PORT) == (200, asked(node, f"[{six}]", HEALTH_PORT)[1])
    assert json.loads(asked(node, str(four), HEALTH_PORT)[1]) == expected, "endpoints serve until the node is gone"
    await apply(api, *placed(node, {"node1-pod1": "node2", "node1-pod2": "node2"}))
    eventually(lambda: asked(node, str(four), HEALTH_PORT)[0] == 503, agent)
    await apply(api, service())
    eventually(lambda: asked(node, str(four), HEALTH_PORT)[0] == 0, agent)


async def test_a_health_check_port_that_is_taken_is_told_to_the_services_owner(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    await set_up_cluster(api, node, traffic)
    address = str(node.fleet.nodes[0].addresses[0])
    hold = (
        f"import socket, sys; s = socket.create_server(('{address}', {HEALTH_PORT}));"
        " print('ready', flush=True); sys.stdin.read()"
    )
    holder = node.popen("node1", [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    await apply(api, local_load_balancer(), *placed(node, {"node1-pod1": "node1"}))
    agent.start()
    eventually(lambda: agent.metric("object_events_total") > 0, agent)
    (event,) = await events(api)
    assert (event["type"], event["reason"]) == ("Warning", "FailedToStartServiceHealthcheck")
    described = await api.kubectl("describe", "service", "web")
    assert "FailedToStartServiceHealthcheck" in described.stdout
    holder.kill()
    eventually(lambda: asked(node, address, HEALTH_PORT)[0] == 200, agent)


async def test_what_cannot_be_used_is_told_to_the_objects_owner_and_the_rest_is_served(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    await set_up_cluster(api, node, traffic, "node1-pod1")
    one, _ = slices(node, "node1-pod1")
    one["endpoints"].append({"addresses": ["127.0.0.1"], "conditions": {"ready": True}})
    await apply(api, one)
    agent.start()
    assert traffic.ask(node, "node1-pod2", WEB, 80).server == "node1-pod1"
    eventually(lambda: agent.metric("object_events_total") > 0, agent)
    (event,) = await events(api)
    assert event["regarding"]["kind"] == "EndpointSlice"
    assert event["reason"] == "UnusableField"
    assert "127.0.0.1" in event["note"]


async def test_traffic_follows_the_zone_of_the_node(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    await set_up_cluster(api, node, traffic)
    both = placed(node, {"node1-pod1": "node1", "node1-pod2": "node1"}, node1_pod1="a", node1_pod2="b")
    zoned = node_object()
    zoned["metadata"]["labels"] = {"topology.kubernetes.io/zone": "a"}
    await apply(api, zoned, *both)
    agent.start()
    assert {traffic.ask(node, "client1", WEB, 80).server for _ in range(8)} == {"node1-pod1"}
    await api.kubectl("label", "--overwrite", "node", "node1", "topology.kubernetes.io/zone=b")
    eventually(lambda: traffic.ask(node, "client1", WEB, 80).server == "node1-pod2", agent)
    assert {traffic.ask(node, "client1", WEB, 80).server for _ in range(8)} == {"node1-pod2"}


async def test_networks_of_services_are_known_from_service_cidrs(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    await apply(api, service_cidr("kubernetes", "10.96.0.0/16", "fd96::/112"))
    await set_up_cluster(api, node, traffic, "node1-pod1")
    agent.start()
    eventually(lambda: "10.96.0.0/16" in ruleset(node) and "fd96::/112" in ruleset(node), agent)
    assert traffic.ask(node, "client1", WEB, 80).server == "node1-pod1"
    await apply(api, service_cidr("more", "10.112.0.0/16"))
    eventually(lambda: "10.112.0.0/16" in ruleset(node), agent)
    assert "10.96.0.0/16" in ruleset(node)


def service_cidr(name: str, *cidrs: str) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": list(cidrs)},
    }
