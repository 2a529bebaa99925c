"""When the engine may do what next: retries wait longer and longer, successes and new wishes end the waiting."""

from __future__ import annotations

import math

from proxymode_agent.engine.due import Due, Pace

PACE = Pace(retry_first=1.0, retry_cap=8.0, switch_retry_first=10.0, switch_retry_cap=40.0, look_period=2.0)
NOW = 100.0


def test_at_first_everything_is_due() -> None:
    due = Due(PACE)
    assert {due.full_at, due.pending_at, due.switch_at, due.leave_at} == {-math.inf}
    assert due.error == ""


def test_what_fails_again_waits_longer_up_to_the_cap_and_a_success_forgets_it() -> None:
    due = Due(PACE)
    delays = [due.failed("full sync failed", NOW, wanted=True) for _ in range(6)]
    for delay, longest in zip(delays, (1.0, 2.0, 4.0, 8.0, 8.0, 8.0), strict=True):
        assert longest / 2 <= delay <= longest  # with jitter
    assert due.full_at == due.pending_at == NOW + delays[-1]
    assert due.error == "full sync failed"
    due.synced(full=True, ended=NOW, seconds=0.5, since=None)
    assert (due.full_at, due.pending_at, due.error) == (math.inf, -math.inf, "")
    assert due.failed("once more", NOW, wanted=True) <= 1.0


def test_a_failure_of_what_is_not_wanted_any_more_holds_nothing_up() -> None:
    due = Due(PACE)
    due.failed("full sync failed", NOW, wanted=False)
    due.switch_failed("switch to ipvs failed", NOW, wanted=False)
    assert {due.full_at, due.pending_at, due.switch_at} == {-math.inf}
    assert due.error == "full sync failed"


def test_a_failed_switch_is_what_is_told_until_another_is_wanted() -> None:
    due = Due(PACE)
    delay = due.switch_failed("switch to ipvs failed", NOW, wanted=True)
    due.failed("full sync failed", NOW, wanted=True)
    assert due.switch_at == NOW + delay
    assert due.error == "switch to ipvs failed"
    due.worked()
    assert due.error == "switch to ipvs failed"
    due.switch_anew()
    assert (due.switch_at, due.error) == (-math.inf, "")
    assert due.switch_failed("again", NOW, wanted=True) <= 10.0


def test_changes_are_collected_for_longer_while_they_do_not_cease() -> None:
    due = Due(PACE)
    ended, rests = NOW, []
    for _ in range(4):
        due.synced(full=False, ended=ended, seconds=0.001, since=ended - 0.01)  # came while changes were collected
        rests.append(round(due.pending_at - ended, 6))
        ended = due.pending_at
    assert rests == sorted(rests)
    assert rests[-1] > rests[0]
    idle = ended + 60.0
    due.synced(full=False, ended=idle, seconds=0.001, since=idle)
    assert round(due.pending_at - idle, 6) == rests[0]


def test_a_full_sync_does_not_hold_up_the_change_after_it() -> None:
    due = Due(PACE)
    due.synced(full=False, ended=NOW, seconds=0.01, since=None)
    assert due.pending_at > NOW
    due.synced(full=True, ended=NOW, seconds=5.0, since=None)
    assert due.pending_at == -math.inf


def test_a_hand_back_looks_again_after_a_while_and_after_a_failure_when_all_is_tried_again() -> None:
    due = Due(PACE)
    due.stays(NOW)
    assert due.leave_at == NOW + 2.0
    due.failed("hand-back to kube-proxy failed", NOW, wanted=True)
    due.leave_failed()
    assert due.leave_at == due.full_at > NOW
