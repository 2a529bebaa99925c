"""The engine's log lines: what is worth one, at which level, with which fields."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxymode_agent.dataplane.base import SyncResult
    from proxymode_agent.engine.worker import Kernel
    from proxymode_agent.services.model import ServicePortName
    from proxymode_agent.services.tracker import Problem
    from proxymode_api.modes import Mode

logger = logging.getLogger(__name__)


def opened(kernel: Kernel) -> None:
    """The dataplane was opened, and this was found in the kernel."""
    logger.info(
        "dataplane opened",
        extra={"observed": kernel.observed.value, "unfinished_switch": kernel.unfinished or "none"},
    )


def refused(name: ServicePortName, reason: str) -> None:
    """The kernel does not take a Service port; the others are programmed."""
    logger.warning("kernel refused a Service port", extra={"service": str(name), "reason": reason})


def instead(text: str) -> None:
    """Not what was asked for but something near it is programmed."""
    logger.warning("kernel lacks something", extra={"instead": text})


def synced(result: SyncResult, kind: str, seconds: float) -> None:
    """A sync succeeded."""
    routine = kind == "incremental" or not result.written
    logger.log(
        logging.DEBUG if routine else logging.INFO,
        "synced",
        extra={
            "kind": kind,
            "written": result.written,
            "services": result.services,
            "endpoints": result.endpoints,
            "milliseconds": round(seconds * 1000, 2),
        },
    )


def drifted(changed: str, written: int) -> None:
    """Others had changed what is ours, and it was put back."""
    logger.warning("drift repaired", extra={"changed": changed, "written": written})


def switch_begins(kernel: Kernel, to: Mode) -> None:
    """A switch was begun."""
    logger.info("switch begins", extra={"from_mode": kernel.observed.value, "to_mode": to.value})


def switch_ended(to: Mode, seconds: float) -> None:
    """A switch succeeded."""
    logger.info("switch ended", extra={"to_mode": to.value, "seconds": round(seconds, 3)})


def handed_back(kernel: Kernel) -> None:
    """kube-proxy has the node again."""
    logger.info("handed back to kube-proxy", extra={"mode": kernel.observed.value})


def failed(what: str, error: Exception, delay: float) -> None:
    """Something failed and will be tried again; with a traceback only for what no dataplane raises on purpose."""
    expected = type(error).__module__.startswith("proxymode_agent.")
    logger.error(
        what,
        extra={"error": str(error), "retry_seconds": round(delay, 1)},
        exc_info=None if expected else error,
    )


def unusable(problem: Problem) -> None:
    """Part of an object was left out."""
    logger.warning(
        "object cannot be used as it is",
        extra={"kind": problem.kind, "object": str(problem.key), "problem": problem.text},
    )
