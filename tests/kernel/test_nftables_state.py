"""What the nftables dataplane leaves in the kernel: written once, listed by nft, repaired, removed, nobody else's."""

from __future__ import annotations

import contextlib
import ipaddress
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import pytest

from nftables_bed import dataplane, held, namespace, node_config, packed_endpoints, regardless_of_order, service, state
from proxymode_agent.dataplane.nfnetlink import (
    Chain,
    Connection,
    NfnetlinkError,
    NfProto,
    Table,
    Transaction,
    VerdictCode,
    add_elements,
    delete_elements,
    verdict_element,
)
from proxymode_agent.dataplane.nftables import NftablesDataplane, present
from proxymode_agent.dataplane.nftables.layout import layout
from proxymode_agent.services.model import DataplaneConfig, Family, PodNetworks, Protocol, ServiceState
from proxymode_testbeds.topology import build, make_fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_testbeds.topology import Topology

__all__ = ["namespace"]

WEB = service("web", "10.96.0.10", 80, [("10.244.1.11", 8080), ("10.244.2.11", 8080)], node_port=30080)
WEB6 = service("web", "fd96::10", 80, [("fd44:0:0:1::11", 8080)], node_port=30080)
DNS = service("dns", "10.96.0.53", 53, [(f"10.244.1.{n}", 53) for n in range(1, 8)], protocol=Protocol.UDP)
EMPTY = service("empty", "10.96.0.20", 80, [], node_port=30020)
FULL, FULL6 = (
    msgspec.structs.replace(
        service("full", f"{prefix}40", 80, [(f"{pods}{number}", 8080) for number in (1, 2, 3)], node_port=30040),
        local_endpoints=packed_endpoints([(f"{pods}3", 8080)]),
        external_local=True,
        external_ips=(ipaddress.ip_address(f"{external}1").packed,),
        load_balancer_ips=(ipaddress.ip_address(f"{external}2").packed,),
        source_ranges=(ipaddress.ip_network(source),),
    )
    for prefix, pods, external, source in (
        ("10.96.0.", "10.244.1.", "203.0.113.", "10.0.0.0/8"),
        ("fd96::", "fd44::", "fdee::", "fd10::/16"),
    )
)
STICKY = msgspec.structs.replace(FULL, affinity_seconds=10800)
NOWHERE = msgspec.structs.replace(
    service("nowhere", "10.96.0.41", 80, [], node_port=30041), elsewhere=True, external_local=True, internal_local=True
)
STATE = state(WEB, WEB6, DNS, EMPTY, STICKY, FULL6, NOWHERE)


@pytest.fixture
def programmed(namespace: Topology) -> Iterator[NftablesDataplane]:
    with dataplane(namespace, node_config(namespace)) as made:
        made.sync(STATE)
        yield made


def nft(topology: Topology, *commands: str) -> str:
    return topology.run("node1", ["nft", "-f", "-"], input="\n".join(commands) + "\n").stdout


def listing(topology: Topology) -> str:
    return topology.run("node1", ["nft", "list", "ruleset"]).stdout


def test_it_reports_what_it_programmed(namespace: Topology) -> None:
    with dataplane(namespace, node_config(namespace)) as made:
        assert not made.present()
        result = made.sync(STATE)
        assert made.present()
    assert (result.services, result.endpoints, result.refused) == (7, 16, ())
    assert result.written > 10


def test_a_second_sync_and_a_restart_write_nothing(namespace: Topology, programmed: NftablesDataplane) -> None:
    generation = namespace.call("node1", _generation)
    assert programmed.sync(STATE).written == 0
    assert programmed.sync(STATE, frozenset(STATE.ports)).written == 0
    with dataplane(namespace, node_config(namespace)) as restarted:
        assert restarted.sync(STATE).written == 0
    assert namespace.call("node1", _generation) == generation


def _generation() -> int:
    with Connection() as kernel:
        return kernel.generation()


