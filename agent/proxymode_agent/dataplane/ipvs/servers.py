"""I/O: virtual servers and real servers of IPVS over generic netlink; real servers are read from /proc/net/ip_vs.

Numbers from include/uapi/linux/ip_vs.h. pyroute2's IPVS class is not used: it has no batches, sends a change as a
delete, and takes about 200 us a message.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.ipvs.listing import parse
from proxymode_agent.dataplane.ipvs.model import (
    AddRealServer,
    AddVirtualServer,
    DeleteRealServer,
    DeleteVirtualServer,
    Hashing,
    Scheduling,
    ServerChange,
    SetScheduling,
    SetWeight,
    VirtualServer,
)
from proxymode_agent.dataplane.netlink import Message, NetlinkSocket
from proxymode_agent.dataplane.nfnetlink.attributes import encode, fields, text, to_text
from proxymode_agent.services.model import Frontend, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxymode_agent.services.model import Endpoint, IpvsTimeouts

_NETLINK_GENERIC: Final = 16
_GENL_ID_CTRL: Final = 0x10
_CTRL_CMD_GETFAMILY: Final = 3
_CTRL_ATTR_FAMILY_ID: Final = 1
_CTRL_ATTR_FAMILY_NAME: Final = 2

_NEW_SERVICE: Final = 1
_SET_SERVICE: Final = 2
_DEL_SERVICE: Final = 3
_GET_SERVICE: Final = 4
_NEW_DEST: Final = 5
_SET_DEST: Final = 6
_DEL_DEST: Final = 7

_SET_CONFIG: Final = 12

_CMD_ATTR_SERVICE: Final = 1
_CMD_ATTR_DEST: Final = 2
_CMD_ATTR_TIMEOUT_TCP: Final = 4
_CMD_ATTR_TIMEOUT_TCP_FIN: Final = 5
_CMD_ATTR_TIMEOUT_UDP: Final = 6

_SVC_AF: Final = 1
_SVC_PROTOCOL: Final = 2
_SVC_ADDR: Final = 3
_SVC_PORT: Final = 4
_SVC_FWMARK: Final = 5
_SVC_SCHED_NAME: Final = 6
_SVC_FLAGS: Final = 7
_SVC_TIMEOUT: Final = 8
_SVC_NETMASK: Final = 9

_DEST_ADDR: Final = 1
_DEST_PORT: Final = 2
_DEST_FWD_METHOD: Final = 3
_DEST_WEIGHT: Final = 4
_DEST_U_THRESH: Final = 5
_DEST_L_THRESH: Final = 6
_DEST_ADDR_FAMILY: Final = 11

_PERSISTENT: Final = 0x01  # IP_VS_SVC_F_PERSISTENT
_ALL_FLAGS: Final = 0xFFFFFFFF
_PROBE_MARK: Final = 0x70724D6F
"""Packet mark of the virtual server that is made for a moment to ask for a scheduler; no packet has it."""

_LISTING: Final = Path("/proc/thread-self/net/ip_vs")
_ADDRESS_BYTES: Final = 16  # sizeof(union nf_inet_addr)
_FAMILY: Final = {4: socket.AF_INET, 16: socket.AF_INET6}
_LENGTH: Final = {socket.AF_INET: 4, socket.AF_INET6: 16}
_NETMASK: Final = {4: b"\xff\xff\xff\xff", 16: struct.pack("=I", 128)}  # persistence per address; v6: a prefix length
_U16: Final = struct.Struct("=H")
_U32: Final = struct.Struct("=I")
_PORT: Final = struct.Struct(">H")
_FLAGS: Final = struct.Struct("=II")  # struct ip_vs_flags: flags, mask
_GENL: Final = struct.Struct("=BBH")  # cmd, version, reserved
_VERSION: Final = 1
_PROTOCOLS: Final = frozenset(Protocol)
_HASHING: Final = Hashing.FALLBACK | Hashing.PORT
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

    def read(self, wanted: Callable[[Frontend], bool]) -> dict[Frontend, VirtualServer]:
        """Those of the virtual servers for which `wanted` says so, whoever made them, with their real servers."""
        self._listing.seek(0)
        real_servers = parse(self._listing.read().decode("ascii"), wanted)
        if not real_servers:
            return {}
        schedulings = self._schedulings()
        return {
            frontend: VirtualServer(schedulings[frontend], servers)
            for frontend, servers in real_servers.items()
            if frontend in schedulings
        }

    def has_scheduler(self, name: str) -> bool:
        """Whether the kernel has a scheduler, or a module for it that it could load."""
        key = ((_SVC_AF, _U16.pack(socket.AF_INET)), (_SVC_FWMARK, _U32.pack(_PROBE_MARK)))
        options = _service_options(4, Scheduling(name))
        attempts = ((_NEW_SERVICE, key + options), (_DEL_SERVICE, key))
        refused = self._netlink.transact(
            [
                Message(self._id, 0, _GENL.pack(command, _VERSION, 0) + encode([(_CMD_ATTR_SERVICE, attributes)]))
                for command, attributes in attempts
            ]
        )
        return refused.get(0) != errno.ENOENT

    def set_timeouts(self, timeouts: IpvsTimeouts) -> None:
        """Set how long connections are remembered; 0 leaves one as it is. Raises DataplaneError."""
        body = encode(
            [
                (_CMD_ATTR_TIMEOUT_TCP, _U32.pack(timeouts.tcp)),
                (_CMD_ATTR_TIMEOUT_TCP_FIN, _U32.pack(timeouts.tcp_fin)),
                (_CMD_ATTR_TIMEOUT_UDP, _U32.pack(timeouts.udp)),
            ]
        )
        refused = self._netlink.transact([Message(self._id, 0, _GENL.pack(_SET_CONFIG, _VERSION, 0) + body)])
        if refused:
            raise DataplaneError(f"cannot set the timeouts of IPVS to {timeouts}: {os.strerror(refused[0])}")

    def _schedulings(self) -> dict[Frontend, Scheduling]:
        """How each virtual server chooses. The listing has no flags, and persistence in ticks of the kernel's clock."""
        found: dict[Frontend, Scheduling] = {}
        for _, body in self._netlink.dump(self._id, _GENL.pack(_GET_SERVICE, _VERSION, 0)):
            service = fields(fields(body[_GENL.size :])[_CMD_ATTR_SERVICE])
            if _SVC_FWMARK in service or _U16.unpack(service[_SVC_PROTOCOL])[0] not in _PROTOCOLS:
                continue
            length = _LENGTH[_U16.unpack(service[_SVC_AF])[0]]
            frontend = Frontend(
                bytes(service[_SVC_ADDR][:length]),
                Protocol(_U16.unpack(service[_SVC_PROTOCOL])[0]),
                _PORT.unpack(service[_SVC_PORT])[0],
            )
            flags = _FLAGS.unpack(service[_SVC_FLAGS])[0]
            found[frontend] = Scheduling(
                to_text(service[_SVC_SCHED_NAME]),
                _U32.unpack(service[_SVC_TIMEOUT])[0] if flags & _PERSISTENT else None,
                Hashing(flags) & _HASHING,
            )
        return found

    def apply(self, changes: Sequence[ServerChange]) -> list[tuple[ServerChange, str]]:
        """Make the changes in order; returns those that the kernel refused, with the reason."""
        refused = self._netlink.transact([self._message(change) for change in changes])
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

    def _message(self, change: ServerChange) -> Message:
        service = _service_key(change.frontend)
        attributes: list[tuple[int, tuple[tuple[int, bytes], ...]]]
        if isinstance(change, AddVirtualServer | SetScheduling):
            command = _NEW_SERVICE if isinstance(change, AddVirtualServer) else _SET_SERVICE
            attributes = [
                (_CMD_ATTR_SERVICE, service + _service_options(len(change.frontend.address), change.scheduling))
            ]
        elif isinstance(change, DeleteVirtualServer):
            command = _DEL_SERVICE
            attributes = [(_CMD_ATTR_SERVICE, service)]
        elif isinstance(change, DeleteRealServer):
            command = _DEL_DEST
            attributes = [(_CMD_ATTR_SERVICE, service), (_CMD_ATTR_DEST, _dest_key(change.endpoint))]
        else:
            command = _NEW_DEST if isinstance(change, AddRealServer) else _SET_DEST
            weight = change.weight if isinstance(change, SetWeight) else 1
            dest = _dest_key(change.endpoint) + _dest_options(weight)
            attributes = [(_CMD_ATTR_SERVICE, service), (_CMD_ATTR_DEST, dest)]
        return Message(self._id, 0, _GENL.pack(command, _VERSION, 0) + encode(attributes))


