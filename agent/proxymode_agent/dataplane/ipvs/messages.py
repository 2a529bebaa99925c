"""Pure: virtual servers and real servers to and from the bodies of IPVS's generic netlink messages.

A node's first sync makes tens of thousands of messages, so they are packed as a whole and not attribute by attribute:
about 3 us each instead of 20. Numbers from include/uapi/linux/ip_vs.h; what the kernel reads and writes, and in which
order: ip_vs_genl_parse_service, ip_vs_genl_fill_service and their siblings in net/netfilter/ipvs/ip_vs_ctl.c.
"""

from __future__ import annotations

import socket
import struct
from functools import cache
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.ipvs.model import (
    AddRealServer,
    AddVirtualServer,
    DeleteRealServer,
    DeleteVirtualServer,
    Hashing,
    RealServer,
    Scheduling,
    SetWeight,
)
from proxymode_agent.dataplane.nfnetlink.attributes import HEADER, encode, fields, parse, text, to_text
from proxymode_agent.dataplane.nfnetlink.uapi import NLA_F_NESTED
from proxymode_agent.services.model import Endpoint, Frontend, Protocol

if TYPE_CHECKING:
    from proxymode_agent.dataplane.ipvs.model import ServerChange
    from proxymode_agent.services.model import IpvsTimeouts

_NEW_SERVICE: Final = 1
_SET_SERVICE: Final = 2
_DEL_SERVICE: Final = 3
_GET_SERVICE: Final = 4
_NEW_DEST: Final = 5
_SET_DEST: Final = 6
_DEL_DEST: Final = 7
_GET_DEST: Final = 8
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
_DEST_ACTIVE_CONNS: Final = 7
_DEST_INACT_CONNS: Final = 8
_DEST_ADDR_FAMILY: Final = 11

_PERSISTENT: Final = 0x01  # IP_VS_SVC_F_PERSISTENT
_ALL_FLAGS: Final = 0xFFFFFFFF
_MASQ: Final = 0  # IP_VS_CONN_F_MASQ
_PROBE_MARK: Final = 0x70724D6F
"""Packet mark of the virtual server that is made for a moment to ask for a scheduler; no packet has it."""

_FAMILY: Final = {4: socket.AF_INET, 16: socket.AF_INET6}
_LENGTH: Final = {int(family): length for length, family in _FAMILY.items()}
_NETMASK: Final = {4: b"\xff\xff\xff\xff", 16: struct.pack("=I", 128)}  # persistence per address; v6: a prefix length
_U16: Final = struct.Struct("=H")
_U32: Final = struct.Struct("=I")
_PORT: Final = struct.Struct(">H")
_FLAGS: Final = struct.Struct("=II")  # struct ip_vs_flags: flags, mask
_GENL: Final = struct.Struct("=BBH")  # cmd, version, reserved
_VERSION: Final = 1
_HEADS: Final = [_GENL.pack(command, _VERSION, 0) for command in range(_SET_CONFIG + 1)]
_HASHING: Final = Hashing.FALLBACK | Hashing.PORT
_PROTOCOLS: Final = {int(protocol): protocol for protocol in Protocol}

_NESTED_SERVICE: Final = _CMD_ATTR_SERVICE | NLA_F_NESTED
_NESTED_DEST: Final = _CMD_ATTR_DEST | NLA_F_NESTED
# Attributes, each with nla_len and nla_type before its value, as `encode` would write them one by one. Addresses are a
# union nf_inet_addr of 16 bytes; a port is in network order.
_SERVICE: Final = struct.Struct("=HH HHH2x HHH2x HH16s HHH2x")
_DEST: Final = struct.Struct("=HH HHH2x HH16s HHH2x")
_WHOLE_DEST: Final = struct.Struct("=HH HHH2x HH16s HHH2x HHI HHI HHI HHI")


def body(change: ServerChange) -> bytes:
    """The message that makes a change, from its generic netlink header on."""
    frontend = change.frontend
    if isinstance(change, AddRealServer):
        return _HEADS[_NEW_DEST] + _service(frontend) + _whole_dest(change.endpoint, 1)
    if isinstance(change, SetWeight):
        return _HEADS[_SET_DEST] + _service(frontend) + _whole_dest(change.endpoint, change.weight)
    if isinstance(change, DeleteRealServer):
        return _HEADS[_DEL_DEST] + _service(frontend) + _dest(change.endpoint)
    if isinstance(change, DeleteVirtualServer):
        return _HEADS[_DEL_SERVICE] + _service(frontend)
    head = _HEADS[_NEW_SERVICE if isinstance(change, AddVirtualServer) else _SET_SERVICE]
    return head + _service(frontend, _options(len(frontend.address), change.scheduling))


def probe(scheduler: str) -> tuple[bytes, bytes]:
    """The messages that make a virtual server with this scheduler, for a packet mark that no packet has, and delete it:
    the kernel refuses the first with ENOENT if it has no such scheduler."""
    key = ((_SVC_AF, _U16.pack(socket.AF_INET)), (_SVC_FWMARK, _U32.pack(_PROBE_MARK)))
    options = _options(4, Scheduling(scheduler))
    made = HEADER.pack(HEADER.size + len(encode(key)) + len(options), _NESTED_SERVICE) + encode(key) + options
    return _HEADS[_NEW_SERVICE] + made, _HEADS[_DEL_SERVICE] + encode([(_CMD_ATTR_SERVICE, key)])