def test_nft_prints_it_and_takes_its_own_listing_for_the_same(
    namespace: Topology, programmed: NftablesDataplane
) -> None:
    """Nothing is lost between our bytes and nft's language: types, rules, elements, comments.

    It prints the rules of affinity, but takes them only after a match of the transport protocol. And in check-source it
    puts a byte order conversion of one byte, which does nothing, before the lookup of an interval; so those chains are
    written anew: in both families a flush and three rules.
    """
    without_affinity = state(*STATE.ports.values(), FULL)
    programmed.remove()
    programmed.sync(without_affinity)
    printed = listing(namespace)
    for element in (
        "10.96.0.53 . udp . 53 : goto one-of-7",
        "203.0.113.1 . tcp . 80 : goto local-one-of-1",
        "203.0.113.1 . tcp . 80 : goto inside-one-of-3",
        "tcp . 30041 : drop",
        "tcp . 30020 : goto refuse",
        "203.0.113.2 . tcp . 80 . 10.0.0.0/8",
    ):
        assert element in printed
    with build(make_fleet(nodes=1, pods=0, clients=0)) as other:
        nft(other, printed)
        before, after = held(namespace), held(other)
        assert {name for name in before if before[name] != after.get(name)} == {
            "chain ip proxymode check-source",
            "chain ip6 proxymode check-source",
        }
        with dataplane(other, node_config(namespace)) as made:
            assert made.sync(without_affinity).written == 8
        assert held(other) == before


def test_nft_prints_affinity(namespace: Topology, programmed: NftablesDataplane) -> None:
    programmed.sync(state(STICKY, msgspec.structs.replace(FULL6, affinity_seconds=60)))
    printed = listing(namespace)
    for text in (
        "203.0.113.1 . tcp . 80 : goto local-one-of-1-for-10800s",
        "203.0.113.1 . tcp . 80 : goto inside-one-of-3-for-10800s",
        "fdee::1 . tcp . 80 : goto local-one-of-1-for-60s",
        "update @sticky-clients { ip saddr . meta priority & ffff:0 timeout 3h : meta priority }",
        "update @sticky-clients { ip6 saddr . meta priority & ffff:0 timeout 1m : meta priority }",
    ):
        assert text in printed


def test_the_table_says_whose_it_is(namespace: Topology, programmed: NftablesDataplane) -> None:
    assert 'comment "proxymode ' in listing(namespace)


DAMAGE = {
    "table deleted": ["delete table ip proxymode"],
    "all tables flushed": ["flush ruleset"],
    "base chain deleted": ["delete chain ip proxymode nat-prerouting"],
    "base chain flushed": ["flush chain ip6 proxymode nat-output"],
    "rule added": ["add rule ip proxymode to-service drop"],
    "rule inserted": ["insert rule ip proxymode one-of-2 counter"],
    "policy changed": ["add chain ip proxymode filter-forward { policy drop; }"],
    "base chain at another priority": [
        "delete chain ip proxymode filter-input",
        "add chain ip proxymode filter-input { type filter hook input priority 5; }",
    ],
    "table made dormant": ["add table ip proxymode { flags dormant; }"],
    "map flushed": ["flush map ip proxymode services"],
    "set flushed": ["flush set ip proxymode cluster-ips"],
    "hairpin flushed": ["flush set ip6 proxymode hairpin"],
    "endpoint deleted": ["delete element ip proxymode endpoints { 10.96.0.53 . udp . 53 . 3 }"],
    "endpoint changed": [
        "delete element ip proxymode endpoints { 10.96.0.53 . udp . 53 . 3 }",
        "add element ip proxymode endpoints { 10.96.0.53 . udp . 53 . 3 : 192.0.2.1 . 53 }",
    ],
    "endpoint added": ["add element ip proxymode endpoints { 10.96.0.53 . udp . 53 . 9 : 192.0.2.1 . 53 }"],
    "endpoint added far away": [
        "add element ip proxymode endpoints { 10.96.0.53 . udp . 53 . 4000000000 : 192.0.2.1 . 53 }"
    ],
    "endpoint with a comment": [
        "delete element ip proxymode endpoints { 10.96.0.53 . udp . 53 . 0 }",
        'add element ip proxymode endpoints { 10.96.0.53 . udp . 53 . 0 comment "mine" : 192.0.2.1 . 53 }',
    ],
    "Service added": ["add element ip proxymode services { 10.96.0.99 . tcp . 80 : goto one-of-1 }"],
    "verdict to a chain of theirs": [
        "add chain ip proxymode theirs",
        "add rule ip proxymode theirs accept",
        "delete element ip proxymode services { 10.96.0.10 . tcp . 80 }",
        "add element ip proxymode services { 10.96.0.10 . tcp . 80 : goto theirs }",
    ],
    "map of theirs": [
        "add set ip proxymode theirs { type ipv4_addr; }",
        "add rule ip proxymode to-nodeport ip saddr @theirs drop",
    ],
    "map of another type": [
        "flush chain ip proxymode check-elsewhere",
        "delete set ip proxymode cluster-ips",
        "add set ip proxymode cluster-ips { type ipv4_addr; flags interval; }",
    ],
    "map deleted": [
        "flush chain ip proxymode nat-postrouting",
        "delete set ip proxymode hairpin",
    ],
}


