"""Pure: links, addresses and routes of kube-ipvs0 to and from the bodies of rtnetlink messages.

Messages of which there is one an address are packed as a whole, as in `messages`. Numbers from include/uapi/linux/
{rtnetlink,if_link,if_addr}.h.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.dataplane.netlink import NLM_F_CREATE, NLM_F_EXCL, Message
from proxymode_agent.dataplane.nfnetlink.attributes import encode, fields, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NETLINK_ROUTE: Final = 0
RTPROT_PROXYMODE: Final = 201
FAMILY: Final = {4: socket.AF_INET, 16: socket.AF_INET6}
SCOPE_LINK: Final = 253
SCOPE_HOST: Final = 254

_RTM_NEWLINK: Final = 16
RTM_GETLINK: Final = 18
RTM_GETADDR: Final = 22
RTM_GETROUTE: Final = 26
_RTM_DELLINK: Final = 17
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25

_LINKINFO: Final = 18  # IFLA_LINKINFO
_INFO_KIND: Final = 1  # IFLA_INFO_KIND
_IFNAME: Final = 3  # IFLA_IFNAME
_IFALIAS: Final = 20  # IFLA_IFALIAS
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_F_NODAD: Final = 0x02
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_PREFSRC: Final = 7
_RT_TABLE_LOCAL: Final = 255
_RTN_LOCAL: Final = 2
_RT_SCOPE_UNIVERSE: Final = 0
_RTPROT_UNSPEC: Final = 0

_IFINFOMSG: Final = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDRMSG: Final = struct.Struct("=BBBBI")  # family, prefixlen, flags, scope, index
_RTMSG: Final = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_ADDRESS: Final = {n: struct.Struct(f"=BBBBI HH{n}s HH{n}s") for n in FAMILY}  # with IFA_LOCAL, IFA_ADDRESS
_ROUTE: Final = {n: struct.Struct(f"=BBBBBBBBI HH{n}s HHI") for n in FAMILY}  # with RTA_DST, RTA_OIF
_SOURCE: Final = {n: struct.Struct(f"=HH{n}s") for n in FAMILY}  # RTA_PREFSRC


class NodeAddress(NamedTuple):
    """A packed address with the index of its device and its scope."""

    address: bytes
    device: int
    scope: int


class LocalRoute(NamedTuple):
    """A route of table local, with the packed source that it prefers."""

    destination: bytes
    source: bytes | None


def make_dummy(name: str) -> Message:
    """Make a dummy device; EEXIST: there is a device of this name."""
    made = encode([(_IFNAME, text(name)), (_LINKINFO, ((_INFO_KIND, text("dummy")),))])
    return Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, every_link() + made)


def set_alias(device: int, alias: str) -> Message:
    """Give a device an alias."""
    return Message(_RTM_NEWLINK, 0, _IFINFOMSG.pack(0, 0, device, 0, 0) + encode([(_IFALIAS, text(alias))]))


def delete_link(device: int) -> Message:
    """Remove a device."""
    return Message(_RTM_DELLINK, 0, _IFINFOMSG.pack(0, 0, device, 0, 0))


def every_link() -> bytes:
    """What asks for all devices."""
    return _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)


def alias_in(answers: Iterable[tuple[int, bytes]], device: int) -> str:
    """A device's alias, of the answers to `every_link`; empty: it has none, or is not there."""
    for kind, body in answers:
        if kind == _RTM_NEWLINK and _IFINFOMSG.unpack_from(body)[2] == device:
            return bytes(fields(body[_IFINFOMSG.size :]).get(_IFALIAS, b"\0")).rstrip(b"\0").decode()
    return ""


def add_address(address: bytes, device: int) -> Message:
    """Put an address on a device; EEXIST: it is there."""
    return Message(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, _address(address, device))


def delete_address(address: bytes, device: int) -> Message:
    """Take an address off a device."""
    return Message(_RTM_DELADDR, 0, _address(address, device))


def every_address(family: int) -> bytes:
    """What asks for all addresses of a family (AF_*)."""
    return _IFADDRMSG.pack(family, 0, 0, 0, 0)


def addresses_in(answers: Iterable[tuple[int, bytes]], family: int) -> Iterator[NodeAddress]:
    """The addresses in the answers to `every_address`: a kernel without the family answers for another."""
    for kind, body in answers:
        of, _, _, scope, device = _IFADDRMSG.unpack_from(body)
        if kind == _RTM_NEWADDR and of == family:
            attributes = fields(body[_IFADDRMSG.size :])
            address = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS))
            if address is not None:
                yield NodeAddress(bytes(address), device, scope)


def add_route(address: bytes, source: bytes, device: int, *, only: bool) -> Message:
    """Route an address locally by a device, preferring a source, before other such routes; `only`: EEXIST if there is
    any of this priority."""
    preferred = _SOURCE[len(source)].pack(4 + len(source), _RTA_PREFSRC, source)
    body = _route(address, device, RTPROT_PROXYMODE) + preferred
    return Message(_RTM_NEWROUTE, NLM_F_CREATE | (NLM_F_EXCL if only else 0), body)


def delete_route(address: bytes, device: int) -> Message:
    """Remove a route of ours to an address, whatever its source."""
    return Message(_RTM_DELROUTE, 0, _route(address, device, RTPROT_PROXYMODE))


def delete_kernels_route(address: bytes, device: int) -> Message:
    """Remove the route to an address on a device that the kernel has made itself."""
    return Message(_RTM_DELROUTE, 0, _route(address, device, _RTPROT_UNSPEC))


def local_routes(family: int, protocol: int = 0, device: int | None = None) -> bytes:
    """What asks for the routes of a family (AF_*) in table local; of one protocol, unless that is 0, and by one device
    if it is given. Only a socket with NETLINK_GET_STRICT_CHK gets no others."""
    asked = _RTMSG.pack(family, 0, 0, 0, _RT_TABLE_LOCAL, protocol, 0, 0, 0)
    return asked if device is None else asked + struct.pack("=HHI", 8, _RTA_OIF, device)


def routes_in(answers: Iterable[tuple[int, bytes]], family: int) -> Iterator[LocalRoute]:
    """The routes in the answers to `local_routes`: a kernel without the family answers for another."""
    for kind, body in answers:
        if kind == _RTM_NEWROUTE and body[0] == family:
            attributes = fields(body[_RTMSG.size :])
            if _RTA_DST in attributes:
                source = attributes.get(_RTA_PREFSRC)
                yield LocalRoute(bytes(attributes[_RTA_DST]), None if source is None else bytes(source))


def _address(address: bytes, device: int) -> bytes:
    length = len(address)
    flags = _IFA_F_NODAD if length == 16 else 0
    size = 4 + length
    head = (FAMILY[length], 8 * length, flags, _RT_SCOPE_UNIVERSE, device)
    return _ADDRESS[length].pack(*head, size, _IFA_LOCAL, address, size, _IFA_ADDRESS, address)


def _route(address: bytes, device: int, protocol: int) -> bytes:
    length = len(address)
    scope = SCOPE_HOST if length == 4 else _RT_SCOPE_UNIVERSE
    head = (FAMILY[length], 8 * length, 0, 0, _RT_TABLE_LOCAL, protocol, scope, _RTN_LOCAL, 0)
    return _ROUTE[length].pack(*head, 4 + length, _RTA_DST, address, 8, _RTA_OIF, device)
