"""One reconcile: read the cache, ask the planner, write the difference.

Order of the writes: the status first, since it is the record that later decisions rest on; with it the Events about its
change, which nobody would think of again if a node's write failed; then nodes that are told, nodes that are prepared,
and the annotations that were heard. Gates are asked beside all that. Everything is safe to repeat: what was written
shows in the cache at once, from the API server's answer, and is not asked for again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_api.proxymode_status import FleetStatus
from proxymode_api.reasons.codes import Reason
from proxymode_operator import objects
from proxymode_operator.cache import RELEASE
from proxymode_operator.kubeapi import ApiError, Kind, NotLeaderError
from proxymode_operator.metrics import NODE_WRITES, NODES, PLAN_SECONDS, STATUS
from proxymode_operator.queue import ConflictError, RefusedError
from proxymode_operator.rollout.memory import Memory
from proxymode_operator.rollout.model import Notice
from proxymode_operator.rollout.planner import plan
from proxymode_operator.rollout.situation import listed
from proxymode_operator.rollout.writes import release

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxymode_api.deprecation import Minor
    from proxymode_api.proxymode import ProxyMode
    from proxymode_api.proxymode_status import ProxyModeStatus
    from proxymode_operator.cache import Cache
    from proxymode_operator.gate_runner import GateRunner
    from proxymode_operator.kubeapi import KubeApi
    from proxymode_operator.pace import Pace
    from proxymode_operator.rollout.model import Asked, Write

logger = logging.getLogger(__name__)

WRITES_AT_ONCE: Final = 24
WRITING_SECONDS: Final = 0.1
"""After this no further write of a reconcile begins. The rest follows in the next one: what was reported and asked
meanwhile (a pause) is heard in between, however long an API server in trouble takes."""
LOOK_AGAIN_SECONDS: Final = 300.0
"""A clock that is set while we wait for a time of day is noticed within this."""

_OF_ONE_OBJECT: Final = frozenset({400, 403, 422})
"""Codes by which an object is refused: by its schema, or by somebody's admission policy."""

_STATES: Final = ("updated", "pending", "switching", "failed", "blocked", "skipped")

_UNDER_WAY: Final = frozenset(
    {
        FleetStatus.PROGRESSING,
        FleetStatus.SOAKING,
        FleetStatus.AWAITING_GATES,
        FleetStatus.STOPPED,
        FleetStatus.ROLLING_BACK,
    }
)


class _Done(NamedTuple):
    """What came of writes: how many were begun, which were done, and one error, a conflict only for want of another."""

    begun: int
    written: Sequence[Write]
    error: Exception | None


def _now() -> datetime:
    """Whole seconds, as metav1.Time keeps them: what is stored and what is compared agree."""
    return datetime.now(UTC).replace(microsecond=0)


