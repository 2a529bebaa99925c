"""The agent has the rights that it needs and no other: RBAC is enforced, and every rule of its role is used."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from node_bed import OUR_CRDS, RBAC, ROOT, NodeBed
from proxymode_agent.engine import Engine
from proxymode_agent.feed import feed
from proxymode_agent.kube import config
from proxymode_agent.kube.client import KubeClient
from proxymode_agent.kube.objects import ObjectKey
from proxymode_agent.kube.own_node import OwnNode
from proxymode_agent.kube.recorder import ObjectWarning, Recorder
from proxymode_agent.metrics import Metrics
from proxymode_api.nodeproxymode import Phase
from proxymode_api.reasons.codes import Reason
from proxymode_testbeds.apiserver.rights import NAMESPACE, granted, used
from proxymode_testbeds.polling import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_agent.engine.worker import Switcher
    from proxymode_agent.services.model import DataplaneConfig
    from proxymode_testbeds.apiserver import ApiServer

SLICE = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "endpoints": [],
    "ports": [],
}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]},
}


def no_dataplane(_: DataplaneConfig) -> Switcher:
    raise NotImplementedError("this test programs nothing")


async def test_the_agent_uses_every_right_that_it_has_and_asks_for_no_other(
    empty_api: ApiServer, tmp_path: Path
) -> None:
    await empty_api.kubectl("apply", f"--filename={ROOT / 'crds'}", f"--filename={RBAC}")
    await empty_api.served(*OUR_CRDS)
    await empty_api.kubectl(
        "apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": [SERVICE, SLICE]})
    )
    bed = NodeBed(empty_api, tmp_path)
    await bed.add_node()
    await bed.ask(mode="nftables")
    holder = empty_api.add_service_account(NAMESPACE, "proxymode-agent", node=bed.name)
    metrics = Metrics()
    async with bed.agent(), KubeClient(config.load(empty_api.kubeconfig(holder))) as client:
        await bed.until(lambda found: found.status.phase is Phase.ACTIVE)
        node = OwnNode(client, bed.name)
        recorder = Recorder(client, bed.name, metrics)
        for kind, name in (("Service", "web"), ("EndpointSlice", "web-1")):
            recorder.warn(ObjectWarning(kind, ObjectKey("default", name), Reason.UNUSABLE_FIELD, "ReadObject", "why"))
        tasks = [
            asyncio.create_task(node.run()),
            asyncio.create_task(recorder.run()),
            asyncio.create_task(feed(client, node.view, Engine(no_dataplane, metrics), metrics)),
        ]

        async def all_used() -> bool:
            return used("agent", empty_api.requests()) == granted("agent")

        async def both_told() -> bool:
            labels = {"result": "success"}
            return metrics.registry.get_sample_value("proxymode_agent_object_events_total", labels) == 2

        try:
            await eventually(both_told, "an Event on the Service and one on the EndpointSlice")
            await eventually(all_used, "every right of the agent in the audit log")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
