"""Writes NodeProxyMode.status: by server-side apply to the status subresource, seldom enough for a fleet of thousands.

At most one write a second, a heartbeat a minute, and nothing where nobody waits for what has changed (`status`).
What the status says is not decided here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from proxymode_agent.backoff import Backoff
from proxymode_agent.engine.snapshot import EnginePhase
from proxymode_agent.kube.errors import ApiError
from proxymode_agent.node.pause import Pause
from proxymode_agent.node.status import HEARTBEAT, worth_writing
from proxymode_api import API_VERSION
from proxymode_api.nodeproxymode import STATUS_MANAGER, NodeProxyModeStatus

if TYPE_CHECKING:
    from datetime import datetime

    from proxymode_agent.kube.client import KubeClient
    from proxymode_agent.metrics import Metrics

logger = logging.getLogger(__name__)

COLLECTION: Final = f"/apis/{API_VERSION}/nodeproxymodes"
_UNSETTLED: Final = (EnginePhase.PENDING, EnginePhase.PROGRAMMING)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often, and how long at most.

    `preflight_blocked`: between checks while one blocks, so that a repaired node is noticed soon. `kube_proxy`:
    between looks for kube-proxy while it is to leave or to come. `write`: at least
    between two writes of the status. `settle`: so long after the start nothing is written about an engine that has not
    read the kernel back, since a restart of the agent does not make a node less Ready.
    """

    heartbeat: timedelta = HEARTBEAT
    preflight: timedelta = timedelta(minutes=10)
    preflight_blocked: timedelta = timedelta(minutes=1)
    kube_proxy: timedelta = timedelta(seconds=1)
    write: timedelta = timedelta(seconds=1)
    settle: timedelta = timedelta(seconds=10)
    retry_first: float = 0.5
    retry_cap: float = 30.0


DEFAULT_PACE: Final = Pace()


class StatusWriter:
    """Keeps the status of the NodeProxyMode called `name` as the agent sees it.

    `written` is what the API server has: to be set from the object where another run wrote it.
    """

    def __init__(self, kube: KubeClient, name: str, metrics: Metrics, started_at: datetime, pace: Pace) -> None:
        self.written = NodeProxyModeStatus()
        self._kube = kube
        self._name = name
        self._writes = metrics.status_writes
        self._pace = pace
        self._settling = Pause(started_at, started_at + pace.settle)
        self._resting = Pause(started_at, started_at)
        self._retry = Backoff(pace.retry_first, pace.retry_cap)
        self._complaint = ""

    async def write_when_due(self, status: NodeProxyModeStatus, phase: EnginePhase, now: datetime) -> datetime:
        """Write it if it is worth it and not too soon; `written` is then this very object. When to look again."""
        if not worth_writing(status, self.written, now, self._pace.heartbeat):
            return (self.written.heartbeat_time or now) + self._pace.heartbeat
        if phase in _UNSETTLED and not self._settling.over(now):
            return self._settling.until
        if not self._resting.over(now):
            return self._resting.until
        try:
            await self._kube.apply(
                f"{COLLECTION}/{self._name}",
                {
                    "apiVersion": API_VERSION,
                    "kind": "NodeProxyMode",
                    "metadata": {"name": self._name},
                    "status": status.wire(),
                },
                field_manager=STATUS_MANAGER,
                subresource="status",
            )
        except ApiError as error:
            self._writes.labels("failure").inc()
            delay = self._retry.next()
            if (complaint := f"{error.status} {error.reason}") != self._complaint:
                logger.warning(
                    "status cannot be written", extra={"error": str(error), "retry_seconds": round(delay, 1)}
                )
                self._complaint = complaint
            self._resting = Pause(now, now + timedelta(seconds=delay))
            return self._resting.until
        self._writes.labels("success").inc()
        self._retry.reset()
        self._complaint = ""
        self.written = status
        self._resting = Pause(now, now + self._pace.write)
        return now + self._pace.heartbeat
