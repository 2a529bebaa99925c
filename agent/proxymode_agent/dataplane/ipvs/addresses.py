"""I/O: the addresses of virtual servers, on the dummy device kube-ipvs0, over rtnetlink.

The device stays down as kube-proxy leaves it: the kernel routes its addresses as local all the same, and a device that
is down answers neither ARP nor neighbour discovery. Beside each address there is a route of ours (protocol
RTPROT_PROXYMODE, table local, device lo) with the node's address as preferred source. With kube-proxy's bare addresses
the node's own connections to a Service get the Service's address as their source, and stall when the address goes; with
the route they are spoken from the node's address, as in the nftables mode, and do not notice.

The device carries the alias `proxymode`, by which a later agent knows it as ours even when somebody flushed nf_tables.

Numbers from include/uapi/linux/{rtnetlink,if_link,if_addr}.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.ipvs.model import AddressChange, BindAddress, ReleaseAddress
from proxymode_agent.dataplane.ipvs.sockets import in_use
from proxymode_agent.dataplane.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    NetlinkSocket,
)
from proxymode_agent.dataplane.nfnetlink.attributes import encode, fields, text

if TYPE_CHECKING:
    from collections.abc import Sequence

DEVICE: Final = "kube-ipvs0"
RTPROT_PROXYMODE: Final = 201
ALIAS: Final = "proxymode"

_NETLINK_ROUTE: Final = 0
_RTM_NEWLINK: Final = 16
_RTM_DELLINK: Final = 17
_RTM_GETLINK: Final = 18
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_GETADDR: Final = 22
_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25
_RTM_GETROUTE: Final = 26

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
_RT_SCOPE_LINK: Final = 253
_RT_SCOPE_HOST: Final = 254
_RTPROT_UNSPEC: Final = 0

_IFINFOMSG: Final = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDRMSG: Final = struct.Struct("=BBBBI")  # family, prefixlen, flags, scope, index
_RTMSG: Final = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_U32: Final = struct.Struct("=I")
_FAMILY: Final = {4: socket.AF_INET, 16: socket.AF_INET6}
_LATE_ROUTE_SECONDS: Final = 2.0
_ROUTES_OF_ONE: Final = 4
"""So many routes of ours to one address, of different metrics, are reckoned with."""
_GONE: Final = {errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENOENT, errno.ENODEV}


class Addresses:
    """kube-ipvs0, its addresses and our routes in the network namespace that this object was made in."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(_NETLINK_ROUTE)

    def close(self) -> None:
        self._netlink.close()

    def device_exists(self) -> bool:
        return _index(DEVICE) is not None

    def device_is_ours(self) -> bool:
        """Whether kube-ipvs0 is there with our alias."""
        index = _index(DEVICE)
        for kind, body in self._netlink.dump(_RTM_GETLINK, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            if kind == _RTM_NEWLINK and _IFINFOMSG.unpack_from(body)[2] == index:
                return fields(body[_IFINFOMSG.size :]).get(_IFALIAS, b"") == text(ALIAS)
        return False

    def claim_device(self) -> bool:
        """Make kube-ipvs0, or make it ours; whether anything was done. Raises DataplaneError without module dummy."""
        if self.device_is_ours():
            return False
        create = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + encode(
            [(_IFNAME, text(DEVICE)), (_LINKINFO, ((_INFO_KIND, text("dummy")),))]
        )
        refused = self._netlink.transact([Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, create)])
        if refused.get(0, errno.EEXIST) == errno.EEXIST:
            # Only now: the kernel takes no alias for a device that it is just making.
            alias = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, _index(DEVICE) or 0, 0, 0) + encode([(_IFALIAS, text(ALIAS))])
            refused = self._netlink.transact([Message(_RTM_NEWLINK, 0, alias)])
        if refused:
            raise DataplaneError(
                f"cannot make the dummy device {DEVICE}: {os.strerror(refused[0])}; is module dummy loadable?"
            )
        return True

    def delete_device(self) -> None:
        """Remove kube-ipvs0 and with it what addresses it has left. Raises DataplaneError."""
        index = _index(DEVICE)
        if index is None:
            return
        refused = self._netlink.transact([Message(_RTM_DELLINK, 0, _IFINFOMSG.pack(0, 0, index, 0, 0))])
        if refused and refused[0] not in _GONE:
            raise DataplaneError(f"cannot remove the device {DEVICE}: {os.strerror(refused[0])}")

    def bound(self) -> dict[bytes, bytes | None]:
        """Addresses on kube-ipvs0 with the source that a connection of the node itself gets; None: the address."""
        index = _index(DEVICE)
        if index is None:
            return {}
        sources, shadowed = self._routes(index)
        return {
            address: None if address in shadowed else sources.get(address)
            for address, device, _ in self._addresses()
            if device == index
        }

    def local(self) -> set[bytes]:
        """The node's addresses on other devices, loopback and link-local ones left out."""
        skip = {_index(DEVICE), _index("lo")}
        return {
            address
            for address, device, scope in self._addresses()
            if device not in skip and scope not in (_RT_SCOPE_LINK, _RT_SCOPE_HOST)
        }

    def elsewhere(self) -> set[bytes]:
        """All of the node's addresses on other devices."""
        index = _index(DEVICE)
        return {address for address, device, _ in self._addresses() if device != index}

    def apply(self, changes: Sequence[AddressChange]) -> list[tuple[AddressChange, str]]:
        """Make the changes in order; returns those that the kernel refused, with the reason."""
        index = _index(DEVICE)
        if index is None:
            raise DataplaneError(f"device {DEVICE} is not there; was it removed by somebody else?")
        refused, made = self._make(changes, index)
        for _ in range(_ROUTES_OF_ONE):
            several = [change for change, error in refused if error == errno.EEXIST]
            if not several:
                break
            again, _ = self._make(several, index)
            refused = [(change, error) for change, error in refused if error != errno.EEXIST] + again
        # A route of ours to an address that is not bound would be taken for a stray.
        self.delete_routes({change.address for change, _ in refused if isinstance(change, BindAddress)})
        shadowed = {
            change: made[change]
            for change in changes
            if isinstance(change, BindAddress) and change.source is not None and len(change.address) == 16
        }
        return [(change, os.strerror(error)) for change, error in refused] + self._uncover(shadowed, index)

    def _make(
        self, changes: Sequence[AddressChange], device: int
    ) -> tuple[list[tuple[AddressChange, int]], dict[AddressChange, bool]]:
        """Which changes the kernel refused, with errno; and whether each has made an address.

        EEXIST: there was more than one route of ours to an address, of which one has gone now.
        """
        messages: list[Message] = []
        owners: list[tuple[AddressChange, frozenset[int]]] = []
        loopback = _loopback()
        for change in changes:
            for message, harmless in _messages(change, device, loopback):
                messages.append(message)
                owners.append((change, harmless))
        errors = self._netlink.transact(messages)
        refused = [
            (change, errors[number])
            for number, (change, harmless) in enumerate(owners)
            if number in errors and errors[number] not in harmless
        ]
        # The last message of a BindAddress makes the address.
        return refused, {change: number not in errors for number, (change, _) in enumerate(owners)}

    def _uncover(self, changes: dict[BindAddress, bool], device: int) -> list[tuple[AddressChange, str]]:
        """Remove the kernel's own routes to these IPv6 addresses, which come before ours. True: the address is new.

        The kernel makes the route of a new address some time later, in a work queue (addrconf_dad_work, also for an
        address without duplicate address detection), so it is waited for. One that comes later still is found by the
        next sync that reads back. Returns what the kernel refused.
        """
        refused: list[tuple[AddressChange, str]] = []
        deadline, pause = time.monotonic() + _LATE_ROUTE_SECONDS, 0.0005
        while changes:
            ordered = list(changes)
            routes = [_route(_RTM_DELROUTE, c.address, None, device, protocol=_RTPROT_UNSPEC) for c in ordered]
            errors = {ordered[number]: error for number, error in self._netlink.transact(routes).items()}
            refused += [(change, os.strerror(error)) for change, error in errors.items() if error not in _GONE]
            changes = {change: True for change, error in errors.items() if error in _GONE and changes[change]}
            if time.monotonic() >= deadline:
                break
            if changes:
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
        return refused

    def release(self, addresses: Sequence[bytes]) -> None:
        """Remove addresses from kube-ipvs0 and leave our routes to them. Raises DataplaneError."""
        index = _index(DEVICE)
        refused = self._netlink.transact([_address(_RTM_DELADDR, address, index or 0) for address in addresses])
        for number, error in refused.items():
            if error not in _GONE:
                shown = socket.inet_ntop(_FAMILY[len(addresses[number])], addresses[number])
                raise DataplaneError(f"cannot release {shown}: {os.strerror(error)}")

    def stray_routes(self) -> set[bytes]:
        """Addresses for which there is a route of ours, but no address on kube-ipvs0 and no socket of the node that
        speaks from it: its connections go on over the route."""
        index = _index(DEVICE)
        on_device = {address for address, device, _ in self._addresses() if device == index}
        stray = set(self._routes(index)[0]) - on_device
        return stray - in_use(stray)

    def delete_routes(self, addresses: set[bytes]) -> None:
        """Remove our routes to these addresses. Raises DataplaneError."""
        ordered = sorted(addresses)
        refused = self._netlink.transact([_route(_RTM_DELROUTE, address, None, _loopback()) for address in ordered])
        for number, error in refused.items():
            if error not in _GONE:
                shown = socket.inet_ntop(_FAMILY[len(ordered[number])], ordered[number])
                raise DataplaneError(f"cannot remove the local route to {shown}: {os.strerror(error)}")

    def _addresses(self) -> list[tuple[bytes, int, int]]:
        found: list[tuple[bytes, int, int]] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for kind, body in self._netlink.dump(_RTM_GETADDR, _IFADDRMSG.pack(family, 0, 0, 0, 0)):
                answer_family, _, _, scope, device = _IFADDRMSG.unpack_from(body)
                if kind != _RTM_NEWADDR or answer_family != family:
                    continue
                attributes = fields(body[_IFADDRMSG.size :])
                address = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS))
                if address is not None:
                    found.append((bytes(address), device, scope))
        return found

    def _routes(self, device: int | None) -> tuple[dict[bytes, bytes | None], set[bytes]]:
        """Our routes' sources by address, and the IPv6 addresses whose route by the kernel comes before ours.

        The kernel's own IPv6 local routes have metric 0, which nobody else may use; its IPv4 ones were added after
        ours and come second.
        """
        sources: dict[bytes, bytes | None] = {}
        shadowed: set[bytes] = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _RTMSG.pack(family, 0, 0, 0, _RT_TABLE_LOCAL, 0, 0, 0, 0)
            for kind, body in self._netlink.dump(_RTM_GETROUTE, request):
                answer = _RTMSG.unpack_from(body)
                if kind != _RTM_NEWROUTE or answer[0] != family or answer[4] != _RT_TABLE_LOCAL:
                    continue
                attributes = fields(body[_RTMSG.size :])
                if _RTA_DST not in attributes:
                    continue
                destination = bytes(attributes[_RTA_DST])
                if answer[5] == RTPROT_PROXYMODE:
                    source = attributes.get(_RTA_PREFSRC)
                    sources[destination] = bytes(source) if source is not None else None
                elif family == socket.AF_INET6 and _U32.unpack(attributes.get(_RTA_OIF, bytes(4)))[0] == device:
                    shadowed.add(destination)
        return sources, shadowed


