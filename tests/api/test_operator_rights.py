"""The operator has the rights that it needs and no other: RBAC is enforced, and every rule of its roles is used."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING

from operator_bed import NODES, bed, server
from proxymode_api.labels import SERVICE_PROXY_LABEL
from proxymode_testbeds.apiserver.rights import granted, used
from proxymode_testbeds.polling import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from operator_bed import Bed

GATE = {
    "name": "judge",
    "webhook": {"url": "https://127.0.0.1:1", "bearerTokenSecret": {"name": "proxymode-gates", "key": "none"}},
}
DAEMON_SETS = "/apis/apps/v1/namespaces/kube-system/daemonsets"
KUBE_PROXY = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
    "spec": {
        "selector": {"matchLabels": {"k8s-app": "kube-proxy"}},
        "template": {
            "metadata": {"labels": {"k8s-app": "kube-proxy"}},
            "spec": {"containers": [{"name": "kube-proxy", "image": "kube-proxy:1"}]},
        },
    },
}
STAGES = [{"name": "one", "count": 1}, {"name": "all", "percent": 100, "approval": "Manual"}]


async def labelled(fleet: Bed) -> bool:
    items = (await fleet.get(NODES))["items"]
    return any(SERVICE_PROXY_LABEL in item["metadata"].get("labels", {}) for item in items)


async def test_the_operator_uses_every_right_that_it_has_and_asks_for_no_other(tmp_path: Path) -> None:
    async with server(tmp_path / "api") as api, bed(api, tmp_path) as fleet:
        await fleet.add_nodes("n0", "n1")
        async with fleet.operator() as process:
            await fleet.create(stages=STAGES)
            await fleet.until_status("AwaitingApproval")
            await fleet.edit({"metadata": {"annotations": {"proxymode.io/promote": "all"}}})
            await fleet.until_status("Complete")
            await fleet.until_event("RolloutComplete")
            await fleet.request("POST", DAEMON_SETS, KUBE_PROXY)
            await fleet.edit({"spec": {"kubeProxy": {"policy": "TakeOver"}}})
            await eventually(partial(labelled, fleet), "a Node is labelled")
            await fleet.create("gated", stages=STAGES, gates=[GATE])
            await fleet.until_event("GateUnanswered")
            process.process.send_signal(signal.SIGTERM)
            assert await process.process.wait() == 0, process.log_tail()
        assert used("operator", api.requests()) == granted("operator")
