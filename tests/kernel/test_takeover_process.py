"""The whole agent on a node of kube-proxy's: it waits, takes over, and hands back, as its NodeProxyMode says."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from proxymode_api.labels import SERVICE_PROXY_LABEL
from proxymode_testbeds.agentbed import (
    NODE_PORT,
    WEB,
    WEB6,
    agent,
    api,
    apply,
    kubeconfig,
    node,
    relay,
    ruleset,
    set_up_cluster,
)
from proxymode_testbeds.kubeproxy import ProxyMode, Service
from proxymode_testbeds.kubeproxy.process import start
from proxymode_testbeds.netns import CommandError
from proxymode_testbeds.polling import eventually

if TYPE_CHECKING:
    from proxymode_testbeds.agentbed import Agent
    from proxymode_testbeds.apiserver import ApiServer
    from proxymode_testbeds.fixtures import Traffic
    from proxymode_testbeds.topology import Topology
    from proxymode_testbeds.traffic.processes import TrafficProcess

__all__ = ["agent", "api", "kubeconfig", "node", "relay"]

CRDS = Path(__file__).parents[2] / "crds"
PODS = ("node1-pod1", "node1-pod2")


def services(node: Topology) -> list[Service]:
    """What `set_up_cluster` makes, for kube-proxy."""
    specs = {pod.name: pod for pod in node.fleet.nodes[0].pods}
    found = []
    for index, address in enumerate((WEB, WEB6)):
        for name, port, target, protocol, node_port in (
            ("http", 80, 8080, "tcp", NODE_PORT),
            ("dns", 53, 5353, "udp", 30053),
        ):
            endpoints = tuple((str(specs[pod].addresses[index]), target) for pod in PODS)
            found.append(Service(f"default/web:{name}", address, port, endpoints, protocol, node_port))
    return found


async def status(api: ApiServer) -> dict[str, Any]:
    found = (await api.kubectl("get", "nodeproxymode", "node1", "--output=json")).json()
    return dict(found.get("status", {}))


async def until(api: ApiServer, kind: str, wanted: str) -> None:
    """A condition has this status and reason."""

    async def so() -> bool:
        conditions = (await status(api)).get("conditions", [])
        return any(c["type"] == kind and f"{c['status']} {c['reason']}" == wanted for c in conditions)

    await eventually(so, f"{kind} {wanted}")


async def ask(api: ApiServer, **spec: Any) -> None:
    await api.kubectl("patch", "nodeproxymode", "node1", "--type=merge", f"--patch={json.dumps({'spec': spec})}")


async def until_answered(agent: Agent, wanted: int) -> None:
    """Load balancers that ask on kube-proxy's port have this answer from the agent; 0: it does not listen there."""

    async def so() -> bool:
        return agent.get("/healthz", 10256)[0] == wanted

    await eventually(so, f"status {wanted} on port 10256")


def clients(node: Topology, traffic: Traffic) -> list[TrafficProcess]:
    """Outside, on the node, in a pod."""
    load = {"established": 5, "new_rate": 10.0}
    return [
        traffic.talk(node, "client1", WEB, tcp=80, udp=53, udp_rate=5.0, **load),
        traffic.talk(node, "node1", WEB, tcp=80, **load),
        traffic.talk(node, "node1-pod1", WEB6, tcp=80, **load),
    ]


async def taken_over_from(api: ApiServer, node: Topology, agent: Agent, kube_proxy: TrafficProcess) -> None:
    """The agent starts beside a kube-proxy and takes over; the rest is what operator and DaemonSet controller do."""
    agent.launch(
        "--metrics-bind-address=127.0.0.1:10349",
        "--healthz-bind-address=127.0.0.1:10356",
        "--node-healthz-bind-address=0.0.0.0:10256",
        mode=None,
    )
    await until(api, "KubeProxyPresent", "True ReadyToTakeOver")
    assert "proxymode" not in ruleset(node)
    assert agent.get("/healthz", 10256)[0] == 0, "kube-proxy answers load balancers, or nobody does"
    await api.kubectl("label", "node", "node1", f"{SERVICE_PROXY_LABEL}=agent")
    kube_proxy.stop()
    await until(api, "Ready", "True Programmed")


