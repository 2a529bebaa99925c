"""First packets while Services change: what is sent where, what changes meanwhile, and how node1 tells hit from miss.

The packets are counted and dropped right after the dataplane did its work, before conntrack confirms them; so each is a
first packet, and what comes after the dataplane costs nothing. They are made by the kernel's packet generator where
there is one, else by a packet socket.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import ipaddress
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from unittest.mock import patch

import msgspec

import pktgen
from nftables_bed import dataplane, node_config, packed_endpoints, service, state
from proxymode_agent.dataplane.nftables.plan import Plan, TableState
from proxymode_agent.services.model import Protocol, ServiceState
from proxymode_testbeds.topology import build, make_fleet
from proxymode_testbeds.topology.plan import pod_link

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from proxymode_agent.dataplane.nftables.frontends import Wants
    from proxymode_agent.services.model import ServicePort
    from proxymode_testbeds.topology import Topology

RAW_SENDER = Path(__file__).with_name("first_packets.py")
GENERATOR = Path(pktgen.__file__)
UPDATES_CPU, PACKETS_CPU = 0, 1  # where the kernel generates the packets

OTHERS = 300  # Services beside the one that changes
"""Enough that a change of a verdict takes the kernel a moment (it walks all verdicts)."""

PODS = {"ip": "10.244.1.0/24", "ip6": "fd44:0:0:1::/64"}
OUTSIDE = {"ip": "198.51.100.0/24", "ip6": "fd99::/64"}
ITSELF = {"ip": "10.244.1.11/32", "ip6": "fd44:0:0:1::11/128"}
"""Source addresses that the packets pretend to have; the last is that of the pod that sends them."""

BEFORE_REFUSAL = ("forward", "input"), -10
AFTER_REFUSAL = ("forward", "input"), 10
AFTER_MASQUERADE = ("postrouting",), 110
"""Hooks and priority where packets are counted."""

AT_ENDPOINT = {"ip": "ip daddr 10.244.2.0/24 udp dport 5353", "ip6": "ip6 daddr fd44:0:0:2::/64 udp dport 5353"}
MASQUERADED = {family: f"{family} saddr != {pod}" for family, pod in ITSELF.items()}


class Addresses(NamedTuple):
    """Where the Service under fire is to be found, and where its endpoints and the other Services are."""

    cluster_ip: str
    external_ip: str
    load_balancer: str
    node: str
    endpoints: str
    here: str
    others: str


ADDRESSES = {
    "ip": Addresses(
        "10.96.0.99", "203.0.113.1", "203.0.113.2", "192.168.50.1", "10.244.2.{}", "10.244.1.11", "10.96.1.0"
    ),
    "ip6": Addresses("fd96::99", "fdee::1", "fdee::2", "fd50::1", "fd44:0:0:2::{:x}", "fd44:0:0:1::11", "fd96::1:0"),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of update: the Service goes round and round through `rounds` while packets from `sources` go to
    `target`. What matches `hit` where `counted` says has arrived; all else of it is lost."""

    name: str
    family: str
    target: str
    rounds: tuple[ServicePort, ...]
    sources: dict[str, str] = dataclasses.field(default_factory=lambda: PODS)
    counted: tuple[tuple[str, ...], int] = BEFORE_REFUSAL
    hit: dict[str, str] = dataclasses.field(default_factory=lambda: AT_ENDPOINT)
    port: int = 80


class Result(NamedTuple):
    """Updates made, and first packets by what became of them."""

    updates: int
    hit: int
    missed: int


def hot(family: str, pods: Iterable[int]) -> ServicePort:
    """The Service under fire, with all its frontends; its pods are on node2 and need not exist."""
    to = ADDRESSES[family]
    made = service(
        "hot",
        to.cluster_ip,
        80,
        [(to.endpoints.format(pod), 5353) for pod in pods],
        protocol=Protocol.UDP,
        node_port=30053,
    )
    external_ip, load_balancer = (ipaddress.ip_address(one).packed for one in (to.external_ip, to.load_balancer))
    return msgspec.structs.replace(made, external_ips=(external_ip,), load_balancer_ips=(load_balancer,))


def local(family: str, here: Iterable[int], everywhere: Iterable[int]) -> ServicePort:
    """The same with policy Local."""
    pods = packed_endpoints([(ADDRESSES[family].endpoints.format(pod), 5353) for pod in here])
    return msgspec.structs.replace(hot(family, everywhere), local_endpoints=pods, external_local=True)


def sticky(ports: Iterable[ServicePort]) -> tuple[ServicePort, ...]:
    """The same with affinity."""
    return tuple(msgspec.structs.replace(port, affinity_seconds=60) for port in ports)


