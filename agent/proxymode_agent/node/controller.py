"""The loop between NodeProxyMode and the engine: reads the spec, checks the node, tells the engine, writes the status.

One task decides and writes; others only wake it. A mode that a check blocks is not set: the node keeps what it has, up
to date, and says why. Without a NodeProxyMode, or while it cannot be read, the node goes on as it was last asked.

It programs nothing itself and knows nothing of Services: that is the engine's.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from proxymode_agent.kube.errors import ApiError
from proxymode_agent.kube.listwatch import Changed, Deleted, ListWatch, Synced
from proxymode_agent.node import events
from proxymode_agent.node.assess import Assessment, assess
from proxymode_agent.node.conditions import Observation, running_deprecation
from proxymode_agent.node.handing import stand
from proxymode_agent.node.memory import Keeper
from proxymode_agent.node.pause import Pause
from proxymode_agent.node.poster import Poster
from proxymode_agent.node.status import build
from proxymode_agent.node.writer import COLLECTION, DEFAULT_PACE, Pace, StatusWriter
from proxymode_agent.preflight import facts
from proxymode_agent.version import VERSION
from proxymode_api.deprecation import minor_if_any
from proxymode_api.nodeproxymode import NodeProxyMode, NodeProxyModeSpec, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date
    from pathlib import Path

    from proxymode_agent.cell import Cell
    from proxymode_agent.engine.snapshot import EngineSnapshot
    from proxymode_agent.kube.client import KubeClient
    from proxymode_agent.kube.own_node import NodeView
    from proxymode_agent.kube.restarts import RestartReason
    from proxymode_agent.metrics import Metrics
    from proxymode_agent.node.handing import Stand
    from proxymode_agent.preflight.model import Facts
    from proxymode_agent.services.model import DataplaneConfig
    from proxymode_api.modes import Mode
    from proxymode_api.nodeproxymode import NodeProxyModeStatus, PreflightResult

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """What the controller needs of the engine; see proxymode_agent.engine."""

    def set_desired(self, mode: Mode | None, config: DataplaneConfig, attempt: int = 0) -> None: ...
    def snapshot(self) -> EngineSnapshot: ...
    async def changed(self, seen: EngineSnapshot) -> EngineSnapshot: ...


class NodeController:
    """Follows the NodeProxyMode called as the node; `run` in a task. `node`: the Node itself, watched elsewhere."""

    def __init__(
        self,
        node_name: str,
        kube: KubeClient,
        engine: Engine,
        node: Cell[NodeView],
        state_dir: Path,
        metrics: Metrics,
        *,
        collect: Callable[[], Facts] = facts.collect,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        pace: Pace = DEFAULT_PACE,
    ) -> None:
        self._name = node_name
        self._kube = kube
        self._engine = engine
        self._node = node
        self._metrics = metrics
        self._count_restart = metrics.watch_restarted("nodeproxymodes")
        self._collect = collect
        self._clock = clock
        self._pace = pace

        self._wake = asyncio.Event()
        self._keeper = Keeper(state_dir)
        self._poster = Poster(kube, node_name)
        self._object: NodeProxyMode | None = None
        self._readable = False  # the NodeProxyMode is known, or known not to be there
        self._unreadable = False  # asking for it has failed; the memory has to do
        self._assessment: Assessment | None = None
        self._assessed = Pause(clock(), clock())  # the assessment is good for so long
        self._told: tuple[Mode | None, DataplaneConfig, int] | None = None
        self._cluster_version = ""
        self._warned_on: date | None = None  # tried, whether or not it could be posted
        self._status = StatusWriter(kube, node_name, metrics, clock(), pace)

    async def run(self) -> None:
        """Work for ever; ends only by cancellation."""
        await self._keeper.recall()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_object())
            tasks.create_task(self._follow_node())
            tasks.create_task(self._follow_engine())
            while True:
                self._wake.clear()
                await self._sleep(await self._round())

    # -- what wakes the loop

    async def _follow_object(self) -> None:
        watch = ListWatch(
            self._kube,
            COLLECTION,
            decode,
            field_selector=f"metadata.name={self._name}",
            restarted=self._watch_restarted,
        )
        async for event in watch.events():
            match event:
                case Changed(_, found):
                    if self._object is None or self._object.metadata.uid != found.metadata.uid:
                        self._status.written = found.status
                    self._object = found
                case Deleted():
                    logger.info("NodeProxyMode is gone; the node keeps what it has", extra={"node": self._name})
                    self._object = None
                case Synced():
                    self._readable = True
            self._wake.set()

    def _watch_restarted(self, reason: RestartReason) -> None:
        self._count_restart(reason)
        if not self._readable and not self._unreadable:
            self._unreadable = True
            self._wake.set()

    async def _follow_node(self) -> None:
        seen = self._node.value
        while True:
            seen = await self._node.changed(seen)
            self._wake.set()

    async def _follow_engine(self) -> None:
        seen = self._engine.snapshot()
        while True:
            seen = await self._engine.changed(seen)
            self._wake.set()

    async def _sleep(self, until: datetime | None) -> None:
        """Until something wakes the loop or until then, but no longer than a heartbeat: the clock may be set back."""
        wait = None if until is None else min(max(timedelta(), until - self._clock()), self._pace.heartbeat)
        seconds = None if wait is None else wait.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    # -- one round

    async def _round(self) -> datetime | None:
        """Assess what is new, tell the engine, write what is to be said; when to look again at the latest."""
        wanted = self._wanted()
        if wanted is None or not self._node.value.known:
            return None
        spec, generation = wanted
        assessed = self._assessment
        stale = assessed is None or not assessed.is_about(spec, generation, self._node.value.node)
        if assessed is None or stale or self._assessed.over(self._clock()):
            assessed = self._assessment = await self._assess(spec, generation)
        observed = self._engine.snapshot().observed
        refused = assessed.refused(observed)
        where = stand(assessed.spec, assessed.node, assessed.facts.kube_proxy, observed)
        if where.soon:
            soon = self._clock() + self._pace.kube_proxy
            self._assessed = self._assessed._replace(until=min(self._assessed.until, soon))
        self._tell_engine(assessed, refused, waits=where.waits)
        await self._remember_spec(assessed)
        now = self._clock()
        before = self._status.written
        seen = self._observation(assessed, refused, where)
        status = build(seen, before, now)
        self._metrics.deprecated(running_deprecation(seen.engine.observed, seen.cluster))
        await self._warn_of_deprecation(status, now)
        if self._object is None:
            return self._assessed.until
        again = await self._status.write_when_due(status, self._engine.snapshot().phase, now)
        if self._status.written is status:
            await self._keeper.save()
            for event in events.transitions(before, status):
                await self._poster.post(event, self._node.value.node, now)
        return min(self._assessed.until, again)

    def _wanted(self) -> tuple[NodeProxyModeSpec, int] | None:
        """The spec to follow and its generation; None as long as it is not known what to follow."""
        if self._object is not None:
            return self._object.spec, self._object.metadata.generation
        if self._readable or self._unreadable:
            return self._keeper.memory.spec or NodeProxyModeSpec(), 0
        return None

    async def _assess(self, spec: NodeProxyModeSpec, generation: int) -> Assessment:
        found = replace(await asyncio.to_thread(self._collect), api_server=self._kube.host)
        await self._ask_version()
        now = self._clock()
        assessed = assess(spec, generation, self._node.value.node, found, now)
        if assessed.options_error:
            logger.error("options cannot be followed", extra={"node": self._name, "error": assessed.options_error})
        if assessed.preflight is not None:
            for verdict in Verdict:
                count = sum(result.verdict is verdict for result in assessed.preflight.results)
                self._metrics.preflight.labels(assessed.preflight.mode.value, verdict.value).set(count)
        soon = assessed.stopped or not self._cluster_version
        self._assessed = Pause(now, now + (self._pace.preflight_blocked if soon else self._pace.preflight))
        return assessed

    def _tell_engine(self, assessed: Assessment, refused: tuple[PreflightResult, ...], *, waits: bool) -> None:
        """Tell the engine what to run. Told no mode, it keeps what it finds of ours up to date, and ends a switch that
        was begun."""
        known = self._keeper.memory.spec
        if assessed.config is None and self._told is None and known is not None:
            # A fresh agent with options that it cannot follow: what was followed before its restart must be kept up.
            assessed = assess(known, 0, assessed.node, assessed.facts, self._clock())
        if assessed.config is None:
            return
        told = (None if refused or waits else assessed.spec.mode, assessed.config, assessed.spec.attempt)
        if told != self._told:
            if refused:
                blocking = ",".join(result.id for result in refused)
                logger.warning(
                    "mode is blocked and not set", extra={"mode": str(assessed.spec.mode), "checks": blocking}
                )
            self._engine.set_desired(*told)
            self._told = told

    def _observation(self, assessed: Assessment, refused: tuple[PreflightResult, ...], where: Stand) -> Observation:
        return Observation(
            generation=assessed.generation,
            spec=assessed.spec,
            engine=self._engine.snapshot(),
            facts=assessed.facts,
            preflight=assessed.preflight,
            refused=refused,
            nftables_blocked=assessed.nftables_blocked,
            options_error=assessed.options_error,
            stand=where,
            cluster=minor_if_any(self._cluster_version),
            cluster_version=self._cluster_version,
            agent_version=VERSION,
        )

    async def _ask_version(self) -> None:
        try:
            self._cluster_version = str((await self._kube.get("/version")).get("gitVersion", ""))
        except ApiError as error:
            logger.debug("cluster version cannot be read", extra={"error": str(error)})

    # -- what is remembered and posted

    async def _warn_of_deprecation(self, status: NodeProxyModeStatus, now: datetime) -> None:
        event = events.deprecation_event(status, self._keeper.memory.deprecation_posted, now.date())
        if event is None or not self._cluster_version or self._warned_on == now.date():
            return
        self._warned_on = now.date()
        if await self._poster.post(event, self._node.value.node, now):
            await self._keeper.keep(deprecation_posted=self._warned_on)

    async def _remember_spec(self, assessed: Assessment) -> None:
        """Keep the spec for a restart without API server as soon as the engine follows it: a restart must not lead back
        to what was asked before."""
        followed = (assessed.spec.mode, assessed.config, assessed.spec.attempt)
        if self._told == followed and self._keeper.memory.spec != assessed.spec:
            await self._keeper.keep(spec=assessed.spec)


def decode(data: bytes) -> NodeProxyMode:
    """A NodeProxyMode from JSON. Raises ValueError for a spec that cannot be read.

    The status is this agent's own to rewrite: one that another version wrote and this one cannot read counts as empty,
    and does not keep the node from following the spec.
    """
    try:
        return NodeProxyMode.model_validate_json(data)
    except ValidationError:
        raw: dict[str, Any] = json.loads(data)
        raw.pop("status", None)
        return NodeProxyMode.model_validate(raw)
