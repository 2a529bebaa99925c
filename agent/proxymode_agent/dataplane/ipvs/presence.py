"""I/O: whether anything of the ipvs mode is in this network namespace, and the routes that outlive it.

Asked at every start of the agent, also on nodes that never had the mode: so it brings little along. What there is in
detail is read by the dataplane itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.nfnetlink.uapi import NfProto

if TYPE_CHECKING:
    from proxymode_agent.dataplane.ipvs.addresses import Addresses
    from proxymode_agent.dataplane.nfnetlink import Connection

TABLE: Final = "proxymode-ipvs"
"""The mode's table in nf_tables, in both families."""


def present(kernel: Connection, addresses: Addresses) -> bool:
    """Whether the kernel holds anything of ours in this mode. Raises DataplaneError."""
    return has_table(kernel) or addresses.device_is_ours()


def has_table(kernel: Connection) -> bool:
    """Whether a table of this name exists in either family. Raises DataplaneError."""
    return any(found.table.name == TABLE for family in (NfProto.IPV4, NfProto.IPV6) for found in kernel.tables(family))


def forget_routes(addresses: Addresses) -> None:
    """Remove our routes to addresses that are neither bound nor spoken from any more. Raises DataplaneError."""
    addresses.delete_routes(addresses.stray_routes())
