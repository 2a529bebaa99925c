"""Real operator processes on a real API server, with agents that are simulated: they watch their NodeProxyModes and
answer in the status as real ones do, over the same API, but move no packet.

The agents' watch also sees every write of the operator, so that tests can count them.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest_asyncio

from proxymode_testbeds.apiserver import ApiServer
from proxymode_testbeds.apiserver.processes import running
from proxymode_testbeds.polling import DEADLINE_SECONDS, eventually
from proxymode_testbeds.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest

    from proxymode_testbeds.apiserver.processes import ServerProcess

Json = dict[str, Any]
NODES = "/api/v1/nodes"
NODE_PROXY_MODES = "/apis/proxymode.io/v1alpha1/nodeproxymodes"
PROXY_MODES = "/apis/proxymode.io/v1alpha1/proxymodes"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/proxymode-system/leases"
LEASE = f"{LEASES}/proxymode-operator"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"


@dataclass
class Agent:
    """One node's agent: what is in its kernel and what it cannot do. `hold` keeps it in mid-switch."""

    kernel: str = "ipvs"
    unable: set[str] = field(default_factory=set)
    fails: bool = False
    hold: bool = False


@dataclass
class Bed:
    """One API server, its nodes, their agents, and the operators that run on it."""

    api: ApiServer
    http: aiohttp.ClientSession
    folder: Path
    agents: dict[str, Agent] = field(default_factory=dict)
    spec_writes: dict[str, int] = field(default_factory=dict)
    """Versions of every NodeProxyMode's spec and annotations that were seen, the first included."""
    history: list[tuple[str, str | None]] = field(default_factory=list)
    """(node, mode) whenever a node was asked for another mode."""
    in_flight_most: int = 0
    lease_seconds: int = 15
    """Of the operators. A busy machine takes a shorter Lease away from them in the middle of a rollout."""
    _seen: dict[str, Json] = field(default_factory=dict)

    # Requests

    async def request(self, method: str, path: str, body: Json | None = None, **query: str) -> Json:
        content = {"PATCH": "application/merge-patch+json"}.get(method, "application/json")
        if "fieldManager" in query:
            content = "application/apply-patch+yaml"
        headers = {"Content-Type": content}
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                async with self.http.request(method, path, json=body, params=query, headers=headers) as response:
                    answer: Json = await response.json()
                if response.status == 429:  # the storage of a new CRD is not ready yet
                    await asyncio.sleep(0.1)
                    continue
                assert response.status < 400, answer
                return answer

    async def get(self, path: str) -> Json:
        return await self.request("GET", path)

    # Nodes and ProxyModes

    async def add_nodes(self, *names: str, labels: dict[str, str] | None = None) -> None:
        for name in names:
            body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels or {}}}
            await self.request("POST", NODES, body)
            await self.request("PATCH", f"{NODES}/{name}/status", _node_status(ready=True))
            self.agents[name] = Agent()

    async def set_node_ready(self, name: str, *, ready: bool) -> None:
        await self.request("PATCH", f"{NODES}/{name}/status", _node_status(ready=ready))

    async def create(self, name: str = "fleet", *, mode: str = "nftables", **rollout: Any) -> None:
        body = {
            "apiVersion": "proxymode.io/v1alpha1",
            "kind": "ProxyMode",
            "metadata": {"name": name},
            "spec": {"mode": mode, "rollout": rollout},
        }
        await self.request("POST", PROXY_MODES, body)

    async def edit(self, patch: Json, name: str = "fleet") -> None:
        await self.request("PATCH", f"{PROXY_MODES}/{name}", patch)

    async def status(self, name: str = "fleet") -> Json:
        found: Json = (await self.get(f"{PROXY_MODES}/{name}")).get("status", {})
        return found

    async def condition(self, type_: str, name: str = "fleet") -> Json:
        conditions = (await self.status(name)).get("conditions", [])
        return next((c for c in conditions if c["type"] == type_), {})

    async def until_status(self, word: str, name: str = "fleet") -> Json:
        async def reached() -> bool:
            return (await self.status(name)).get("status") == word

        try:
            await eventually(reached, f"{name} {word}")
        except TimeoutError:
            raise TimeoutError(f"not {word}: {json.dumps(await self.status(name), indent=1)}") from None
        return await self.status(name)

    async def until(self, what: str, holds: Callable[[], bool]) -> None:
        async def reached() -> bool:
            return holds()

        await eventually(reached, what)

    async def event_reasons(self) -> list[str]:
        """Of all Events about ProxyModes, oldest first."""
        items = (await self.get(EVENTS))["items"]
        return [
            e["reason"] for e in sorted(items, key=lambda e: e["eventTime"]) if e["regarding"]["kind"] == "ProxyMode"
        ]

    async def until_event(self, reason: str) -> list[str]:
        """All reasons, once this one is among them: Events are posted after the status is stored."""

        async def posted() -> bool:
            return reason in await self.event_reasons()

        await eventually(posted, f"an Event {reason}")
        return await self.event_reasons()

    async def until_observed(self, name: str = "fleet") -> None:
        """The operator has taken notice of the object as it is now."""

        async def observed() -> bool:
            found = await self.get(f"{PROXY_MODES}/{name}")
            return bool(found["status"]["observedGeneration"] == found["metadata"]["generation"])

        await eventually(observed, "observedGeneration")

    async def lease_holder(self) -> str:
        async with self.http.get(LEASE) as response:
            lease = await response.json()
            return str(lease.get("spec", {}).get("holderIdentity", "")) if response.status == 200 else ""

    def modes(self) -> dict[str, str]:
        return {name: agent.kernel for name, agent in self.agents.items()}

    # Operators

    @asynccontextmanager
    async def operator(self, name: str = "operator") -> AsyncIterator[ServerProcess]:
        """A running operator process; ended when the block ends, if it has not ended by then."""
        self.health_port = free_port()
        log = self.folder / f"{name}.log"
        async with operator(self.api, log, self.health_port, lease_seconds=self.lease_seconds) as process:
            yield process

    # Agents

    async def run_agents(self) -> None:
        """Until cancelled."""
        listed = await self.get(NODE_PROXY_MODES)
        for item in listed["items"]:
            await self._seen_one(item)
        query = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        forever = aiohttp.ClientTimeout(total=None)
        async with self.http.get(NODE_PROXY_MODES, params=query, timeout=forever) as stream:
            async for line in stream.content:
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED"):
                    await self._seen_one(event["object"])

    async def _seen_one(self, item: Json) -> None:
        name = item["metadata"]["name"]
        before = self._seen.get(name)
        self._seen[name] = item
        written = (item["spec"], item["metadata"].get("annotations"), item["metadata"].get("ownerReferences"))
        if before is None or written != (
            before["spec"],
            before["metadata"].get("annotations"),
            before["metadata"].get("ownerReferences"),
        ):
            self.spec_writes[name] = self.spec_writes.get(name, 0) + 1
        mode = item["spec"].get("mode")
        if mode != (before["spec"].get("mode") if before else None):
            self.history.append((name, mode))
        self.in_flight_most = max(self.in_flight_most, sum(self._is_in_flight(n) for n in self._seen))
        if before is None or before["metadata"]["generation"] != item["metadata"]["generation"]:
            await self.answer(name)

    def _is_in_flight(self, name: str) -> bool:
        mode = self._seen[name]["spec"].get("mode")
        return mode is not None and mode != self.agents[name].kernel

    async def answer(self, name: str) -> None:
        """What the node's agent does about its NodeProxyMode as last seen."""
        item, agent = self._seen[name], self.agents[name]
        spec, generation = item["spec"], item["metadata"]["generation"]
        mode, target = spec.get("mode"), spec.get("targetMode") or spec.get("mode")
        if mode is not None and mode != agent.kernel and mode not in agent.unable:
            await self._report(name, generation, target, "Switching", ready=False)
            if agent.hold:
                return
            if agent.fails:
                await self._report(name, generation, target, "Failed", ready=True)
                return
            agent.kernel = mode
        phase = "Observing" if mode is None else "Blocked" if mode in agent.unable else "Active"
        await self._report(name, generation, target, phase, ready=True)

    async def _report(self, name: str, generation: int, target: str | None, phase: str, *, ready: bool) -> None:
        agent = self.agents[name]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {
            "type": "Ready",
            "status": "True" if ready else "False",
            "reason": phase,
            "message": "",
            "lastTransitionTime": now,
        }
        status: Json = {
            "observedGeneration": generation,
            "mode": agent.kernel,
            "phase": phase,
            "conditions": [condition],
            "heartbeatTime": now,
            "agentVersion": "simulated",
        }
        if target:
            block = [{"id": "nft-expressions", "verdict": "block", "found": "none", "remedy": "a newer kernel"}]
            results = block if target in agent.unable else []
            status["preflight"] = {"mode": target, "checkedAt": now, "results": results}
        body = {
            "apiVersion": "proxymode.io/v1alpha1",
            "kind": "NodeProxyMode",
            "metadata": {"name": name},
            "status": status,
        }
        path = f"{NODE_PROXY_MODES}/{name}/status"
        await self.request("PATCH", path, body, fieldManager="proxymode-agent", force="true")


