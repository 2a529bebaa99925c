"""Warning Events about Services and EndpointSlices: what their owners should mend, where they look for it.

Whoever has something to say hands it over and goes on; posting is best effort, one request at a time, and bounded: a
short queue, and a budget like client-go's spam filter, so that a cluster full of broken objects does not become a flood
of Events from every node. That the same thing is not said twice is the caller's business.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.kube.errors import ApiError
from proxymode_agent.kube.events import EventType, Regarding, event_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_agent.kube.client import KubeClient
    from proxymode_agent.kube.objects import ObjectKey
    from proxymode_agent.metrics import Metrics
    from proxymode_api.reasons.codes import Reason

logger = logging.getLogger(__name__)

BURST: Final = 25
REFILL_SECONDS: Final = 10.0
"""A burst of so many Events, then one in so many seconds."""
_QUEUE: Final = 100

_APIS: Final = {
    "Service": ("v1", "/api/v1/namespaces/{}/services"),
    "EndpointSlice": ("discovery.k8s.io/v1", "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"),
}


class ObjectWarning(NamedTuple):
    """What is wrong with the object of this kind, Service or EndpointSlice, and what was being done."""

    kind: str
    key: ObjectKey
    reason: Reason
    action: str
    note: str


class Recorder:
    """Takes warnings from anybody on the event loop; `run` in a task to have them posted."""

    def __init__(
        self,
        client: KubeClient,
        node_name: str,
        metrics: Metrics,
        *,
        refill_seconds: float = REFILL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._node_name = node_name
        self._count = metrics.events.labels
        self._queue: asyncio.Queue[ObjectWarning] = asyncio.Queue(_QUEUE)
        self._refill = refill_seconds
        self._clock = clock
        self._budget = float(BURST)
        self._counted_at = clock()

    def warn(self, warning: ObjectWarning) -> None:
        """Have it posted, unless too many wait already. Never blocks, never fails."""
        try:
            self._queue.put_nowait(warning)
        except asyncio.QueueFull:
            self._count("dropped").inc()

    async def run(self) -> None:
        """Post for ever; ends only by cancellation."""
        while True:
            warning = await self._queue.get()
            if (delay := self._spend()) > 0:
                await asyncio.sleep(delay)
            try:
                posted = await self._post(warning)
            except ApiError as error:
                self._count("failure").inc()
                logger.warning(
                    "event cannot be posted",
                    extra={"object": str(warning.key), "reason": warning.reason, "error": str(error)},
                )
            else:
                self._count("success" if posted else "dropped").inc()

    def _spend(self) -> float:
        """Take one Event from the budget; how long to wait for it, in seconds."""
        now = self._clock()
        self._budget = min(float(BURST), self._budget + (now - self._counted_at) / self._refill) - 1.0
        self._counted_at = now
        return -self._budget * self._refill

    async def _post(self, warning: ObjectWarning) -> bool:
        """Whether there still is an object to warn about. Raises ApiError."""
        api_version, path = _APIS[warning.kind]
        # A list of one: the agent may list and watch these, and so needs no right to get them.
        found = await self._client.get(
            path.format(warning.key.namespace), params={"fieldSelector": f"metadata.name={warning.key.name}"}
        )
        items = found.get("items") or []
        if not items:
            return False
        about = Regarding(api_version, warning.kind, *warning.key, uid=items[0]["metadata"]["uid"])
        body = event_object(
            about,
            EventType.WARNING,
            warning.reason,
            warning.action,
            f"node {self._node_name}: {warning.note}",
            node=self._node_name,
            now=datetime.now(UTC),
            token=os.urandom(8).hex(),
        )
        await self._client.create(about.events_path, body)
        return True
