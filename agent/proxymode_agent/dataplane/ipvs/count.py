"""I/O: how many virtual servers IPVS has, without listing them.

Generic netlink does not tell; the older sockopt does, in a microsecond, and counts those of IPv4 only
(include/uapi/linux/ip_vs.h: struct ip_vs_getinfo; net/netfilter/ipvs/ip_vs_ctl.c: num_services).
"""

from __future__ import annotations

import socket
import struct
from typing import Final

_IP_VS_SO_GET_INFO: Final = 64 + 1024 + 64 + 1  # IP_VS_BASE_CTL + 1
_INFO: Final = struct.Struct("=III")  # version, size of the connection table, num_services


class Count:
    """Over the network namespace that this object was made in."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def close(self) -> None:
        self._socket.close()

    def virtual_servers(self) -> int | None:
        """The number of IPv4 virtual servers, whoever made them; None: the kernel has no IPVS."""
        try:
            answer = self._socket.getsockopt(socket.IPPROTO_IP, _IP_VS_SO_GET_INFO, _INFO.size)
        except OSError:
            return None
        return int(_INFO.unpack(answer)[2])
