"""From kube-proxy's NAT modes to our nftables mode and back on this kernel, while clients keep opening connections."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from msgspec.structs import replace

from nftables_bed import node_config, service, state
from proxymode_agent.preflight.facts import collect
from proxymode_agent.services.model import Protocol
from proxymode_agent.switch import Outcome, Switcher
from proxymode_agent.switch.plan import Step
from proxymode_agent.takeover import Remains
from proxymode_api.modes import KubeProxyPolicy, Mode, ObservedMode
from proxymode_testbeds.kubeproxy import ProxyMode, Service, Variant
from proxymode_testbeds.kubeproxy.process import start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from proxymode_agent.switch import StepRecord, SwitchRecord
    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from proxymode_testbeds.topology import Topology
    from proxymode_testbeds.traffic.processes import TrafficProcess

T = TypeVar("T")

NODE = "node1"
VIP, VIP6, NODE_PORT = "10.96.0.10", "fd96::10", 30080
DEADLINE_SECONDS = 180.0
ESTABLISHED = 5 * 6


def pods(topology: Topology, version: int) -> list[str]:
    node = topology.fleet.node(NODE)
    return [str(address) for pod in node.pods for address in pod.addresses if address.version == version]


def clients(topology: Topology, traffic: Traffic) -> list[TrafficProcess]:
    address = next(str(address) for address in topology.fleet.node(NODE).addresses if address.version == 4)
    load = {"established": 6, "new_rate": 20.0}
    return [
        traffic.talk(topology, "client1", VIP, tcp=80, udp=53, udp_rate=10.0, **load),
        traffic.talk(topology, "client1", address, tcp=NODE_PORT, **load),
        traffic.talk(topology, NODE, VIP, tcp=80, **load),
        traffic.talk(topology, f"{NODE}-pod1", VIP, tcp=80, **load),
        traffic.talk(topology, f"{NODE}-pod3", VIP6, tcp=80, **load),
    ]


def stop(running: list[TrafficProcess]) -> dict[str, Any]:
    results = [client.stop() for client in running]
    counts = ("established", "lost", "new", "failed", "udp_sent", "udp_lost")
    return {name: sum(result[name] for result in results) for name in counts} | {
        "why": [(result["failed_first"], result["lost_first"]) for result in results]
    }


def let_run(running: list[TrafficProcess]) -> None:
    for client in running:
        client.wait_for("second")


class Node:
    """One node with pods that answer, the same Services for kube-proxy (`theirs`) and for the agent (`ours`)."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        v4, v6 = ([(pod, 8080) for pod in pods(topology, version)[:2]] for version in (4, 6))
        udp = [(pod, 5353) for pod, _ in v4]
        self.theirs = [
            Service("default/web", VIP, 80, tuple(v4), node_port=NODE_PORT),
            Service("default/dns", VIP, 53, tuple(udp), "udp"),
            Service("default/web", VIP6, 80, tuple(v6), node_port=NODE_PORT),
            Service("default/empty", "10.96.0.11", 81, ()),
        ]
        self.ours = state(
            service("web", VIP, 80, v4, node_port=NODE_PORT),
            service("dns", VIP, 53, udp, protocol=Protocol.UDP),
            service("web", VIP6, 80, v6, node_port=NODE_PORT),
            service("empty", "10.96.0.11", 81, []),
        )

    def call(self, function: Callable[..., T], *args: Any) -> T:
        return self.topology.call(NODE, function, *args)

    def switcher(self, folder: Path) -> Switcher:
        return self.call(Switcher, node_config(self.topology), folder)

    def take_over(self, switcher: Switcher) -> SwitchRecord:
        return self.call(switcher.switch, Mode.NFTABLES, self.ours, lambda step: None)

    def hand_back(self, switcher: Switcher) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while missing := self.call(switcher.hand_back, self.ours):
            assert time.monotonic() < deadline, missing


@pytest.fixture
def node(node_fleet: FleetMaker, traffic: Traffic) -> Node:
    topology = node_fleet(nodes=1, pods=3, dual_stack=True)
    traffic.serve_all(topology)
    return Node(topology)


