"""A node whose Services a kube-proxy handles, with clients of every kind, and what must be left of that in the end."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from proxymode_agent.services.model import Protocol, ServiceState
from proxymode_agent.switch import Outcome, Switcher
from proxymode_api.modes import Mode, ObservedMode
from proxymode_testbeds.kubeproxy import ProxyMode, Service
from proxymode_testbeds.kubeproxy.process import start
from service_node import VIP, VIP6, service, state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proxymode_testbeds.fixtures import Traffic
    from proxymode_testbeds.traffic.processes import TrafficProcess
    from service_node import Idle, ServiceNode

NODE_PORT = 30080
HAND_BACK_SECONDS = 180.0  # a deadline under emulation, not an estimate
KUBELET = """
iptables -N KUBE-FIREWALL
iptables -A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -j DROP
iptables -I OUTPUT -j KUBE-FIREWALL
iptables -t mangle -N KUBE-KUBELET-CANARY
"""


def services(node: ServiceNode) -> ServiceState:
    v4, v6 = node.pods(4)[:2], node.pods(6)[:2]
    return state(
        service(VIP, 80, v4, node_port=NODE_PORT),
        service(VIP, 53, v4, target=5353, protocol=Protocol.UDP),
        service(VIP6, 80, v6, node_port=NODE_PORT),
        service("10.96.0.11", 81, (), name="empty"),
    )


def told(node: ServiceNode) -> list[Service]:
    """The same Services for kube-proxy."""
    v4, v6 = ([(pod, 8080) for pod in node.pods(version)[:2]] for version in (4, 6))
    return [
        Service("default/web:tcp-80", VIP, 80, tuple(v4), node_port=NODE_PORT),
        Service("default/web:udp-53", VIP, 53, tuple((pod, 5353) for pod, _ in v4), "udp"),
        Service("default/web:tcp-80", VIP6, 80, tuple(v6), node_port=NODE_PORT),
        Service("default/empty:tcp-81", "10.96.0.11", 81, ()),
    ]


class Scene(NamedTuple):
    """Who acts: a kube-proxy, which others may follow on the `stack`, clients, and the agent that comes after it."""

    stack: contextlib.ExitStack
    kube_proxy: TrafficProcess
    running: list[TrafficProcess]
    switcher: Switcher


@contextlib.contextmanager
def under_load(node: ServiceNode, traffic: Traffic, idle: Idle, folder: Path, mode: ProxyMode) -> Iterator[Scene]:
    """A kube-proxy in this mode and clients; at the end none of them has lost anything."""
    with contextlib.ExitStack() as stack:
        node.sh(KUBELET)
        kube_proxy = start_kube_proxy(stack, node, mode)
        idle.open(2)
        running = clients(node, traffic)
        let_run(running, 1)
        switcher = stack.enter_context(contextlib.closing(node.call(Switcher, node.config, folder)))
        yield Scene(stack, kube_proxy, running, switcher)
        let_run(running)
        counted = stop(running)
        assert counted["established"] == ESTABLISHED
        assert counted["new"] > 20
        assert (counted["lost"], counted["failed"], counted["udp_lost"]) == (0, 0, 0), counted["why"]
        assert idle.broken() == []
        assert list(folder.iterdir()) == []


def start_kube_proxy(stack: contextlib.ExitStack, node: ServiceNode, mode: ProxyMode) -> TrafficProcess:
    """A kube-proxy on the node, which has synced; it ends with the stack at the latest."""
    return start(stack, node.topology, node.name, mode, told(node))


def clients(node: ServiceNode, traffic: Traffic) -> list[TrafficProcess]:
    """Outside, on the node, in a pod, by NodePort: long-lived connections that keep talking, new ones, datagrams."""
    load = {"established": 4, "new_rate": 4.0}
    return [
        traffic.talk(node.topology, "client1", VIP, tcp=80, udp=53, udp_rate=3.0, **load),
        traffic.talk(node.topology, "client1", node.address(4), tcp=NODE_PORT, established=3, new_rate=2.0),
        traffic.talk(node.topology, "node1", VIP, tcp=80, **load),
        traffic.talk(node.topology, "node1-pod1", VIP, tcp=80, established=3, new_rate=2.0),
        traffic.talk(node.topology, "node1-pod3", VIP6, tcp=80, **load),
    ]


ESTABLISHED = 4 + 3 + 4 + 3 + 4


def stop(running: list[TrafficProcess]) -> dict[str, Any]:
    """The sum of what clients counted."""
    for client in running:
        client.signal(signal.SIGTERM)
    results = [client.result() for client in running]
    counts = ("established", "lost", "new", "failed", "udp_sent", "udp_lost")
    return {name: sum(result[name] for result in results) for name in counts} | {
        "why": [(result["failed_first"], result["lost_first"]) for result in results]
    }


def let_run(running: list[TrafficProcess], seconds: int = 2) -> None:
    for client in running:
        for _ in range(seconds):
            client.wait_for("second")


def kube_proxys(node: ServiceNode) -> str:
    """What is in the kernel of kube-proxy's making, by the tools that it uses itself; kubelet's left out."""
    return node.sh(
        "{ for save in iptables-save ip6tables-save iptables-legacy-save ip6tables-legacy-save; do $save 2>/dev/null; "
        "done; ipset list -n; nft list tables; } | grep -E 'KUBE|kube-proxy' "
        "| grep -vE 'KUBE-(FIREWALL|KUBELET-CANARY)' || true"
    )


def take_over(
    node: ServiceNode, switcher: Switcher, kube_proxy: TrafficProcess, idle: Idle, mode: ProxyMode, to: Mode
) -> None:
    """kube-proxy leaves, and the agent takes its place: no connection is lost, and nothing of kube-proxy stays."""
    kube_proxy.stop()
    assert node.call(switcher.observe) is ObservedMode(f"kube-proxy-{mode}")
    record = node.call(switcher.switch, to, services(node), lambda step: None)
    assert (record.from_mode, record.outcome) == (ObservedMode(f"kube-proxy-{mode}"), Outcome.SUCCEEDED), record.message
    assert node.call(switcher.observe) is ObservedMode(to)
    assert idle.broken() == []
    if not (mode is ProxyMode.IPVS and to is Mode.IPVS):
        assert record.connections is not None
        assert record.connections.found >= ESTABLISHED
        assert record.connections.lost == 0
    assert kube_proxys(node) == ""
    assert "KUBE-FIREWALL" in node.sh("iptables-save")
    assert ("kube-ipvs0" in node.sh("ip link")) is (to is Mode.IPVS)
    if to is Mode.NFTABLES:
        assert node.sh("ipvsadm -Sn") == ""
    idle.open(1)


def hand_back(node: ServiceNode, switcher: Switcher, mode: ProxyMode) -> None:
    """kube-proxy has come; as soon as it has programmed everything, nothing of ours is left."""
    deadline = time.monotonic() + HAND_BACK_SECONDS
    while missing := node.call(switcher.hand_back, services(node)):
        assert time.monotonic() < deadline, missing
    assert node.call(switcher.observe) is ObservedMode(f"kube-proxy-{mode}")
    assert "proxymode" not in node.sh("nft list tables")
