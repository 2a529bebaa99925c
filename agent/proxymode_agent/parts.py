"""What the agent is made of, put together.

    API server ─ OwnNode ─┐
               ─ feed ────┤→ Engine → dataplane thread → kernel
    flags or NodeProxyMode┘      └→ answers, NodeProxyMode's status

Every long-running part is a task of one group: a part that dies takes the process down, and whoever supervises it
starts it again, which costs nothing, since a start reads the kernel back and writes only what differs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from proxymode_agent import garbage
from proxymode_agent.engine import Engine, Pace
from proxymode_agent.feed import feed
from proxymode_agent.kube.objects import ObjectKey
from proxymode_agent.kube.own_node import NodeView, OwnNode, host_ips, pod_networks
from proxymode_agent.kube.recorder import ObjectWarning, Recorder
from proxymode_agent.localhost import LocalhostNodePorts
from proxymode_agent.metrics import Metrics
from proxymode_agent.switch import Switcher
from proxymode_api.reasons.codes import Reason

if TYPE_CHECKING:
    from proxymode_agent.flags import Options, Standalone
    from proxymode_agent.kube.client import KubeClient
    from proxymode_agent.services.model import ServicePortName

logger = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 0.5
"""How long a first sync, which has more need of the CPU, holds up the answers to probes."""


async def run(options: Options, client: KubeClient) -> None:
    """Work for ever; ends by cancellation, or with the exceptions of a part that failed."""
    metrics = Metrics()
    client.on_answer = metrics.kube_proxy.requests_to(client.host)
    node = OwnNode(client, options.node_name, restarted=metrics.watch_restarted("nodes"))
    recorder = Recorder(client, options.node_name, metrics)

    def warn_of_port(name: ServicePortName, reason: Reason, action: str, text: str) -> None:
        port = f"port {name.port or 'without name'}/{name.protocol.name}"
        key = ObjectKey(name.namespace, name.service)
        recorder.warn(ObjectWarning("Service", key, reason, action, f"{port}: {text}"))

    localhost = LocalhostNodePorts(
        metrics,
        on_failure=lambda name, text: warn_of_port(name, Reason.LOCALHOST_NODE_PORT_TAKEN, "ListenOnLoopback", text),
    )
    engine = Engine(
        partial(Switcher, state_dir=options.state_dir),
        metrics,
        node_name=options.node_name,
        on_problem=lambda problem: recorder.warn(
            ObjectWarning(problem.kind, problem.key, Reason.UNUSABLE_FIELD, "ReadObject", problem.text)
        ),
        on_refused=lambda name, text: warn_of_port(name, Reason.REFUSED_BY_KERNEL, "ProgramDataplane", text),
        on_synced=localhost.synced,
        pace=Pace(sync_period=options.sync_period),
    )

    def behind_seconds() -> float:
        since = engine.behind_since
        return 0.0 if since is None else time.monotonic() - since

    async def after_the_first_sync() -> None:
        await engine.until_synced(ANSWER_SECONDS)
        from proxymode_agent import answers
        from proxymode_agent.dataplane.limits import settle_once_programmed

        tasks.create_task(settle_once_programmed(options.conntrack, engine.health_checks))
        await answers.run(options, engine, node, recorder, metrics, behind_seconds)

    metrics.behind.set_function(behind_seconds)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(node.run())
        tasks.create_task(recorder.run())
        tasks.create_task(localhost.run())
        tasks.create_task(feed(client, node.view, engine, metrics))
        tasks.create_task(engine.run())
        tasks.create_task(garbage.resume_once_synced(engine))
        tasks.create_task(after_the_first_sync())
        if options.standalone is not None:
            tasks.create_task(_follow_flags(options.standalone, engine, node))
        else:
            from proxymode_agent.node.controller import NodeController  # brings pydantic along

            controller = NodeController(
                options.node_name,
                client,
                engine,
                node.view,
                options.state_dir,
                metrics,
            )
            tasks.create_task(controller.run())


async def _follow_flags(standalone: Standalone, engine: Engine, node: OwnNode) -> None:
    """Want what the flags say, on the addresses that the node has."""
    view = NodeView()
    while True:
        view = await node.view.changed(view)
        if view.node is None and engine.snapshot().desired is not None:
            continue  # deleted while we run: the addresses are still the machine's
        if view.node is None:
            logger.warning("this node has no Node object; NodePorts do not answer before it has")
        config = standalone.resolve(
            host_ips(view.node) if view.node else (), pod_networks(view.node) if view.node else ()
        )
        if config is not None:
            engine.set_desired(standalone.mode, config)
        else:
            logger.warning("the Node has no podCIDRs yet, by which --detect-local-mode NodeCIDR tells pods")
