"""I/O: many TCP connections at once from this network namespace, closed as soon as they are established."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import selectors
import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.switch.probes.sample import Target

SECONDS: Final = 2.0
"""How long an answer may take: one that is lost is sent again by TCP after one second."""


def answering(targets: Iterable[Target], seconds: float = SECONDS) -> frozenset[Target]:
    """The targets that accept a connection within `seconds`. Raises nothing: who cannot be reached does not answer.

    Each connection has a port that no other socket of this network namespace has, which `connect` alone does not see
    to: IPVS tells the answers of one endpoint apart by the client's address and port only (ip_vs_conn_out_get), so a
    probe of a NodePort could end an open connection to the cluster IP.
    """
    found: set[Target] = set()
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for target in dict.fromkeys(targets):
            family = socket.AF_INET if len(target.address) == 4 else socket.AF_INET6
            with contextlib.suppress(OSError):  # a node without this address family
                connection = stack.enter_context(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
                connection.setblocking(False)
                connection.bind(("", 0))
                number = connection.connect_ex((str(ipaddress.ip_address(target.address)), target.port))
                if number in (0, errno.EINPROGRESS):
                    selector.register(connection, selectors.EVENT_WRITE, target)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                connection = key.fileobj  # type: ignore[assignment]
                if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    found.add(key.data)
                selector.unregister(connection)
    return frozenset(found)


def still_answering(targets: Iterable[Target], tries: int = 3) -> frozenset[Target]:
    """As `answering`, where what does not answer is tried again, with another endpoint as may be."""
    left = set(targets)
    found: set[Target] = set()
    for _ in range(tries):
        answered = answering(left)
        found |= answered
        left -= answered
        if not left:
            break
    return frozenset(found)