def _node_status(*, ready: bool) -> Json:
    condition = {"type": "Ready", "status": "True" if ready else "False", "reason": "Kubelet", "message": ""}
    return {"status": {"conditions": [condition]}}


@asynccontextmanager
async def operator(
    api: ApiServer,
    log: Path,
    health_port: int | None = None,
    *,
    metrics_port: int | None = None,
    lease_seconds: int = 15,
) -> AsyncIterator[ServerProcess]:
    """One operator process, with its ServiceAccount's rights."""
    command = [
        sys.executable,
        "-m",
        "proxymode_operator",
        f"--kubeconfig={api.kubeconfig(api.add_service_account('proxymode-system', 'proxymode-operator'))}",
        "--namespace=proxymode-system",
        f"--metrics-bind-address={f'127.0.0.1:{metrics_port}' if metrics_port else ''}",
        f"--healthz-bind-address={f'127.0.0.1:{health_port}' if health_port else ''}",
        f"--leader-elect-lease-duration={lease_seconds}s",
        f"--leader-elect-renew-deadline={lease_seconds * 3 // 4}s",
        "--leader-elect-retry-period=1s",
    ]
    async with running(command, log) as process:
        yield process


async def install(api: ApiServer) -> None:
    """What users install: CRDs, namespace, RBAC, policies, and a Deployment that nothing here runs."""
    await api.kubectl("apply", f"--kustomize={Path(__file__).parents[2] / 'manifests'}")
    await api.served("proxymodes.proxymode.io", "nodeproxymodes.proxymode.io")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiServer]:
    """`server` for all tests of a module that imports this."""
    async with server(tmp_path_factory.mktemp("operator")) as found:
        yield found


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[ApiServer]:
    """An API server with what users install and nothing else: another test's ProxyModes would select our nodes.

    At the end: that the operator has sent nothing that can never be taken. Of an Event only its log would tell.
    """
    async with ApiServer.start(folder) as api:
        await install(api)
        yield api
        invalid = [request for request in api.requests() if not request.valid]
        assert not invalid, invalid


@asynccontextmanager
async def bed(api: ApiServer, folder: Path) -> AsyncIterator[Bed]:
    """A bed on `server`; its agents run while the block lasts, and it leaves nothing behind."""
    trust = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(api.ca_file)))
    headers = {"Authorization": f"Bearer {api.add_token('bed', ['system:masters'])}"}
    async with aiohttp.ClientSession(api.url, connector=trust, headers=headers) as http:
        found = Bed(api, http, folder)
        agents = asyncio.create_task(found.run_agents())
        try:
            yield found
        finally:
            failed = agents.done()
            agents.cancel()
            await asyncio.wait({agents})
            for path in (PROXY_MODES, NODE_PROXY_MODES, NODES, EVENTS, LEASES):
                await found.request("DELETE", path)
            if failed:
                agents.result()
