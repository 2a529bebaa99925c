"""Opens, closes and answers healthCheckNodePorts as Services ask for them.

One server a Service, on the node's NodePort addresses. A port that cannot be had is told to the Service's owner once,
and tried again with back-off: it may be kube-proxy's, which is being taken over.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.backoff import Backoff
from proxymode_agent.dataplane.ipvs.addresses import Addresses
from proxymode_agent.healthcheck.answers import EVERYWHERE, answer, hosts
from proxymode_agent.http1.server import IDLE_SECONDS, Answer, HttpServer
from proxymode_agent.kube.objects import ObjectKey
from proxymode_agent.kube.recorder import ObjectWarning
from proxymode_api.reasons.codes import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proxymode_agent.cell import Cell
    from proxymode_agent.http1.server import Request
    from proxymode_agent.metrics import Metrics
    from proxymode_agent.services.model import DataplaneConfig, HealthChecks, ServiceName
    from proxymode_api.modes import Mode

logger = logging.getLogger(__name__)


class _Place(NamedTuple):
    """Where a Service's server listens; hosts as in `answers.hosts`."""

    hosts: tuple[str | None, ...]
    port: int


class _Server(NamedTuple):
    place: _Place
    server: HttpServer


def local_addresses() -> set[bytes]:
    """The packed addresses of this network namespace, without link-local and Service ones. Raises OSError."""
    addresses = Addresses()
    try:
        return addresses.local() | addresses.loopback()
    finally:
        addresses.close()


class HealthCheckServers:
    """`run` in a task. `healthy`: whether this node's Service dataplane is fit for traffic; `warn`: hears of ports that
    cannot be had. An address that the node gets later is listened on after the next change of configuration."""

    def __init__(
        self,
        healthy: Callable[[], bool],
        warn: Callable[[ObjectWarning], None],
        metrics: Metrics,
        *,
        local: Callable[[], Iterable[bytes]] = local_addresses,
        backoff: Backoff | None = None,
    ) -> None:
        self._healthy = healthy
        self._warn = warn
        self._gauge = metrics.health_check_servers.labels
        self._local = local
        self._backoff = backoff or Backoff(first=1.0, cap=60.0)
        self._servers: dict[ServiceName, _Server] = {}
        self._failed: dict[ServiceName, _Place] = {}
        self._counts: dict[ServiceName, int] = {}
        self._resolved: tuple[Mode, DataplaneConfig] | None = None
        self._hosts: tuple[str | None, ...] = EVERYWHERE

    async def run(self, checks: Cell[HealthChecks | None]) -> None:
        """Follow `checks`; ends only by cancellation, and then with all servers closed."""
        wanted: HealthChecks | None = None
        try:
            while True:
                try:
                    async with asyncio.timeout(self._backoff.next() if self._failed else None):
                        wanted = await checks.changed(wanted)
                except TimeoutError:
                    self._resolved = None
                if wanted is not None:
                    await self._follow(wanted)
        finally:
            for name in tuple(self._servers):
                self._close(name)

    async def _follow(self, wanted: HealthChecks) -> None:
        self._counts = {name: check.local_endpoints for name, check in wanted.checks.items()}
        if wanted.checks:
            await self._resolve(wanted)
        places = {name: _Place(self._hosts, check.port) for name, check in wanted.checks.items()}
        for name in [name for name, server in self._servers.items() if places.get(name) != server.place]:
            self._close(name)
        self._failed = {name: place for name, place in self._failed.items() if places.get(name) == place}
        for name, place in places.items():
            if name not in self._servers:
                await self._open(name, place)
        if not self._failed:
            self._backoff.reset()
        self._gauge("listening").set(len(self._servers))
        self._gauge("failed").set(len(self._failed))

    async def _resolve(self, wanted: HealthChecks) -> None:
        """Find out where to listen, when the configuration is another one or something could not be had there."""
        if self._resolved == (wanted.mode, wanted.config):
            return
        try:
            local = await asyncio.to_thread(self._local)
        except OSError as error:
            logger.warning("the node's addresses cannot be read", extra={"error": str(error)})
            self._hosts = EVERYWHERE
            return
        self._hosts = hosts(wanted.mode, wanted.config, local)
        self._resolved = (wanted.mode, wanted.config)

    async def _open(self, name: ServiceName, place: _Place) -> None:
        server = HttpServer(partial(self._answer, name), IDLE_SECONDS)
        try:
            for host in place.hosts:
                await server.listen(host, place.port)
        except OSError as error:
            server.close()
            if self._failed.get(name) != place:
                self._failed[name] = place
                self._tell(name, place, error.strerror or str(error))
            return
        self._failed.pop(name, None)
        self._servers[name] = _Server(place, server)
        logger.info("health check opened", extra={"service": str(name), "port": place.port})

    def _close(self, name: ServiceName) -> None:
        server = self._servers.pop(name)
        server.server.close()
        logger.info("health check closed", extra={"service": str(name), "port": server.place.port})

    def _answer(self, name: ServiceName, _: Request) -> Answer:
        """The same for every path and method, as kube-proxy."""
        said = answer(name, self._counts.get(name, 0), healthy=self._healthy())
        return Answer(said.status, said.headers, said.body.encode())

    def _tell(self, name: ServiceName, place: _Place, error: str) -> None:
        logger.warning(
            "health check cannot be opened, will try again",
            extra={"service": str(name), "port": place.port, "error": error},
        )
        self._warn(
            ObjectWarning(
                kind="Service",
                key=ObjectKey(name.namespace, name.service),
                reason=Reason.FAILED_TO_START_SERVICE_HEALTHCHECK,
                action="Listen",
                note=f'failed to start healthcheck "{name}" on port {place.port}: {error}',
            )
        )
