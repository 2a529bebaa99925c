"""One question to a Service, for tests that trace packets: who answers, and whom does it see? Or a knock: is it open?

Made for :func:`proxymode_testbeds.netns.call`, or :meth:`Topology.call`, which run a function inside a namespace.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from typing import Literal, NamedTuple

ANSWER_SECONDS = 20.0  # a deadline under emulation, not an estimate
_SLICE_SECONDS = 0.5


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
    OSError where there is no route. Time in which this process itself did not run, for its machine stood still, counts
    for no timeout: the answer may be there when it runs again.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as connection:
        connection.setblocking(False)
        if source_port:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.bind(("", source_port))
        left = _connect(connection, address, port, timeout)
        connection.sendall(b"?\n")
        answer = b""
        while not answer.endswith(b"\n"):
            left = _wait(connection, select.POLLIN, left)
            chunk = connection.recv(4096)
            if not chunk:
                raise ConnectionResetError(f"{address} port {port} closed the connection without an answer")
            answer += chunk
    server, source, _ = answer.decode().split()
    return Answer(server, source)


def knock(address: str, port: int, *, timeout: float) -> None:
    """A TCP connection that is closed as soon as it is open. Raises as :func:`ask`, and counts time alike."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as connection:
        connection.setblocking(False)
        _connect(connection, address, port, timeout)


def _connect(connection: socket.socket, address: str, port: int, seconds: float) -> float:
    """Returns how much of the time is left."""
    error = connection.connect_ex((address, port))
    if error == errno.EINPROGRESS:
        seconds = _wait(connection, select.POLLOUT, seconds)
        error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
    return seconds


def _wait(connection: socket.socket, event: int, seconds: float) -> float:
    """Until the event, or an error; returns how much of the time is left. Raises TimeoutError."""
    poll = select.poll()
    poll.register(connection, event)
    while seconds > 0:
        wait = min(seconds, _SLICE_SECONDS)
        began = time.monotonic()
        happened = poll.poll(wait * 1000)
        seconds -= min(time.monotonic() - began, wait)
        if happened:
            return seconds
    raise TimeoutError("timed out")
