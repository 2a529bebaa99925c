"""Thousands of agents in one process: one watch for all, a task for each that has something to do.

A real agent watches its own object; what that costs the API server is not simulated, what it writes is. Every agent
writes with a token of its own, bound to its node, and with the rights of the DaemonSet's ServiceAccount.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from proxymode_agent.engine.snapshot import EnginePhase
from proxymode_agent.node.status import worth_writing
from proxymode_api import API_VERSION
from proxymode_api.nodeproxymode import NodeProxyModeSpec
from proxymode_sim.agent import Agent, facts
from proxymode_sim.client import APPLY, NODE_PROXY_MODES, RequestError
from proxymode_sim.figures import Arrived

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from proxymode_sim.client import Client, Json
    from proxymode_sim.options import Options

WRITES_AT_ONCE: Final = 8
"""More would only wait in the API server, which has two CPUs for all, and keep the operator waiting with them; a real
one has priority and fairness (KEP-1040) against that."""
_RETRY_SECONDS: Final = 5.0


class Agents:
    """`arrived`: a node's first report that it runs what a revision told it, as the API server took it.

    `writes`: status patches that were accepted. `heard`: specs that agents were given. `refused`: what the API server
    said to the others.
    """

    def __init__(self, client: Client, tokens: Mapping[str, str], options: Options, rng: random.Random) -> None:
        self._client = client
        self._tokens = tokens
        self._options = options
        self._rng = rng
        self._slots = asyncio.Semaphore(WRITES_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._due: list[tuple[float, str]] = []
        names = list(tokens)
        blocked = set(rng.sample(names, round(options.blocked * len(names))))
        failing = set(rng.sample(names, round(options.failing * len(names))))
        self.silent = set(rng.sample(names, round(options.silent * len(names))))
        self.agents = {
            name: Agent(name, facts(able=name not in blocked), failures=int(name in failing)) for name in names
        }
        self.arrived: list[Arrived] = []
        self._reported: dict[str, int] = {}
        self.writes = 0
        self.heard = 0
        self.refused: list[str] = []

    def see(self, raw: Json) -> None:
        """An event of the watch: wakes the agent when its spec is new."""
        name, generation = raw["metadata"]["name"], raw["metadata"]["generation"]
        agent = self.agents[name]
        if name in self.silent or generation <= agent.generation:
            return
        self.heard += 1
        agent.told(NodeProxyModeSpec.model_validate(raw["spec"]), generation)
        if name not in self._tasks:
            task = asyncio.create_task(self._follow(agent), name=name)
            self._tasks[name] = task
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task.get_name()]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.refused.append(f"{task.get_name()}: {error!r}")

    async def _follow(self, agent: Agent) -> None:
        """Until it runs what it was last told."""
        generation = -1
        while generation != agent.generation:
            generation = agent.generation
            mode = agent.spec.mode
            while mode is not None and agent.spec.mode is mode and agent.must_switch(_now()):
                began = _now()
                agent.begins()
                await self._report(agent)
                await asyncio.sleep(self._rng.uniform(*self._options.switch))
                agent.ends(mode, began, _now())
                if agent.phase is EnginePhase.FAILED:
                    await self._report(agent)
                    await asyncio.sleep(_RETRY_SECONDS)
            agent.settles()
            await self._report(agent)

    async def _report(self, agent: Agent) -> None:
        now = _now()
        status = agent.status(now)
        if not worth_writing(status, agent.written, now, timedelta(seconds=self._options.heartbeat)):
            return
        body = {
            "apiVersion": API_VERSION,
            "kind": "NodeProxyMode",
            "metadata": {"name": agent.name},
            "status": status.wire(),
        }
        about = (agent.spec.revision, agent.spec.mode)
        async with self._slots:
            try:
                answer = await self._client.request(
                    "PATCH",
                    f"{NODE_PROXY_MODES}/{agent.name}/status",
                    body,
                    token=self._tokens[agent.name],
                    content=APPLY,
                    fieldManager="proxymode-agent",
                    force="true",
                )
            except RequestError as error:
                self.refused.append(str(error))
                return
        at = time.monotonic()
        self.writes += 1
        agent.written = status
        heapq.heappush(self._due, (at + self._options.heartbeat, agent.name))
        revision, mode = about
        done = mode is not None and agent.phase is EnginePhase.ACTIVE and status.mode.value == mode.value
        # The first report of each revision: what follows are heartbeats.
        if done and self._reported.get(agent.name) != revision:
            self._reported[agent.name] = revision
            self.arrived.append(Arrived(revision, int(answer["metadata"]["resourceVersion"]), at))

    async def beat(self) -> None:
        """The heartbeats, until cancelled."""
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                _, name = heapq.heappop(self._due)
                if name not in self._tasks:  # who has something to do writes anyway
                    task = asyncio.create_task(self._report(self.agents[name]), name=name)
                    self._tasks[name] = task
                    task.add_done_callback(self._beaten)
                else:
                    heapq.heappush(self._due, (now + 1, name))
            await asyncio.sleep(0.05)

    def _beaten(self, task: asyncio.Task[None]) -> None:
        self._ended(task)
        agent = self.agents[task.get_name()]
        if agent.written.observed_generation != agent.generation and agent.name not in self._tasks:
            follow = asyncio.create_task(self._follow(agent), name=agent.name)
            self._tasks[agent.name] = follow
            follow.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Ends what is still going on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _now() -> datetime:
    return datetime.now(UTC)
