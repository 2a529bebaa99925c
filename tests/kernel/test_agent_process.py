"""The agent as users run it: a process in a node's namespace, Services from an API server, packets from everywhere."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from proxymode_testbeds.apiserver import ApiServer
from proxymode_testbeds.relay import Relay
from proxymode_testbeds.traffic.ask import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from proxymode_testbeds.topology import Topology

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 60.0
STOP_SECONDS = 5.0
WEB = "10.96.0.10"
WEB6 = "fd96::10"
NODE_PORT = 30080


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiServer]:
    async with ApiServer.start(tmp_path / "api") as server:
        yield server


@pytest.fixture
def node(node_fleet: FleetMaker) -> Topology:
    """node1 with three pods and a client outside, IPv4 and IPv6."""
    return node_fleet(nodes=1, pods=3, dual_stack=True)


@pytest.fixture
def relay(node: Topology, api: ApiServer) -> Iterator[Relay]:
    host, _, port = api.url.removeprefix("https://").rpartition(":")
    with Relay(node.netns("node1"), (host, int(port))) as relay:
        yield relay


@pytest.fixture
def kubeconfig(api: ApiServer, relay: Relay) -> Path:
    return api.kubeconfig(server=f"https://127.0.0.1:{relay.port}")


@dataclass
class Agent:
    """One run of the agent in node1; started anew by `start`."""

    node: Topology
    kubeconfig: Path
    folder: Path
    process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str, standalone: bool = True) -> None:
        """Start it and wait until it is ready."""
        self.launch(*arguments, standalone=standalone)
        eventually(lambda: self.get("/readyz")[0] == 200, self)

    def launch(self, *arguments: str, standalone: bool = True) -> None:
        command = [
            sys.executable,
            "-m",
            "proxymode_agent",
            f"--kubeconfig={self.kubeconfig}",
            "--node-name=node1",
            *(["--mode=nftables", "--cluster-cidr=10.244.0.0/16,fd44::/48"] if standalone else []),
            "--metrics-bind-address=127.0.0.1:10249",
            "--healthz-bind-address=127.0.0.1:10256",
            f"--state-dir={self.folder / 'state'}",
            *arguments,
        ]
        with (self.folder / "agent.log").open("a") as log:
            self.process = self.node.popen("node1", command, stdout=log, stderr=log)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=STOP_SECONDS)

    def get(self, path: str, port: int = 10256) -> tuple[int, str]:
        """Status and body of one of the agent's endpoints; status 0: it does not answer."""

        def fetch() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
                    return response.status, response.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
            except OSError:
                return 0, ""

        return self.node.call("node1", fetch)

    def metric(self, name: str) -> float:
        """A metric's value, summed over its labels."""
        _, text = self.get("/metrics", 10249)
        found = re.findall(rf"^proxymode_agent_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        assert found, f"no metric {name} in:\n{text}"
        return sum(map(float, found))

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()


@pytest.fixture
def agent(node: Topology, kubeconfig: Path, tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(node, kubeconfig, tmp_path)
    yield agent
    if agent.process is not None and agent.process.poll() is None:
        agent.process.kill()


def eventually(condition: Callable[[], object], agent: Agent) -> None:
    """Until the condition holds; packets that are refused or lost count as no."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    last: object = None
    while time.monotonic() < deadline:
        try:
            if last := condition():
                return
        except (OSError, TimeoutError) as error:
            last = error
        time.sleep(0.05)
    pytest.fail(f"not within {DEADLINE_SECONDS:.0f} s; last: {last!r}; the agent's log:\n{agent.log()}")


def node_object() -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}}


def service(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "type": "NodePort",
            "clusterIP": WEB,
            "clusterIPs": [WEB, WEB6],
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [
                {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": NODE_PORT},
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353, "nodePort": 30053},
            ],
        }
        | spec,
    }


def slices(node: Topology, *pods: str) -> list[dict[str, Any]]:
    """An IPv4 and an IPv6 slice with these pods."""
    specs = {pod.name: pod for pod in node.fleet.nodes[0].pods}
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"web-{family.lower()}",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": family,
            "endpoints": [
                {"addresses": [str(specs[pod].addresses[index])], "conditions": {"ready": True}} for pod in pods
            ],
            "ports": [
                {"name": "http", "port": 8080, "protocol": "TCP"},
                {"name": "dns", "port": 5353, "protocol": "UDP"},
            ],
        }
        for index, family in enumerate(("IPv4", "IPv6"))
    ]


async def apply(api: ApiServer, *objects: dict[str, Any]) -> None:
    await api.kubectl(
        "apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    )


async def set_up_cluster(api: ApiServer, node: Topology, traffic: Traffic, *pods: str) -> None:
    """node1 with its addresses, all three backends running, and Service web with these pods as endpoints."""
    traffic.serve_all(node)
    await apply(api, node_object(), service(), *slices(node, *pods))
    addresses = [{"type": "InternalIP", "address": str(address)} for address in node.fleet.nodes[0].addresses]
    await api.kubectl(
        "patch", "node", "node1", "--subresource=status", "--patch", json.dumps({"status": {"addresses": addresses}})
    )


def ruleset(node: Topology) -> str:
    """Everything in nf_tables of node1 but what counts packets."""
    return re.sub(r"packets \d+ bytes \d+", "", node.run("node1", ["nft", "--handle", "list", "ruleset"]).stdout)


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
    cleanup = node.run("node1", [sys.executable, "-m", "proxymode_agent", "--cleanup", f"--state-dir={state}"])
    assert cleanup.returncode == 0, cleanup.stderr
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
    await api.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    agent.start(standalone=False)
    assert ruleset(node) == "", "nobody has asked for anything"
    wish = {"apiVersion": "proxymode.io/v1alpha1", "kind": "NodeProxyMode", "metadata": {"name": "node1"}}
    await apply(api, wish | {"spec": {"mode": "nftables", "detectLocal": {"clusterCIDRs": ["10.244.0.0/16"]}}})
    await api.kubectl("wait", "nodeproxymode/node1", "--for=jsonpath={.status.phase}=Active", "--timeout=60s")
    assert traffic.ask(node, "client1", WEB, 80).server == "node1-pod1"
    status = (await api.kubectl("get", "nodeproxymode", "node1", "--output=json")).json()["status"]
    assert status["mode"] == "nftables"
    assert status["programmed"]["services"] == 4
    programmed = ruleset(node)
    await api.kubectl("delete", "nodeproxymode", "node1")
    await apply(api, *slices(node, "node1-pod2"))
    eventually(lambda: traffic.ask(node, "client1", WEB, 80).server == "node1-pod2", agent)
    assert len(ruleset(node).splitlines()) == len(programmed.splitlines()), "the mode stays, endpoints are followed"
