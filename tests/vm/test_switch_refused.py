"""A switch that cannot be done: the node is where it was, says why, and no connection has noticed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.services.model import ServiceState
from proxymode_agent.switch import Outcome, StepRecord, Switcher, SwitchError
from proxymode_agent.switch.kernel import Kernel
from proxymode_agent.switch.plan import Step, plan
from proxymode_api.modes import ConnectionPolicy, Mode, ObservedMode
from service_node import VIP, Idle, service
from switch_load import agent, clients, let_run, services, stop, switch

if TYPE_CHECKING:
    from proxymode_testbeds.fixtures import Traffic
    from service_node import ServiceNode

HANDOVER = ConnectionPolicy.HANDOVER
CONNTRACK_MAX = Path("/proc/sys/net/netfilter/nf_conntrack_max")


class Refusing(Kernel):
    """A kernel that does one step, or half of it, and then refuses; once."""

    refused: Step | None = None

    def run(self, step: Step, to: Mode, state: ServiceState) -> None:
        super().run(step, to, state)
        if step is self.refused:
            self.refused = None
            raise DataplaneError("injected: operation not permitted")


def test_whichever_step_is_refused_the_node_goes_back_and_nothing_is_lost(
    node: ServiceNode, traffic: Traffic, idle: Idle, tmp_path: Path
) -> None:
    ports = services(node)
    kernel = node.call(Refusing, node.config, tmp_path)
    with closing(node.call(Switcher, node.config, tmp_path, kernel)) as switcher:
        switch(node, switcher, Mode.IPVS, ports)
        beginning = node.snapshot()
        idle.open(1)
        running = traffic.talk_all(node.topology, clients(node)[:3])
        for old, to in ((Mode.IPVS, Mode.NFTABLES), (Mode.NFTABLES, Mode.IPVS)):
            if not node.call(switcher.dataplane(old).present):
                switch(node, switcher, old, ports)
            for step in plan({old}, to, HANDOVER).steps:
                kernel.refused = step
                with pytest.raises(SwitchError, match=f"{step}: injected") as failure:
                    switch(node, switcher, to, ports)
                assert failure.value.record.outcome is Outcome.ROLLED_BACK, step
                assert node.call(switcher.observe) is ObservedMode(old), step
                assert node.call(switcher.dataplane(to).present) is False, step
                assert node.call(switcher.unfinished) is None, step
                assert idle.broken() == [], step
            idle.open(1)
        switch(node, switcher, Mode.IPVS, ports)
        let_run(running, 1)
        assert node.snapshot() == beginning
        assert list(tmp_path.iterdir()) == []
    counted = stop(running)
    assert (counted["lost"], counted["failed"], counted["udp_lost"]) == (0, 0, 0), counted["why"]


def test_what_ipvs_itself_refuses_is_undone_and_named(node: ServiceNode, idle: Idle, tmp_path: Path) -> None:
    """A real server that is no unicast address (ip_vs_new_dest), which the agent never asks for."""
    refused = service("10.96.0.12", 82, ["224.0.0.1"], name="refused")
    ports = ServiceState({**services(node).ports, refused.name: refused})
    with closing(agent(node, tmp_path, HANDOVER)) as switcher:
        switch(node, switcher, Mode.NFTABLES, ports)
        idle.open(1)
        with pytest.raises(SwitchError, match=r"program-target: .*224\.0\.0\.1") as failure:
            switch(node, switcher, Mode.IPVS, ports)
        assert failure.value.record.outcome is Outcome.ROLLED_BACK
        assert node.call(switcher.observe) is ObservedMode.NFTABLES
        assert node.call(switcher.unfinished) is None
        assert node.call(switcher.dataplane(Mode.IPVS).present) is False
        assert node.sh("ipvsadm -Sn") == ""
        assert idle.broken() == []


FOREIGN = {
    # Somebody drops what netfilter has translated, and somebody drops what is on its way to IPVS: each of them breaks
    # one mode for the node's own connections and leaves the other alone.
    Mode.NFTABLES: ("-50", "ct status dnat tcp dport 8080 drop"),
    Mode.IPVS: ("-99", f"ip daddr {VIP} tcp dport 80 drop"),
}


def test_a_target_that_does_not_serve_is_found_out_and_left(node: ServiceNode, idle: Idle, tmp_path: Path) -> None:
    ports = services(node)
    with closing(agent(node, tmp_path, HANDOVER)) as switcher:
        for old, to in ((Mode.IPVS, Mode.NFTABLES), (Mode.NFTABLES, Mode.IPVS)):
            switch(node, switcher, old, ports)
            beginning = node.snapshot()
            idle.open(1)
            priority, rule = FOREIGN[to]
            node.sh(
                f"nft -f - <<'END'\ntable inet foreign {{\nchain c {{\n"
                f"type filter hook output priority {priority};\n{rule}\n}}\n}}\nEND"
            )
            assert idle.broken() == []
            with pytest.raises(SwitchError, match=f"answered before and does not any more.*{VIP}:80") as failure:
                switch(node, switcher, to, ports)
            record = failure.value.record
            assert record.outcome is Outcome.ROLLED_BACK
            assert any(f"ClusterIP {VIP}:80 of default/web:tcp-80" in probes.failed for probes in record.verification)
            assert node.call(switcher.observe) is ObservedMode(old)
            node.sh("nft delete table inet foreign")
            assert node.snapshot() == beginning
            assert idle.broken() == []


def test_a_full_conntrack_table_stops_the_switch_before_anything_is_moved(
    node: ServiceNode, idle: Idle, tmp_path: Path
) -> None:
    ports = services(node)
    before = CONNTRACK_MAX.read_text()
    with closing(agent(node, tmp_path, HANDOVER)) as switcher:
        switch(node, switcher, Mode.IPVS, ports)
        idle.open(2)
        beginning = node.snapshot()
        CONNTRACK_MAX.write_text(str(node.call(conntrack_count) + 60))
        try:
            with pytest.raises(SwitchError, match=r"catch-packets: the conntrack table has .*nf_conntrack_max"):
                switch(node, switcher, Mode.NFTABLES, ports)
            assert node.snapshot() == beginning
            assert idle.broken() == []
        finally:
            CONNTRACK_MAX.write_text(before)
        assert switch(node, switcher, Mode.NFTABLES, ports).outcome is Outcome.SUCCEEDED
        assert idle.broken() == []


def conntrack_count() -> int:
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())


DESTROYED = (
    (Mode.NFTABLES, Step.PROBE_TARGET, "nft flush ruleset"),
    (Mode.IPVS, Step.COUNT, "ipvsadm -C"),
    (Mode.NFTABLES, Step.CARRY, "nft delete table ip proxymode; nft delete table ip6 proxymode"),
    (Mode.IPVS, Step.COUNT, "nft delete table ip proxymode-ipvs"),
    (Mode.NFTABLES, Step.REMOVE_SIDE_TABLE, "nft flush table ip proxymode"),
)


def test_what_others_destroy_while_the_node_switches_is_mended(node: ServiceNode, idle: Idle, tmp_path: Path) -> None:
    ports = services(node)
    with closing(agent(node, tmp_path, HANDOVER)) as switcher:
        switch(node, switcher, Mode.IPVS, ports)
        for to, step, command in DESTROYED:

            def destroy(record: StepRecord, step: Step = step, command: str = command) -> None:
                if record.name == step:
                    node.sh(command)

            idle.open(1)
            assert switch(node, switcher, to, ports, destroy).outcome is Outcome.SUCCEEDED
            assert node.call(switcher.observe) is ObservedMode(to)
            assert node.call(switcher.dataplane(to).sync, ports).written == 0
            assert idle.broken() == [], (to, command)
