"""An answer that breaks off, as for want of memory: what is left of it is not taken for that of the next request."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest

from nftables_bed import namespace
from proxymode_agent.dataplane.ipvs import rtnetlink
from proxymode_agent.dataplane.netlink import NetlinkSocket
from proxymode_agent.dataplane.nfnetlink import (
    Connection,
    NfnetlinkError,
    NfProto,
    Set,
    Table,
    Transaction,
    add_elements,
    one_by_one,
)
from proxymode_agent.dataplane.nfnetlink.fields import TH_DPORT

if TYPE_CHECKING:
    from proxymode_testbeds.topology import Topology

__all__ = ["namespace"]

MANY = 4000
"""Whose dump takes several datagrams."""


class Failing:
    """A socket whose n-th reading of a datagram fails, without the datagram being read."""

    def __init__(self, real: socket.socket, at: int) -> None:
        self._real = real
        self._left = at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def recv(self, *arguments: Any) -> bytes:
        self._count()
        return self._real.recv(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        self._count()
        return self._real.recv_into(*arguments)

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            raise OSError(errno.ENOBUFS, "No buffer space available")


def elements(number: int) -> list[tuple[bytes, bytes]]:
    return [(at.to_bytes(2, "big"), b"") for at in range(1, number + 1)]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_dump_of_nf_tables(namespace: Topology, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    table = Table(NfProto.IPV4, "broken")
    large, small = (Set(table, name, (TH_DPORT,)) for name in ("large", "small"))

    def story() -> None:
        with Connection() as kernel:
            kernel.commit(Transaction.of(table.add(), large.add(), small.add()))
            kernel.commit_all(one_by_one(add_elements(large, elements(MANY))))
            kernel.commit_all(one_by_one(add_elements(small, elements(3))))
            monkeypatch.setattr(kernel._channel, "_socket", Failing(kernel._channel._socket, at))
            with pytest.raises(NfnetlinkError) as raised:
                list(kernel.elements(large))
            assert raised.value.errno == errno.ENOBUFS
            assert [found.table.name for found in kernel.tables(NfProto.IPV4)] == ["broken"]
            assert sorted(kernel.elements(small)) == elements(3)
            assert sorted(kernel.elements(large)) == elements(MANY)

    namespace.call("node1", story)


def test_errors_of_a_transaction(namespace: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(NfProto.IPV4, "broken")
    missing = [Set(table, f"s{number}", (TH_DPORT,)).delete() for number in range(3)]

    def story() -> None:
        with Connection() as kernel:
            kernel.commit(Transaction.of(table.add()))
            monkeypatch.setattr(kernel._channel, "_socket", Failing(kernel._channel._socket, 2))
            assert [error.errno for error in kernel.check(Transaction.of(*missing))] == [errno.ENOENT, errno.ENOBUFS]
            assert kernel.check(Transaction.of(table.add())) == ()
            assert [found.table.name for found in kernel.tables(NfProto.IPV4)] == ["broken"]

    namespace.call("node1", story)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_dump_of_addresses(namespace: Topology, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    def story() -> None:
        loopback = socket.if_nametoindex("lo")
        kernel = NetlinkSocket(rtnetlink.NETLINK_ROUTE, strict=True)
        all_of_them = rtnetlink.every_address(socket.AF_INET)
        before = len(kernel.dump(rtnetlink.RTM_GETADDR, all_of_them))
        packed = [(0x0A630000 + number).to_bytes(4, "big") for number in range(MANY)]
        assert not kernel.transact([rtnetlink.add_address(address, loopback) for address in packed])
        monkeypatch.setattr(kernel._channel, "_socket", Failing(kernel._channel._socket, at))
        with pytest.raises(OSError, match="No buffer space"):
            kernel.dump(rtnetlink.RTM_GETADDR, all_of_them)
        assert len(kernel.dump(rtnetlink.RTM_GETADDR, all_of_them)) == before + MANY
        assert not kernel.transact([rtnetlink.delete_address(packed[0], loopback)])
        kernel.close()

    namespace.call("node1", story)
