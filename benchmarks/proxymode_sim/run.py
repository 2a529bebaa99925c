"""One simulation, from an empty store to the figures."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from proxymode_sim.agents import Agents
from proxymode_sim.checker import Checker, Merge, Seen
from proxymode_sim.client import LEASE, NODE_PROXY_MODES, PROXY_MODES, Client, RequestError
from proxymode_sim.figures import Decided, Result, percentile, reactions
from proxymode_sim.machines import Machines
from proxymode_sim.operators import Operators, Replica
from proxymode_sim.people import MODES, Intent
from proxymode_testbeds.apiserver import ApiServer
from proxymode_testbeds.apiserver.rights import MANIFESTS, NAMESPACE, service_account

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from proxymode_sim.options import Options

_GOGC: Final = "400"
"""For API server and etcd, which share the operator's CPUs: a fifth of what the API server uses is its collector."""
_WRITES: Final = frozenset({"patch", "update", "delete"})
_PROGRESS_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 2.0
_LAST_EVENTS_SECONDS: Final = 2.0
_TAKEOVER_SECONDS: Final = 120.0


async def simulate(options: Options, folder: Path) -> tuple[Result, list[str]]:
    """The figures, and what was broken; rollouts that do not come to an end in time count as that."""
    os.environ.setdefault("GOGC", _GOGC)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(ApiServer.start(folder))
        await api.kubectl("apply", f"--kustomize={MANIFESTS}")
        await api.served("proxymodes.proxymode.io", "nodeproxymodes.proxymode.io")
        client = await stack.enter_async_context(Client.connect(api))
        operators = await stack.enter_async_context(Operators(api, folder, options.lease))
        return await Simulation(options, api, client, operators).run()


