"""Endpoints that are read back by looking them up: the same as a dump finds, and a dump where that would not be all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nftables_bed import dataplane, namespace, node_config, service, state
from proxymode_agent.dataplane.nfnetlink import Connection, NfnetlinkError, Transaction, add_elements, delete_elements
from proxymode_agent.dataplane.nftables import readback
from proxymode_agent.dataplane.nftables.layout import layout
from proxymode_agent.services.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_agent.dataplane.nfnetlink import Element, Set
    from proxymode_agent.dataplane.nftables.plan import Observed
    from proxymode_testbeds.topology import Topology

__all__ = ["namespace"]
pytestmark = pytest.mark.kernel

SERVICES = state(
    service("web", "10.96.0.1", 80, [(f"10.244.0.{number}", 8080) for number in range(1, 8)], node_port=30080),
    service("dns", "10.96.0.2", 53, [("10.244.1.1", 53)]),
    service("idle", "10.96.0.3", 80, []),
    service("six", "fd96::1", 80, [("fd44::1", 8080), ("fd44::2", 8080)]),
)


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readback, "LOOKUPS_FROM", 1)


def read(topology: Topology) -> tuple[Observed, set[str], bool]:
    """What is in the kernel for IPv4, which maps of endpoints were dumped for it, and whether the kernel counts."""
    ours = layout(Family.IPV4, node_config(topology), "any")
    dumped: set[str] = set()

    class Watched(Connection):
        def elements(self, of: Set) -> Iterator[Element]:
            if of.name.endswith("endpoints"):
                dumped.add(of.name)
            return super().elements(of)

    with Watched() as kernel:
        observed = readback.read_elements(kernel, ours, readback.read_base(kernel, ours))
        return observed, dumped, kernel.count(ours.services.endpoints) is not None


@pytest.mark.usefixtures("lookups")
def test_they_are_what_a_dump_finds(namespace: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    with dataplane(namespace, node_config(namespace)) as made:
        made.sync(SERVICES)
    found, dumped, counts = namespace.call("node1", read, namespace)
    assert not (counts and dumped)
    assert sum(len(row) for row in found.services.endpoints[0].values()) == 8
    monkeypatch.undo()
    by_dump, dumped, _ = namespace.call("node1", read, namespace)
    assert dumped == {"endpoints", "nodeport-endpoints"}
    assert found == by_dump


@pytest.mark.usefixtures("lookups")
@pytest.mark.parametrize("ours_goes", [False, True], ids=["one more", "one instead of ours"])
def test_somebody_elses_element_is_found_by_a_dump(namespace: Topology, *, ours_goes: bool) -> None:
    strange = bytes(range(1, 17))
    endpoints = layout(Family.IPV4, node_config(namespace), "any").services.endpoints

    def disturb() -> None:
        with Connection() as kernel:
            (key, value), *_ = kernel.elements(endpoints)
            gone = delete_elements(endpoints, [key]) if ours_goes else ()
            kernel.commit(Transaction((*add_elements(endpoints, [(strange, value)]), *gone)))

    with dataplane(namespace, node_config(namespace)) as made:
        made.sync(SERVICES)
        namespace.call("node1", disturb)
        found, dumped, _ = namespace.call("node1", read, namespace)
        assert "endpoints" in dumped
        assert strange in found.services.junk
        assert made.sync(SERVICES).written == (2 if ours_goes else 1)
        assert made.sync(SERVICES).written == 0


def test_a_key_that_is_not_there_is_said(namespace: Topology) -> None:
    endpoints = layout(Family.IPV4, node_config(namespace), "any").services.endpoints

    def look() -> tuple[list[bytes], str]:
        with Connection() as kernel:
            known = dict(kernel.elements(endpoints))
            values = list(kernel.values(endpoints, known))
            assert values == list(known.values())
            with pytest.raises(NfnetlinkError) as error:
                list(kernel.values(endpoints, [*known, bytes(16)]))
            assert list(kernel.values(endpoints, known)) == values  # nothing is left over in the socket
            return values, str(error.value)

    with dataplane(namespace, node_config(namespace)) as made:
        made.sync(SERVICES)
        values, said = namespace.call("node1", look)
    assert len(values) == 8
    assert "No such file or directory" in said
