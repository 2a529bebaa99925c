"""What the engine does next, as a table and as invariants."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from proxymode_agent.dataplane import base
from proxymode_agent.dataplane.base import Finding
from proxymode_agent.engine.decide import (
    Look,
    Situation,
    Switch,
    Sync,
    Wait,
    decide,
    ours,
    phase_at_rest,
    rest_after,
    rest_after_full,
    rest_after_look,
)
from proxymode_agent.engine.drift import Drift
from proxymode_agent.engine.snapshot import EnginePhase
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
    look_at=140.0,
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
        # A look is last: what is known to be due comes first.
        ({"look_at": 100.0}, Look(NFT)),
        ({"look_at": 110.0}, Wait(110.0)),
        ({"look_at": 100.0, "full_at": 100.0}, Sync(NFT, full=True)),
        ({"look_at": 100.0, "pending": True, "pending_at": 99.0}, Sync(NFT, full=False)),
        ({"look_at": 100.0, "observed": ObservedMode.NONE, "desired": None}, Wait(math.inf)),
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
    assert decide(structs.replace(CALM, **changes)) == action


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
    look_at=times,
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
        case Sync(mode, _) | Look(mode):
            nothing = situation.observed is ObservedMode.NONE
            assert mode == (situation.desired if nothing else ours(situation.observed))


def test_pacing_leaves_the_dataplane_most_of_its_time() -> None:
    assert rest_after(0.0, 0.0) == 0.02
    assert rest_after(0.01, 0.0) == pytest.approx(0.03)
    assert rest_after(10.0, 0.0) == 0.1
    assert rest_after_look(1.0, 0.001) == 1.0
    assert rest_after_look(1.0, 0.1) == pytest.approx(1.9)


def test_batches_grow_while_changes_do_not_cease() -> None:
    rests = [0.0]
    for _ in range(4):
        rests.append(rest_after(0.001, rests[-1]))
    assert rests[1:] == [0.02, 0.04, 0.07, 0.07]
    assert rest_after(0.001, 0.0) == 0.02, "and are small again after a moment of quiet"
    assert rest_after(0.03, 0.05) == pytest.approx(0.09)


@pytest.mark.parametrize(
    ("finding", "quick", "slow"),
    [
        (Finding.UNTOUCHED, 300.0, 300.0),
        (Finding.NOTHING_SEEN, 30.0, 98.0),
        (Finding.DOUBTFUL, 0.19, 38.0),
        (Finding.CHANGED, 0.01, 2.0),
    ],
)
def test_reading_back_is_paced_by_its_cost_and_by_what_was_found(finding: Finding, quick: float, slow: float) -> None:
    assert rest_after_full(finding, 30.0, 0.01) == pytest.approx(quick)
    assert rest_after_full(finding, 30.0, 2.0) == pytest.approx(slow)


def test_a_read_back_that_is_asked_for_comes_in_its_time_and_is_not_too_dear() -> None:
    state = Drift(sync_period=30.0, look_period=1.0, shown=300.0)
    state.repaired(0.0, 0.01, expected=True, written=5, damage="")
    state.read_back_at(5.0)
    state.read_back_at(7.0)
    assert state.full_at == 5.0
    state.repaired(5.0, 7.0, expected=True, written=5, damage="")
    assert state.full_at == pytest.approx(307.0), "asked for once"
    state.read_back_at(8.0)
    assert state.full_at == pytest.approx(105.0)


looks = st.lists(
    st.builds(base.Look, st.sampled_from(Finding), st.sampled_from(["a table", "a rule"])), min_size=1, max_size=20
)


@given(looks, st.booleans(), st.integers(0, 2), st.sampled_from(["", "a chain"]))
def test_what_a_look_has_found_is_acted_on_and_told_once(
    found: list[base.Look], expected: bool, written: int, damage: str
) -> None:
    state = Drift(sync_period=30.0, look_period=1.0, shown=300.0)
    assert state.full_at == -math.inf
    assert not state.repaired(-1.0, 0.0, expected=True, written=5, damage="")
    assert state.look_at == 0.0, "before others write"
    for number, look in enumerate(found, 1):
        state.looked(look, float(number), number + 0.001)
        assert state.look_at == pytest.approx(number + 1.001)
    worst = max(found, key=lambda look: list(Finding).index(look.finding)).finding
    assert state.full_at == rest_after_full(worst, 30.0, 1.0)
    changed = state.repaired(50.0, 51.0, expected=expected, written=written, damage=damage)
    if damage:
        assert changed == damage
    elif worst is Finding.CHANGED:
        assert changed in [look.changed for look in found if look.finding is Finding.CHANGED]
    else:
        assert bool(changed) == (written > 0 and not expected), "a read-back that writes unasked has found drift"
    assert not state.repaired(60.0, 61.0, expected=False, written=0, damage="")
    assert state.look_at == 62.0
    assert state.expired(400.0) == bool(changed)
    assert not state.expired(500.0)


HANDED_BACK = {"leaves": True, "observed": ObservedMode.KUBE_PROXY_IPVS}


@pytest.mark.parametrize(
    ("changes", "synced", "phase"),
    [
        ({}, True, EnginePhase.ACTIVE),
        ({}, False, EnginePhase.PROGRAMMING),
        ({"told": False}, True, EnginePhase.PENDING),
        ({"complete": False}, True, EnginePhase.PENDING),
        ({"desired": IPVS}, True, EnginePhase.PROGRAMMING),
        ({"observed": ObservedMode.NONE}, True, EnginePhase.PROGRAMMING),
        ({"desired": None}, True, EnginePhase.ACTIVE),
        ({"desired": None}, False, EnginePhase.PROGRAMMING),
        ({"desired": None, "observed": ObservedMode.NONE}, False, EnginePhase.OBSERVING),
        ({"desired": None, "observed": ObservedMode.KUBE_PROXY_IPVS}, False, EnginePhase.OBSERVING),
        (HANDED_BACK, False, EnginePhase.OBSERVING),
        ({"leaves": True}, True, EnginePhase.ACTIVE),
    ],
)
def test_how_things_stand_while_nothing_is_done(changes: dict[str, object], synced: bool, phase: EnginePhase) -> None:
    situation = structs.replace(CALM, **changes)
    assert phase_at_rest(situation, synced=synced, draining=False, failed=False) is phase
    assert phase_at_rest(situation, synced=synced, draining=True, failed=True) is EnginePhase.FAILED
    pending = phase is EnginePhase.PENDING
    draining = phase_at_rest(situation, synced=synced, draining=True, failed=False)
    assert draining is (phase if pending else EnginePhase.SWITCHING)
