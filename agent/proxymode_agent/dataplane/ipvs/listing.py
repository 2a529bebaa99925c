"""Pure: the kernel's listing of IPVS, /proc/net/ip_vs, to the real servers of virtual servers.

The one place where the kernel tells all real servers at once: over generic netlink they must be asked for one virtual
server at a time, about 2 ms each in an emulated guest. Format: ip_vs_info_seq_show in net/netfilter/ipvs/ip_vs_ctl.c;
addresses and ports are hexadecimal, a real server's line follows that of its virtual server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.ipvs.model import RealServer
from proxymode_agent.services.model import Endpoint, Frontend, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_PROTOCOLS: Final = {protocol.name: protocol for protocol in Protocol}
_HEADING: Final = 3
"""Lines: the version, and the columns' names of either kind of line."""


def parse(listing: str, wanted: Callable[[Frontend], bool]) -> dict[Frontend, dict[Endpoint, RealServer]]:
    """The real servers of those virtual servers for which `wanted` says so.

    Ones by firewall mark and of protocols other than TCP, UDP and SCTP are nobody's business here and left out.
    """
    found: dict[Frontend, dict[Endpoint, RealServer]] = {}
    real_servers: dict[Endpoint, RealServer] | None = None
    for line in listing.splitlines()[_HEADING:]:
        words = line.split()
        if words[0] == "->":
            if real_servers is not None:
                # -> address:port forwarding weight active inactive
                real_servers[Endpoint(*_address(words[1]))] = RealServer(int(words[3]), int(words[4]) + int(words[5]))
            continue
        real_servers = None
        protocol = _PROTOCOLS.get(words[0])
        if protocol is not None:
            address, port = _address(words[1])
            frontend = Frontend(address, protocol, port)
            if wanted(frontend):
                real_servers = found[frontend] = {}
    return found


def _address(text: str) -> tuple[bytes, int]:
    """`0A60000A:0050`, or `[fd96:0000:…:0010]:0050` with every digit."""
    address, _, port = text.rpartition(":")
    return bytes.fromhex(address.strip("[]").replace(":", "")), int(port, 16)
