"""I/O: what IPVS remembers of connections to Services, and when it has forgotten them.

/proc/net/ip_vs_conn is the kernel's only list of them (net/netfilter/ipvs/ip_vs_conn.c): protocol, client, frontend and
real server, in hexadecimal.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxymode_agent.services.model import Protocol

if TYPE_CHECKING:
    from proxymode_agent.switch.connections import Frontends

_LIST: Final = Path("/proc/thread-self/net/ip_vs_conn")
_POLL_SECONDS: Final = 0.01
_SETTLED_SECONDS: Final = 0.1


class Remembered:
    """Connections of IPVS to Services, in whichever state."""

    def __init__(self, services: Frontends) -> None:
        self._services = services
        self._judged: dict[tuple[str, str, str], bool] = {}

    def forgotten(self, within: float) -> bool:
        """Wait until IPVS has long had no such connection any more, or for so many seconds it still has; which of both.

        Long, because the list is empty before the conntrack entries of the last connections are gone.
        """
        deadline = time.monotonic() + within
        since: float | None = None
        while True:
            now = time.monotonic()
            if self.any():
                since = None
                if now >= deadline:
                    return False
            elif since is None:
                since = now
            elif now - since >= _SETTLED_SECONDS:
                return True
            time.sleep(_POLL_SECONDS)

    def any(self) -> bool:
        """Whether there is any connection."""
        try:
            with _LIST.open() as lines:
                next(lines)
                return any(map(self._to_service, lines))
        except FileNotFoundError:
            return False

    def _to_service(self, line: str) -> bool:
        protocol, _, _, address, port = line.split(maxsplit=5)[:5]
        frontend = (protocol, address, port)
        if frontend not in self._judged:
            self._judged[frontend] = protocol in Protocol.__members__ and self._services.has(
                Protocol[protocol], bytes.fromhex(address.replace(":", "").strip("[]")), int(port, 16)
            )
        return self._judged[frontend]