class Simulation:
    """What takes part in one run."""

    def __init__(self, options: Options, api: ApiServer, client: Client, operators: Operators) -> None:
        rng = random.Random(options.seed)
        names = [f"node-{index:05}" for index in range(options.nodes)]
        self.options = options
        self._api = api
        self._client = client
        self._operators = operators
        self._rng = rng
        self._tokens = api.add_daemon_set(NAMESPACE, "proxymode-agent", names)
        self._merge = Merge()
        self._checker = Checker(options.nodes, options.max_unavailable)
        self._agents = Agents(client, self._tokens, options, rng)
        self._machines = Machines(client, names, options, rng, self._merge.add)
        self._intent = Intent(client, options)
        self._decided: list[Decided] = []
        self._takeovers: list[float] = []
        self._began = time.monotonic()

    async def run(self) -> tuple[Result, list[str]]:
        say(f"registering {self.options.nodes} nodes")
        await self._machines.register()
        background = [asyncio.create_task(each) for each in self._background()]
        try:
            for _ in range(2 if self.options.kills else 1):
                await self._operators.start()
            main = asyncio.create_task(self._story())
            await asyncio.wait({main, *background}, return_when=asyncio.FIRST_COMPLETED)
            for task in background:
                if task.done() and not main.done():
                    main.cancel()
                    await task  # nothing of this ends by itself
            return await main
        finally:
            for task in background:
                task.cancel()
            await asyncio.wait(background)
            await self._machines.stop()
            await self._agents.stop()

    def _background(self) -> list[Coroutine[None, None, None]]:
        return [
            self._follow_node_proxy_modes(),
            self._follow_proxy_mode(),
            self._check(),
            self._report_progress(),
            self._agents.beat(),
            self._machines.live(),
        ]

    async def _story(self) -> tuple[Result, list[str]]:
        self._began = time.monotonic()
        await self._intent.create()
        unfinished = []
        killer = asyncio.create_task(self._kill_leaders())
        try:
            async with asyncio.timeout(self.options.deadline):
                await self._pause_in_the_middle()
                await self._intent.until_complete(MODES[0])
                seconds = time.monotonic() - self._began
                self._operators.measure()
                await self._on_and_on(killer)
        except TimeoutError:
            seconds = time.monotonic() - self._began
            unfinished.append(f"not complete after {seconds:.0f} s: {json.dumps(self._intent.status.get('nodes'))}")
        finally:
            killer.cancel()
        say(f"ended after {seconds:.1f} s")
        for replica in self._operators.alive:
            say(await replica.account())
        cpu_s = self._cpu_and_rss()[0]
        idle = await self._idle() if self.options.idle else None
        startup = await self._startup() if self.options.idle else None
        await asyncio.sleep(_LAST_EVENTS_SECONDS)
        for seen in self._merge.rest():
            self._checker.feed(seen)
        broken = [*unfinished, *self._broken()]
        return self._result(seconds, len(broken), cpu_s, idle, startup), broken

    async def _pause_in_the_middle(self) -> None:
        await self._intent.until(lambda: self._intent.updated >= self.options.nodes * 2 // 5)
        await self._intent.edit({"rollout": {"paused": True}})
        say("paused")
        await asyncio.sleep(_PAUSE_SECONDS)
        await self._intent.edit({"rollout": {"paused": False}})

    async def _on_and_on(self, killer: asyncio.Task[None]) -> None:
        """There and back again, as long as leaders are being killed."""
        turns = 0
        while not killer.done():
            turns += 1
            mode = MODES[turns % len(MODES)]
            say(f"to {mode}")
            await self._intent.edit({"mode": mode})
            await self._intent.until_complete(mode)
        await killer

    async def _kill_leaders(self) -> None:
        for count in range(self.options.kills):
            leader = await self._leader()
            heard = self._agents.heard + self._rng.randrange(1, max(2, self.options.nodes // 5))
            while self._agents.heard < heard:  # noqa: ASYNC110 - counted as the watch brings them
                await asyncio.sleep(0.01)
            began = time.monotonic()
            await leader.kill()
            await self._operators.start()
            async with asyncio.timeout(_TAKEOVER_SECONDS):
                heir = await self._leader()
                while not await heir.metric("proxymode_operator_reconciles_total"):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.05)
            self._takeovers.append(time.monotonic() - began)
            say(f"killed {leader.name}, {heir.name} decides after {self._takeovers[-1]:.1f} s ({count + 1})")

    async def _leader(self) -> Replica:
        """The replica that holds the Lease, once a living one does."""
        while True:
            try:
                lease = await self._client.request("GET", LEASE)
            except RequestError as error:
                if error.code != 404:
                    raise
                lease = {"spec": {}}
            holder = lease["spec"].get("holderIdentity", "")
            for replica in self._operators.alive:
                if holder.endswith(f"_{replica.server.process.pid}"):
                    return replica
            await asyncio.sleep(0.05)

    async def _idle(self) -> float:
        """Percent of a core while nothing happens but heartbeats and kubelets' reports."""
        self._machines.calm_down()
        await asyncio.sleep(5)
        self._operators.measure()
        before, began = sum(replica.cpu_s for replica in self._operators.all), time.monotonic()
        await asyncio.sleep(self.options.idle)
        self._operators.measure()
        used = sum(replica.cpu_s for replica in self._operators.all) - before
        return 100 * used / (time.monotonic() - began)

    async def _startup(self) -> float:
        for replica in self._operators.alive:
            await replica.end()
        replica = await self._operators.start()
        return await self._operators.first_decision(replica)

    # What goes on beside

    async def _follow_node_proxy_modes(self) -> None:
        token = next(iter(self._tokens.values()))
        async for kind, raw in self._client.watch(NODE_PROXY_MODES, token=token):
            if kind in ("ADDED", "MODIFIED"):
                self._merge.add(_seen("NodeProxyMode", raw))
                self._agents.see(raw)

    async def _follow_proxy_mode(self) -> None:
        async for kind, raw in self._client.watch(PROXY_MODES):
            if kind in ("ADDED", "MODIFIED"):
                self._merge.add(_seen("ProxyMode", raw))
                self._intent.see(raw)
                status = self._intent.status
                self._decided.append(Decided(status.get("revision", 0), self._intent.updated, time.monotonic()))

    async def _check(self) -> None:
        while True:
            for seen in self._merge.ready(time.monotonic()):
                self._checker.feed(seen)
            await asyncio.sleep(0.05)

    async def _report_progress(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            self._operators.measure()
            status, checker = self._intent.status, self._checker
            cpu, rss = self._cpu_and_rss()
            say(
                f"{time.monotonic() - self._began:4.0f} s  {status.get('status', '-')} "
                f"{status.get('currentStage', '')} {status.get('nodes', {}).get('progress', '')}, told {checker.told}, "
                f"most in flight {checker.most_in_flight}/{checker.budget}; operator {cpu:.1f} s CPU, {rss:.0f} MB; "
                f"{checker.seen} versions checked, {len(checker.violations)} violations"
            )

    def _cpu_and_rss(self) -> tuple[float, float]:
        replicas = self._operators.all
        return sum(replica.cpu_s for replica in replicas), max((replica.rss_mb for replica in replicas), default=0.0)

    # What came of it

    def _broken(self) -> list[str]:
        refused = [f"{r.user} was refused to {r.right}" for r in self._api.requests() if not r.allowed]
        return [*self._checker.violations, *refused, *self._agents.refused]

    def _result(
        self, seconds: float, violations: int, cpu_s: float, idle: float | None, startup: float | None
    ) -> Result:
        operator = service_account("operator")
        mine = [request for request in self._api.requests() if request.user == operator]
        # Server-side apply that makes an object is one request and counts as patch and create.
        requests = [r for r in mine if not (r.right.verb == "create" and r.right.resource == "nodeproxymodes")]
        writes = [
            r
            for r in requests
            if (r.right.verb in _WRITES or r.right.verb == "create") and r.right.resource != "leases"
        ]
        times = reactions(self._agents.arrived, self._decided)
        revisions = max((decided.revision for decided in self._decided), default=1)
        return Result(
            nodes=self.options.nodes,
            seconds=seconds,
            violations=violations,
            operator_cpu_s=cpu_s,
            operator_rss_mb=self._cpu_and_rss()[1],
            api_requests=len(requests),
            api_writes_per_node=len(writes) / self.options.nodes / max(1, revisions),
            p99_reconcile_ms=1000 * percentile(times, 99),
            p50_reconcile_ms=1000 * percentile(times, 50),
            most_writes_to_a_node=self._checker.most_writes,
            startup_s=startup,
            idle_cpu_percent=idle,
            kills=len(self._takeovers),
            takeover_s_max=max(self._takeovers, default=None),
            seed=self.options.seed,
        )


def _seen(kind: str, raw: dict[str, object]) -> Seen:
    meta = raw["metadata"]
    assert isinstance(meta, dict)
    return Seen(int(meta["resourceVersion"]), kind, time.monotonic(), raw)


def say(line: str) -> None:
    """A line of progress, beside the result."""
    print(line, file=sys.stderr, flush=True)


def broken_lines(broken: list[str]) -> str:
    """The first of them, one a line."""
    return "\n".join(f"VIOLATION {json.dumps(each)}" for each in broken[:50])
