"""The agent's process: reads the flags, wires the parts together, and ends on SIGTERM with the rules left in place.

    API server ─ OwnNode ─┐
               ─ feed ────┤→ Engine → dataplane thread → kernel
    flags or NodeProxyMode┘      └→ health, metrics, NodeProxyMode's status

Every long-running part is a task of one group: a part that dies takes the process down, and whoever supervises it
starts it again, which costs nothing, since a start reads the kernel back and writes only what differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from proxymode_agent import flags, garbage
from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.engine import Engine, Pace
from proxymode_agent.feed import feed
from proxymode_agent.health import Health, health_routes, judge, metrics_routes, serve
from proxymode_agent.healthcheck import HealthCheckServers
from proxymode_agent.kube.client import KubeClient
from proxymode_agent.kube.config import ClusterConfig, ConfigError, load
from proxymode_agent.kube.objects import ObjectKey
from proxymode_agent.kube.own_node import NodeView, OwnNode, internal_ips, pod_networks
from proxymode_agent.kube.recorder import ObjectWarning, Recorder
from proxymode_agent.localhost import LocalhostNodePorts
from proxymode_agent.metrics import Metrics, agent_version
from proxymode_agent.services.model import DataplaneConfig
from proxymode_agent.switch import Switcher
from proxymode_agent.switch.journal import Journal
from proxymode_api.modes import Mode
from proxymode_api.reasons.codes import Reason
from proxymode_log import set_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxymode_agent.flags import Options, Standalone
    from proxymode_agent.services.model import ServicePortName

logger = logging.getLogger(__name__)

STOP_SECONDS: Final = 4.5
"""After SIGTERM a kernel call that is under way may take this long; then the process ends regardless. A switch that is
cut short is finished at the next start."""
DEBUG_VERBOSITY: Final = 4
"""From this --v on, debug lines are written (klog's convention: 4 is debug level)."""
STUCK_SYNC_PERIODS: Final = 2.0
"""Health turns bad when something has waited for the kernel for this many sync periods (as kube-proxy)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent; its exit status: 0 stopped or cleaned up, 1 could not start or work, 2 wrong flags."""
    options = flags.parse(sys.argv[1:] if arguments is None else arguments)
    set_up(options.log_format, debug="proxymode_agent" if options.verbosity >= DEBUG_VERBOSITY else "")
    try:
        if options.cleanup:
            return clean_up(options)
        config = load(options.kubeconfig)
        options.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except ConfigError as error:
        logger.error("cannot start", extra={"error": str(error)})
        return 1
    except OSError as error:
        logger.error("cannot start", extra={"error": f"--state-dir {options.state_dir}: {error.strerror or error}"})
        return 1
    garbage.pause()
    return asyncio.run(_until_stopped(options, config))


def clean_up(options: Options) -> int:
    """Remove everything that the agent ever made, in both modes; 0, or 1 when something could not be removed."""
    from proxymode_agent.node import memory  # brings pydantic along

    status = 0
    try:
        switcher = Switcher(DataplaneConfig(), options.state_dir)
    except DataplaneError as error:
        logger.error("cannot be removed", extra={"error": str(error)})
        return 1
    for mode in Mode:
        try:
            switcher.dataplane(mode).remove()
            logger.info("removed", extra={"mode": mode.value})
        except DataplaneError as error:
            logger.error("cannot be removed", extra={"mode": mode.value, "error": str(error)})
            status = 1
    switcher.close()
    if options.state_dir.exists():
        Journal(options.state_dir).clear()
        (options.state_dir / memory.FILE_NAME).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else's files are in it
            options.state_dir.rmdir()
    return status


async def _until_stopped(options: Options, config: ClusterConfig) -> int:
    """Run until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    work = asyncio.create_task(_run(options, config))

    def stop(received: signal.Signals) -> None:
        logger.info("stopping, rules stay in place", extra={"signal": received.name})
        loop.call_later(STOP_SECONDS, _give_up)
        work.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    try:
        await work
    except asyncio.CancelledError:
        return 0
    except ExceptionGroup as group:
        for error in group.exceptions:
            logger.error("a part of the agent failed", extra={"error": str(error)}, exc_info=error)
    return 1


def _give_up() -> None:
    """The dataplane thread cannot be interrupted, and the interpreter would wait for it for ever."""
    logger.error("a kernel call did not end in time, stopping without it", extra={"seconds": STOP_SECONDS})
    os._exit(1)


async def _run(options: Options, config: ClusterConfig) -> None:
    metrics = Metrics()
    logger.info(
        "starting",
        extra={
            "version": agent_version(),
            "node": options.node_name,
            "server": config.server,
            "mode": options.standalone.mode.value if options.standalone else "as NodeProxyMode says",
        },
    )
    host = urlsplit(config.server).netloc

    def count(method: str, code: str) -> None:
        metrics.kube_proxy.requests.labels(code, method, host).inc()

    async with KubeClient(config, user_agent=f"proxymode-agent/{agent_version()}", on_answer=count) as client:
        node = OwnNode(client, options.node_name, restarted=metrics.watch_restarted("nodes"))
        recorder = Recorder(client, options.node_name, metrics)

        def warn_of_port(name: ServicePortName, reason: Reason, action: str, text: str) -> None:
            port = f"port {name.port or 'without name'}/{name.protocol.name}"
            key = ObjectKey(name.namespace, name.service)
            recorder.warn(ObjectWarning("Service", key, reason, action, f"{port}: {text}"))

        localhost = LocalhostNodePorts(
            metrics,
            on_failure=lambda name, text: warn_of_port(
                name, Reason.LOCALHOST_NODE_PORT_TAKEN, "ListenOnLoopback", text
            ),
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

        def health() -> Health:
            return judge(
                engine.snapshot(),
                behind_seconds(),
                node_eligible=node.view.value.eligible,
                timeout=STUCK_SYNC_PERIODS * options.sync_period,
            )

        metrics.behind.set_function(behind_seconds)
        async with asyncio.TaskGroup() as tasks:
            if options.healthz_address is not None:
                tasks.create_task(serve("healthz", options.healthz_address, health_routes(health)))
            if options.metrics_address is not None:
                tasks.create_task(serve("metrics", options.metrics_address, metrics_routes(metrics)))
            tasks.create_task(node.run())
            tasks.create_task(recorder.run())
            tasks.create_task(localhost.run())
            tasks.create_task(feed(client, node.view, engine, metrics))
            tasks.create_task(engine.run())
            tasks.create_task(garbage.resume_once_synced(engine))
            checks = HealthCheckServers(lambda: health().healthy, recorder.warn, metrics)
            tasks.create_task(checks.run(engine.health_checks))
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
            internal_ips(view.node) if view.node else (), pod_networks(view.node) if view.node else ()
        )
        if config is not None:
            engine.set_desired(standalone.mode, config)
        else:
            logger.warning("the Node has no podCIDRs yet, by which --detect-local-mode NodeCIDR tells pods")
