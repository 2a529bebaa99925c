"""SCTP associations through the switch, from and to everywhere: those that talk and those that do not."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from proxymode_agent.services.model import Protocol
from proxymode_agent.switch import Outcome
from proxymode_api.modes import ConnectionPolicy, Mode
from service_node import ANSWER_SECONDS, VIP, service, state
from switch_load import agent, switch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from service_node import ServiceNode

PORT, TARGET = 80, 9899
TALK_SECONDS, ACCEPT_SECONDS = 0.1, 0.5


def associated(bound: str, to: tuple[str, int]) -> socket.socket:
    """From one address alone: an association of several addresses names them in its packets, which NAT leaves alone."""
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    one.settimeout(ANSWER_SECONDS)
    one.bind((bound, 0))
    one.connect(to)
    return one


def listening(address: str) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    one.bind((address, TARGET))
    one.listen(64)
    one.settimeout(ACCEPT_SECONDS)
    return one


def ask(association: socket.socket, question: bytes) -> bytes:
    association.sendall(question)
    return association.recv(1024)


def echo(association: socket.socket) -> None:
    with association, contextlib.suppress(OSError):
        while said := association.recv(1024):
            association.sendall(said)


def accept(listener: socket.socket, stop: threading.Event) -> None:
    with listener:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                association, _ = listener.accept()
                association.settimeout(None)
                threading.Thread(target=echo, args=(association,), daemon=True).start()


@pytest.fixture
def pods(node: ServiceNode) -> Iterator[list[str]]:
    """Two here and one on another node, each with an echo."""
    subprocess.run(["modprobe", "sctp"], check=True)
    names = ("node1-pod1", "node1-pod2", "node2-pod1")
    addresses = [node.pods(4)[index] for index in (0, 1, 3)]
    stop = threading.Event()
    threads = [
        threading.Thread(target=accept, args=(node.topology.call(name, listening, address), stop))
        for name, address in zip(names, addresses, strict=True)
    ]
    for thread in threads:
        thread.start()
    yield addresses
    stop.set()
    for thread in threads:
        thread.join()


class Talk:
    """Asks again and again, until told to stop; what went wrong."""

    def __init__(self, association: socket.socket) -> None:
        self._association = association
        self._stop = threading.Event()
        self.answers = 0
        self.failed: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.wait(TALK_SECONDS):
                assert ask(self._association, b"more") == b"more"
                self.answers += 1
        except OSError as error:
            self.failed = error

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def test_associations_live_on_whether_they_talk_or_not(node: ServiceNode, pods: list[str], tmp_path: Path) -> None:
    ports = state(service(VIP, PORT, pods, target=TARGET, protocol=Protocol.SCTP))
    addresses = {part.name: str(part.addresses[0]) for part in node.topology.fleet.parts()}
    with closing(agent(node, tmp_path, ConnectionPolicy.HANDOVER)) as switcher, contextlib.ExitStack() as stack:
        switch(node, switcher, Mode.IPVS, ports)
        idle: list[socket.socket] = []
        talking: list[Talk] = []
        for to in (Mode.NFTABLES, Mode.IPVS, Mode.NFTABLES):
            for name in ("client1", "node1", "node1-pod3", "node1-pod1"):
                two = [node.topology.call(name, associated, addresses[name], (VIP, PORT)) for _ in range(2)]
                for association in two:
                    stack.enter_context(closing(association))
                    assert ask(association, b"hello") == b"hello"
                idle.append(two[0])
                talking.append(Talk(two[1]))
            record = switch(node, switcher, to, ports)
            assert record.outcome is Outcome.SUCCEEDED
            assert record.connections is not None
            assert record.connections.found >= len(pods)
            assert record.connections.lost == 0
            assert [ask(association, b"still there?") for association in idle] == [b"still there?"] * len(idle)
        for talk in talking:
            talk.stop()
        assert [talk.failed for talk in talking] == [None] * len(talking)
        assert all(talk.answers for talk in talking)
