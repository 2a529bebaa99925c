"""Connections that are not handed over: cut at once, or given time; new ones never fail."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from proxymode_agent.switch import Outcome, SwitchPending
from proxymode_api.modes import ConnectionPolicy, Mode, ObservedMode
from service_node import Idle
from switch_load import ESTABLISHED, agent, clients, let_run, services, stop, switch

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_agent.services.model import ServiceState
    from proxymode_agent.switch import Switcher, SwitchRecord
    from proxymode_testbeds.fixtures import Traffic
    from service_node import ServiceNode

DEADLINE_SECONDS = 180.0  # under emulation


def test_cut_ends_what_ipvs_holds_and_fails_no_new_connection(
    node: ServiceNode, traffic: Traffic, tmp_path: Path
) -> None:
    ports = services(node)
    with closing(Idle(node)) as idle, closing(agent(node, tmp_path, ConnectionPolicy.CUT)) as switcher:
        switch(node, switcher, Mode.IPVS, ports)
        idle.open(2)
        running = traffic.talk_all(node.topology, clients(node))
        record = switch(node, switcher, Mode.NFTABLES, ports)
        let_run(running)
    assert record.connections is not None
    assert record.connections.found >= idle.number + ESTABLISHED
    assert record.connections.kept < record.connections.found
    counted = stop(running)
    assert counted["lost"] > 0
    assert counted["failed"] == 0, counted["why"]


def test_drain_moves_new_connections_waits_for_old_ones_and_says_what_became_of_them(
    node: ServiceNode, tmp_path: Path
) -> None:
    ports = services(node)
    drained, late = Idle(node), Idle(node)
    with (
        closing(drained),
        closing(late),
        closing(agent(node, tmp_path, ConnectionPolicy.DRAIN, drain_seconds=3600)) as switcher,
    ):
        switch(node, switcher, Mode.IPVS, ports)
        drained.open(2)
        with pytest.raises(SwitchPending) as pending:
            switch(node, switcher, Mode.NFTABLES, ports)
        assert pending.value.record.outcome is None
        assert node.call(switcher.observe) is ObservedMode.NFTABLES, "new connections"
        late.open(1)
        assert drained.broken() == []
        number = drained.number
        drained.close()
        record = until_drained(node, switcher, ports)
        assert record.outcome is Outcome.SUCCEEDED
        assert late.broken() == [], "new ones are on nftables already"
    assert record.connections is not None
    assert (record.connections.found, record.connections.drained, record.connections.lost) == (number, number, 0)


def test_at_the_deadline_what_is_left_is_cut(node: ServiceNode, tmp_path: Path) -> None:
    ports = services(node)
    with closing(Idle(node)) as idle:
        with closing(agent(node, tmp_path, ConnectionPolicy.DRAIN, drain_seconds=0)) as switcher:
            switch(node, switcher, Mode.IPVS, ports)
            idle.open(1)
            record = switch(node, switcher, Mode.NFTABLES, ports)
        assert record.connections is not None
        assert (record.connections.found, record.connections.drained) == (idle.number, 0)
        assert record.connections.lost > 0


def until_drained(node: ServiceNode, switcher: Switcher, ports: ServiceState) -> SwitchRecord:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            return switch(node, switcher, Mode.NFTABLES, ports)
        except SwitchPending:
            assert time.monotonic() < deadline, "connections that have ended still count"
            time.sleep(0.1)
