"""What the agent tells probes, Prometheus and whoever asks for the node's mode, over HTTP.

/healthz is for load balancers that ask whether to send traffic to this node, /livez for the kubelet (restart when
syncs are stuck), /readyz for a rollout of the agent itself (does the kernel agree with Services?), /metrics for
Prometheus, /proxyMode for people and tools. The bodies are kube-proxy's. An address that is taken is tried again: while
a node is taken over, kube-proxy still holds its ports.
"""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from proxymode_agent.backoff import Backoff
from proxymode_agent.engine.snapshot import EnginePhase
from proxymode_agent.http1.server import IDLE_SECONDS, Answer, HttpServer, routes
from proxymode_agent.version import PRODUCT, VERSION
from proxymode_api.modes import ObservedMode
from proxymode_flags import BindAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxymode_agent.engine.snapshot import EngineSnapshot
    from proxymode_agent.metrics import Metrics

    Paths = Mapping[str, Callable[[], Answer]]

_SERVER: Final = f"{PRODUCT}/{VERSION}"
"""By which an agent on kube-proxy's ports is told from a kube-proxy (`preflight.facts`)."""
_NEVER: Final = "0001-01-01T00:00:00Z"
"""How kube-proxy writes it (Go's zero time): whoever reads a time here need not expect anything else."""
_OURS: Final = (ObservedMode.IPVS, ObservedMode.NFTABLES)

logger = logging.getLogger(__name__)


class Health(msgspec.Struct, frozen=True):
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


def health_routes(read: Callable[[], Health], probed: Callable[[str, int], None]) -> Paths:
    """/healthz, /livez and /readyz over what `read` returns; `probed` is told the status of answers that kube-proxy
    gives as well."""

    def answer(ok: bool, health: Health, more: Mapping[str, bool]) -> Answer:
        now = datetime.now(UTC)
        # kube-proxy: who is well counts as updated now, so that an idle cluster does not look stale.
        body: dict[str, object] = {
            "lastUpdated": _time(now if ok else health.last_updated),
            "currentTime": _time(now),
            **more,
            "healthy": health.alive,
        }
        if health.last_updated is not None:
            one = {"lastUpdated": _time(health.last_updated), "healthy": health.alive}
            body["status"] = dict.fromkeys(("IPv4", "IPv6"), one)
        return Answer(
            status=200 if ok else 503,
            headers={"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "Server": _SERVER},
            body=json.dumps(body).encode(),
        )

    def counted(path: str, given: Answer) -> Answer:
        probed(path, given.status)
        return given

    def healthz() -> Answer:
        health = read()
        return counted("/healthz", answer(health.healthy, health, {"nodeEligible": health.node_eligible}))

    def livez() -> Answer:
        health = read()
        return counted("/livez", answer(health.alive, health, {}))

    def readyz() -> Answer:
        health = read()
        return answer(health.ready, health, {})

    return {"/healthz": healthz, "/livez": livez, "/readyz": readyz}


def metrics_routes(metrics: Metrics, observed: Callable[[], ObservedMode]) -> Paths:
    """/metrics; /proxyMode, where people and tools are used to ask which mode the node is in; and /healthz, which says
    no more than that somebody answers: as on kube-proxy's port of metrics."""

    def scrape() -> Answer:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest  # takes a while, and a start has other work

        return Answer(200, {"Content-Type": CONTENT_TYPE_LATEST}, generate_latest(metrics.registry))

    headers = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff", "Server": _SERVER}

    def proxy_mode() -> Answer:
        mode = observed()
        return Answer(200, headers, mode.encode()) if mode in _OURS else Answer(503, headers, b"")

    def ping() -> Answer:
        return Answer(200, headers, b"ok")

    return {"/metrics": scrape, "/proxyMode": proxy_mode, "/healthz": ping}


async def serve(what: str, address: BindAddress, paths: Paths) -> None:
    """Answer `paths` at `address` until cancelled; a failed bind is tried again with back-off, never fatal."""
    server = HttpServer(routes(paths), IDLE_SECONDS)
    backoff = Backoff(first=0.5, cap=10.0)
    try:
        while True:
            try:
                await server.listen(address.listening, address.port)
                break
            except OSError as error:
                delay = backoff.next()
                if backoff.failures == 1:
                    logger.warning(
                        "cannot listen, will try again",
                        extra={"server": what, "address": str(address), "error": error.strerror or str(error)},
                    )
                await asyncio.sleep(delay)
        for bound in server.addresses:
            logger.info("listening", extra={"server": what, "address": str(BindAddress(*bound))})
        await asyncio.Event().wait()
    finally:
        server.close()


def _time(moment: datetime | None) -> str:
    return _NEVER if moment is None else moment.isoformat().replace("+00:00", "Z")
