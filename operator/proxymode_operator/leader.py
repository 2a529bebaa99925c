"""Leader election by a Lease (coordination.k8s.io/v1), as client-go does it.

Why not `kubernetes.aio.leaderelection` 37: it writes local time marked as UTC into the Lease, ends the process's
election on a connection error (it catches ApiException only), lets a request that hangs outlast the lease, and does
not give the Lease back on shutdown. This one fences: `check` refuses writes as soon as renewDeadline has passed since
the last renewal *began*, by the monotonic clock, whatever the renewing task is doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from proxymode_operator.kubeapi import ApiError, NotLeaderError, micro_time
from proxymode_operator.metrics import LEADER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxymode_operator.kubeapi import KubeApi
    from proxymode_operator.settings import LeaseTimes

logger = logging.getLogger(__name__)

Json = dict[str, Any]


class Leader:
    """One candidate for one Lease. It is the `kubeapi.Fence` of everything that it lets write."""

    def __init__(self, api: KubeApi, *, namespace: str, name: str, identity: str, times: LeaseTimes) -> None:
        self._api = api
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration = times.duration.total_seconds()
        self._deadline = times.renew_deadline.total_seconds()
        self._period = times.retry_period.total_seconds()
        self._valid_until = 0.0
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0
        self._runs_out_at = 0.0
        self._mine: Json | None = None
        """The Lease as we last wrote it."""

    def check(self) -> None:
        """Raises NotLeaderError unless this replica holds the Lease beyond doubt."""
        if asyncio.get_running_loop().time() >= self._valid_until:
            raise NotLeaderError(f"{self._identity} does not hold the Lease {self._name}")

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Waits for the Lease, runs `lead` while holding it, cancels it when it is lost, and begins again.

        Gives the Lease back when cancelled. An exception out of `lead`, but NotLeaderError, is raised.
        """
        try:
            while True:
                await self._acquire()
                await self._hold(lead)
        finally:
            await asyncio.shield(self._give_back())

    async def _acquire(self) -> None:
        loop = asyncio.get_running_loop()
        while not await self._try(self._deadline):
            # A Lease is polled, as client-go does, and once more at the moment when it runs out.
            left = self._runs_out_at - loop.time()
            await asyncio.sleep(left if 0 < left < self._period else self._period)
        LEADER.set(1)
        logger.info("lease acquired", extra={"lease": self._name, "identity": self._identity})

    async def _hold(self, lead: Callable[[], Awaitable[None]]) -> None:
        work = asyncio.ensure_future(lead())
        loop = asyncio.get_running_loop()
        try:
            while loop.time() < self._valid_until:
                await asyncio.wait({work}, timeout=min(self._period, self._valid_until - loop.time()))
                if work.done():
                    with contextlib.suppress(NotLeaderError):
                        await work
                    return
                await self._try(self._valid_until - loop.time())
            logger.error("lease lost", extra={"lease": self._name, "identity": self._identity})
        finally:
            LEADER.set(0)
            self._valid_until = 0.0
            work.cancel()
            # Whatever it ends with: it was told to end, and the next leader finds all in the API objects.
            await asyncio.gather(work, return_exceptions=True)

    async def _try(self, patience: float) -> bool:
        """Acquires or renews, within so many seconds; False when somebody else holds it or the API server fails."""
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(max(patience, 0)):
                held = await self._acquire_or_renew(began)
        except (ApiError, TimeoutError) as error:
            logger.warning("lease request failed", extra={"lease": self._name, "error": str(error) or "timed out"})
            return False
        if held:
            self._valid_until = began + self._deadline
        return held

    async def _acquire_or_renew(self, now: float) -> bool:
        # Who has written it last need not read it: where somebody else has since, this conflicts.
        if (mine := self._mine) is not None:
            self._mine = None
            return await self._sent(self._api.replace(f"{self._path}/{self._name}", self._lease(mine)))
        try:
            lease = await self._api.get(f"{self._path}/{self._name}")
        except ApiError as error:
            if error.code != 404:
                raise
            return await self._sent(self._api.create(self._path, self._lease({}), fenced=False))
        spec = lease.get("spec", {})
        holder, renewed = spec.get("holderIdentity", ""), spec.get("renewTime", "")
        # By our own clock since we saw the renewal, never by the holder's clock.
        if self._seen != (holder, renewed):
            self._seen, self._seen_at = (holder, renewed), now
        lasts = float(spec.get("leaseDurationSeconds") or 0)
        self._runs_out_at = self._seen_at + max(lasts, 1)
        if holder not in ("", self._identity) and now < self._runs_out_at:
            return False
        return await self._sent(self._api.replace(f"{self._path}/{self._name}", self._lease(lease)))

    async def _sent(self, request: Awaitable[Json]) -> bool:
        """False when another candidate was quicker."""
        try:
            lease = await request
        except ApiError as error:
            if error.code == 409:
                return False
            raise
        self._mine = lease
        self._seen = (self._identity, lease["spec"]["renewTime"])
        self._seen_at = asyncio.get_running_loop().time()
        return True

    def _lease(self, old: Json) -> Json:
        """The Lease with us as its holder; `old` carries the resourceVersion that makes two writers conflict."""
        now = micro_time(datetime.now(UTC))
        spec = dict(old.get("spec", {}))
        if spec.get("holderIdentity") != self._identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + bool(old)
        spec |= {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._duration)),
            "renewTime": now,
        }
        return self._body(old, spec)

    def _body(self, old: Json, spec: Json) -> Json:
        meta = old.get("metadata") or {"name": self._name, "namespace": self._namespace}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}

    async def _give_back(self) -> None:
        """So that another replica need not wait for the lease to run out."""
        LEADER.set(0)
        self._valid_until = 0.0
        try:
            async with asyncio.timeout(self._period):
                lease = await self._api.get(f"{self._path}/{self._name}")
                if lease.get("spec", {}).get("holderIdentity") == self._identity:
                    spec = lease["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1}
                    await self._api.replace(f"{self._path}/{self._name}", self._body(lease, spec))
                    logger.info("lease given back", extra={"lease": self._name})
        except (ApiError, TimeoutError) as error:
            logger.warning("lease not given back", extra={"lease": self._name, "error": str(error) or "timed out"})
