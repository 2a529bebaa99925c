"""Services and EndpointSlices from the API server into the engine, for as long as the agent runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxymode_agent.kube.listwatch import ListWatch
from proxymode_agent.kube.objects import decode_endpoint_slice, decode_service
from proxymode_agent.services.labels import OURS_SELECTOR

if TYPE_CHECKING:
    from proxymode_agent.engine import Engine
    from proxymode_agent.kube.client import KubeClient
    from proxymode_agent.metrics import Metrics


async def feed(client: KubeClient, engine: Engine, metrics: Metrics) -> None:
    """Watch both kinds and hand every event to the engine; ends only by cancellation."""
    services = ListWatch(
        client,
        "/api/v1/services",
        decode_service,
        label_selector=OURS_SELECTOR,
        restarted=metrics.watch_restarted("services"),
    )
    slices = ListWatch(
        client,
        "/apis/discovery.k8s.io/v1/endpointslices",
        decode_endpoint_slice,
        label_selector=OURS_SELECTOR,
        restarted=metrics.watch_restarted("endpointslices"),
    )

    async def feed_services() -> None:
        async for event in services.events():
            engine.on_service(event)

    async def feed_slices() -> None:
        async for event in slices.events():
            engine.on_slice(event)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed_services(), name="services")
        tasks.create_task(feed_slices(), name="endpointslices")