ROUNDS: dict[str, list[Sequence[int]]] = {
    "one endpoint replaced": [range(1, 11), [*range(1, 10), 20]],
    "the only endpoint replaced": [[1], [2]],
    "all endpoints replaced": [range(1, 11), range(21, 31)],
    "one endpoint more and one less": [range(1, 11), range(1, 12)],
    "scaled up and down": [range(1, 3), range(1, 40), range(30, 40), range(1, 31)],
    "everything at once": [range(1, 6), range(4, 20), [5], [7, 5, 90]],
}


def cases() -> Iterator[Case]:
    """Every kind of update, in both families."""
    for family, to in ADDRESSES.items():
        for name, rounds in ROUNDS.items():
            yield Case(f"cluster IP, {name}", family, to.cluster_ip, tuple(hot(family, pods) for pods in rounds))
        yield from _node_ports(family, to)
        yield from _external(family, to)
        yield from _sticky(family, to)
        yield from _refused(family, to)
        yield from _others(family, to)


def control(family: str) -> Case:
    """A kind that loses packets where updates are :func:`careless`."""
    [flips] = [
        case for case in cases() if (case.family, case.name) == (family, "external IP, policy flips, from outside")
    ]
    return dataclasses.replace(flips, name="control: what goes goes first")


def _node_ports(family: str, to: Addresses) -> Iterator[Case]:
    for name, rounds in ROUNDS.items():
        yield Case(f"node port, {name}", family, to.node, tuple(hot(family, pods) for pods in rounds), port=30053)
    changing = tuple(local(family, pods, [*pods, 50, 51]) for pods in ROUNDS["everything at once"])
    yield Case("node port of policy Local, from outside", family, to.node, changing, OUTSIDE, port=30053)
    yield Case("node port of policy Local, short-circuited", family, to.node, changing, port=30053)
    remembered = sticky(hot(family, pods) for pods in ROUNDS["everything at once"])
    yield Case("node port, sticky", family, to.node, remembered, port=30053)


def _external(family: str, to: Addresses) -> Iterator[Case]:
    everything = ROUNDS["everything at once"]
    cluster = tuple(hot(family, pods) for pods in everything)
    changing = tuple(local(family, pods, [*pods, 50, 51]) for pods in everything)
    flipping = (cluster[0], changing[1], cluster[2], changing[0])
    yield Case("external IP, endpoints change", family, to.external_ip, cluster)
    yield Case("external IP of policy Local, from outside", family, to.external_ip, changing, OUTSIDE)
    yield Case("external IP of policy Local, short-circuited", family, to.external_ip, changing)
    yield Case("external IP, policy flips, from outside", family, to.external_ip, flipping, OUTSIDE)
    yield Case("external IP, policy flips, from a pod", family, to.external_ip, flipping)


def _sticky(family: str, to: Addresses) -> Iterator[Case]:
    everything = ROUNDS["everything at once"]
    remembered = sticky(hot(family, pods) for pods in everything)
    yield Case("sticky cluster IP, endpoints change", family, to.cluster_ip, remembered)
    on_and_off = (hot(family, everything[0]), remembered[1], hot(family, everything[2]), remembered[0])
    yield Case("cluster IP, affinity comes and goes", family, to.cluster_ip, on_and_off)
    changing = sticky(local(family, pods, [*pods, 50]) for pods in everything)
    yield Case("sticky external IP of policy Local, from outside", family, to.external_ip, changing, OUTSIDE)
    yield Case("sticky external IP of policy Local, short-circuited", family, to.external_ip, changing)


def _refused(family: str, to: Addresses) -> Iterator[Case]:
    """None of the packets that were not translated gets by the refusal."""
    rounds = (hot(family, range(1, 6)), hot(family, []))
    yield Case("external IP, endpoints come and go: refused", family, to.external_ip, rounds, counted=AFTER_REFUSAL)
    yield Case("cluster IP, endpoints come and go: refused", family, to.cluster_ip, rounds, counted=AFTER_REFUSAL)
    here = (local(family, [1, 2], [1, 2, 3]), local(family, [], [3]))
    yield Case(
        "policy Local, endpoints here come and go: dropped", family, to.external_ip, here, OUTSIDE, AFTER_REFUSAL
    )


