"""This host's own share: the whole load but for IPVS, which its kernel need not have.

What is real: Python on the CPU itself, nf_tables, addresses and routes. What is stood in for: IPVS's answers (a socket
that takes every batch and acknowledges it), its timeouts and sysctls, and the dummy device (a bridge, where the kernel
has no dummy).
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxymode_agent.dataplane import proc_sys
from proxymode_agent.dataplane.ipvs import sysctls, timeouts
from proxymode_agent.dataplane.ipvs.addresses import ALIAS, DEVICE
from proxymode_agent.dataplane.ipvs.dataplane import IpvsDataplane
from proxymode_agent.dataplane.ipvs.servers import Servers
from proxymode_agent.dataplane.netlink import NetlinkSocket
from proxymode_agent.services.model import IpvsTimeouts
from proxymode_benchmarks.ipvs import floor, ours
from proxymode_benchmarks.ipvs.figures import Bound, Native
from proxymode_benchmarks.sync.cases import Case

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_agent.dataplane.ipvs.model import VirtualServer
    from proxymode_agent.services.model import Frontend

KIND: Final = "bridge"
_TIMES: Final = 3
_ACKNOWLEDGEMENT: Final = struct.Struct("=IHHIIi16x")  # struct nlmsghdr, then struct nlmsgerr
_NLMSG_ERROR: Final = 2
_NETLINK_GENERIC: Final = 16


def in_process(what: str) -> Any:
    """What a new process of this module prints, for a case or for a number of addresses. Raises CalledProcessError."""
    command = [sys.executable, "-m", "proxymode_benchmarks.ipvs.native", what]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def load(case: Case) -> Native:
    """The least of three loads over an empty kernel, by CPU time. Raises WrongResultError, DataplaneError."""
    with tempfile.TemporaryDirectory() as settings:
        _stand_in(Path(settings))
        state = ours.cluster(case).take().state
        costs = []
        for _ in range(_TIMES):
            floor.batch([f"link add {DEVICE} type {KIND}", f"link set {DEVICE} alias {ALIAS}"])
            dataplane = IpvsDataplane(ours.CONFIG)
            dataplane._parts._servers = _Servers()
            try:
                costs.append(ours.first_sync(case, dataplane.sync, state))
            finally:
                dataplane.release_addresses()
                dataplane.remove_table()
                dataplane.close()
    best = min(costs, key=lambda cost: cost.user + cost.system)
    return Native(best.wall, best.user, best.system)


def bind(count: int) -> Bound:
    """So many addresses alone. Raises WrongResultError."""
    floor.batch([f"link add {DEVICE} type {KIND}", f"link set {DEVICE} alias {ALIAS}"])
    return Bound(count, ours.bind(count), floor.bind(count, KIND).wall)


def _stand_in(settings: Path) -> None:
    for path, value in sysctls.wanted(os.uname().release, strict_arp=False).items():
        (settings / path).parent.mkdir(parents=True, exist_ok=True)
        (settings / path).write_text(value)
    proc_sys.PROC_SYS = settings  # type: ignore[misc]
    timeouts.read = lambda: IpvsTimeouts(900, 120, 300)


class _Socket:
    """Takes what IPVS would be told, and acknowledges the last message."""

    def __init__(self, netlink: NetlinkSocket) -> None:
        self._netlink = netlink

    def send(self, data: bytes) -> int:
        return len(data)

    def recv_into(self, buffer: bytearray) -> int:
        size = _ACKNOWLEDGEMENT.size
        _ACKNOWLEDGEMENT.pack_into(buffer, 0, size, _NLMSG_ERROR, 0, self._netlink._sequence, 0, 0)
        return size

    def close(self) -> None:
        pass


class _Servers(Servers):
    """Over an IPVS that has nothing and takes everything."""

    def __init__(self) -> None:
        self._id = 0
        self._netlink = NetlinkSocket(_NETLINK_GENERIC)
        self._netlink.close()
        self._netlink._channel._socket = _Socket(self._netlink)  # type: ignore[assignment]

    def close(self) -> None:
        pass

    def outlived(self) -> bool:
        return False

    def read(self, wanted: Callable[[Frontend], bool]) -> dict[Frontend, VirtualServer]:
        return {}


if __name__ == "__main__":
    floor.own_namespace(KIND)
    print(json.dumps(asdict(bind(int(sys.argv[1])) if sys.argv[1].isdecimal() else load(Case.parse(sys.argv[1])))))