def _messages(change: AddressChange, device: int, loopback: int) -> list[tuple[Message, frozenset[int]]]:
    """The requests that make up one change, each with the errors that mean that it was so already."""
    nothing: frozenset[int] = frozenset()
    gone = frozenset(_GONE)
    address = change.address
    if isinstance(change, ReleaseAddress):
        # The address first: its connections go on over our route until that goes too.
        return [(_address(_RTM_DELADDR, address, device), gone), (_route(_RTM_DELROUTE, address, None, loopback), gone)]
    there = frozenset({errno.EEXIST})
    if change.source is None:
        return [
            (_address(_RTM_NEWADDR, address, device), there),
            (_route(_RTM_DELROUTE, address, None, loopback), gone),
        ]
    return [
        (_route(_RTM_DELROUTE, address, None, loopback), gone),  # one with another source
        (_route(_RTM_NEWROUTE, address, change.source, loopback), nothing),
        (_address(_RTM_NEWADDR, address, device), there),
    ]


def _address(kind: int, address: bytes, device: int) -> Message:
    family = _FAMILY[len(address)]
    body = _IFADDRMSG.pack(family, len(address) * 8, _IFA_F_NODAD if family == socket.AF_INET6 else 0, 0, device)
    return Message(
        kind,
        NLM_F_CREATE | NLM_F_EXCL if kind == _RTM_NEWADDR else 0,
        body + encode([(_IFA_LOCAL, address), (_IFA_ADDRESS, address)]),
    )


def _route(kind: int, address: bytes, source: bytes | None, device: int, protocol: int = RTPROT_PROXYMODE) -> Message:
    family = _FAMILY[len(address)]
    scope = _RT_SCOPE_HOST if family == socket.AF_INET else _RT_SCOPE_UNIVERSE
    body = _RTMSG.pack(family, len(address) * 8, 0, 0, _RT_TABLE_LOCAL, protocol, scope, _RTN_LOCAL, 0)
    attributes = [(_RTA_DST, address), (_RTA_OIF, _U32.pack(device))]
    if source is not None:
        attributes.append((_RTA_PREFSRC, source))
    return Message(kind, NLM_F_CREATE if kind == _RTM_NEWROUTE else 0, body + encode(attributes))


def _loopback() -> int:
    return socket.if_nametoindex("lo")


def _index(device: str) -> int | None:
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return None
