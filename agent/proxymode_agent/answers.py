"""What others are answered: probes, Prometheus, and load balancers that ask for a healthCheckNodePort.

Imported when the kernel does what Services say, or when that takes long: nobody asks in the first tenth of a second,
and it takes a while to import.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from proxymode_agent.health import Health, health_routes, judge, metrics_routes, serve
from proxymode_agent.healthcheck import HealthCheckServers

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_agent.cell import Cell
    from proxymode_agent.engine import Engine
    from proxymode_agent.flags import Options
    from proxymode_agent.health import Paths
    from proxymode_agent.kube.own_node import OwnNode
    from proxymode_agent.kube.recorder import Recorder
    from proxymode_agent.metrics import Metrics
    from proxymode_agent.services.model import HealthChecks
    from proxymode_flags import BindAddress

STUCK_SYNC_PERIODS: Final = 2.0
"""Health turns bad when something has waited for the kernel for this many sync periods (as kube-proxy)."""


async def run(
    options: Options,
    engine: Engine,
    node: OwnNode,
    recorder: Recorder,
    metrics: Metrics,
    behind_seconds: Callable[[], float],
) -> None:
    """Answer for ever; ends by cancellation, or with the exceptions of a part that failed."""

    def health() -> Health:
        return judge(
            engine.snapshot(),
            behind_seconds(),
            node_eligible=node.view.value.eligible,
            timeout=STUCK_SYNC_PERIODS * options.sync_period,
        )

    async with asyncio.TaskGroup() as tasks:
        paths = health_routes(health, metrics.kube_proxy.probed)
        if options.healthz_address is not None:
            tasks.create_task(serve("healthz", options.healthz_address, paths))
        if options.node_healthz_address is not None:
            tasks.create_task(serve_in_place_of_kube_proxy(options.node_healthz_address, paths, engine.health_checks))
        if options.metrics_address is not None:
            answers = metrics_routes(metrics, lambda: engine.snapshot().observed)
            tasks.create_task(serve("metrics", options.metrics_address, answers))
        # Not `healthy`: by a node that is about to go, load balancers of policy Local go on to reach what it still has.
        checks = HealthCheckServers(lambda: health().alive, recorder.warn, metrics)
        tasks.create_task(checks.run(engine.health_checks))


async def serve_in_place_of_kube_proxy(
    address: BindAddress, paths: Paths, programmed: Cell[HealthChecks | None]
) -> None:
    """Answer there for ever, but only while this agent handles the node's Services.

    Load balancers of clouds send a node no traffic on whose port 10256 nobody answers (KEP-3836). While kube-proxy
    handles the node that port is kube-proxy's, and once the node is to be handed back it is free for the one that
    comes: by its answers there it is told that kube-proxy runs (`preflight.facts`).
    """
    seen = programmed.value
    while True:
        if seen is None or not seen.stays:
            seen = await programmed.changed(seen)
            continue
        async with asyncio.TaskGroup() as tasks:
            answering = tasks.create_task(serve("node healthz", address, paths))
            while seen is not None and seen.stays:
                seen = await programmed.changed(seen)
            answering.cancel()