@pytest.mark.parametrize(
    ("mode", "variant", "forward"),
    [
        (ProxyMode.NFTABLES, Variant.NFT, "ACCEPT"),
        (ProxyMode.IPTABLES, Variant.NFT, "DROP"),
        (ProxyMode.IPTABLES, Variant.LEGACY, "ACCEPT"),
    ],
)
def test_there_and_back_loses_no_connection(
    node: Node, traffic: Traffic, tmp_path: Path, mode: ProxyMode, variant: Variant, forward: str
) -> None:
    """Where the policy of FORWARD is DROP, pods may speak, and the rest passes by kube-proxy's KUBE-FORWARD alone."""
    iptables = f"iptables-{variant}"
    for rule in (["-P", "FORWARD", forward], ["-A", "FORWARD", "--source", "10.244.0.0/16", "--jump", "ACCEPT"]):
        node.topology.run(NODE, [iptables, *rule])
    with contextlib.ExitStack() as stack:
        kube_proxy = start(stack, node.topology, NODE, mode, node.theirs, variant=variant)
        found = node.call(collect).kube_proxy
        assert (found.running.startswith("process"), found.mode, bool(found.rules)) == (True, mode, True)
        running = clients(node.topology, traffic)
        let_run(running)
        switcher = stack.enter_context(contextlib.closing(node.switcher(tmp_path)))

        kube_proxy.stop()
        record = node.take_over(switcher)
        assert (record.from_mode, record.outcome) == (ObservedMode(f"kube-proxy-{mode}"), Outcome.SUCCEEDED)
        assert record.connections is not None
        assert record.connections.found >= ESTABLISHED
        assert record.connections.lost == 0
        assert node.call(switcher.observe) is ObservedMode.NFTABLES
        with contextlib.closing(node.call(Remains)) as remains:
            assert node.call(remains.look).rules is False
        let_run(running)

        assert node.call(switcher.hand_back, node.ours) == "all: it is not there"
        assert node.call(switcher.observe) is ObservedMode.NFTABLES
        with contextlib.ExitStack() as incomplete:
            start(incomplete, node.topology, NODE, mode, node.theirs[1:], variant=variant)
            assert "default/web" in node.call(switcher.hand_back, node.ours)
            assert node.call(switcher.observe) is ObservedMode.NFTABLES
        start(stack, node.topology, NODE, mode, node.theirs, variant=variant)
        node.hand_back(switcher)
        assert node.call(switcher.observe) is ObservedMode(f"kube-proxy-{mode}")
        let_run(running)
        counted = stop(running)
    assert counted["established"] == ESTABLISHED
    assert counted["new"] > 100
    assert (counted["lost"], counted["failed"], counted["udp_lost"]) == (0, 0, 0), counted["why"]


def test_killed_after_any_step_the_next_agent_finishes_and_no_connection_is_lost(
    node: Node, traffic: Traffic, tmp_path: Path
) -> None:
    mode = ProxyMode.IPTABLES
    with contextlib.ExitStack() as stack:
        start(stack, node.topology, NODE, mode, node.theirs).stop()
        running = clients(node.topology, traffic)
        for step in STEPS:
            node.call(switch_and_die, node, tmp_path, step)
            let_run(running)
            with contextlib.closing(node.switcher(tmp_path)) as switcher:
                assert node.call(switcher.unfinished) is Mode.NFTABLES
                record = node.take_over(switcher)
                assert record.outcome is Outcome.RESUMED
                assert record.from_mode is ObservedMode.KUBE_PROXY_IPTABLES
                with contextlib.closing(node.call(Remains)) as remains:
                    assert node.call(remains.look).rules is False
                with contextlib.ExitStack() as short:
                    start(short, node.topology, NODE, mode, node.theirs)
                    node.hand_back(switcher)
            assert list(tmp_path.iterdir()) == []
        counted = stop(running)
    assert counted["established"] == ESTABLISHED
    assert (counted["lost"], counted["failed"], counted["udp_lost"]) == (0, 0, 0), counted["why"]


def test_what_a_kube_proxy_leaves_that_came_back_for_a_while_goes_when_it_has_gone(node: Node, tmp_path: Path) -> None:
    """As after kubeadm upgrade, until the operator has put the affinity back."""
    config = replace(node_config(node.topology), kube_proxy=KubeProxyPolicy.TAKE_OVER)
    with (
        contextlib.closing(node.call(Switcher, config, tmp_path)) as switcher,
        contextlib.closing(node.call(Remains)) as remains,
    ):
        node.take_over(switcher)
        with contextlib.ExitStack() as while_it_runs:
            start(while_it_runs, node.topology, NODE, ProxyMode.IPTABLES, node.theirs)
            assert node.call(switcher.observe) is ObservedMode.NFTABLES
            assert node.call(remains.look).rules is True
        assert node.call(switcher.observe) is ObservedMode.NFTABLES
        assert node.call(remains.look).rules is False


STEPS = (
    Step.PROBE_BEFORE,
    Step.TAKE_OVER,
    Step.COUNT,
    Step.REMOVE_KUBE_PROXY,
    Step.COMPARE,
    Step.PROGRAM,
    Step.VERIFY,
)


def switch_and_die(node: Node, folder: Path, last: Step) -> None:
    """A process that begins the take-over and is killed, with SIGKILL, right after that step."""

    def die(record: StepRecord) -> None:
        if record.name == last:
            os.kill(os.getpid(), signal.SIGKILL)

    process = os.fork()
    if process == 0:
        signal.alarm(round(DEADLINE_SECONDS))
        try:
            Switcher(node_config(node.topology), folder).switch(Mode.NFTABLES, node.ours, die)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL, last
