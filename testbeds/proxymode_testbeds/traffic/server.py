"""A backend: answers every line with its own name, the address it came from and that line, over TCP and UDP.

A line may ask for more than its answer: `7 bulk 100000` for so many bytes after it, `7 push 500` for the same answer
again every 500 milliseconds as long as the connection is there.

It says `{"event":"ready","tcp":PORT,"udp":PORT}` when it listens, and what it did when it is stopped. Stopping closes
every connection, as a pod's end does.
"""

from __future__ import annotations

import contextlib
import socket
from functools import partial

from proxymode_testbeds.traffic.loop import READ, WRITE, Loop
from proxymode_testbeds.traffic.report import say

BACKLOG = 4096


class Server:
    def __init__(self, name: str, address: str) -> None:
        self._name = name
        self._address = address
        self._loop = Loop()
        self._open: dict[socket.socket, bytearray] = {}  # the beginning of a line whose end has not come
        self._prefixes: dict[socket.socket, bytes] = {}
        self._unsent: dict[socket.socket, bytes] = {}
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
                self._prefixes[connection] = self._prefix(peer)
                self._watch(connection)

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
                for line in lines:
                    self._answer_line(connection, prefix, bytes(line))
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # reset by the client: closed below, like an orderly end
        self._end(connection)

    def _answer_line(self, connection: socket.socket, prefix: bytes, line: bytes) -> None:
        words = line.split()
        answer = prefix + (words[0] if words else b"")
        self._answers += 1
        match words[1:]:
            case [b"bulk", size]:
                self._send(connection, answer + b" " + b"." * int(size) + b"\n")
            case [b"push", milliseconds]:
                self._push(connection, answer + b"\n", int(milliseconds) / 1000)
            case _:
                self._send(connection, answer + b"\n")

    def _push(self, connection: socket.socket, answer: bytes, seconds: float) -> None:
        if connection in self._open:
            self._send(connection, answer)
            self._loop.after(seconds, partial(self._push, connection, answer, seconds))

    def _send(self, connection: socket.socket, data: bytes) -> None:
        waiting = self._unsent.get(connection)
        self._unsent[connection] = (waiting or b"") + data
        if waiting is None:
            self._flush(connection)

    def _flush(self, connection: socket.socket) -> None:
        """What fits goes; the rest when there is room. An error is seen by the next read."""
        data = self._unsent[connection]
        with contextlib.suppress(OSError):
            data = data[connection.send(data) :]
        if data:
            self._unsent[connection] = data
        else:
            del self._unsent[connection]
        self._watch(connection)

    def _watch(self, connection: socket.socket) -> None:
        events = READ | WRITE if connection in self._unsent else READ
        self._loop.watch(connection, events, partial(self._ready, connection))

    def _ready(self, connection: socket.socket) -> None:
        if connection in self._unsent:
            self._flush(connection)
        if connection in self._open:
            self._answer(connection, self._prefixes[connection])

    def _end(self, connection: socket.socket) -> None:
        self._loop.forget(connection)
        del self._open[connection], self._prefixes[connection]
        self._unsent.pop(connection, None)
        connection.close()

    def _answer_datagrams(self, datagrams: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                question, peer = datagrams.recvfrom(2048)
                # A client that is gone already, or unreachable, is the client's result.
                with contextlib.suppress(OSError):
                    datagrams.sendto(self._prefix(peer) + question, peer)
                    self._answers += 1
