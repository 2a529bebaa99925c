"""The kernel settings that the ipvs mode needs, as kube-proxy sets them. Read back first, written only if they differ.

They stay when the mode goes: without virtual servers those of net.ipv4.vs mean nothing, and what the others were
before, nobody has written down. /proc/sys/net follows the network namespace of the calling thread.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane import proc_sys
from proxymode_agent.dataplane.base import DataplaneError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ALWAYS: Final = {
    "net/ipv4/vs/conntrack": "1",  # conntrack entries for IPVS connections: masquerading needs them
    "net/ipv4/vs/expire_nodest_conn": "1",  # a connection whose real server is gone ends at once
    "net/ipv4/vs/expire_quiescent_template": "1",  # stickiness to a server of weight 0 ends
    "net/ipv4/ip_forward": "1",
}
_STRICT_ARP: Final = {"net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2"}
_REUSE: Final = "net/ipv4/vs/conn_reuse_mode"
_REUSE_FIXED_IN: Final = (5, 9)  # commit f0a5e4d7a594: before, mode 1 delays a reused port's SYN by a second


def wanted(release: str, *, strict_arp: bool) -> dict[str, str]:
    """Setting by path under /proc/sys, for a kernel release such as `6.1.0-41-amd64`."""
    settings = dict(_ALWAYS)
    version = re.match(r"(\d+)\.(\d+)", release)
    if version is not None and (int(version[1]), int(version[2])) < _REUSE_FIXED_IN:
        settings[_REUSE] = "0"
    if strict_arp:
        settings.update(_STRICT_ARP)
    return settings


def apply(settings: Mapping[str, str]) -> int:
    """Write what differs; how many were written. Raises DataplaneError that names the setting and its value."""
    written = 0
    for path, value in settings.items():
        file = proc_sys.PROC_SYS / path
        name = path.replace("/", ".")
        try:
            found = file.read_text().strip()
            if found == value:
                continue
            file.write_text(value)
        except OSError as error:
            raise DataplaneError(
                f"sysctl {name} must be {value} and cannot be set: {os.strerror(error.errno or 0)}; "
                f"set it on the node, or mount the host's /proc/sys/net into the agent's container as "
                f"/host/proc/sys/net and set PROXYMODE_PROC_SYS=/host/proc/sys"
            ) from error
        written += 1
    return written
