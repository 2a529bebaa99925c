"""I/O: the addresses of virtual servers, on the dummy device kube-ipvs0, over rtnetlink.

The device stays down as kube-proxy leaves it: the kernel routes its addresses as local all the same, and a device that
is down answers neither ARP nor neighbour discovery. Beside each address there is a route of ours (protocol
RTPROT_PROXYMODE, table local, device lo) with the node's address as preferred source. With kube-proxy's bare addresses
the node's own connections to a Service get the Service's address as their source, and stall when the address goes; with
the route they are spoken from the node's address, as in the nftables mode, and do not notice.

The device carries the alias `proxymode`, by which a later agent knows it as ours even when somebody flushed nf_tables.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.ipvs import rtnetlink
from proxymode_agent.dataplane.ipvs.sockets import in_use
from proxymode_agent.dataplane.netlink import NetlinkSocket

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from proxymode_agent.dataplane.ipvs.model import BindAddress, ReleaseAddress
    from proxymode_agent.dataplane.ipvs.rtnetlink import LocalRoute, NodeAddress

DEVICE: Final = "kube-ipvs0"
ALIAS: Final = "proxymode"

_LATE_ROUTE_SECONDS: Final = 2.0
_ROUTES_OF_ONE: Final = 4
"""So many routes of ours to one address, of different metrics, are reckoned with."""
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_GONE: Final = {errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENOENT, errno.ENODEV}


class Found(NamedTuple):
    """The node's addresses, packed. `bound`: those on kube-ipvs0, with the source that a connection of the node itself
    gets; None: the address. `elsewhere`: those on other devices; `local`: those of them that others can reach, so not
    loopback and link-local ones. `stray`: to which there is a route of ours, and which are not on kube-ipvs0."""

    bound: Mapping[bytes, bytes | None]
    elsewhere: frozenset[bytes]
    local: frozenset[bytes]
    stray: frozenset[bytes]


class Addresses:
    """kube-ipvs0, its addresses and our routes in the network namespace that this object was made in."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(rtnetlink.NETLINK_ROUTE, strict=True)

    def close(self) -> None:
        self._netlink.close()

    def device_exists(self) -> bool:
        return _index(DEVICE) is not None

    def device_is_ours(self) -> bool:
        """Whether kube-ipvs0 is there with our alias."""
        index = _index(DEVICE)
        answers = self._netlink.dump(rtnetlink.RTM_GETLINK, rtnetlink.every_link())
        return index is not None and rtnetlink.alias_in(answers, index) == ALIAS

    def claim_device(self) -> bool:
        """Make kube-ipvs0, or make it ours; whether anything was done. Raises DataplaneError without module dummy."""
        if self.device_is_ours():
            return False
        refused = self._netlink.transact([rtnetlink.make_dummy(DEVICE)])
        if refused.get(0, errno.EEXIST) == errno.EEXIST:
            # Only now: the kernel takes no alias for a device that it is just making.
            refused = self._netlink.transact([rtnetlink.set_alias(_index(DEVICE) or 0, ALIAS)])
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
        refused = self._netlink.transact([rtnetlink.delete_link(index)])
        if refused and refused[0] not in _GONE:
            raise DataplaneError(f"cannot remove the device {DEVICE}: {os.strerror(refused[0])}")

    def read(self) -> Found:
        """What there is."""
        index = _index(DEVICE)
        addresses = self._addresses()
        others = [found for found in addresses if found.device != index]
        on_device = {found.address for found in addresses if found.device == index}
        shadowed = set() if index is None else self._shadowed(index)
        sources: dict[bytes, bytes | None] = {}
        for route in (route for family in _FAMILIES for route in self._routes(family)):
            sources.setdefault(route.destination, route.source)  # of several the one that counts is listed first
        return Found(
            bound={address: None if address in shadowed else sources.get(address) for address in on_device},
            elsewhere=frozenset(found.address for found in others),
            local=frozenset(_reachable(others)),
            stray=frozenset(sources.keys() - on_device),
        )

    def local(self) -> set[bytes]:
        """The node's addresses on other devices, loopback and link-local ones left out."""
        index = _index(DEVICE)
        return _reachable(found for found in self._addresses() if found.device != index)

    def loopback(self) -> set[bytes]:
        """Those by which the node reaches but itself: 127.0.0.1 and ::1, where the loopback device has them."""
        index = _index("lo")
        return {
            found.address
            for found in self._addresses()
            if found.device == index and found.scope == rtnetlink.SCOPE_HOST
        }

    def bind(self, changes: Sequence[BindAddress]) -> list[tuple[BindAddress, str]]:
        """Put addresses on kube-ipvs0 and route them; returns those that the kernel refused, with the reason."""
        device = _index(DEVICE)
        if device is None:
            raise DataplaneError(f"device {DEVICE} is not there; was it removed by somebody else?")
        refused = self._route(changes)
        routed = [change for change in changes if change not in refused]
        errors = self._netlink.transact([rtnetlink.add_address(change.address, device) for change in routed])
        refused |= {routed[number]: error for number, error in errors.items() if error != errno.EEXIST}
        # A route of ours to an address that is not bound would be taken for a stray.
        self.delete_routes({change.address for change in changes if change in refused or change.source is None})
        shadowed = {
            change: number not in errors
            for number, change in enumerate(routed)
            if change not in refused and change.source is not None and len(change.address) == 16
        }
        return [(change, os.strerror(error)) for change, error in refused.items()] + self._uncover(shadowed, device)

    def unbind(self, changes: Sequence[ReleaseAddress]) -> list[tuple[ReleaseAddress, str]]:
        """Remove addresses from kube-ipvs0, then our routes to them, over which their connections go on until then;
        returns those that the kernel refused, with the reason."""
        device, loopback = _index(DEVICE) or 0, _loopback()
        messages = [rtnetlink.delete_address(change.address, device) for change in changes]
        messages += [rtnetlink.delete_route(change.address, loopback) for change in changes]
        refused = {
            changes[number % len(changes)]: error
            for number, error in self._netlink.transact(messages).items()
            if error not in _GONE
        }
        return [(change, os.strerror(error)) for change, error in refused.items()]

    def release(self, addresses: Sequence[bytes]) -> None:
        """Remove addresses from kube-ipvs0 and leave our routes to them. Raises DataplaneError."""
        device = _index(DEVICE) or 0
        refused = self._netlink.transact([rtnetlink.delete_address(address, device) for address in addresses])
        for number, error in refused.items():
            if error not in _GONE:
                raise DataplaneError(f"cannot release {_shown(addresses[number])}: {os.strerror(error)}")

    def stray_routes(self) -> set[bytes]:
        """Addresses for which there is a route of ours, but no address on kube-ipvs0 and no socket of the node that
        speaks from it: its connections go on over the route."""
        return unused(self.read().stray)

    def delete_routes(self, addresses: Collection[bytes]) -> None:
        """Remove our routes to these addresses. Raises DataplaneError."""
        ordered, loopback = sorted(addresses), _loopback()
        refused = self._netlink.transact([rtnetlink.delete_route(address, loopback) for address in ordered])
        for number, error in refused.items():
            if error not in _GONE:
                raise DataplaneError(
                    f"cannot remove the local route to {_shown(ordered[number])}: {os.strerror(error)}"
                )

    def _route(self, changes: Sequence[BindAddress]) -> dict[BindAddress, int]:
        """Make our routes to addresses that get a source; those that the kernel refused, with errno."""
        loopback = _loopback()
        wanted = [(change, change.source) for change in changes if change.source is not None]
        errors = self._netlink.transact(
            [rtnetlink.add_route(change.address, source, loopback, only=True) for change, source in wanted]
        )
        refused = {wanted[number][0]: error for number, error in errors.items() if error != errno.EEXIST}
        there = [wanted[number] for number, error in errors.items() if error == errno.EEXIST]
        for _ in range(_ROUTES_OF_ONE):
            # One of ours with another source goes; the kernel's own, of an address that is bound already, comes second.
            messages = [
                message
                for change, source in there
                for message in (
                    rtnetlink.delete_route(change.address, loopback),
                    rtnetlink.add_route(change.address, source, loopback, only=False),
                )
            ]
            several = []  # of ours, of which one has gone now
            for number, error in self._netlink.transact(messages).items():
                added = number % 2 == 1
                if added and error == errno.EEXIST:
                    several.append(there[number // 2])
                elif added or error not in _GONE:
                    refused[there[number // 2][0]] = error
            there = several
        return refused | {change: errno.EEXIST for change, _ in there}

    def _uncover(self, changes: dict[BindAddress, bool], device: int) -> list[tuple[BindAddress, str]]:
        """Remove the kernel's own routes to these IPv6 addresses, which come before ours. True: the address is new.

        The kernel makes the route of a new address some time later, in a work queue (addrconf_dad_work, also for an
        address without duplicate address detection), so it is waited for. One that comes later still is found by the
        next sync that reads back. Returns what the kernel refused.
        """
        refused: list[tuple[BindAddress, str]] = []
        deadline, pause = time.monotonic() + _LATE_ROUTE_SECONDS, 0.0005
        while changes:
            ordered = list(changes)
            routes = [rtnetlink.delete_kernels_route(change.address, device) for change in ordered]
            errors = {ordered[number]: error for number, error in self._netlink.transact(routes).items()}
            refused += [(change, os.strerror(error)) for change, error in errors.items() if error not in _GONE]
            changes = {change: True for change, error in errors.items() if error in _GONE and changes[change]}
            if time.monotonic() >= deadline:
                break
            if changes:
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
        return refused

    def _addresses(self) -> list[NodeAddress]:
        return [
            found
            for family in _FAMILIES
            for found in rtnetlink.addresses_in(
                self._netlink.dump(rtnetlink.RTM_GETADDR, rtnetlink.every_address(family)), family
            )
        ]

    def _routes(
        self, family: int, protocol: int = rtnetlink.RTPROT_PROXYMODE, device: int | None = None
    ) -> list[LocalRoute]:
        request = rtnetlink.local_routes(family, protocol, device)
        try:
            return list(rtnetlink.routes_in(self._netlink.dump(rtnetlink.RTM_GETROUTE, request), family))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return []  # a network namespace that never had an address has no table local

    def _shadowed(self, device: int) -> set[bytes]:
        """The IPv6 addresses whose route by the kernel comes before ours: it has metric 0, which nobody else may use.
        The kernel's IPv4 ones were added after ours and come second."""
        return {route.destination for route in self._routes(socket.AF_INET6, 0, device)}


def _reachable(addresses: Iterable[NodeAddress]) -> set[bytes]:
    loopback = _index("lo")
    scopes = (rtnetlink.SCOPE_LINK, rtnetlink.SCOPE_HOST)
    return {found.address for found in addresses if found.device != loopback and found.scope not in scopes}


def unused(addresses: frozenset[bytes]) -> set[bytes]:
    """Those of the addresses from which no socket of the node speaks."""
    return set(addresses) - in_use(addresses)


def _shown(address: bytes) -> str:
    return socket.inet_ntop(rtnetlink.FAMILY[len(address)], address)


def _loopback() -> int:
    return socket.if_nametoindex("lo")


def _index(device: str) -> int | None:
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return None
