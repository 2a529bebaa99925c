"""While somebody listens to nf_tables events, a commit takes no more kernel memory than a small transaction does.

The kernel queues an event of some KB for each element until its transaction ends (nft_commit_notify), for listeners in
whatever network namespace. One transaction of as many elements shows what is avoided. In the guest only: a listener on
this machine would make everybody's commits dear.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.nfnetlink import (
    IP_DADDR,
    IP_SADDR,
    Connection,
    NfProto,
    Set,
    Table,
    Transaction,
    add_elements,
)
from proxymode_agent.dataplane.nftables import NftablesDataplane
from proxymode_agent.services.model import DataplaneConfig, ServiceState
from service_node import service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxymode_agent.services.model import ServicePort, ServicePortName
    from proxymode_testbeds.topology import Topology

NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7
NETLINK_ADD_MEMBERSHIP = 1
SOL_NETLINK = 270

SERVICES, ENDPOINTS = 250, 64
ELEMENTS = SERVICES * ENDPOINTS
DEAR_BYTES = 96 << 20
"""What one transaction of so many elements takes at least: measured, 137 MB on 6.1. Ours write twice as many, hairpin
pairs beside endpoints, and took 38 MB, with what the elements themselves and this process take."""


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Somebody listens to nf_tables events, and does not even read them."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as listener:
        listener.bind((0, 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least that there is
        listener.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        yield


def taken_at_most(work: Callable[[], object]) -> int:
    """By how many bytes the machine's free memory fell while this was done, at most."""
    done = threading.Event()
    before = least = _available()

    def watch() -> None:
        nonlocal least
        while not done.is_set():
            least = min(least, _available())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return before - least


def _available() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemFree"].split()[0]) << 10


def ports(generation: int) -> dict[ServicePortName, ServicePort]:
    made = {}
    for number in range(SERVICES):
        pods = [f"10.{128 + generation}.{number}.{pod}" for pod in range(ENDPOINTS)]
        port = service(str(ipaddress.ip_address("10.96.1.0") + number), 80, pods, name=f"s{number}")
        made[port.name] = port
    return made


def test_a_listener_does_not_make_our_commits_dear(one_node: Topology) -> None:
    before, after = ports(0), ports(1)
    pairs = Set(Table(NfProto.IPV4, "control"), "pairs", (IP_SADDR, IP_DADDR))
    elements = [(number.to_bytes(8, "big"), b"") for number in range(ELEMENTS)]

    def at_once() -> int:
        with Connection() as kernel:
            kernel.commit(Transaction.of(pairs.table.add(), pairs.add()))
            taken = taken_at_most(lambda: kernel.commit(Transaction(tuple(add_elements(pairs, elements)))))
            kernel.commit(Transaction.of(pairs.table.delete()))
        return taken

    def ours() -> list[int]:
        with contextlib.closing(NftablesDataplane(DataplaneConfig())) as made:
            taken = [
                taken_at_most(lambda: made.sync(ServiceState(before))),
                taken_at_most(lambda: made.sync(ServiceState(after), frozenset(after))),
                taken_at_most(lambda: made.sync(ServiceState({}))),
            ]
            made.remove()
        return taken

    one_node.call("node1", at_once)  # what is allocated once and for all
    with listening():
        dear = one_node.call("node1", at_once)
        cheap = one_node.call("node1", ours)
    assert dear > DEAR_BYTES, f"{dear >> 20} MB: the listener costs nothing on this kernel"
    assert max(cheap) < dear / 2, f"{[one >> 20 for one in cheap]} MB, at once {dear >> 20} MB"
