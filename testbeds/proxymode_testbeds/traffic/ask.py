"""One question to a Service, for tests that trace packets: who answers, and whom does it see?

Made for :func:`proxymode_testbeds.netns.call`, or :meth:`Topology.call`, which run a function inside a namespace.
"""

from __future__ import annotations

import socket
from typing import Literal, NamedTuple

ANSWER_SECONDS = 6.0


class Answer(NamedTuple):
    """`server` is the name of who answered, `source` the client's address as that server saw it."""

    server: str
    source: str


def ask(
    address: str,
    port: int,
    protocol: Literal["tcp", "udp"] = "tcp",
    *,
    timeout: float = ANSWER_SECONDS,
    source_port: int = 0,
) -> Answer:
    """The answer to one question on a connection (or datagram) of its own; `source_port` 0 is any.

    Raises TimeoutError after `timeout` seconds without an answer, ConnectionError where it is refused or reset, and
    OSError where there is no route.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as connection:
        connection.settimeout(timeout)
        if source_port:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.bind(("", source_port))
        connection.connect((address, port))
        connection.sendall(b"?\n")
        answer = b""
        while not answer.endswith(b"\n"):
            chunk = connection.recv(4096)
            if not chunk:
                raise ConnectionResetError(f"{address} port {port} closed the connection without an answer")
            answer += chunk
    server, source, _ = answer.decode().split()
    return Answer(server, source)
