"""A look at the kernel: what others did to our tables is seen without reading their elements, what is theirs is not."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import pytest

from nftables_bed import dataplane, held, namespace, node_config, service, state
from proxymode_agent.dataplane import watch
from proxymode_agent.dataplane.base import Finding, Look
from proxymode_agent.dataplane.nfnetlink import Connection, NfProto, Table, Transaction, delete_elements
from proxymode_agent.dataplane.nfnetlink.uapi import SetAttr
from proxymode_agent.dataplane.nftables import samples
from proxymode_agent.dataplane.nftables.layout import layout
from proxymode_agent.dataplane.watch import read_shape
from proxymode_agent.services.model import Family, ServicePort, ServiceState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxymode_agent.dataplane.nftables import NftablesDataplane
    from proxymode_agent.dataplane.shape import Shape
    from proxymode_testbeds.topology import Topology

__all__ = ["namespace"]

WEB = service("web", "10.96.0.10", 80, [("10.244.1.11", 8080), ("10.244.2.11", 8080)], node_port=30080)
WEB6 = service("web", "fd96::10", 80, [("fd44:0:0:1::11", 8080)], node_port=30080)
STATE = state(WEB, WEB6)


@pytest.fixture
def programmed(namespace: Topology) -> Iterator[NftablesDataplane]:
    with dataplane(namespace, node_config(namespace)) as made:
        made.sync(STATE)
        made.look()
        yield made


def nft(topology: Topology, *commands: str) -> str:
    return topology.run("node1", ["nft", "-f", "-"], input="\n".join(commands) + "\n").stdout


def moved(port: ServicePort, *endpoints: tuple[str, int]) -> ServicePort:
    other = service("x", "10.96.0.1", 1, list(endpoints))
    return msgspec.structs.replace(port, cluster_endpoints=other.cluster_endpoints)


def counted() -> bool:
    """Whether this kernel tells how many elements a set has."""
    with Connection() as kernel:
        tables = [Table(NfProto.IPV4, "proxymode")]
        return all(SetAttr.COUNT in dumped.attributes for table in tables for dumped in kernel.sets(table))


def test_what_nobody_touched_is_untouched(programmed: NftablesDataplane) -> None:
    for _ in range(3):
        assert programmed.look() == Look(Finding.UNTOUCHED)


def test_our_own_updates_are_not_taken_for_somebody_elses(programmed: NftablesDataplane) -> None:
    grown = moved(WEB, *((f"10.244.1.{number}", 8080) for number in range(1, 6)))
    for ports in (state(grown, WEB6), state(WEB6), STATE, ServiceState({}), STATE):
        programmed.sync(ports, frozenset([WEB.name, WEB6.name]))
        assert programmed.look() == Look(Finding.UNTOUCHED)
    programmed.sync(STATE)
    assert programmed.look() == Look(Finding.UNTOUCHED)


def test_what_others_write_elsewhere_is_no_drift(namespace: Topology, programmed: NftablesDataplane) -> None:
    harmless = Finding.NOTHING_SEEN if namespace.call("node1", counted) else Finding.DOUBTFUL
    nft(namespace, "add table ip theirs", "add chain ip theirs c", "add rule ip theirs c counter")
    assert programmed.look() == Look(harmless)
    assert programmed.look() == Look(Finding.UNTOUCHED)
    # Theirs and ours between two looks.
    nft(namespace, "delete table ip theirs")
    programmed.sync(state(moved(WEB, ("10.244.1.12", 8080)), WEB6), frozenset([WEB.name]))
    assert programmed.look() == Look(harmless)


THEFTS = {
    "table": ("delete table ip proxymode", "table ip proxymode is gone"),
    "table6": ("delete table ip6 proxymode", "table ip6 proxymode is gone"),
    "rules": ("flush table ip proxymode", "was changed"),
    "chain": ("flush chain ip proxymode {chain}", "chain ip proxymode {chain} was changed"),
    "rule": ("insert rule ip proxymode {chain} counter accept", "chain ip proxymode {chain} was changed"),
    "foreign-chain": ("add chain ip proxymode theirs", "chain ip proxymode theirs was added"),
    "foreign-set": ("add set ip proxymode theirs {{ type ipv4_addr; }}", "set ip proxymode theirs was added"),
    "dormant": ("add table ip proxymode {{ flags dormant; }}", "table ip proxymode was changed"),
}
OF_ELEMENTS = {
    "map": ("flush map ip proxymode {map}", "ip proxymode {map} has"),
    "set": ("flush set ip proxymode cluster-ips", "ip proxymode cluster-ips has 1 element less"),
    "element": (
        "delete element ip proxymode cluster-ips {{ 10.96.0.10 }}",
        "ip proxymode cluster-ips has 1 element less",
    ),
    "foreign-element": (
        "add element ip proxymode cluster-ips {{ 10.96.0.99 }}",
        "ip proxymode cluster-ips has 1 element more",
    ),
}


def names(topology: Topology) -> dict[str, str]:
    """A base chain with rules and a map with elements, whatever the layout calls them."""
    found = held(topology)
    chains = sorted(name.split()[-1] for name in found if name.startswith("chain ip ") and len(found[name]))
    maps = sorted(name.split()[-1] for name in found if name.startswith("map ip ") and len(found[name]))
    return {"chain": chains[0], "map": maps[0]}


@pytest.mark.parametrize("theft", THEFTS)
def test_what_others_do_to_our_tables_is_seen_and_repaired(
    namespace: Topology, programmed: NftablesDataplane, theft: str
) -> None:
    before = held(namespace)
    command, said = (text.format(**names(namespace)) for text in THEFTS[theft])
    nft(namespace, command)
    look = programmed.look()
    assert look.finding is Finding.CHANGED
    assert said in look.changed
    assert said in programmed.sync(STATE).damage
    assert held(namespace) == before
    assert programmed.sync(STATE).written == 0
    assert programmed.look() == Look(Finding.UNTOUCHED)


@pytest.mark.parametrize("theft", OF_ELEMENTS)
def test_elements_that_others_take_or_add_are_seen_and_repaired(
    namespace: Topology, programmed: NftablesDataplane, theft: str
) -> None:
    before = held(namespace)
    command, said = (text.format(**names(namespace)) for text in OF_ELEMENTS[theft])
    nft(namespace, command)
    look = programmed.look()
    assert look.finding is Finding.CHANGED
    assert said in look.changed
    assert programmed.sync(STATE).written > 0
    assert held(namespace) == before


@pytest.fixture
def uncounted(namespace: Topology, monkeypatch: pytest.MonkeyPatch) -> Iterator[NftablesDataplane]:
    """On a kernel that does not say how many elements a set has, with maps that are too large to read at once."""

    def without_counts(kernel: Connection, tables: Iterable[Table]) -> Shape:
        return msgspec.structs.replace(read_shape(kernel, tables), counts={}, counted=False)

    monkeypatch.setattr(watch, "read_shape", without_counts)
    monkeypatch.setattr(samples, "SAMPLE", 10)
    with dataplane(namespace, node_config(namespace)) as made:
        made.sync(MANY)
        made.look()
        yield made


MANY = state(
    *(service(f"s{n}", f"10.96.1.{n}", 80, [(f"10.244.{n}.{pod}", 80) for pod in range(1, 5)]) for n in range(1, 11))
)
"""Ten Services with four endpoints each: three of them in a turn."""


@pytest.mark.parametrize("theft", OF_ELEMENTS)
def test_small_maps_are_looked_through_where_elements_are_not_counted(
    namespace: Topology, uncounted: NftablesDataplane, theft: str
) -> None:
    uncounted.sync(STATE)
    uncounted.look()
    test_elements_that_others_take_or_add_are_seen_and_repaired(namespace, uncounted, theft)
    assert uncounted.look().finding is Finding.UNTOUCHED


@pytest.mark.parametrize("busy", [False, True], ids=["then nobody writes", "while others write all the time"])
@pytest.mark.parametrize("number", [1, 5, 10])
def test_one_endpoint_of_many_is_missed_in_its_turn(
    namespace: Topology, uncounted: NftablesDataplane, number: int, *, busy: bool
) -> None:
    endpoints = layout(Family.IPV4, node_config(namespace), "any").services.endpoints

    def steal() -> None:
        with Connection() as kernel:
            [key] = [key for key, value in kernel.elements(endpoints) if value[:4] == bytes([10, 244, number, 4])]
            kernel.commit(Transaction(tuple(delete_elements(endpoints, [key]))))

    namespace.call("node1", steal)
    looks = []
    for turn in range(2 * len(MANY.ports)):
        looks.append(uncounted.look())
        if looks[-1].finding is Finding.CHANGED:
            break
        if busy:
            nft(namespace, f"add table ip theirs{turn}")
    assert looks[-1] == Look(Finding.CHANGED, "map ip proxymode endpoints has elements less")
    assert len(looks) <= 4, "three Services a turn"
    assert uncounted.sync(MANY).written == 1


def test_a_flushed_map_is_missed_in_the_first_turn(namespace: Topology, uncounted: NftablesDataplane) -> None:
    nft(namespace, "flush map ip proxymode endpoints")
    assert uncounted.look() == Look(Finding.CHANGED, "map ip proxymode endpoints has elements less")


def test_turns_end_when_nothing_is_missed(namespace: Topology, uncounted: NftablesDataplane) -> None:
    nft(namespace, "add table ip theirs")
    findings = [uncounted.look().finding for _ in range(10)]
    assert findings == [Finding.DOUBTFUL, *[Finding.UNTOUCHED] * 9]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Connection, "values", None)
        patched.setattr(Connection, "elements", None)
        assert uncounted.look() == Look(Finding.UNTOUCHED), "nothing is read any more"


@pytest.mark.parametrize("theft", ["table", "table6", "map", "set", "element"])
def test_an_update_that_comes_across_a_theft_tells_it_and_repairs_everything(
    namespace: Topology, programmed: NftablesDataplane, theft: str
) -> None:
    command, said = (text.format(**names(namespace)) for text in (THEFTS | OF_ELEMENTS)[theft])
    nft(namespace, command, "add chain ip6 proxymode theirs" if theft != "table6" else "")
    came_across = programmed.sync(ServiceState({}), frozenset([WEB.name, WEB6.name]))
    assert theft in OF_ELEMENTS or said in came_across.damage
    assert theft == "table6" or "chain ip6 proxymode theirs was added" in came_across.damage, "where it did not look"
    assert programmed.look().finding is Finding.UNTOUCHED, "it is told once"
    back = programmed.sync(STATE, frozenset([WEB.name, WEB6.name]))
    assert (back.written > 0, back.damage) == (True, "")
    assert programmed.sync(STATE).written == 0


def test_an_update_that_misses_an_element_tells_it(namespace: Topology, programmed: NftablesDataplane) -> None:
    nft(namespace, "delete element ip proxymode cluster-ips { 10.96.0.10 }")
    damage = programmed.sync(state(WEB6), frozenset([WEB.name])).damage
    assert damage.startswith("found by an update: ")
    assert "No such file or directory (ENOENT): 10.96.0.10" in damage


@pytest.mark.parametrize("theft", THEFTS | OF_ELEMENTS)
def test_a_read_back_tells_what_others_did_from_what_it_has_to_write_itself(
    namespace: Topology, programmed: NftablesDataplane, theft: str
) -> None:
    """On every kernel, whether or not it says how many elements there are."""
    command, said = (text.format(**names(namespace)) for text in (THEFTS | OF_ELEMENTS)[theft])
    changed = state(moved(WEB, ("10.244.1.12", 8080)), WEB6)
    assert programmed.sync(changed).damage == ""
    nft(namespace, command)
    assert said in programmed.sync(STATE).damage
    assert programmed.sync(changed).damage == ""


def test_what_a_start_finds_is_nobodys_damage(namespace: Topology, programmed: NftablesDataplane) -> None:
    nft(namespace, "add chain ip proxymode theirs", "flush set ip proxymode cluster-ips")
    programmed.close()
    with dataplane(namespace, node_config(namespace)) as restarted:
        result = restarted.sync(STATE)
        assert (result.written > 0, result.damage) == (True, "")


def test_a_theft_is_seen_also_where_others_and_we_write_all_the_time(
    namespace: Topology, programmed: NftablesDataplane
) -> None:
    stop = threading.Event()
    theirs = Table(NfProto.IPV4, "theirs")

    def write_all_the_time() -> int:
        done = 0
        with Connection() as kernel:
            while not stop.is_set():
                kernel.commit(Transaction.of(theirs.add()))
                kernel.commit(Transaction.of(theirs.delete()))
                done += 2
        return done

    moving = [(f"10.244.1.{number}", 8080) for number in range(1, 6)]
    with ThreadPoolExecutor(1) as executor:
        busy = executor.submit(namespace.call, "node1", write_all_the_time)
        try:
            for turn in range(200):
                programmed.sync(state(moved(WEB, *moving[: 1 + turn % 5]), WEB6), frozenset([WEB.name]))
                assert programmed.look().finding is not Finding.CHANGED
            nft(namespace, "insert rule ip6 proxymode {chain} counter accept".format(**names(namespace)))
            findings = {programmed.look().finding for _ in range(3)}
            assert findings & {Finding.CHANGED, Finding.DOUBTFUL}
            assert programmed.sync(state(moved(WEB, *moving[:2]), WEB6)).written > 0
        finally:
            stop.set()
        assert busy.result() > 200
