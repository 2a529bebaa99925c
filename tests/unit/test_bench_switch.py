"""What bench-switch prints, and the load that it makes."""

from __future__ import annotations

from proxymode_benchmarks.switch import __main__ as bench
from proxymode_benchmarks.switch import guest, node, peer, scale

RUN = {
    "who": "proxymode",
    "direction": "ipvs->nftables",
    "established": 100,
    "lost": 0,
    "new": 115,
    "failed": 0,
    "udp_sent": 240,
    "udp_lost": 0,
    "max_gap_ms": 705.7,
    "seconds": 4.8,
}


def test_a_run_s_figures_stand_under_their_names() -> None:
    head, row = bench.row({name: name for name in RUN}), bench.row(RUN)
    assert len(head) == len(row)
    for name, value in RUN.items():
        end = head.index(name) + (len(str(value)) if name in ("who", "direction") else len(name))
        assert row[:end].endswith(str(value)), name


def test_the_load_is_what_was_asked_for_and_from_everywhere() -> None:
    loads = node.clients(node.fleet(), 100, 10.0)
    assert sum(load["established"] + load["bulk"] + load["push"] for _, _, load in loads) == 100
    assert sum(load["new_rate"] for _, _, load in loads) == 10.0
    assert {name for name, _, _ in loads} == {"client1", "node1", "node1-pod3", "node1-pod1"}


def test_the_peer_removes_the_old_mode_and_writes_the_new_one() -> None:
    assert set(peer._CLEANUP) == {old for old, _ in guest.DIRECTIONS}
    assert "ipvsadm -C" in peer._WITHOUT_IPVS
    assert "kube-proxy" in peer._WITHOUT_NFTABLES


def test_connections_of_the_hand_over_are_all_different() -> None:
    assert len({scale._through_ipvs(index) for index in range(2000)}) == 2000
    assert len(scale.services().ports) == scale.SERVICES
