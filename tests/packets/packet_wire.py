"""Real packets: backends in every pod, and questions from anywhere, in one thread.

A socket belongs to the network namespace in which it was made, so one event loop can hold the servers of all pods and
the clients of all machines: no process per namespace, hundreds of flows at a time. A TCP connection is answered as soon
as it is accepted, a datagram by another. SCTP needs no sockets of that kind (not every kernel has them): an INIT
(RFC 9260) carries a number of ours as its initiate tag, and a raw socket in the pod sees it arrive.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import time
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

from packet_table import Observed, Outcome, Refusal, Server, enough
from proxymode_testbeds import netns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from packet_network import Sender
    from proxymode_testbeds.topology import Topology

_ANSWER_SECONDS: Final = 10.0  # a deadline, not an estimate
_SILENCE_SECONDS: Final = 0.7  # before TCP's first retransmission
_AT_A_TIME: Final = 64
_LONGEST: Final = 65536
_REFUSALS: Final = (errno.ECONNREFUSED, errno.EPERM, errno.EACCES)
"""EPERM is how the kernel tells a process of the node that its own packet was rejected on the way out."""
_SCTP: Final = 132
_CRC32C: Final = 0x82F63B78  # RFC 9260 appendix A, bits reversed


class Question(NamedTuple):
    """A flow to try. `outcome` decides how often, and how long silence is listened to. `source_port` None: each time
    another one. `octets`: the length of a UDP question, and of its answer at least."""

    sender: Sender
    address: str
    port: int
    protocol: str
    outcome: Outcome
    source_port: int | None = None
    octets: int = 1


@dataclass
class _Flow:
    question: Question
    seen: list[Observed] = field(default_factory=list)
    socket: socket.socket | None = None
    deadline: float = 0.0


class Wire:
    """Servers in a topology's namespaces and the loop that asks them. Not thread-safe."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._selector = selectors.DefaultSelector()
        self._ports = count(0)
        self._tags = count(1)
        self._awaited: dict[int, _Flow] = {}

    def serve(self, namespaces: Mapping[str, str], ports: Iterable[int]) -> None:
        """A backend under each name (the value is the fleet's name) on these TCP and UDP ports, and for SCTP on any."""
        for name, of_fleet in namespaces.items():
            self._topology.call(of_fleet, self._serve, name, tuple(ports))

    def ask(self, questions: Iterable[Question]) -> list[list[Observed]]:
        """What became of every question, tried until it is `enough`; in their order."""
        flows = [_Flow(question) for question in questions]
        if flows:
            # In a thread of its own, which goes from namespace to namespace.
            self._topology.call(flows[0].question.sender.name, self._run, flows)
        return [flow.seen for flow in flows]

    def close(self) -> None:
        """Closes every socket, also those of questions that ended with an exception."""
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def _run(self, flows: list[_Flow]) -> None:
        waiting = flows[::-1]
        active: list[_Flow] = []
        while waiting or active:
            while waiting and len(active) < _AT_A_TIME:
                active.append(waiting.pop())
            for flow in active:
                if flow.socket is None:
                    self._try(flow)
            # A try that failed at once has no socket to wait for, and is to be judged at once.
            until = min(flow.deadline if flow.socket is not None else 0.0 for flow in active)
            ready = self._selector.select(max(0.0, until - time.monotonic()))
            for key, events in ready:
                key.data(events)
            now = time.monotonic()
            for flow in active:
                # Who answers is in this loop too: while anything is to be read, it is late itself.
                if not ready and flow.socket is not None and flow.deadline <= now:
                    self._end(flow, Observed(None, "", Refusal.DROPPED))
            active = [flow for flow in active if not enough(flow.question.outcome, flow.seen)]

    def _try(self, flow: _Flow) -> None:
        question = flow.question
        netns.enter(self._topology.netns(question.sender.name))
        family = socket.AF_INET6 if ":" in question.address else socket.AF_INET
        silent = question.outcome is Refusal.DROPPED
        flow.deadline = time.monotonic() + (_SILENCE_SECONDS if silent else _ANSWER_SECONDS)
        number = next(self._tags)
        if question.protocol == "sctp":
            flow.socket = socket.socket(family, socket.SOCK_RAW, _SCTP)
            self._bind(flow.socket, question, 0)
            self._awaited[number] = flow
        else:
            kind = socket.SOCK_STREAM if question.protocol == "tcp" else socket.SOCK_DGRAM
            flow.socket = socket.socket(family, kind)
            while not self._bind(flow.socket, question, question.source_port or self._next_port()):
                pass
        flow.socket.setblocking(False)
        self._selector.register(flow.socket, selectors.EVENT_READ, partial(self._answered, flow))
        try:
            flow.socket.connect((question.address, 0 if question.protocol == "sctp" else question.port))
            if question.protocol == "udp":
                flow.socket.send(b"?" * question.octets)
            elif question.protocol == "sctp":
                flow.socket.send(_init(self._next_port(), question.port, number))
        except BlockingIOError:
            pass
        except OSError as error:
            self._failed(flow, error)

    def _next_port(self) -> int:
        # Each port once, not the kernel's choice: no entry that conntrack still has of an earlier flow is met.
        return 32768 + next(self._ports) % 28000

    @staticmethod
    def _bind(client: socket.socket, question: Question, port: int) -> bool:
        loopback = question.address in ("127.0.0.1", "::1")
        address = "" if loopback or question.sender.bound is None else question.sender.bound
        try:
            client.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and question.source_port is None:
                return False
            raise
        return True

    def _answered(self, flow: _Flow, _events: int) -> None:
        if flow.socket is None:
            return
        try:
            answer = flow.socket.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(flow, error)
            return
        if flow.question.protocol == "sctp":
            return  # an answer to an INIT is no news: that it arrived is
        if not answer:
            self._failed(flow, ConnectionResetError(errno.ECONNRESET, "closed without an answer"))
            return
        name, port, source = answer.decode().split()
        self._end(flow, Observed(Server(name, int(port)), source, None))

    def _failed(self, flow: _Flow, error: OSError) -> None:
        refused = error.errno in _REFUSALS
        self._end(flow, Observed(None, "", Refusal.REJECTED) if refused else Observed(None, str(error), None))

    def _end(self, flow: _Flow, observed: Observed) -> None:
        assert flow.socket is not None
        self._selector.unregister(flow.socket)
        if flow.socket.type == socket.SOCK_STREAM:
            # A reset instead of an orderly end: no TIME_WAIT anywhere.
            flow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        flow.socket.close()
        flow.socket = None
        flow.seen.append(observed)

    def _serve(self, name: str, ports: tuple[int, ...]) -> None:
        for port in ports:
            listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True)
            self._watch(listener, partial(self._accept, name, port, listener))
            for family, any_address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                datagrams = socket.socket(family, socket.SOCK_DGRAM)
                if family == socket.AF_INET6:
                    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                datagrams.bind((any_address, port))
                self._watch(datagrams, partial(self._answer, name, port, datagrams))
        for family in (socket.AF_INET, socket.AF_INET6):
            raw = socket.socket(family, socket.SOCK_RAW, _SCTP)
            self._watch(raw, partial(self._arrived, name, raw))

    def _watch(self, server: socket.socket, callback: Callable[[int], None]) -> None:
        server.setblocking(False)
        self._selector.register(server, selectors.EVENT_READ, callback)

    def _accept(self, name: str, port: int, listener: socket.socket, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, peer = listener.accept()
                connection.setblocking(False)
                with contextlib.suppress(OSError):  # reset by the client meanwhile
                    connection.send(f"{name} {port} {peer[0].removeprefix('::ffff:')}".encode())
                self._selector.register(connection, selectors.EVENT_READ, partial(self._close, connection))

    def _close(self, connection: socket.socket, _events: int) -> None:
        self._selector.unregister(connection)
        connection.close()

    @staticmethod
    def _answer(name: str, port: int, datagrams: socket.socket, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                question, peer = datagrams.recvfrom(_LONGEST)
                datagrams.sendto(f"{name} {port} {peer[0]}".ljust(len(question)).encode(), peer)

    def _arrived(self, name: str, raw: socket.socket, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, peer = raw.recvfrom(2048)
                header = (packet[0] & 0xF) * 4 if raw.family == socket.AF_INET else 0  # IPv6 headers are not passed
                _, port = struct.unpack_from(">HH", packet, header)
                (tag,) = struct.unpack_from(">I", packet, header + 16)
                flow = self._awaited.pop(tag, None)
                if flow is not None and flow.socket is not None:
                    self._end(flow, Observed(Server(name, port), peer[0], None))


def _init(source_port: int, port: int, tag: int) -> bytes:
    """An SCTP packet with an INIT chunk (RFC 9260, 3.3.2)."""
    chunk = struct.pack(">BBHIIHHI", 1, 0, 20, tag, 65536, 1, 1, 1)
    without = struct.pack(">HHII", source_port, port, 0, 0) + chunk
    crc = 0xFFFFFFFF
    for byte in without:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CRC32C if crc & 1 else 0)
    return without[:8] + struct.pack("<I", crc ^ 0xFFFFFFFF) + without[12:]
