"""The ipvs mode as a Dataplane: reads the kernel back, writes the difference, in an order that drops nothing.

What is ours is read back, see README.md: no file and no memory is needed to find it again.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.base import DataplaneError, Finding, Look, SyncResult
from proxymode_agent.dataplane.ipvs import sysctls
from proxymode_agent.dataplane.ipvs.addresses import Addresses
from proxymode_agent.dataplane.ipvs.count import Count
from proxymode_agent.dataplane.ipvs.diff import Changes, diff
from proxymode_agent.dataplane.ipvs.layout import FAMILIES
from proxymode_agent.dataplane.ipvs.model import (
    BindAddress,
    DeleteVirtualServer,
    IpvsState,
    ReleaseAddress,
    Set,
    frontend_key,
    shown,
)
from proxymode_agent.dataplane.ipvs.servers import Servers, available
from proxymode_agent.dataplane.ipvs.table import SideTable
from proxymode_agent.dataplane.ipvs.wanted import NodeAddresses, Wanted
from proxymode_api.modes import Mode

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Callable, Iterable

    from proxymode_agent.dataplane.ipvs.model import AddressChange, Element, ServerChange
    from proxymode_agent.services.model import DataplaneConfig, Frontend, ServicePortName, ServiceState

    Refused = tuple[tuple[ServicePortName, str], ...]


_log = logging.getLogger(__name__)
_FALLBACK: Final = "rr"


class IpvsDataplane:
    """IPVS, kube-ipvs0 and the table `proxymode-ipvs` in the network namespace that this object was made in."""

    mode: Final = Mode.IPVS

    def __init__(self, config: DataplaneConfig) -> None:
        self._config = config
        self._table = SideTable(config)
        self._addresses = Addresses()
        self._servers: Servers | None = None
        self._wanted: Wanted | None = None
        self._count = Count()
        self._virtual_servers: int | None = None

    def close(self) -> None:
        """Close sockets; leaves the kernel as it is."""
        self._table.close()
        self._addresses.close()
        self._count.close()
        if self._servers is not None:
            self._servers.close()

    def present(self) -> bool:
        """Whether the kernel holds anything of ours in this mode."""
        return self._table.present() or self._addresses.device_is_ours()

    def sync(self, state: ServiceState, changed: frozenset[ServicePortName] | None = None) -> SyncResult:
        """Make the kernel do what `state` says; see Dataplane.sync."""
        wanted, self._wanted = self._wanted, None  # unknown again if anything below raises
        result = None
        if changed is not None and wanted is not None:
            result = self._sync_changed(wanted, state, changed)
        if result is None:
            wanted = Wanted(self._scheduler(), self._node_addresses())
            self._table.watch.begin()
            result = self._sync_all(wanted, state)
        self._wanted = wanted
        self._virtual_servers = self._count.virtual_servers()
        return result

    def look(self) -> Look:
        """Whether others changed our table or the number of IPv4 virtual servers; see Dataplane.look. Real servers,
        virtual servers of IPv6, addresses and sysctls are for `sync` to read back."""
        look = self._table.watch.look()
        before, self._virtual_servers = self._virtual_servers, self._count.virtual_servers()
        if look.finding is Finding.CHANGED or look.finding is Finding.DOUBTFUL:
            return look
        return Look(Finding.NOTHING_SEEN if self._virtual_servers == before else Finding.DOUBTFUL)

    def remove(self) -> None:
        """Take away virtual servers, addresses, device and table, in this order. Sysctls stay as they are."""
        self.remove_virtual_servers()
        self.release_addresses()
        self.remove_table()

    def remove_virtual_servers(self) -> int:
        """Delete our virtual servers and with them the connections that IPVS has; how many. Raises DataplaneError."""
        self._wanted = None
        if not self.present() or not available():
            return 0
        ours = self._ours(self._table.elements(), self._bound())
        servers = self._open_servers()
        changes = [DeleteVirtualServer(frontend) for frontend in servers.read(ours)]
        refused = servers.apply(changes)
        if refused:
            raise DataplaneError(f"cannot {refused[0][0]}: {refused[0][1]}")
        return len(changes)

    def release_addresses(self) -> None:
        """Remove the addresses, our routes and kube-ipvs0, unless it has excluded addresses. Raises DataplaneError."""
        self._wanted = None
        if self.present() and self._addresses.device_exists():
            unreleased = self._addresses.apply([ReleaseAddress(address) for address in self._bound()])
            if unreleased:
                raise DataplaneError(f"cannot {unreleased[0][0]}: {unreleased[0][1]}")
            if not self._addresses.bound():
                self._addresses.delete_device()
        self._addresses.delete_routes(self._addresses.stray_routes())

    def remove_table(self) -> None:
        """Delete the nf_tables table, and with it the memory of what is ours. Raises DataplaneError."""
        self._wanted = None
        self._table.remove()

    def _sync_all(self, wanted: Wanted, state: ServiceState) -> SyncResult:
        wanted.replace(state.ports)
        after = wanted.state()
        servers = self._open_servers()  # loads the module, which brings the sysctls
        written = sysctls.apply(sysctls.wanted(os.uname().release, strict_arp=self._config.ipvs_strict_arp))
        elements = self._table.elements()
        for length in FAMILIES.keys() - self._table.intact():
            # Which frontends were ours is known until their virtual servers are gone.
            kept = [e for e in elements if e.family == length and e.set is Set.NODE_FRONTENDS]
            new = dict.fromkeys(kept) | {e: value for e, value in after.elements.items() if e.family == length}
            self._table.create(length, new)
            written += 1 + len(new)
            elements = {e: value for e, value in elements.items() if e.family != length} | new
        written += self._addresses.claim_device()
        bound = self._bound(keep=after.addresses.keys())
        ours = self._ours(elements, bound)
        before = IpvsState(
            virtual_servers=servers.read(lambda frontend: frontend in after.virtual_servers or ours(frontend)),
            addresses=bound,
            elements=elements,
        )
        changes = diff(before, after)
        refused = self._apply(wanted, changes)
        strays = self._addresses.stray_routes()
        self._addresses.delete_routes(strays)
        return SyncResult(
            written=written + changes.count + len(strays),
            services=wanted.services,
            endpoints=wanted.endpoints,
            refused=(*refused, *_conflicts(wanted)),
        )

    def _sync_changed(
        self, wanted: Wanted, state: ServiceState, changed: frozenset[ServicePortName]
    ) -> SyncResult | None:
        """Only the changed ports' operations; None when the kernel was not as believed: read it back."""
        before, after = wanted.replace({name: state.ports.get(name) for name in changed})
        changes = diff(before, after)
        try:
            refused = self._apply(wanted, changes)
        except DataplaneError:
            return None
        if refused:
            return None
        return SyncResult(changes.count, wanted.services, wanted.endpoints, refused=_conflicts(wanted))

    def _apply(self, wanted: Wanted, changes: Changes) -> Refused:
        servers = self._open_servers()
        self._table.put(changes.close, changes.there, changes.outdated)
        refused: list[tuple[ServerChange | AddressChange, str]] = [*servers.apply(changes.servers)]
        self._table.put(changes.open, changes.there)
        if changes.bind:
            refused += self._addresses.apply(changes.bind)
        self._table.delete(changes.forget)
        refused += servers.apply(changes.delete_servers)
        if changes.release:
            refused += self._addresses.apply(changes.release)
        self._table.delete(changes.delete)
        return tuple(_by_port(wanted, refused))

    def _open_servers(self) -> Servers:
        if self._servers is None:
            self._servers = Servers()
        return self._servers

    def _ours(self, elements: Iterable[Element], bound: Iterable[bytes]) -> Callable[[Frontend], bool]:
        """Tells which of the kernel's virtual servers are ours."""
        addresses = set(bound)
        on_the_node = {element.key for element in elements if element.set is Set.NODE_FRONTENDS}

        def ours(frontend: Frontend) -> bool:
            return not self._excluded(frontend.address) and (
                frontend.address in addresses or frontend_key(frontend) in on_the_node
            )

        return ours

    def _bound(self, keep: Iterable[bytes] = ()) -> dict[bytes, bytes | None]:
        """The addresses on kube-ipvs0, without excluded ones that are not in `keep`."""
        kept = set(keep)
        return {
            address: source
            for address, source in self._addresses.bound().items()
            if address in kept or not self._excluded(address)
        }

    def _excluded(self, address: bytes) -> bool:
        return any(_contains(network, address) for network in self._config.ipvs_exclude_cidrs)

    def _scheduler(self) -> str:
        """The scheduler that was asked for, or one that every kernel with IPVS has."""
        asked = self._config.ipvs_scheduler
        if asked == _FALLBACK or self._open_servers().has_scheduler(asked):
            return asked
        _log.warning(
            "the kernel has no IPVS scheduler %s and no module ip_vs_%s: virtual servers get %s",
            asked,
            asked,
            _FALLBACK,
        )
        return _FALLBACK

    def _node_addresses(self) -> NodeAddresses:
        local = self._addresses.local()
        networks = self._config.node_port_addresses
        return NodeAddresses(
            node_ports=frozenset(
                address
                for address in local
                if networks is None or any(_contains(network, address) for network in networks)
            ),
            sources={len(address): address for address in reversed(self._config.node_ips) if address in local},
            own=frozenset(self._addresses.elsewhere()),
        )


def _contains(network: ipaddress.IPv4Network | ipaddress.IPv6Network, address: bytes) -> bool:
    if network.max_prefixlen != len(address) * 8:
        return False
    mask = int(network.netmask)
    return int.from_bytes(address, "big") & mask == int(network.network_address)


def _conflicts(wanted: Wanted) -> Refused:
    return tuple(
        (name, f"{shown(frontend)} belongs to Service port {owner}") for name, owner, frontend in wanted.conflicts()
    )


def _by_port(
    wanted: Wanted, refused: Iterable[tuple[ServerChange | AddressChange, str]]
) -> Iterable[tuple[ServicePortName, str]]:
    """Which ports lack what the kernel refused. Raises DataplaneError for what belongs to no port."""
    for change, reason in refused:
        if isinstance(change, BindAddress | ReleaseAddress):
            names = wanted.owners_of(change.address)
        else:
            owner = wanted.owner(change.frontend)
            names = [] if owner is None else [owner]
        if not names:
            raise DataplaneError(f"cannot {change}: {reason}")
        yield from ((name, f"cannot {change}: {reason}") for name in names)
