"""`proxymode-operator`: puts the parts together and takes them apart again.

Start: wait until the API server serves our kinds, let the watches (kopf's and our own) fill the cache, wait for the
Lease, compare the cache with a list, then reconcile. Stop (SIGTERM, SIGINT): stop reconciling, give the Lease back,
stop kopf. A replica that waits for the Lease keeps its cache warm.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import kopf
from kubernetes.aio.config import ConfigException

from proxymode_api.deprecation import Minor, parse_minor
from proxymode_log import set_up
from proxymode_operator import garbage, handlers, resync
from proxymode_operator.cache import RELEASE, Cache
from proxymode_operator.gate_asking import Asker
from proxymode_operator.gate_runner import GateRunner
from proxymode_operator.http import health_app, metrics_app, served
from proxymode_operator.kubeapi import ApiError, KubeApi
from proxymode_operator.kubeconfig import configuration
from proxymode_operator.leader import Leader
from proxymode_operator.listwatch import WATCHED, follow
from proxymode_operator.metrics import LEADER, QUEUED, SILENT_AGENTS
from proxymode_operator.pace import Pace
from proxymode_operator.queue import Queue
from proxymode_operator.reconcile import Reconciler
from proxymode_operator.settings import LEASE_NAME, parse
from proxymode_operator.takeover.loop import TakeOver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxymode_operator.settings import Settings

logger = logging.getLogger(__name__)

_COMPARISON: Final = "the comparison"
"""Waits for the watches; no ProxyMode's name has a space."""


class Operator:
    """One process."""

    def __init__(self, settings: Settings, api: KubeApi) -> None:
        self._settings = settings
        self._api = api
        self._queue: Queue | None = None
        self._complete = False
        self._pace = Pace()
        self.cache = Cache(self._changed)
        self._take_over = TakeOver(api, self.cache)

    @property
    def ready(self) -> bool:
        """Whether the cache holds the whole cluster."""
        return self._complete

    def _changed(self, key: str) -> None:
        if self._queue is not None:
            self._queue.add(key)
            self._take_over.wake()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; raises what ends the operator otherwise."""
        waiting = asyncio.create_task(resync.until_served(self._api))
        stopping = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            await _end(waiting)
            return
        watching = [
            asyncio.create_task(self._watch(stop), name="kopf"),
            *(asyncio.create_task(follow(self._api, self.cache, kind, self._pace), name=kind) for kind in WATCHED),
        ]
        working = asyncio.create_task(self._work(), name="work")
        try:
            await asyncio.wait({*watching, working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            died = [task for task in (working, *watching) if task.done()]
        finally:
            # Reconciling ends before the cache goes stale.
            await _end(working, stopping)
            await _end(*watching)
        for task in died:
            logger.error("ended by itself", extra={"task": task.get_name()})
            await task

    async def _watch(self, stop: asyncio.Event) -> None:
        started = asyncio.Event()

        async def take_signals_back() -> None:
            # kopf takes SIGTERM for itself when it starts, but reconciling has to end before it does.
            await started.wait()
            _on_signals(stop)

        taker = asyncio.create_task(take_signals_back())
        try:
            await kopf.operator(
                registry=handlers.registry(self.cache, self._settings.kubeconfig),
                settings=handlers.settings(),
                standalone=True,
                clusterwide=True,
                ready_flag=started,
            )
        finally:
            taker.cancel()

    async def _work(self) -> None:
        await self._compare()
        self._complete = True
        SILENT_AGENTS.set_function(self.cache.silent)
        if not self._settings.leader_elect:
            LEADER.set(1)
            await self._lead()
            return
        leader = Leader(
            self._api,
            namespace=self._settings.namespace,
            name=LEASE_NAME,
            identity=self._settings.identity,
            times=self._settings.lease,
        )
        self._api.fence = leader
        await leader.run(self._lead)

    async def _lead(self) -> None:
        """Reconciles until cancelled. The cache is compared anew: this replica may have waited for days."""
        await self._compare()
        cluster = await self._cluster()
        async with Asker(self._api, self._settings.namespace) as asker, GateRunner(asker, self._changed) as gates:
            await self._reconcile(Reconciler(self._api, self.cache, cluster, gates, self._pace))

    async def _compare(self) -> None:
        """Returns once the cache holds the whole cluster."""
        self._pace.wait_for(_COMPARISON)
        try:
            await resync.until_complete(self._api, self.cache)
        finally:
            self._pace.rest(_COMPARISON)
        garbage.settle()

    async def _reconcile(self, reconciler: Reconciler) -> None:
        queue = Queue(reconciler.reconcile)
        self._queue = queue
        try:
            self._ask_for_all(queue)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(queue.run())
                tasks.create_task(self._resync(reconciler, queue))
                tasks.create_task(self._take_over.run())
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
        finally:
            self._queue = None
            QUEUED.set(0)
            reconciler.close()

    def _ask_for_all(self, queue: Queue) -> None:
        for key in (*self.cache.proxy_modes(), RELEASE):
            queue.add(key)

    async def _resync(self, reconciler: Reconciler, queue: Queue) -> None:
        while True:
            await asyncio.sleep(resync.EVERY_SECONDS)
            await self._compare()
            cluster = await self._cluster()
            if cluster is not None and cluster != reconciler.cluster:
                # The cluster was upgraded: the deprecation reads differently now.
                reconciler.cluster = cluster
                self._ask_for_all(queue)

    async def _cluster(self) -> Minor | None:
        """The API server's minor; None when it does not say one that we can read."""
        try:
            answer = await self._api.get("/version")
            return parse_minor(str(answer.get("gitVersion")))
        except (ApiError, ValueError) as error:
            logger.warning("cluster version not known", extra={"error": str(error)})
            return None


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancels the tasks and waits for their ends, whatever these are."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def serve(settings: Settings) -> None:
    """The whole process, until SIGTERM or SIGINT. Raises ConfigException or OSError when it cannot start."""
    stop = asyncio.Event()
    _on_signals(stop)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(KubeApi(await configuration(settings.kubeconfig)))
        operator = Operator(settings, api)
        await stack.enter_async_context(served(health_app(lambda: operator.ready), settings.healthz))
        await stack.enter_async_context(served(metrics_app(), settings.metrics))
        logger.info("started", extra={"identity": settings.identity})
        await operator.run(stop)
    logger.info("stopped")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit code 0 after a signal, 1 when it could not start, ended by an error or has to begin anew."""
    settings = parse(sys.argv[1:] if argv is None else argv)
    set_up(settings.logging_format)
    garbage.collect_seldom()
    logging.getLogger("kopf").setLevel(logging.WARNING)  # it would tell of every object that it handles
    try:
        asyncio.run(serve(settings))
    except (ConfigException, OSError, resync.SetBackError) as error:
        logger.error("cannot run", extra={"error": str(error)})
        return 1
    except KeyboardInterrupt:
        return 0
    except Exception:
        logger.exception("ended by an error")
        return 1
    return 0