async def node_of_kube_proxys(api: ApiServer, node: Topology, traffic: Traffic) -> None:
    """node1, two endpoints, and a NodeProxyMode that is to take it over."""
    await api.kubectl("apply", f"--filename={CRDS}")
    await api.served("nodeproxymodes.proxymode.io")
    await set_up_cluster(api, node, traffic, *PODS)
    await apply(
        api,
        {
            "apiVersion": "proxymode.io/v1alpha1",
            "kind": "NodeProxyMode",
            "metadata": {"name": "node1"},
            "spec": {
                "mode": "nftables",
                "kubeProxy": {"policy": "TakeOver"},
                "detectLocal": {"clusterCIDRs": [str(cidr) for cidr in node.fleet.nodes[0].pod_cidrs]},
            },
        },
    )


def stop(running: list[TrafficProcess]) -> None:
    """After a second more of traffic: nobody has lost anything."""
    for client in running:
        client.wait_for("second")
    results = [client.stop() for client in running]
    assert sum(result["established"] for result in results) == 15
    assert [(result["lost"], result["failed"], result["udp_lost"]) for result in results] == [(0, 0, 0)] * 3, results


async def test_a_node_goes_from_kube_proxy_to_the_agent_and_back_without_losing_a_connection(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    await node_of_kube_proxys(api, node, traffic)
    with contextlib.ExitStack() as stack:
        kube_proxy = start(stack, node, "node1", ProxyMode.IPTABLES, services(node))
        running = clients(node, traffic)
        await taken_over_from(api, node, agent, kube_proxy)
        switch = (await status(api))["lastSwitch"]
        assert (switch["fromMode"], switch["outcome"]) == ("kube-proxy-iptables", "Succeeded")
        assert (switch["connectionsFound"] >= 15, switch["connectionsLost"]) == (True, 0)
        assert "KUBE-" not in ruleset(node)
        await until_answered(agent, 200)

        await ask(api, kubeProxy={"policy": "HandBack"})
        await until(api, "KubeProxyPresent", "False ReadyToHandBack")
        assert "proxymode" in ruleset(node)
        await until_answered(agent, 0)  # the port is free for kube-proxy
        await api.kubectl("label", "node", "node1", f"{SERVICE_PROXY_LABEL}-")
        start(stack, node, "node1", ProxyMode.NFTABLES, services(node))
        await until(api, "Ready", "True HandedBack")
        assert "proxymode" not in ruleset(node)
        assert (await status(api))["mode"] == "kube-proxy-nftables"
        stop(running)


async def test_a_node_whose_agent_is_gone_for_good_goes_back_by_hand(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    """docs/troubleshooting.md, Break the glass."""
    await node_of_kube_proxys(api, node, traffic)
    with contextlib.ExitStack() as stack:
        kube_proxy = start(stack, node, "node1", ProxyMode.IPTABLES, services(node))
        running = clients(node, traffic)
        await taken_over_from(api, node, agent, kube_proxy)
        assert agent.process is not None
        agent.process.kill()
        with pytest.raises(CommandError, match="nothing is removed: no kube-proxy runs here"):
            agent.clean_up("--cleanup-needs-kube-proxy")
        assert "proxymode" in ruleset(node)
        start(stack, node, "node1", ProxyMode.IPTABLES, services(node))
        for client in running:
            client.wait_for("second")
        for family in ("ip", "ip6"):
            node.run("node1", ["nft", "delete", "table", family, "proxymode"])
        stop(running)
        agent.clean_up("--cleanup-needs-kube-proxy")
    assert "proxymode" not in ruleset(node)