class Reconciler:
    """The queue's handler. `cluster` is the API server's minor, for the deprecation's words."""

    def __init__(self, api: KubeApi, cache: Cache, cluster: Minor | None, gates: GateRunner, pace: Pace) -> None:
        self._api = api
        self._cache = cache
        self._pace = pace
        self._gates = gates
        self.cluster = cluster
        self._counted: set[str] = set()
        self._memories: dict[str, Memory] = {}

    async def reconcile(self, key: str) -> float | None:
        """Seconds until it has to be done again without being asked, or None.

        Raises ConflictError when something changed meanwhile, RefusedError when a node's write was refused, ApiError
        when a request failed, NotLeaderError.
        """
        if key == RELEASE:
            return await self._release()
        fleet = self._cache.fleet(key, self.cluster)
        if fleet is None:
            self._leave(key)
            self._memories.pop(key, None)
            self._gates.forget(key)
            if (unreadable := self._cache.unreadable().get(key)) is not None:
                logger.error(
                    "cannot read ProxyMode, its nodes stay as they are",
                    extra={"proxymode": key, "error": unreadable.error},
                )
            return None
        began = time.perf_counter()
        # A decision that does not come to its end leaves no memory: it may be half brought up to date.
        memory = self._memories.pop(key, None) or Memory()
        decisions = plan(replace(fleet, answers=self._gates.answers(key)), _now(), memory)
        self._memories[key] = memory
        PLAN_SECONDS.observe(time.perf_counter() - began)
        self._count(key, decisions.status)
        (self._pace.wait_for if _under_way(decisions.status) else self._pace.rest)(key)

        proxy_mode = fleet.proxy_mode
        if decisions.status != proxy_mode.status:
            await self._store_status(proxy_mode, decisions.status)
        await self._post_all(proxy_mode, decisions.notices)
        self._gates.start(key, proxy_mode.spec.mode.value, decisions.questions)
        done = await self._write(decisions.writes)
        if done.error is not None:
            raise done.error
        if done.begun < len(decisions.writes):
            return 0.0
        for heard in decisions.heard:
            await self._drop(proxy_mode, heard.annotation)
            await self._post_all(proxy_mode, heard.notices)
        if decisions.wake_at is None:
            return None
        # Whole seconds are compared, so a moment later is early enough.
        wait = max(0.0, (decisions.wake_at - datetime.now(UTC)).total_seconds()) + 0.05
        return min(wait, LOOK_AGAIN_SECONDS)

    async def _store_status(self, proxy_mode: ProxyMode, status: ProxyModeStatus) -> None:
        meta = proxy_mode.metadata
        body = objects.status_body(proxy_mode, status)
        try:
            answer = await self._api.apply(Kind.PROXY_MODE, meta.name, body, subresource="status")
        except ApiError as error:
            if error.code == 404:
                self._cache.forget(Kind.PROXY_MODE, meta.name, meta.uid)
            raise _conflict_or(error) from error
        self._cache.put(Kind.PROXY_MODE, answer)
        if status.status is not proxy_mode.status.status or status.revision != proxy_mode.status.revision:
            logger.info(
                "rollout",
                extra={
                    "proxymode": meta.name,
                    "revision": status.revision,
                    "status": status.status.value,
                    "stage": status.current_stage,
                    "updated": status.nodes.progress,
                },
            )

    async def _write(self, writes: Sequence[Write]) -> _Done:
        """From the first on as many as there is time for, and at least WRITES_AT_ONCE."""
        loop = asyncio.get_running_loop()
        waiting = deque(writes)
        ends = loop.time() + WRITING_SECONDS
        written: list[Write] = []
        errors: list[Exception] = []

        async def work() -> None:
            while waiting:
                write = waiting.popleft()
                try:
                    await self._write_one(write)
                    written.append(write)
                except (ApiError, ConflictError, NotLeaderError) as error:
                    errors.append(error)
                if loop.time() >= ends:
                    return

        async with asyncio.TaskGroup() as tasks:
            for _ in writes[:WRITES_AT_ONCE]:
                tasks.create_task(work())
        error = min(errors, key=lambda e: isinstance(e, ConflictError), default=None)
        if isinstance(error, ConflictError):
            error = ConflictError(str(error), progress=bool(written))
        elif isinstance(error, ApiError) and error.code in _OF_ONE_OBJECT:
            error = RefusedError(str(error), progress=bool(written))
        return _Done(len(writes) - len(waiting), written, error)

    async def _write_one(self, write: Write) -> None:
        try:
            answer = await self._api.apply(Kind.NODE_PROXY_MODE, write.node, objects.node_proxy_mode_body(write))
        except ApiError as error:
            raise _conflict_or(error) from error
        NODE_WRITES.labels(write.kind.value).inc()
        self._cache.put(Kind.NODE_PROXY_MODE, answer)
        logger.info(
            "node written",
            extra={
                "node": write.node,
                "kind": write.kind.value,
                "mode": write.intent.mode or "",
                "target_mode": write.intent.target_mode or "",
                "proxymode": write.intent.proxy_mode,
                "revision": write.intent.revision,
            },
        )

    async def _drop(self, proxy_mode: ProxyMode, annotation: str) -> None:
        meta = proxy_mode.metadata
        try:
            answer = await self._api.remove_annotation(Kind.PROXY_MODE, meta.name, annotation, meta.uid)
        except ApiError as error:
            raise _conflict_or(error) from error
        self._cache.put(Kind.PROXY_MODE, answer)

    async def _post_all(self, proxy_mode: ProxyMode, notices: Sequence[Notice]) -> None:
        for notice in notices:
            await self._post(proxy_mode.metadata.name, proxy_mode.metadata.uid, notice)

    async def _post(self, proxy_mode: str, uid: str, notice: Notice) -> None:
        """Events are a courtesy: one that cannot be posted is logged and let go."""
        try:
            await self._api.post_notice(proxy_mode, uid, notice)
        except ApiError as error:
            logger.warning(
                "event not posted", extra={"reason": notice.reason, "note": notice.note, "error": str(error)}
            )

    async def _release(self) -> float | None:
        """Nodes that no ProxyMode decides about any more keep what they have; one Event for each former ProxyMode."""
        asked, uids = self._cache.released()
        done = await self._write(release(asked, uids))
        former: dict[str, list[Asked]] = {}
        for write in done.written:
            assert write.base is not None
            former.setdefault(write.base.intent.proxy_mode, []).append(write.base)
        for name, nodes in former.items():
            await self._post(name, self._cache.known(Kind.PROXY_MODE).get(name, ""), _released_notice(nodes))
        if done.error is not None:
            raise done.error
        return 0.0 if done.begun < len(asked) else None

    def _count(self, key: str, status: ProxyModeStatus) -> None:
        self._counted.add(key)
        for state in _STATES:
            NODES.labels(key, state).set(getattr(status.nodes, state))
        for word in FleetStatus:
            STATUS.labels(key, word.value).set(word is status.status)

    def close(self) -> None:
        """Who leads no more reports no more, since two replicas must not count a node twice, and waits for nothing."""
        for key in tuple(self._counted):
            self._leave(key)

    def _leave(self, key: str) -> None:
        self._pace.rest(key)
        if key in self._counted:
            self._counted.remove(key)
            for state in _STATES:
                NODES.remove(key, state)
            for word in FleetStatus:
                STATUS.remove(key, word.value)


def _under_way(status: ProxyModeStatus) -> bool:
    """Whether what an agent reports now may let something happen."""
    return status.status in _UNDER_WAY or status.nodes.switching > 0


def _released_notice(nodes: Sequence[Asked]) -> Notice:
    by_mode: dict[str, int] = {}
    for asked in nodes:
        mode = asked.intent.mode.value if asked.intent.mode else "what they had, nothing was asked of them"
        by_mode[mode] = by_mode.get(mode, 0) + 1
    stay = listed(f"{count} on {mode}" for mode, count in by_mode.items())
    return Notice(
        reason=Reason.NODES_RELEASED,
        action="Release",
        note=f"it decides no more about {len(nodes)} nodes; they stay: {stay}",
    )


def _conflict_or(error: ApiError) -> Exception:
    """Conflicts (409) and objects that are gone (404) mean that the decision is out of date."""
    return ConflictError(str(error)) if error.code in (404, 409) else error