@pytest.mark.parametrize("commands", DAMAGE.values(), ids=DAMAGE)
def test_what_others_did_is_put_right(namespace: Topology, programmed: NftablesDataplane, commands: list[str]) -> None:
    before = held(namespace)
    nft(namespace, *commands)
    assert programmed.sync(STATE).written > 0
    assert regardless_of_order(held(namespace)) == regardless_of_order(before)
    assert programmed.sync(STATE).written == 0


def test_an_update_on_wrong_assumptions_reads_the_kernel_back(
    namespace: Topology, programmed: NftablesDataplane
) -> None:
    before = held(namespace)
    nft(namespace, "flush map ip proxymode services", "flush map ip proxymode endpoints")
    fewer = msgspec.structs.replace(DNS, cluster_endpoints=DNS.endpoints[:3])
    assert programmed.sync(state(*STATE.ports.values(), fewer), frozenset([DNS.name])).written > 0
    assert programmed.sync(STATE, frozenset([DNS.name])).written > 0
    assert regardless_of_order(held(namespace)) == regardless_of_order(before)


def test_remove_takes_everything_of_ours_and_nothing_else(namespace: Topology) -> None:
    nft(
        namespace,
        "table ip proxymode-ipvs { chain mine { type nat hook postrouting priority 100; }; }",
        "table ip kube-proxy { map services { type ipv4_addr : verdict; }; }",
        "table inet proxymode { chain mine { accept; }; }",
    )
    others = listing(namespace)
    with dataplane(namespace, node_config(namespace)) as made:
        made.remove()
        made.sync(STATE)
        assert listing(namespace) != others
        made.remove()
        assert listing(namespace) == others
        assert not made.present()
        made.remove()
        assert made.sync(STATE).written > 0


def test_close_leaves_the_kernel_as_it_is(namespace: Topology, programmed: NftablesDataplane) -> None:
    before = held(namespace)
    programmed.close()
    assert held(namespace) == before
    assert namespace.call("node1", _present)


def _present() -> bool:
    with Connection() as kernel:
        return present(kernel)


def test_what_cannot_be_programmed_is_refused_and_the_rest_goes_on(namespace: Topology) -> None:
    thief = msgspec.structs.replace(service("zz-thief", "10.96.0.10", 80, [("10.244.9.9", 1)]), node_port=None)
    port_thief = service("zz-port-thief", "10.96.0.77", 80, [("10.244.9.9", 1)], node_port=30080)
    broken = msgspec.structs.replace(DNS, cluster_ip=DNS.cluster_ip._replace(port=70000))
    with dataplane(namespace, node_config(namespace)) as made:
        result = made.sync(state(WEB, thief, port_thief, broken))
        assert dict(result.refused) == {
            broken.name: "port is 70000; ports are 1 to 65535",
            thief.name: "its cluster IP, protocol and port belongs to default/web",
            port_thief.name: "its protocol and node port belongs to default/web",
        }
        with_thieves = held(namespace)
        assert len(with_thieves["map ip proxymode services"]) == 2
        # When the winner goes, the next one takes over.
        assert made.sync(state(thief, port_thief), frozenset([WEB.name, broken.name])).refused == ()
        taken_over = held(namespace)["map ip proxymode endpoints"].values()
        assert {bytes(endpoint) for endpoint in taken_over} == {bytes([10, 244, 9, 9, 0, 1, 0, 0])}
        # And gets it back.
        assert made.sync(state(WEB, thief, port_thief), frozenset([WEB.name])).written > 0
        assert regardless_of_order(held(namespace)) == regardless_of_order(with_thieves)


