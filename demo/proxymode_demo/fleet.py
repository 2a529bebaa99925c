"""The fleet that the demo moves: brought up part by part, taken down whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxymode_demo import objects
from proxymode_demo.processes import Processes, hold_topology, host_program
from proxymode_testbeds.apiserver import ApiServer
from proxymode_testbeds.topology import make_fleet
from proxymode_testbeds.vm import VirtualMachine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from proxymode_testbeds.topology import Fleet

REPOSITORY: Final = Path(__file__).parents[2]
NAMESPACE: Final = "proxymode-system"
AGENT: Final = f"system:serviceaccount:{NAMESPACE}:proxymode-agent"
OPERATOR: Final = f"system:serviceaccount:{NAMESPACE}:proxymode-operator"
PODS: Final = 3
MEMORY_MB: Final = 3072


@dataclass(frozen=True, slots=True)
class DemoFleet:
    """Everything that runs. `folder` holds logs and kubeconfig files."""

    api: ApiServer
    vm: VirtualMachine
    network: Fleet
    processes: Processes
    folder: Path
    stack: contextlib.AsyncExitStack
    operators: list[asyncio.subprocess.Process]

    async def start_operator(self) -> None:
        """One operator more, on this host, with the rights of its ServiceAccount; its log is operator.log."""
        self.api.add_token(OPERATOR, ["system:serviceaccounts"])
        argv: list[str | Path] = [
            *(sys.executable, "-m", "proxymode_operator"),
            *("--kubeconfig", self.api.kubeconfig(OPERATOR), "--namespace", NAMESPACE),
            *("--metrics-bind-address", "127.0.0.1:0", "--healthz-bind-address", "127.0.0.1:0"),
        ]
        operator = host_program(argv, self.folder / "operator.log")
        self.operators.append(await self.stack.enter_async_context(operator))

    async def node_modes(self) -> dict[str, Any]:
        """Every NodeProxyMode's status by node."""
        listed = (await self.api.kubectl("get", "nodeproxymodes", "-o", "json")).json()
        return {item["metadata"]["name"]: item.get("status", {}) for item in listed["items"]}

    async def in_mode(self, mode: str) -> int:
        """Nodes that say they run the mode and are Ready, and whose kernel, asked with nft and ipvsadm, agrees."""
        count = 0
        for name, status in (await self.node_modes()).items():
            ready = {condition["type"]: condition["status"] for condition in status.get("conditions", [])}
            if status.get("mode") == mode and ready.get("Ready") == "True":
                count += await self.kernel_mode(name) == mode
        return count

    async def kernel_mode(self, node: str) -> str:
        """What the admins' own tools find in a node's kernel: `ipvs`, `nftables`, `both` or `none`."""
        virtual_servers = await self.processes.output(node, "ipvsadm", "-Ln")
        ipvs = objects.CLUSTER_IP in virtual_servers
        ruleset = await self.processes.output(node, "nft", "list", "tables")
        nftables = "table ip proxymode" in ruleset.splitlines()
        return {(True, True): "both", (True, False): "ipvs", (False, True): "nftables"}.get((ipvs, nftables), "none")


@contextlib.asynccontextmanager
async def running(nodes: int, folder: Path, say: Callable[[str], None]) -> AsyncIterator[DemoFleet]:
    """The whole fleet, until the end of the context; `say` gets one line for each part that is up."""
    async with contextlib.AsyncExitStack() as stack:
        api_task = asyncio.create_task(stack.enter_async_context(ApiServer.start(folder / "api")))
        try:
            vm = await stack.enter_async_context(
                VirtualMachine.boot(memory_mb=MEMORY_MB, console=folder / "console.log")
            )
        finally:
            api = await api_task
        kernel = (await vm.run(["uname", "-sr"])).stdout.strip()
        version = (await api.kubectl("version", "-o", "json")).json()["serverVersion"]["gitVersion"]
        say(f"an API server ({version}), and a VM with Debian's stock kernel ({kernel})")

        network = make_fleet(nodes=nodes, pods=PODS, clients=nodes)
        places = await stack.enter_async_context(hold_topology(vm, nodes, PODS))
        processes = Processes(vm, places, folder, stack)
        say(f"{nodes} nodes, each with {PODS} pods and a client outside, in {len(places)} network namespaces")

        await api.kubectl("apply", "-k", str(REPOSITORY / "manifests"))
        everything = {"apiVersion": "v1", "kind": "List", "items": objects.cluster(network)}
        await api.kubectl("apply", "-f", "-", stdin=json.dumps(everything))
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for node in network.nodes:
            status = json.dumps(objects.node_status(node, now))
            await api.kubectl("patch", "node", node.name, "--subresource=status", "--type=merge", "-p", status)
        say("kubectl apply -k manifests/: the API, admission policies, RBAC; a Service with "
            f"{len(objects.backends(network))} endpoints")  # fmt: skip

        for _, pod in objects.backends(network):
            port = str(objects.TARGET_PORT)
            await processes.traffic(pod.name, ["server", "--name", pod.name, "--tcp", port, "--udp", port])
        fleet = DemoFleet(api, vm, network, processes, folder, stack, operators=[])
        await fleet.start_operator()
        for node in network.nodes:
            await processes.agent(node.name, _agent_arguments(api, node.name))
        say("the operator on this host, and an agent on every node")
        yield fleet


def _agent_arguments(api: ApiServer, node: str) -> list[str]:
    """The agent as its DaemonSet runs it; its token is bound to the node, as a Pod's projected token is."""
    holder = f"agent-{node}"
    extra = {"authentication.kubernetes.io/node-name": [node]}
    api.add_token(AGENT, ["system:serviceaccounts"], extra, holder=holder)
    kubeconfig = api.kubeconfig(holder, server=api.guest_url)
    return ["--kubeconfig", str(kubeconfig), "--node-name", node, "--state-dir", f"/var/lib/proxymode/{node}"]
