"""The agent as users run it: a process in a node's namespace, Services from an API server, packets from everywhere."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from proxymode_testbeds.agentbed import (
    NODE_PORT,
    WEB,
    WEB6,
    agent,
    api,
    apply,
    eventually,
    kubeconfig,
    node,
    relay,
    ruleset,
    set_up_cluster,
    slices,
)
from proxymode_testbeds.traffic.ask import Answer

if TYPE_CHECKING:
    from proxymode_testbeds.agentbed import Agent
    from proxymode_testbeds.apiserver import ApiServer
    from proxymode_testbeds.fixtures import Traffic
    from proxymode_testbeds.relay import Relay
    from proxymode_testbeds.topology import Topology

__all__ = ["agent", "api", "kubeconfig", "node", "relay"]

ROOT = Path(__file__).parents[2]


async def test_packets_find_their_service_from_everywhere(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    await set_up_cluster(api, node, traffic, "node1-pod1")
    agent.start()
    pod2 = node.fleet.nodes[0].pods[1]
    assert traffic.ask(node, "node1-pod2", WEB, 80) == Answer("node1-pod1", str(pod2.addresses[0]))
    assert traffic.ask(node, "node1-pod2", WEB6, 80) == Answer("node1-pod1", str(pod2.addresses[1]))
    assert traffic.ask(node, "node1-pod2", WEB, 53, "udp").server == "node1-pod1"
    assert traffic.ask(node, "node1", WEB, 80).server == "node1-pod1"
    assert traffic.ask(node, "node1-pod1", WEB, 80).server == "node1-pod1"  # hairpin
    assert traffic.ask(node, "client1", WEB, 80).server == "node1-pod1"
    node1, node6 = map(str, node.fleet.nodes[0].addresses)
    assert traffic.ask(node, "client1", node1, NODE_PORT).server == "node1-pod1"
    assert traffic.ask(node, "client1", node6, NODE_PORT).server == "node1-pod1"
    assert agent.metric("services") == 4
    status, body = agent.get("/healthz")
    assert status == 200
    assert json.loads(body)["nodeEligible"] is True
    assert agent.get("/proxyMode", 10249) == (200, "nftables")


async def test_changes_of_endpoints_are_followed(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    await set_up_cluster(api, node, traffic, "node1-pod1")
    agent.start()
    assert traffic.ask(node, "client1", WEB, 80).server == "node1-pod1"
    await apply(api, *slices(node, "node1-pod2"))
    eventually(lambda: traffic.ask(node, "client1", WEB, 80).server == "node1-pod2", agent)
    await apply(api, *slices(node))

    def refused() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            traffic.ask(node, "client1", WEB, 80)
            return False
        return True

    eventually(refused, agent)
    await apply(api, *slices(node, "node1-pod1", "node1-pod2", "node1-pod3"))
    everybody = {"node1-pod1", "node1-pod2", "node1-pod3"}
    answered: set[str] = set()

    def all_answered() -> bool:
        answered.add(traffic.ask(node, "client1", WEB, 80).server)
        return answered == everybody

    eventually(all_answered, agent)


async def test_sigterm_leaves_the_rules_a_restart_writes_nothing_and_cleanup_removes_all(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    await set_up_cluster(api, node, traffic, "node1-pod1", "node1-pod2")
    before = ruleset(node)
    agent.start()
    assert agent.metric("sync_written_objects_total") > 0
    programmed = ruleset(node)

    assert agent.stop() == 0
    assert ruleset(node) == programmed
    assert traffic.ask(node, "client1", WEB, 80).server in {"node1-pod1", "node1-pod2"}

    agent.start()
    assert agent.metric("sync_written_objects_total") == 0
    assert agent.metric("syncs_total") >= 1
    assert ruleset(node) == programmed, "handles included: nothing was even replaced by its like"
    assert agent.stop() == 0

    state = agent.folder / "state"
    # What an agent that is killed in the midst of a hand-over leaves.
    node.run("node1", ["nft", "add", "table", "ip", "proxymode-handover"])
    (state / "flows").write_bytes(b"proxymode flows 1\n")
    agent.clean_up()
    assert ruleset(node) == before == ""
    assert not state.exists()


async def test_an_api_server_that_is_away_stops_nothing(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic, relay: Relay
) -> None:
    await set_up_cluster(api, node, traffic, "node1-pod1")
    agent.start("--sync-period=1s")
    relay.cut()
    await apply(api, *slices(node, "node1-pod2"))  # unseen for now
    node.run("node1", ["nft", "delete", "table", "ip", "proxymode"])
    eventually(lambda: traffic.ask(node, "client1", WEB, 80, timeout=1).server == "node1-pod1", agent)
    assert agent.get("/livez")[0] == 200
    assert agent.get("/readyz")[0] == 200
    eventually(lambda: agent.metric("watch_restarts_total") > 0, agent)
    relay.join()
    eventually(lambda: traffic.ask(node, "client1", WEB, 80).server == "node1-pod2", agent)
    assert "drift repaired" in agent.log()


async def test_a_start_without_an_api_server_waits_and_leaves_the_rules_alone(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic, relay: Relay
) -> None:
    await set_up_cluster(api, node, traffic, "node1-pod1")
    agent.start()
    programmed = ruleset(node)
    assert agent.stop() == 0
    relay.cut()
    agent.launch()
    eventually(lambda: agent.get("/livez")[0] == 200, agent)
    eventually(lambda: agent.metric("watch_restarts_total") > 2, agent)
    assert agent.get("/readyz")[0] == 503
    assert ruleset(node) == programmed
    assert traffic.ask(node, "client1", WEB, 80).server == "node1-pod1"
    assert agent.stop() == 0


async def test_a_killed_agent_is_followed_by_one_that_catches_up(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    await set_up_cluster(api, node, traffic, "node1-pod1")
    agent.start()
    assert agent.process is not None
    agent.process.kill()
    agent.process.wait()
    await apply(api, *slices(node, "node1-pod2"))
    assert traffic.ask(node, "client1", WEB, 80).server == "node1-pod1"
    agent.start()
    assert traffic.ask(node, "client1", WEB, 80).server == "node1-pod2"


async def test_ports_that_are_taken_do_not_keep_it_from_working(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    """As while a node is taken over and kube-proxy still holds 10249."""
    await set_up_cluster(api, node, traffic, "node1-pod1")
    holder = node.popen(
        "node1",
        [
            sys.executable,
            "-c",
            "import socket, sys; s = socket.create_server(('127.0.0.1', 10249)); print('ready', flush=True);"
            " sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    agent.start()
    assert traffic.ask(node, "client1", WEB, 80).server == "node1-pod1"
    assert "cannot listen, will try again" in agent.log()
    holder.kill()
    eventually(lambda: agent.get("/metrics", 10249)[0] == 200, agent)


async def test_without_a_mode_it_follows_its_nodeproxymode(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    await set_up_cluster(api, node, traffic, "node1-pod1")
    await api.kubectl("apply", f"--filename={ROOT / 'crds'}")
    await api.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=180s")
    agent.start(mode=None)
    assert ruleset(node) == "", "nobody has asked for anything"
    wish = {"apiVersion": "proxymode.io/v1alpha1", "kind": "NodeProxyMode", "metadata": {"name": "node1"}}
    await apply(api, wish | {"spec": {"mode": "nftables", "detectLocal": {"clusterCIDRs": ["10.244.0.0/16"]}}})
    await api.kubectl("wait", "nodeproxymode/node1", "--for=jsonpath={.status.phase}=Active", "--timeout=180s")
    assert traffic.ask(node, "client1", WEB, 80).server == "node1-pod1"
    status = (await api.kubectl("get", "nodeproxymode", "node1", "--output=json")).json()["status"]
    assert status["mode"] == "nftables"
    assert status["programmed"]["services"] == 4
    programmed = ruleset(node)
    await api.kubectl("delete", "nodeproxymode", "node1")
    await apply(api, *slices(node, "node1-pod2"))
    eventually(lambda: traffic.ask(node, "client1", WEB, 80).server == "node1-pod2", agent)
    assert len(ruleset(node).splitlines()) == len(programmed.splitlines()), "the mode stays, endpoints are followed"
