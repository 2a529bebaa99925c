"""How many connections the kernel may track and for how long, as kube-proxy sees to at each of its starts.

A kernel forgets it with a reboot. On a node that then has no kube-proxy the kernel's own values would hold: as many
entries on a machine of 64 cores as on one of eight, where a full table drops new connections, and five days for one
that ended unseen. What somebody else has set stays: a maximum is raised and never lowered, a time-out that has a
default is set only where it is still the kernel's; what is set only where it is asked for is set in any case. Flags,
defaults and formula are kube-proxy's (cmd/kube-proxy/app/server_linux.go).
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.proc_sys import PROC_SYS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from proxymode_agent.cell import Cell
    from proxymode_agent.services.model import ConntrackLimits, HealthChecks

logger = logging.getLogger(__name__)

MAX: Final = "nf_conntrack_max"
BUCKETS: Final = "nf_conntrack_buckets"
ESTABLISHED: Final = "nf_conntrack_tcp_timeout_established"
CLOSE_WAIT: Final = "nf_conntrack_tcp_timeout_close_wait"
UDP: Final = "nf_conntrack_udp_timeout"
UDP_STREAM: Final = "nf_conntrack_udp_timeout_stream"
BE_LIBERAL: Final = "nf_conntrack_tcp_be_liberal"
KERNEL_SECONDS: Final = {ESTABLISHED: 432_000, CLOSE_WAIT: 60}
"""The kernel's own time-outs (net/netfilter/nf_conntrack_proto_tcp.c)."""
ENTRIES_PER_BUCKET: Final = 4
"""At most, in kube-proxy's reckoning."""


def to_write(limits: ConntrackLimits, cores: int, found: Mapping[str, int]) -> dict[str, int]:
    """The settings that are to be changed, by name under net.netfilter. Pure; what is not in `found` is left alone."""
    entries = max(limits.max_per_core * cores, limits.min_entries) if limits.max_per_core else 0
    wanted: dict[str, int] = {}
    if 0 < found.get(MAX, 0) < entries:  # a maximum of 0 is none
        if found.get(BUCKETS, entries) < entries // ENTRIES_PER_BUCKET:
            wanted[BUCKETS] = entries // ENTRIES_PER_BUCKET
        wanted[MAX] = entries  # last: a new number of buckets once was a new maximum, too
    seconds = {ESTABLISHED: limits.established_seconds, CLOSE_WAIT: limits.close_wait_seconds}
    timeouts = {
        name: value for name, value in seconds.items() if value and found.get(name) == KERNEL_SECONDS[name] != value
    }
    asked = {UDP: limits.udp_seconds, UDP_STREAM: limits.udp_stream_seconds, BE_LIBERAL: int(limits.tcp_be_liberal)}
    return (
        wanted | timeouts | {name: value for name, value in asked.items() if value and found.get(name, value) != value}
    )


def settle(limits: ConntrackLimits, cores: int, root: Path = PROC_SYS) -> None:
    """Read the settings and write those that are to be changed; says in the log what was done and what could not be."""
    folder = root / "net/netfilter"
    found = {}
    for name in (MAX, BUCKETS, ESTABLISHED, CLOSE_WAIT, UDP, UDP_STREAM, BE_LIBERAL):
        try:
            found[name] = int((folder / name).read_text())
        except (OSError, ValueError):
            continue
    for name, value in to_write(limits, cores, found).items():
        setting = {"setting": f"net.netfilter.{name}", "from": found[name], "to": value}
        try:
            (folder / name).write_text(str(value))
        except OSError as error:
            why = os.strerror(error.errno or 0)
            logger.warning("conntrack's setting cannot be changed; set it on the node", extra=setting | {"error": why})
        else:
            logger.info("conntrack's setting changed, as kube-proxy's start does", extra=setting)


async def settle_once_programmed(limits: ConntrackLimits, programmed: Cell[HealthChecks | None]) -> None:
    """Do it as soon as this agent handles the node's Services; before that nothing of the node is its business."""
    seen = programmed.value
    while seen is None or not seen.stays:
        seen = await programmed.changed(seen)
    await asyncio.to_thread(settle, limits, os.cpu_count() or 1)
