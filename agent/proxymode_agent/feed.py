"""What the API server says of Services into the engine, for as long as the agent runs.

Services, EndpointSlices and ServiceCIDRs are watched here, the node elsewhere; Services wait for the node, for what its
zone is decides which endpoints it uses.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from proxymode_agent.kube.listwatch import ListWatch, first_list
from proxymode_agent.kube.objects import (
    decode_endpoint_slice,
    decode_endpoint_slices,
    decode_service,
    decode_services,
)
from proxymode_agent.kube.own_node import NodeView, zone
from proxymode_agent.kube.service_cidrs import ServiceCidrs
from proxymode_agent.services.labels import OURS_SELECTOR

if TYPE_CHECKING:
    from proxymode_agent.cell import Cell
    from proxymode_agent.engine import Engine
    from proxymode_agent.kube.client import KubeClient
    from proxymode_agent.metrics import Metrics


SERVICES: Final = "/api/v1/services"
SLICES: Final = "/apis/discovery.k8s.io/v1/endpointslices"


async def ahead(client: KubeClient) -> None:
    """Ask for the lists that `feed` begins with: the API server writes them while we are not ready to read. Does not
    fail."""
    async with asyncio.TaskGroup() as tasks:
        for path in (SLICES, SERVICES):
            tasks.create_task(client.ahead(path, first_list(OURS_SELECTOR)))


async def feed(client: KubeClient, node: Cell[NodeView], engine: Engine, metrics: Metrics) -> None:
    """Watch, and hand every event to the engine; ends only by cancellation."""
    services = ListWatch(
        client,
        SERVICES,
        decode_service,
        decode_all=decode_services,
        label_selector=OURS_SELECTOR,
        restarted=metrics.watch_restarted("services"),
    )
    slices = ListWatch(
        client,
        SLICES,
        decode_endpoint_slice,
        decode_all=decode_endpoint_slices,
        label_selector=OURS_SELECTOR,
        restarted=metrics.watch_restarted("endpointslices"),
    )
    cidrs = ServiceCidrs(client, engine.set_service_cidrs, restarted=metrics.watch_restarted("servicecidrs"))

    async def feed_services() -> None:
        async for events in services.batches():
            engine.on_service(*events)

    async def feed_slices() -> None:
        async for events in slices.batches():
            engine.on_slice(*events)

    async def feed_zone(view: NodeView) -> None:
        while True:
            if view.node is not None:  # deleted while we run: the machine is still where it was
                engine.set_zone(zone(view.node))
            view = await node.changed(view)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(cidrs.run(), name="servicecidrs")
        tasks.create_task(feed_zone(await node.changed(NodeView())), name="zone")
        tasks.create_task(feed_services(), name="services")
        tasks.create_task(feed_slices(), name="endpointslices")
