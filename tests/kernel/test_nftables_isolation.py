"""A Service port whose element the kernel refuses is left out and reported; all others are programmed all the same.

The refusal is made here, for an intact kernel takes whatever passes our own checks; the error is as the kernel's.
"""

from __future__ import annotations

import errno
import subprocess
from typing import TYPE_CHECKING

import pytest

from nftables_bed import dataplane, held, namespace, node_config, service, state
from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.nfnetlink import Connection, KernelError, NfnetlinkError, Transaction
from proxymode_agent.dataplane.nfnetlink.transaction import HEADERS
from proxymode_agent.dataplane.nfnetlink.uapi import Message
from proxymode_agent.dataplane.nftables.dataplane import MAX_ISOLATED
from proxymode_agent.dataplane.nftables.elements import service_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.services.model import ServicePort
    from proxymode_testbeds.topology import Topology

__all__ = ["namespace"]

BEFORE_KEY = 12  # bytes of attribute headers: the element begins so far before its key


class Refusing:
    """A kernel that does not take elements of some Service ports' cluster IPs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: set[bytes] = set()
        self.errno = errno.ENOSPC
        commit = Connection.commit

        def refusing(kernel: Connection, transaction: Transaction) -> None:
            for command in transaction.commands:
                for key in self.keys if command.message is Message.NEWSETELEM else ():
                    if key in command.body:
                        assert command.locate is not None
                        element = command.locate(HEADERS.size + command.body.index(key) - BEFORE_KEY)
                        assert element is not None
                        raise NfnetlinkError((KernelError(command, self.errno, element.text, element),))
            commit(kernel, transaction)

        monkeypatch.setattr(Connection, "commit", refusing)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    return Refusing(monkeypatch)


def numbered(number: int, pods: int = 2) -> ServicePort:
    return service(f"s{number}", f"10.96.0.{number}", 80, [(f"10.244.1.{pod}", 80) for pod in range(1, pods + 1)])


def programmed(topology: Topology) -> set[bytes]:
    return set(held(topology)["map ip proxymode services"])


def test_the_others_are_programmed_and_it_is_tried_again_when_it_changes(
    namespace: Topology, refusing: Refusing
) -> None:
    good, bad, late = numbered(1), numbered(2), numbered(3)
    refusing.keys = {service_key(bad.cluster_ip)}
    with dataplane(namespace, node_config(namespace)) as made:
        result = made.sync(state(good, bad))
        [(name, reason)] = result.refused
        assert name == bad.name
        assert "No space left on device (ENOSPC): 10.96.0.2 . 6 . 80 . " in reason
        assert programmed(namespace) == {service_key(good.cluster_ip)}

        # What changes elsewhere does not try it again.
        result = made.sync(state(good, bad, late), frozenset([late.name]))
        assert [refused for refused, _ in result.refused] == [bad.name]
        assert programmed(namespace) == {service_key(good.cluster_ip), service_key(late.cluster_ip)}

        refusing.keys = set()
        changed = numbered(2, pods=3)
        assert made.sync(state(good, changed, late), frozenset([bad.name])).refused == ()
        assert programmed(namespace) == {service_key(one.cluster_ip) for one in (good, bad, late)}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EEXIST], ids=errno.errorcode.get)
def test_an_update_that_is_refused_later_takes_the_service_port_out(
    namespace: Topology, refusing: Refusing, number: int
) -> None:
    good, bad = numbered(1), numbered(2)
    refusing.errno = number
    with dataplane(namespace, node_config(namespace)) as made:
        assert made.sync(state(good, bad)).refused == ()
        refusing.keys = {service_key(bad.cluster_ip)}
        result = made.sync(state(good, numbered(2, pods=5)), frozenset([bad.name]))
        assert [name for name, _ in result.refused] == [bad.name]
        assert result.damage == "", "nobody else did it"
        assert programmed(namespace) == {service_key(good.cluster_ip)}
        refusing.keys = set()
        assert made.sync(state(good, numbered(2, pods=5))).refused == ()
        assert len(programmed(namespace)) == 2


def test_a_kernel_that_refuses_everything_is_an_error(namespace: Topology, refusing: Refusing) -> None:
    ports = [numbered(number) for number in range(1, MAX_ISOLATED + 3)]
    refusing.keys = {service_key(port.cluster_ip) for port in ports}
    with dataplane(namespace, node_config(namespace)) as made, pytest.raises(DataplaneError, match="ENOSPC"):
        made.sync(state(*ports))


def test_who_writes_between_our_reading_and_our_writing_costs_no_service_port_its_place(
    namespace: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes = [1]
    commit_all = Connection.commit_all

    def flush() -> None:
        subprocess.run(["nft", "flush", "map", "ip", "proxymode", "endpoints"], check=True)

    def raced(kernel: Connection, transactions: Iterable[Transaction]) -> int:
        if flushes and (transactions := tuple(transactions)):
            flushes.pop()
            namespace.call("node1", flush)
        return commit_all(kernel, transactions)

    with dataplane(namespace, node_config(namespace)) as made:
        assert made.sync(state(numbered(1), numbered(2))).refused == ()
        monkeypatch.setattr(Connection, "commit_all", raced)
        result = made.sync(
            state(
                numbered(1),
                service("s2", "10.96.0.2", 80, [("10.244.2.1", 80), ("10.244.2.2", 80), ("10.244.2.3", 80)]),
            )
        )
        assert not flushes
        assert result.refused == ()
        assert len(programmed(namespace)) == 2
        assert len(held(namespace)["map ip proxymode endpoints"]) == 5
