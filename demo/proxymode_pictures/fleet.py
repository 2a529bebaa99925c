"""A fleet to take pictures of: a real API server, the operator as shipped, simulated agents; no VM, half a minute."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import yaml
from proxymode_cli.cluster import Cluster
from proxymode_demo.story import ROLLOUT
from proxymode_sim.agents import Agents
from proxymode_sim.client import NODE_PROXY_MODES, Client
from proxymode_sim.machines import Machines
from proxymode_sim.operators import Operators
from proxymode_sim.options import Options
from proxymode_testbeds.apiserver import ApiServer
from proxymode_testbeds.apiserver.rights import MANIFESTS, NAMESPACE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NODES: Final = tuple(f"eu-1{zone}-{number}" for number in (1, 2, 3, 4) for zone in "abc")
LEASE_SECONDS: Final = 15


class Fleet(NamedTuple):
    """What pictures are taken of: an API server, and the ProxyMode to be applied to it."""

    api: ApiServer
    cluster: Cluster
    wanted: dict[str, Any]


@asynccontextmanager
async def simulated(logs: Path) -> AsyncIterator[Fleet]:
    """Twelve nodes of which one cannot."""
    options = Options(
        nodes=len(NODES), seed=1, max_unavailable=25, switch=(1.5, 4.0), failing=0.0, blocked=1 / len(NODES),
        silent=0.0, flapping=0.0, progress_deadline=30, heartbeat=60.0, node_status=300.0, kills=0,
        lease=LEASE_SECONDS, idle=0.0, deadline=300.0, folder=None,
    )  # fmt: skip
    rng = random.Random(options.seed)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(ApiServer.start(logs / "api"))
        await api.kubectl("apply", f"--kustomize={MANIFESTS}")
        await api.served("proxymodes.proxymode.io", "nodeproxymodes.proxymode.io")
        client = await stack.enter_async_context(Client.connect(api))
        operators = await stack.enter_async_context(Operators(api, logs, LEASE_SECONDS))
        tokens = api.add_daemon_set(NAMESPACE, "proxymode-agent", list(NODES))
        agents = Agents(client, tokens, options, rng)
        await Machines(client, list(NODES), options, rng, lambda _: None).register()
        background = [asyncio.create_task(_agents_watch(client, agents)), asyncio.create_task(agents.beat())]
        try:
            await operators.start()
            wanted = yaml.safe_load(ROLLOUT.read_text(encoding="utf-8"))
            wanted["spec"]["rollout"]["maxUnavailable"] = 3
            yield Fleet(api, Cluster(str(api.kubeconfig()), None), wanted)
        finally:
            for task in background:
                task.cancel()
            await asyncio.wait(background)
            await agents.stop()


async def _agents_watch(client: Client, agents: Agents) -> None:
    async for kind, raw in client.watch(NODE_PROXY_MODES):
        if kind in ("ADDED", "MODIFIED"):
            agents.see(raw)
