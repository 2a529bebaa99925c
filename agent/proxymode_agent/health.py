"""What the agent tells probes and Prometheus over HTTP.

/healthz is for load balancers that ask whether to send traffic to this node, /livez for the kubelet (restart when
syncs are stuck), /readyz for a rollout of the agent itself (does the kernel agree with Services?), /metrics for
Prometheus. The bodies are kube-proxy's. An address that is taken is tried again: while a node is taken over,
kube-proxy still holds its ports.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from proxymode_agent.backoff import Backoff
from proxymode_agent.engine.snapshot import EnginePhase
from proxymode_agent.flag_values import BindAddress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from proxymode_agent.engine.snapshot import EngineSnapshot
    from proxymode_agent.metrics import Metrics

    Handler = Callable[[web.Request], Awaitable[web.Response]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Health:
    """Answers of the health endpoints at one moment. `last_updated` None: nothing was synced yet."""

    healthy: bool
    alive: bool
    ready: bool
    node_eligible: bool
    last_updated: datetime | None


def judge(snapshot: EngineSnapshot, behind_seconds: float, *, node_eligible: bool, timeout: float) -> Health:
    """Health as kube-proxy sees it: alive while nothing has been waiting for the kernel for `timeout` seconds; fit for
    traffic when also the node is not about to be removed (KEP-3836)."""
    alive = behind_seconds < timeout
    return Health(
        healthy=alive and node_eligible,
        alive=alive,
        ready=snapshot.synced or snapshot.phase is EnginePhase.OBSERVING,
        node_eligible=node_eligible,
        last_updated=snapshot.last_sync,
    )


def health_routes(read: Callable[[], Health]) -> Mapping[str, Handler]:
    """Handlers of /healthz, /livez and /readyz over what `read` returns."""

    def answer(ok: bool, health: Health) -> web.Response:
        now = datetime.now(UTC)
        body = {
            # kube-proxy: nothing waiting counts as updated now, so that an idle cluster does not look stale.
            "lastUpdated": _time(now if health.alive and health.last_updated else health.last_updated),
            "currentTime": _time(now),
            "nodeEligible": health.node_eligible,
        }
        return web.Response(
            status=200 if ok else 503,
            text=json.dumps(body),
            content_type="application/json",
            headers={"X-Content-Type-Options": "nosniff"},
        )

    async def healthz(_: web.Request) -> web.Response:
        health = read()
        return answer(health.healthy, health)

    async def livez(_: web.Request) -> web.Response:
        health = read()
        return answer(health.alive, health)

    async def readyz(_: web.Request) -> web.Response:
        health = read()
        return answer(health.ready, health)

    return {"/healthz": healthz, "/livez": livez, "/readyz": readyz}


def metrics_routes(metrics: Metrics) -> Mapping[str, Handler]:
    """Handler of /metrics."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return {"/metrics": handler}


async def serve(what: str, address: BindAddress, routes: Mapping[str, Handler]) -> None:
    """Answer `routes` at `address` until cancelled; a failed bind is tried again with back-off, never fatal."""
    application = web.Application()
    for path, handler in routes.items():
        application.router.add_get(path, handler)
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    backoff = Backoff(first=0.5, cap=10.0)
    async with AsyncExitStack() as stack:
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        while True:
            site = web.TCPSite(runner, address.host, address.port)
            try:
                await site.start()
                break
            except OSError as error:
                delay = backoff.next()
                if backoff.failures == 1:
                    log.warning(
                        "cannot listen, will try again",
                        extra={"server": what, "address": str(address), "error": error.strerror or str(error)},
                    )
                await site.stop()
                await asyncio.sleep(delay)
        for bound in runner.addresses:
            log.info("listening", extra={"server": what, "address": str(BindAddress(*bound[:2]))})
        await asyncio.Event().wait()


def _time(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat().replace("+00:00", "Z")
