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

    from proxymode_agent.engine import Engine
    from proxymode_agent.flags import Options
    from proxymode_agent.kube.own_node import OwnNode
    from proxymode_agent.kube.recorder import Recorder
    from proxymode_agent.metrics import Metrics

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
        if options.healthz_address is not None:
            probed = metrics.kube_proxy.probed
            tasks.create_task(serve("healthz", options.healthz_address, health_routes(health, probed)))
        if options.metrics_address is not None:
            answers = metrics_routes(metrics, lambda: engine.snapshot().observed)
            tasks.create_task(serve("metrics", options.metrics_address, answers))
        checks = HealthCheckServers(lambda: health().healthy, recorder.warn, metrics)
        tasks.create_task(checks.run(engine.health_checks))