def _others(family: str, to: Addresses) -> Iterator[Case]:
    networks = [OUTSIDE[family], *(["10.0.0.0/8", "10.0.0.0/9"] if family == "ip" else ["fd00:1::/32", "fd00:1::/33"])]
    mine, wide, narrow = map(ipaddress.ip_network, networks)
    five = hot(family, range(1, 6))
    steps = ((mine,), (wide, mine), (mine, narrow), ())
    ranges = tuple(msgspec.structs.replace(five, source_ranges=one) for one in steps)
    yield Case("load balancer, source ranges change", family, to.load_balancer, ranges, OUTSIDE)
    pod = packed_endpoints([(to.here, 5353)])
    itself = tuple(
        msgspec.structs.replace(five, cluster_endpoints=pod, hairpin=(pod[0].address, *others))
        for others in ((), five.hairpin)
    )
    yield Case("hairpin, pairs come and go", family, to.cluster_ip, itself, ITSELF, AFTER_MASQUERADE, MASQUERADED)


@contextlib.contextmanager
def fleet() -> Iterator[Topology]:
    """Two nodes; the packets come from node1's pod."""
    with build(make_fleet(nodes=2, pods=1, dual_stack=True)) as topology:
        yield topology


def run(topology: Topology, case: Case, packets: int, deadline_seconds: float) -> Result:
    """Update round after round until so many packets were counted. Raises TimeoutError."""
    to = ADDRESSES[case.family]
    name = case.rounds[0].name
    ports = dict(_other_services(to).ports)
    with dataplane(topology, node_config(topology)) as made:
        ports[name] = case.rounds[0]
        made.sync(ServiceState(ports))
        topology.run("node1", ["nft", "-f", "-"], input=_count_rules(case))
        updates = 0
        with _flooding(topology, case):
            deadline = time.monotonic() + deadline_seconds
            counted = 0
            while counted < packets:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{case.name}: {counted} packets in {deadline_seconds:g} s")
                for _ in range(10):
                    for port in case.rounds:
                        ports[name] = port
                        made.sync(ServiceState(ports), frozenset([name]))
                        updates += 1
                counted = sum(_counted(topology, case))
        hit, missed = _counted(topology, case)
        made.remove()
    return Result(updates, hit, missed)


@contextlib.contextmanager
def careless() -> Iterator[None]:
    """Updates as they must not be: what is to go goes first, and a grace period later comes what takes its place."""
    careful = TableState.plan

    def hasty(state: TableState, wants: Wants) -> Plan:
        plan = careful(state, wants)
        return Plan(plan.clear, plan.make, plan.flows)

    with patch.object(TableState, "plan", hasty):
        yield


def _other_services(to: Addresses) -> ServiceState:
    base = ipaddress.ip_address(to.others)
    pods = [(to.endpoints.format(pod), 80) for pod in (1, 2, 3)]
    return state(*(service(f"other{number}", str(base + number), 80, pods) for number in range(OTHERS)))


def _count_rules(case: Case) -> str:
    """Counts what was sent to an endpoint and what was not, and lets none of it go on."""
    hooks, priority = case.counted
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority {priority}\n meta l4proto udp th dport != 53 goto tell\n}}\n"
        for hook in hooks
    )
    return f"""
        table {case.family} tally
        delete table {case.family} tally
        table {case.family} tally {{
            counter hit {{ }}
            counter missed {{ }}
            chain tell {{
                {case.hit[case.family]} counter name hit drop
                counter name missed drop
            }}
            {chains}
        }}
        """


def _counted(topology: Topology, case: Case) -> tuple[int, int]:
    """Packets so far: (hit, missed)."""
    listing = topology.run("node1", ["nft", "list", "counters", "table", case.family, "tally"]).stdout.split()
    hit, missed = (int(listing[at + 1]) for at, word in enumerate(listing) if word == "packets")
    return hit, missed


@contextlib.contextmanager
def _flooding(topology: Topology, case: Case) -> Iterator[None]:
    """First packets from node1-pod1, all the time."""
    what = [case.sources[case.family], case.target, str(case.port)]
    listed = json.loads(topology.run("node1", ["ip", "-json", "link", "show", pod_link(0)]).stdout)
    what += ["eth0", listed[0]["address"]]
    what = [str(GENERATOR), *what, str(PACKETS_CPU)] if generated() else [str(RAW_SENDER), *what]
    with topology.popen("node1-pod1", [sys.executable, *what], stdout=subprocess.PIPE) as sender, _updating():
        try:
            assert sender.stdout is not None
            assert sender.stdout.readline() == "ready\n"
            yield
            sender.terminate()
            assert int(sender.stdout.readline()) > 0
        finally:
            sender.kill()


@functools.cache
def generated() -> bool:
    """Whether the kernel makes the packets, on a CPU that is not ours."""
    return {UPDATES_CPU, PACKETS_CPU} <= os.sched_getaffinity(0) and pktgen.available()


@contextlib.contextmanager
def _updating() -> Iterator[None]:
    """Away from the CPU that makes the packets."""
    before = os.sched_getaffinity(0)
    if generated():
        os.sched_setaffinity(0, {UPDATES_CPU})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
