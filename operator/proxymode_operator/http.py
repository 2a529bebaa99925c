"""Health and metrics over HTTP, on the operator's own event loop: if that hangs, /livez does not answer.

/livez: the loop turns. /readyz: the cache holds the whole cluster. /healthz: the same as /livez. /metrics: Prometheus.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from proxymode_operator.metrics import REGISTRY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from proxymode_flags import BindAddress


def health_app(ready: Callable[[], bool]) -> web.Application:
    """Probes for the kubelet."""

    async def live(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def readiness(_: web.Request) -> web.Response:
        return web.Response(text="ok") if ready() else web.Response(status=503, text="the cache is not complete yet")

    app = web.Application()
    app.add_routes([web.get("/livez", live), web.get("/healthz", live), web.get("/readyz", readiness)])
    return app


def metrics_app() -> web.Application:
    """Prometheus' text format."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics)])
    return app


@asynccontextmanager
async def served(app: web.Application, address: BindAddress | None) -> AsyncIterator[None]:
    """Serves the app while the context lasts; nothing for None. Raises OSError when the address is taken."""
    if address is None:
        yield
        return
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, address.listening, address.port, shutdown_timeout=1).start()
        yield
    finally:
        await runner.cleanup()
