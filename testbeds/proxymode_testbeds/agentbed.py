"""The agent as a process in a node's namespace, an API server, and one Service, for tests with real packets.

A test module takes the fixtures by importing `api`, `node`, `relay`, `kubeconfig` and `agent`. The API server runs in
the first namespace; the agent reaches it through a relay, which can be cut.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from proxymode_testbeds.apiserver import ApiServer
from proxymode_testbeds.apiserver.rights import MANIFESTS, NAMESPACE
from proxymode_testbeds.relay import Relay

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from proxymode_testbeds.topology import Topology

# For an emulated guest, where the first use of nf_tables alone loads modules for half a minute.
DEADLINE_SECONDS = 180.0
WEB = "10.96.0.10"
WEB6 = "fd96::10"
NODE_PORT = 30080
RBAC = MANIFESTS / "base/agent/rbac.yaml"


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
async def kubeconfig(api: ApiServer, relay: Relay) -> Path:
    """The agent's own, with the rights that the manifests give it."""
    await api.kubectl("apply", f"--filename={RBAC}")
    holder = api.add_service_account(NAMESPACE, "proxymode-agent", node="node1")
    return api.kubeconfig(holder, server=f"https://127.0.0.1:{relay.port}")


@dataclass
class Agent:
    """One run of the agent in node1; started anew by `start`."""

    node: Topology
    kubeconfig: Path
    folder: Path
    process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str, mode: str | None = "nftables") -> None:
        """Start it and wait until it is ready. `mode` None: it follows its NodeProxyMode."""
        self.launch(*arguments, mode=mode)
        eventually(lambda: self.get("/readyz")[0] == 200, self)

    def launch(self, *arguments: str, mode: str | None = "nftables") -> None:
        """Start it and do not wait."""
        command = [
            sys.executable,
            "-m",
            "proxymode_agent",
            f"--kubeconfig={self.kubeconfig}",
            "--node-name=node1",
            *([] if mode is None else [f"--mode={mode}", "--cluster-cidr=10.244.0.0/16,fd44::/48"]),
            "--metrics-bind-address=127.0.0.1:10249",
            "--healthz-bind-address=127.0.0.1:10256",
            f"--state-dir={self.folder / 'state'}",
            *arguments,
        ]
        with (self.folder / "agent.log").open("a") as log:
            self.process = self.node.popen("node1", command, stdout=log, stderr=log)

    def stop(self) -> int:
        """SIGTERM; its exit status, which is 1 when it took longer than it promises."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=DEADLINE_SECONDS)

    def get(self, path: str, port: int = 10256) -> tuple[int, str]:
        """Status and body of one of the agent's endpoints; status 0: nobody listens."""

        def fetch() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=DEADLINE_SECONDS) as response:
                    return response.status, response.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
            except OSError:
                return 0, ""

        return self.node.call("node1", fetch)

    def metric(self, name: str) -> float:
        """A metric's value, summed over its labels."""
        text = self._metrics()
        found = re.findall(rf"^proxymode_agent_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        assert found, f"no metric {name} in:\n{text}"
        return sum(map(float, found))

    def mode(self) -> str:
        """The mode that it sees in the kernel."""
        return ",".join(re.findall(r'^proxymode_agent_mode{mode="(.*)"} 1.0$', self._metrics(), re.MULTILINE))

    def _metrics(self) -> str:
        """Once it listens, which may be some time after it is ready."""
        eventually(lambda: self.get("/metrics", 10249)[0] == 200, self)
        return self.get("/metrics", 10249)[1]

    def clean_up(self, *arguments: str) -> None:
        """Run it with --cleanup. Raises CommandError."""
        command = [sys.executable, "-m", "proxymode_agent", "--cleanup", f"--state-dir={self.folder / 'state'}"]
        self.node.run("node1", [*command, *arguments])

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
