"""I/O: what the mode has in the kernel, and how it is taken away: nf_tables' table, kube-ipvs0, virtual servers.

Virtual servers are asked for when they are needed only, since that loads a module. What shall be in the parts is not
known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.ipvs.addresses import Addresses
from proxymode_agent.dataplane.ipvs.count import Count
from proxymode_agent.dataplane.ipvs.model import DeleteVirtualServer
from proxymode_agent.dataplane.ipvs.ownership import excluded, is_ours
from proxymode_agent.dataplane.ipvs.presence import forget_routes
from proxymode_agent.dataplane.ipvs.servers import Servers, available
from proxymode_agent.dataplane.ipvs.table import SideTable

if TYPE_CHECKING:
    from collections.abc import Container

    from proxymode_agent.dataplane.ipvs.addresses import Found
    from proxymode_agent.services.model import DataplaneConfig


class Parts:
    """Of the network namespace that this object was made in. Raises DataplaneError."""

    def __init__(self, config: DataplaneConfig) -> None:
        self._config = config
        self.table: Final = SideTable(config)
        self.addresses: Final = Addresses()
        self._servers: Servers | None = None
        self._count = Count()

    def close(self) -> None:
        """Close sockets; leaves the kernel as it is."""
        self.table.close()
        self.addresses.close()
        self._count.close()
        if self._servers is not None:
            self._servers.close()

    def present(self) -> bool:
        """Whether there is anything of ours."""
        return self.table.present() or self.addresses.device_is_ours()

    def servers(self) -> Servers:
        """IPVS, whose module is loaded where it is not, also where it was unloaded since."""
        if self._servers is not None and self._servers.outlived():
            self._servers.close()
            self._servers = None
        if self._servers is None:
            self._servers = Servers()
        return self._servers

    def virtual_servers(self) -> int | None:
        """How many there are for IPv4, whoever made them; None: the kernel has no IPVS."""
        return self._count.virtual_servers()

    def bound(self, addresses: Found, keep: Container[bytes] = ()) -> dict[bytes, bytes | None]:
        """The addresses on kube-ipvs0, without excluded ones that are not in `keep`."""
        return {
            address: source
            for address, source in addresses.bound.items()
            if address in keep or not excluded(self._config, address)
        }

    def remove_virtual_servers(self) -> int:
        """Delete our virtual servers and with them the connections that IPVS has; how many."""
        if not self.present() or not available():
            return 0
        ours = is_ours(self._config, self.table.elements(), self.bound(self.addresses.read()))
        servers = self.servers()
        changes = [DeleteVirtualServer(frontend) for frontend in servers.read(ours)]
        refused = servers.apply(changes)
        if refused:
            raise DataplaneError(f"cannot {refused[0][0]}: {refused[0][1]}")
        return len(changes)

    def release_addresses(self) -> None:
        """Remove the addresses, our routes and kube-ipvs0, unless it has excluded addresses.

        A route to an address that a socket of the node speaks from stays; see `presence`.
        """
        if self.present() and self.addresses.device_exists():
            self.addresses.release(list(self.bound(self.addresses.read())))
            if not self.addresses.read().bound:
                self.addresses.delete_device()
        forget_routes(self.addresses)