def test_another_config_rewrites_rules_and_keeps_elements(namespace: Topology, programmed: NftablesDataplane) -> None:
    before = held(namespace)
    config = msgspec.structs.replace(
        node_config(namespace),
        pods=PodNetworks((ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("172.16.0.0/12"))),
        node_port_addresses=(ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd01::1/128")),
    )
    with dataplane(namespace, config) as made:
        assert made.sync(STATE).written < 40
        after = held(namespace)
        assert {name for name in before if before[name] != after[name]} == {
            f"chain {family} proxymode {chain}"
            for family in ("ip", "ip6")
            for chain in (
                "masquerade-from-outside",
                "short-circuit",
                "nodeport-short-circuit",
                "to-service",
                "check-here",
            )
        }
        assert made.sync(STATE).written == 0
    assert programmed.sync(STATE).written > 0
    assert held(namespace) == before


def test_an_error_names_the_object_and_the_kernels_reason(namespace: Topology, programmed: NftablesDataplane) -> None:
    table = layout(Family.IPV4, DataplaneConfig(), "0")
    key = bytes([10, 96, 0, 10, 6, 0, 0, 0, 0, 80, 0, 0])

    def provoke() -> None:
        with Connection() as kernel:
            exists = add_elements(table.services.verdicts, [(key, verdict_element(VerdictCode.DROP))])
            with pytest.raises(
                NfnetlinkError,
                match=r"add 1 element of map ip proxymode services: File exists \(EEXIST\): 10\.96\.0\.10 \. 6 \. 80",
            ):
                kernel.commit(Transaction(tuple(exists)))
            gone = delete_elements(table.cluster_ips, [bytes([10, 96, 0, number]) for number in (10, 20, 30, 53)])
            with pytest.raises(
                NfnetlinkError,
                match=r"delete 4 elements of set ip proxymode cluster-ips: .*ENOENT\): 10\.96\.0\.30",
            ):
                kernel.commit(Transaction(tuple(gone)))

    before = held(namespace)
    namespace.call("node1", provoke)
    assert held(namespace) == before


def test_a_check_tells_what_would_be_refused_and_changes_nothing(namespace: Topology) -> None:
    table = Table(NfProto.IPV4, "mine")
    chain = Chain(table, "chain")

    def check() -> None:
        with Connection() as kernel:
            generation = kernel.generation()
            assert kernel.check(Transaction.of(table.add(), chain.add())) == ()
            [error] = kernel.check(Transaction.of(table.add(), Chain(Table(NfProto.IPV4, "absent"), "c").add()))
            assert str(error).startswith("add chain ip absent c: No such file or directory (ENOENT)")
            assert (kernel.generation(), kernel.tables(NfProto.IPV4)) == (generation, [])

    namespace.call("node1", check)


def test_a_restart_on_a_node_where_somebody_commits_all_the_time(namespace: Topology) -> None:
    """Every long dump is interrupted then; what concerns others does not hold us up."""
    pods = [(f"10.244.{node}.{pod}", 80) for node in range(10) for pod in range(1, 251)]
    services = state(*(service(f"s{number}", f"10.96.1.{number}", 80, pods) for number in range(1, 5)))
    strangers = Table(NfProto.IPV4, "strangers")
    stop = threading.Event()

    def commit_all_the_time() -> int:
        done = 0
        with Connection() as kernel:
            while not stop.is_set():
                kernel.commit(Transaction.of(strangers.add()))
                kernel.commit(Transaction.of(strangers.delete()))
                done += 2
        return done

    with dataplane(namespace, node_config(namespace)) as made, ThreadPoolExecutor(1) as executor:
        made.sync(services)
        busy = executor.submit(namespace.call, "node1", commit_all_the_time)
        try:
            with dataplane(namespace, node_config(namespace)) as restarted:
                assert restarted.sync(services).written == 0
        finally:
            stop.set()
        assert busy.result() > 2


def test_ten_thousand_services(namespace: Topology) -> None:
    ports = {}
    for number in range(10_000):
        address = ipaddress.ip_address("10.96.1.0") + number
        pods = [(str(ipaddress.ip_address("10.128.0.0") + 2 * number + pod), 8080) for pod in (0, 1)]
        made = service(f"s{number}", str(address), 80, pods)
        ports[made.name] = made
    with dataplane(namespace, node_config(namespace)) as first:
        result = first.sync(ServiceState(ports))
        assert (result.services, result.endpoints, result.refused) == (10_000, 20_000, ())
        found = held(namespace)
        assert (len(found["map ip proxymode services"]), len(found["map ip proxymode endpoints"])) == (10_000, 20_000)
        del ports[made.name]
        assert first.sync(ServiceState(ports), frozenset([made.name])).written == 6
    with contextlib.closing(namespace.call("node1", NftablesDataplane, node_config(namespace))) as restarted:
        assert restarted.sync(ServiceState(ports)).written == 0
        assert restarted.sync(ServiceState({})).written == 9_999 * 6
        assert not held(namespace)["map ip proxymode endpoints"]
