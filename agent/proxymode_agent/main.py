"""The agent's process: reads the flags, asks for the first lists, and ends on SIGTERM with the rules left in place.

What it is made of is put together in `parts`, which is imported while the API server writes the lists: what is imported
here delays every start of the agent, what is imported there hardly any.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from proxymode_agent import feed, flags, garbage
from proxymode_agent.kube.client import KubeClient
from proxymode_agent.kube.cluster import ClusterConfig, ConfigError
from proxymode_agent.kube.config import load
from proxymode_agent.version import VERSION
from proxymode_log import set_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxymode_agent.flags import Options

logger = logging.getLogger(__name__)

STOP_SECONDS: Final = 4.5
"""After SIGTERM a kernel call that is under way may take this long; then the process ends regardless. A switch that is
cut short is finished at the next start."""
DEBUG_VERBOSITY: Final = 4
"""From this --v on, debug lines are written (klog's convention: 4 is debug level)."""
AHEAD_SECONDS: Final = 0.3
"""How long an API server that does not answer holds up the rest of the start."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent; its exit status: 0 stopped or cleaned up, 1 could not start or work, 2 wrong flags."""
    garbage.pause()
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
    return asyncio.run(_until_stopped(options, config))


def clean_up(options: Options) -> int:
    """Remove everything that the agent ever made, in both modes; 0, or 1 when something could not be removed, or must
    not be."""
    from proxymode_agent.dataplane.base import DataplaneError
    from proxymode_agent.node import memory
    from proxymode_agent.preflight.facts import kube_proxy_runs
    from proxymode_agent.services.model import DataplaneConfig
    from proxymode_agent.switch.cleanup import clean_up as remove_all
    from proxymode_agent.switch.journal import Journal
    from proxymode_agent.switch.kernel import Kernel

    try:
        kernel = Kernel(DataplaneConfig(), options.state_dir)
    except DataplaneError as error:
        logger.error("cannot be removed", extra={"error": str(error)})
        return 1
    if options.cleanup_needs_kube_proxy and kernel.present() and not kube_proxy_runs():
        logger.error(
            "nothing is removed: no kube-proxy runs here, and this node would have no Services; hand it back first",
            extra={"looked_at": "127.0.0.1:10249 and 127.0.0.1:10256"},
        )
        kernel.close()
        return 1
    failed = remove_all(kernel, Journal(options.state_dir))
    kernel.close()
    for what, reason in failed.items():
        logger.error("cannot be removed", extra={"what": what, "error": reason})
    if options.state_dir.exists():
        (options.state_dir / memory.FILE_NAME).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else's files are in it
            options.state_dir.rmdir()
    if not failed:
        logger.info("removed", extra={"state_dir": str(options.state_dir)})
    return 1 if failed else 0


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


async def _run(options: Options, config: ClusterConfig) -> None:
    logger.info(
        "starting",
        extra={
            "version": VERSION,
            "node": options.node_name,
            "server": config.server,
            "mode": options.standalone.mode.value if options.standalone else "as NodeProxyMode says",
        },
    )
    async with KubeClient(config, user_agent=f"proxymode-agent/{VERSION}") as client:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AHEAD_SECONDS):
                await feed.ahead(client)
        from proxymode_agent import parts

        await parts.run(options, client)


def _give_up() -> None:
    """The dataplane thread cannot be interrupted, and the interpreter would wait for it for ever."""
    logger.error("a kernel call did not end in time, stopping without it", extra={"seconds": STOP_SECONDS})
    os._exit(1)