def set_timeouts(timeouts: IpvsTimeouts) -> bytes:
    """The message that sets them; 0 leaves one as it is."""
    numbered = zip((_CMD_ATTR_TIMEOUT_TCP, _CMD_ATTR_TIMEOUT_TCP_FIN, _CMD_ATTR_TIMEOUT_UDP), timeouts, strict=True)
    return _HEADS[_SET_CONFIG] + encode([(kind, _U32.pack(seconds)) for kind, seconds in numbered])


LIST_SERVICES: Final = _HEADS[_GET_SERVICE]
"""Asks for all virtual servers."""


def list_dests(frontend: Frontend) -> bytes:
    """Asks for the real servers of one virtual server."""
    return _HEADS[_GET_DEST] + _service(frontend)


def parse_service(answer: bytes) -> tuple[Frontend, Scheduling] | None:
    """A virtual server as listed, and how it chooses; None for one by packet mark, and of protocols that Services do
    not have."""
    service = {}
    for kind, value in parse(fields(answer[_GENL.size :])[_CMD_ATTR_SERVICE]):
        service[kind] = value
        if kind == _SVC_TIMEOUT:  # statistics follow
            break
    protocol = _PROTOCOLS.get(_U16.unpack(service[_SVC_PROTOCOL])[0]) if _SVC_PROTOCOL in service else None
    if protocol is None:
        return None
    length = _LENGTH[_U16.unpack(service[_SVC_AF])[0]]
    frontend = Frontend(bytes(service[_SVC_ADDR][:length]), protocol, _PORT.unpack(service[_SVC_PORT])[0])
    flags = _FLAGS.unpack(service[_SVC_FLAGS])[0]
    return frontend, _scheduling(bytes(service[_SVC_SCHED_NAME]), flags, _U32.unpack(service[_SVC_TIMEOUT])[0])


def parse_dest(answer: bytes) -> tuple[Endpoint, RealServer]:
    """A real server as listed."""
    dest = fields(fields(answer[_GENL.size :])[_CMD_ATTR_DEST])
    length = _LENGTH[_U16.unpack(dest[_DEST_ADDR_FAMILY])[0]]
    numbers = (_U32.unpack(dest[kind])[0] for kind in (_DEST_WEIGHT, _DEST_ACTIVE_CONNS, _DEST_INACT_CONNS))
    weight, active, inactive = numbers
    return (
        Endpoint(bytes(dest[_DEST_ADDR][:length]), _PORT.unpack(dest[_DEST_PORT])[0]),
        RealServer(weight, active + inactive),
    )


@cache
def _scheduling(name: bytes, flags: int, seconds: int) -> Scheduling:
    """One object for all virtual servers that choose alike."""
    return Scheduling(to_text(name), seconds if flags & _PERSISTENT else None, Hashing(flags) & _HASHING)


@cache
def _options(length: int, scheduling: Scheduling) -> bytes:
    sticky = scheduling.affinity_seconds
    flags = (_PERSISTENT if sticky is not None else 0) | scheduling.hashing
    return encode(
        [
            (_SVC_SCHED_NAME, text(scheduling.scheduler)),
            (_SVC_FLAGS, _FLAGS.pack(flags, _ALL_FLAGS)),
            (_SVC_TIMEOUT, _U32.pack(sticky or 0)),
            (_SVC_NETMASK, _NETMASK[length]),
        ]
    )


def _service(frontend: Frontend, options: bytes = b"") -> bytes:
    address, protocol, port = frontend
    own = (6, _SVC_AF, _FAMILY[len(address)], 6, _SVC_PROTOCOL, protocol, 20, _SVC_ADDR, address)
    return (
        _SERVICE.pack(_SERVICE.size + len(options), _NESTED_SERVICE, *own, 6, _SVC_PORT, socket.htons(port)) + options
    )


def _dest(endpoint: Endpoint) -> bytes:
    return _DEST.pack(_DEST.size, _NESTED_DEST, *_dest_name(endpoint))


def _whole_dest(endpoint: Endpoint, weight: int) -> bytes:
    weighted = (8, _DEST_FWD_METHOD, _MASQ, 8, _DEST_WEIGHT, weight)
    limits = (8, _DEST_U_THRESH, 0, 8, _DEST_L_THRESH, 0)
    return _WHOLE_DEST.pack(_WHOLE_DEST.size, _NESTED_DEST, *_dest_name(endpoint), *weighted, *limits)


def _dest_name(endpoint: Endpoint) -> tuple[int | bytes, ...]:
    address = endpoint.address
    family = _FAMILY[len(address)]
    return 6, _DEST_ADDR_FAMILY, family, 20, _DEST_ADDR, address, 6, _DEST_PORT, socket.htons(endpoint.port)
