"""What the engine does next, as a table and as invariants."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxymode_agent.engine.decide import Situation, Switch, Sync, Wait, decide, full_sync_interval, ours, rest_after
from proxymode_api.modes import Mode, ObservedMode

NFT, IPVS = Mode.NFTABLES, Mode.IPVS
CALM = Situation(
    now=100.0,
    complete=True,
    told=True,
    desired=NFT,
    observed=ObservedMode.NFTABLES,
    unfinished=None,
    pending=False,
    full_at=130.0,
    pending_at=100.5,
    switch_at=-math.inf,
)


@pytest.mark.parametrize(
    ("changes", "action"),
    [
        ({}, Wait(130.0)),
        ({"complete": False}, Wait(math.inf)),
        ({"told": False}, Wait(math.inf)),
        ({"full_at": 100.0}, Sync(NFT, full=True)),
        ({"pending": True}, Wait(100.5)),
        ({"pending": True, "pending_at": 99.0}, Sync(NFT, full=False)),
        ({"pending": True, "pending_at": 99.0, "full_at": -math.inf}, Sync(NFT, full=True)),
        # Nothing in the kernel: the desired mode is programmed, there is nothing to switch from.
        ({"observed": ObservedMode.NONE, "full_at": -math.inf}, Sync(NFT, full=True)),
        ({"observed": ObservedMode.NONE}, Wait(130.0)),
        ({"observed": ObservedMode.NONE, "desired": None, "full_at": -math.inf}, Wait(math.inf)),
        # Another mode in the kernel, be it kube-proxy's.
        ({"desired": IPVS}, Switch(IPVS)),
        ({"observed": ObservedMode.KUBE_PROXY_IPVS}, Switch(NFT)),
        ({"observed": ObservedMode.KUBE_PROXY_IPVS, "desired": None}, Wait(math.inf)),
        ({"desired": None, "full_at": -math.inf}, Sync(NFT, full=True)),
        # A switch that failed: not before its time, and meanwhile the old mode is served.
        ({"desired": IPVS, "switch_at": 120.0}, Wait(120.0)),
        ({"desired": IPVS, "switch_at": 120.0, "full_at": 90.0}, Sync(NFT, full=True)),
        ({"desired": IPVS, "switch_at": 120.0, "pending": True, "pending_at": 0.0}, Sync(NFT, full=False)),
        ({"desired": IPVS, "switch_at": 140.0}, Wait(130.0)),
        ({"observed": ObservedMode.KUBE_PROXY_IPVS, "switch_at": 120.0}, Wait(120.0)),
        # A switch that was killed half-way is finished, also when nobody asks for a mode, also when it is turned round.
        ({"unfinished": NFT}, Switch(NFT)),
        ({"unfinished": IPVS, "desired": None}, Switch(IPVS)),
        ({"unfinished": IPVS, "desired": NFT}, Switch(NFT)),
        ({"unfinished": NFT, "observed": ObservedMode.NONE}, Switch(NFT)),
    ],
)
def test_table(changes: dict[str, object], action: object) -> None:
    assert decide(replace(CALM, **changes)) == action  # type: ignore[arg-type]


times = st.sampled_from([-math.inf, 0.0, 50.0, 100.0, 150.0, math.inf])
situations = st.builds(
    Situation,
    now=st.sampled_from([0.0, 100.0]),
    complete=st.booleans(),
    told=st.booleans(),
    desired=st.none() | st.sampled_from(Mode),
    observed=st.sampled_from(ObservedMode),
    unfinished=st.none() | st.sampled_from(Mode),
    pending=st.booleans(),
    full_at=times,
    pending_at=times,
    switch_at=times,
)


@given(situations)
def test_it_never_waits_for_the_past_and_never_touches_a_half_known_cluster(situation: Situation) -> None:
    action = decide(situation)
    if isinstance(action, Wait):
        assert action.until > situation.now, "a wait for the past is a busy loop"
    if not (situation.complete and situation.told):
        assert action == Wait(math.inf)


@given(situations)
def test_it_switches_only_to_what_is_wanted_and_syncs_only_what_is_there_or_wanted(situation: Situation) -> None:
    match decide(situation):
        case Switch(to):
            assert to == (situation.desired or situation.unfinished)
        case Sync(mode, _):
            nothing = situation.observed is ObservedMode.NONE
            assert mode == (situation.desired if nothing else ours(situation.observed))


def test_pacing_leaves_the_dataplane_most_of_its_time() -> None:
    assert rest_after(0.0) == 0.0
    assert rest_after(0.001) == pytest.approx(0.009)
    assert rest_after(10.0) == 1.0
    assert full_sync_interval(30.0, 0.01) == 30.0
    assert full_sync_interval(30.0, 2.0) == pytest.approx(98.0)
