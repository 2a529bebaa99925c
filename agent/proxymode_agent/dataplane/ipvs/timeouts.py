"""I/O: how long IPVS remembers connections, as it is now.

Read by the older sockopt, which answers in a microsecond (include/uapi/linux/ip_vs.h: struct ip_vs_timeout_user);
written over generic netlink, see `servers`.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.services.model import IpvsTimeouts

_IP_VS_SO_GET_TIMEOUT: Final = 64 + 1024 + 64 + 6  # IP_VS_BASE_CTL + 6
_TIMEOUTS: Final = struct.Struct("=iii")  # tcp, tcp_fin, udp


def read() -> IpvsTimeouts:
    """The timeouts in the network namespace of the calling thread. Raises DataplaneError."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
            return IpvsTimeouts(*_TIMEOUTS.unpack(asking.getsockopt(0, _IP_VS_SO_GET_TIMEOUT, _TIMEOUTS.size)))
    except OSError as error:
        raise DataplaneError(f"cannot read the timeouts of IPVS: {error}") from error


def differing(wanted: IpvsTimeouts, found: IpvsTimeouts) -> IpvsTimeouts:
    """Pure: those to be set, 0 where nothing is to be done."""
    return IpvsTimeouts(*(0 if one == other else one for one, other in zip(wanted, found, strict=True)))