def _service_key(frontend: Frontend) -> tuple[tuple[int, bytes], ...]:
    return (
        (_SVC_AF, _U16.pack(_FAMILY[len(frontend.address)])),
        (_SVC_PROTOCOL, _U16.pack(frontend.protocol)),
        (_SVC_ADDR, frontend.address.ljust(_ADDRESS_BYTES, b"\0")),
        (_SVC_PORT, _PORT.pack(frontend.port)),
    )


def _service_options(length: int, scheduling: Scheduling) -> tuple[tuple[int, bytes], ...]:
    sticky = scheduling.affinity_seconds
    flags = (_PERSISTENT if sticky is not None else 0) | scheduling.hashing
    return (
        (_SVC_SCHED_NAME, text(scheduling.scheduler)),
        (_SVC_FLAGS, _FLAGS.pack(flags, _ALL_FLAGS)),
        (_SVC_TIMEOUT, _U32.pack(sticky or 0)),
        (_SVC_NETMASK, _NETMASK[length]),
    )


def _dest_key(endpoint: Endpoint) -> tuple[tuple[int, bytes], ...]:
    return (
        (_DEST_ADDR_FAMILY, _U16.pack(_FAMILY[len(endpoint.address)])),
        (_DEST_ADDR, endpoint.address.ljust(_ADDRESS_BYTES, b"\0")),
        (_DEST_PORT, _PORT.pack(endpoint.port)),
    )


def _dest_options(weight: int) -> tuple[tuple[int, bytes], ...]:
    return (
        (_DEST_FWD_METHOD, _U32.pack(0)),  # IP_VS_CONN_F_MASQ
        (_DEST_WEIGHT, _U32.pack(weight)),
        (_DEST_U_THRESH, _U32.pack(0)),
        (_DEST_L_THRESH, _U32.pack(0)),
    )


def available() -> bool:
    """Whether the kernel has IPVS now, without loading anything."""
    return _LISTING.exists()


def _modprobe() -> None:
    modprobe = shutil.which("modprobe", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if modprobe is not None:
        subprocess.run([modprobe, "--", "ip_vs"], check=False, capture_output=True, timeout=30)
