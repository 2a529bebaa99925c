"""Whoever writes to the kernel is woken once a burst, and never left asleep over something new."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from proxymode_agent.engine.inbox import Inbox
from proxymode_agent.kube.listwatch import Changed, Deleted, Synced
from proxymode_agent.kube.objects import ObjectKey, decode_service
from proxymode_agent.metrics import Metrics


class World:
    """An inbox, and how often it has woken."""

    def __init__(self) -> None:
        self.woken = 0
        self.inbox = Inbox("node1", Metrics(), lambda: 7.0, woken=self._wake, on_problem=lambda problem: None)

    def _wake(self) -> None:
        self.woken += 1

    def service(self, name: str, port: int = 80) -> None:
        spec = {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"port": port}]}
        service = {"metadata": {"name": name, "namespace": "shop"}, "spec": spec}
        self.inbox.on_service(Changed(ObjectKey("shop", name), decode_service(json.dumps(service).encode())))


def test_a_burst_wakes_once_until_it_is_taken() -> None:
    world = World()
    for number in range(5):
        world.service(f"s{number}")
    assert (world.woken, world.inbox.pending, world.inbox.waiting_since) == (1, True, 7.0)
    assert len(world.inbox.take().ports) == 5
    world.service("s5")
    world.inbox.on_service(Deleted(ObjectKey("shop", "s0")))
    assert world.woken == 2


def test_what_changes_nothing_wakes_nobody() -> None:
    world = World()
    world.service("s0")
    world.inbox.take()
    world.inbox.written(7.0, datetime.now(UTC))
    world.service("s0")
    assert (world.woken, world.inbox.pending) == (1, False)
    world.service("s0", port=81)
    assert world.woken == 2


def test_a_complete_list_always_wakes() -> None:
    world = World()
    world.service("s0")
    world.inbox.on_service(Synced("1"))
    world.inbox.on_slice(Synced("1"))
    assert (world.woken, world.inbox.complete) == (3, True)


def test_while_nothing_is_wanted_each_change_is_passed_over_by_itself() -> None:
    world = World()
    for number in range(3):
        world.service(f"s{number}")
        world.inbox.unwanted()
        assert world.inbox.waiting_since is None
    assert world.woken == 3
