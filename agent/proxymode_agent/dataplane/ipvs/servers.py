"""I/O: virtual servers and real servers of IPVS over generic netlink; real servers are read from /proc/net/ip_vs.

The messages are in `messages`. pyroute2's IPVS class is not used: it has no batches, sends a change as a delete, and
takes about 200 us a message.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.ipvs import messages
from proxymode_agent.dataplane.ipvs.listing import parse
from proxymode_agent.dataplane.ipvs.model import (
    AddRealServer,
    DeleteRealServer,
    DeleteVirtualServer,
    ServerChange,
    SetWeight,
    VirtualServer,
)
from proxymode_agent.dataplane.netlink import Message, NetlinkSocket
from proxymode_agent.dataplane.nfnetlink.attributes import encode, fields, to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxymode_agent.dataplane.ipvs.model import RealServer
    from proxymode_agent.services.model import Endpoint, Frontend, IpvsTimeouts

_NETLINK_GENERIC: Final = 16
_GENL_ID_CTRL: Final = 0x10
_CTRL_CMD_GETFAMILY: Final = 3
_CTRL_ATTR_FAMILY_ID: Final = 1
_CTRL_ATTR_FAMILY_NAME: Final = 2

_LISTING: Final = Path("/proc/thread-self/net/ip_vs")
_U16: Final = struct.Struct("=H")
_GENL: Final = struct.Struct("=BBH")  # cmd, version, reserved
_VERSION: Final = 1
_PACKED_AT_ONCE: Final = 1024
"""Changes of which there are messages at one time: those of a whole first sync would be megabytes."""
_ALREADY_SO: Final = {
    DeleteVirtualServer: {errno.ESRCH, errno.ENOENT},
    DeleteRealServer: {errno.ESRCH, errno.ENOENT},
}


class Servers:
    """The IPVS tables of the network namespace that this object was made in.

    Loads the module ip_vs if the kernel has none; raises DataplaneError where that does not help.
    """

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(_NETLINK_GENERIC)
        family = self._family() or self._load()
        if family is None:
            self._netlink.close()
            raise DataplaneError("the kernel has no IPVS: load module ip_vs, or use mode nftables")
        self._id = family
        self._listing = _LISTING.open("rb", buffering=0)

    def close(self) -> None:
        self._listing.close()
        self._netlink.close()

    def outlived(self) -> bool:
        """Whether the module ip_vs that this object asks has been unloaded: one loaded since is another netlink family.

        Only virtual servers hold the module, so this happens to an agent without Services.
        """
        try:
            self._listing.seek(0)
        except OSError:  # EINVAL, of an entry of /proc that was removed (fs/proc/inode.c: proc_reg_llseek)
            return True
        return False

    def read(self, wanted: Callable[[Frontend], bool]) -> dict[Frontend, VirtualServer]:
        """Those of the virtual servers for which `wanted` says so, whoever made them, with their real servers.

        The listing leaves some out where other network namespaces have virtual servers too and it is longer than a
        page: between two pages the kernel counts all of them, where it goes on only the own (ip_vs_info_seq_next and
        ip_vs_info_array in net/netfilter/ipvs/ip_vs_ctl.c). So generic netlink says which there are.
        """
        self._listing.seek(0)
        real_servers = parse(self._listing.read().decode("ascii"), wanted)
        found: dict[Frontend, VirtualServer] = {}
        for _, answer in self._netlink.dump(self._id, messages.LIST_SERVICES):
            parsed = messages.parse_service(answer)
            if parsed is not None and wanted(parsed[0]):
                frontend, scheduling = parsed
                listed = real_servers.get(frontend)
                found[frontend] = VirtualServer(scheduling, self._dests(frontend) if listed is None else listed)
        return found

    def has_scheduler(self, name: str) -> bool:
        """Whether the kernel has a scheduler, or a module for it that it could load."""
        refused = self._netlink.transact([Message(self._id, 0, body) for body in messages.probe(name)])
        return refused.get(0) != errno.ENOENT

    def set_timeouts(self, timeouts: IpvsTimeouts) -> None:
        """Set how long connections are remembered; 0 leaves one as it is. Raises DataplaneError."""
        refused = self._netlink.transact([Message(self._id, 0, messages.set_timeouts(timeouts))])
        if refused:
            raise DataplaneError(f"cannot set the timeouts of IPVS to {timeouts}: {os.strerror(refused[0])}")

    def _dests(self, frontend: Frontend) -> dict[Endpoint, RealServer]:
        """Those of one virtual server."""
        return dict(
            messages.parse_dest(answer) for _, answer in self._netlink.dump(self._id, messages.list_dests(frontend))
        )

    def apply(self, changes: Sequence[ServerChange]) -> list[tuple[ServerChange, str]]:
        """Make the changes in order; returns those that the kernel refused, with the reason."""
        refused: dict[int, int] = {}
        for start in range(0, len(changes), _PACKED_AT_ONCE):
            packed = [
                Message(self._id, 0, messages.body(change)) for change in changes[start : start + _PACKED_AT_ONCE]
            ]
            refused |= {start + number: error for number, error in self._netlink.transact(packed).items()}
        existing = [
            SetWeight(change.frontend, change.endpoint, 1)
            for index, change in enumerate(changes)
            if refused.get(index) == errno.EEXIST and isinstance(change, AddRealServer)
        ]
        failed = [
            (change, os.strerror(refused[index]))
            for index, change in enumerate(changes)
            if index in refused
            and refused[index] not in _ALREADY_SO.get(type(change), ())
            and not (refused[index] == errno.EEXIST and isinstance(change, AddRealServer))
        ]
        return failed + (self.apply(existing) if existing else [])

    def _load(self) -> int | None:
        """Newer kernels (6.1 does) load the module for anyone who asks for its family by name, so that the agent needs
        no right to load modules; on older ones, without MODULE_ALIAS_GENL_FAMILY in ip_vs_ctl.c, modprobe must."""
        name = encode([(_CTRL_ATTR_FAMILY_NAME, b"IPVS\0")])
        ask = Message(_GENL_ID_CTRL, 0, _GENL.pack(_CTRL_CMD_GETFAMILY, _VERSION, 0) + name)
        if self._netlink.transact([ask]):
            _modprobe()
        return self._family()

    def _family(self) -> int | None:
        for _, body in self._netlink.dump(_GENL_ID_CTRL, _GENL.pack(_CTRL_CMD_GETFAMILY, _VERSION, 0)):
            found = fields(body[_GENL.size :])
            if to_text(found[_CTRL_ATTR_FAMILY_NAME]) == "IPVS":
                return int(_U16.unpack(found[_CTRL_ATTR_FAMILY_ID])[0])
        return None


def available() -> bool:
    """Whether the kernel has IPVS now, without loading anything."""
    return _LISTING.exists()


def _modprobe() -> None:
    modprobe = shutil.which("modprobe", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if modprobe is not None:
        subprocess.run([modprobe, "--", "ip_vs"], check=False, capture_output=True, timeout=30)
