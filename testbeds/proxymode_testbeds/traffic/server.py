"""A backend: answers every line with its own name, the address it came from and that line, over TCP and UDP.

It says `{"event":"ready","tcp":PORT,"udp":PORT}` when it listens, and what it did when it is stopped. Stopping closes
every connection, as a pod's end does.
"""

from __future__ import annotations

import contextlib
import socket
from functools import partial

from proxymode_testbeds.traffic.loop import READ, Loop
from proxymode_testbeds.traffic.report import say

BACKLOG = 4096


class Server:
    def __init__(self, name: str, address: str) -> None:
        self._name = name
        self._address = address
        self._loop = Loop()
        self._open: dict[socket.socket, bytearray] = {}  # the beginning of a line whose end has not come
        self._connections = 0
        self._answers = 0

    def run(self, tcp: int | None, udp: int | None) -> None:
        """Serves until SIGTERM; port 0 lets the kernel choose. Raises OSError where a port is taken."""
        ports: dict[str, int] = {}
        if tcp is not None:
            listener = self._listen(tcp)
            ports["tcp"] = listener.getsockname()[1]
        if udp is not None:
            datagrams = self._bind(udp)
            ports["udp"] = datagrams.getsockname()[1]
        self._loop.on_stop_signal(self._loop.stop)
        say("ready", **ports)
        self._loop.run()
        say("result", connections=self._connections, answers=self._answers, open=len(self._open))

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(
            (self._address, port),
            family=self._family(),
            backlog=BACKLOG,
            dualstack_ipv6=self._address == "::",
        )
        listener.setblocking(False)
        self._loop.watch(listener, READ, partial(self._accept, listener))
        return listener

    def _bind(self, port: int) -> socket.socket:
        datagrams = socket.socket(self._family(), socket.SOCK_DGRAM)
        if self._address == "::":
            datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        datagrams.bind((self._address, port))
        datagrams.setblocking(False)
        self._loop.watch(datagrams, READ, partial(self._answer_datagrams, datagrams))
        return datagrams

    def _family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self._address else socket.AF_INET

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, peer = listener.accept()
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections += 1
                self._open[connection] = bytearray()
                self._loop.watch(connection, READ, partial(self._answer, connection, self._prefix(peer)))

    def _prefix(self, peer: tuple[str, int]) -> bytes:
        # An IPv4 peer of a socket for both families comes as ::ffff:10.0.0.1.
        return f"{self._name} {peer[0].removeprefix('::ffff:')} ".encode()

    def _answer(self, connection: socket.socket, prefix: bytes) -> None:
        received = self._open[connection]
        try:
            chunk = connection.recv(1 << 16)
            if chunk:
                received += chunk
                *lines, rest = received.split(b"\n")
                received[:] = rest
                # Clients ask one question at a time, so the answer always fits the socket's buffer.
                connection.send(b"".join(prefix + line + b"\n" for line in lines))
                self._answers += len(lines)
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # reset by the client: closed below, like an orderly end
        self._loop.forget(connection)
        del self._open[connection]
        connection.close()

    def _answer_datagrams(self, datagrams: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                question, peer = datagrams.recvfrom(2048)
                # A client that is gone already, or unreachable, is the client's result.
                with contextlib.suppress(OSError):
                    datagrams.sendto(self._prefix(peer) + question, peer)
                    self._answers += 1
