"""When a watch is begun anew: how soon, and from where."""

from __future__ import annotations

import pytest

from proxymode_agent.kube.errors import ApiError
from proxymode_agent.kube.restarts import RETRY_AFTER_CAP, RestartReason, Restarts, Timing

CUT = ApiError(0, "ConnectionError", "the server closed the connection")
TIMING = Timing(backoff_first=1.0, backoff_cap=30.0)


def test_failures_in_a_row_are_answered_later_and_later_up_to_a_bound() -> None:
    restarts = Restarts(TIMING)
    seconds = [restarts.failed(CUT, float(now), listing=False).seconds for now in range(20)]
    assert seconds[0] <= 1.0
    assert 15.0 <= min(seconds[6:]) <= max(seconds) <= 30.0


def test_a_watch_that_stood_ends_the_back_off_and_one_that_was_refused_at_once_does_not() -> None:
    restarts = Restarts(TIMING)
    for now in range(20):
        restarts.asked()
        restarts.failed(CUT, float(now), listing=False)
    restarts.asked()
    restarts.stands(100.0)
    assert restarts.failed(CUT, 100.5, listing=False).seconds >= 15.0
    restarts.asked()
    restarts.stands(200.0)
    assert restarts.failed(CUT, 260.0, listing=False).seconds <= 1.0


def test_a_slow_refusal_is_no_watch_that_stood() -> None:
    restarts = Restarts(TIMING)
    seconds = 0.0
    for now in range(0, 200, 10):
        restarts.asked()
        seconds = restarts.failed(CUT, float(now), listing=False).seconds
    assert seconds >= 15.0


def test_a_watch_that_ends_at_once_again_and_again_is_not_asked_for_in_a_tight_loop() -> None:
    restarts = Restarts(TIMING)
    seconds = []
    for now in range(20):
        restarts.asked()
        restarts.stands(float(now))
        seconds.append(restarts.ended(now + 0.1, listed_at=0.0).seconds)
    assert seconds[-1] >= 15.0
    restarts.asked()
    restarts.stands(100.0)
    assert restarts.ended(400.0, listed_at=0.0).seconds == 0.0


@pytest.mark.parametrize(("asked", "at_least", "at_most"), [(None, 0.0, 1.0), (5.0, 5.0, 5.0)])
def test_the_server_may_ask_for_more_time(asked: float | None, at_least: float, at_most: float) -> None:
    restart = Restarts(TIMING).failed(ApiError(429, "TooManyRequests", "", asked), 0.0, listing=False)
    assert restart.reason is RestartReason.THROTTLED
    assert at_least <= restart.seconds <= at_most


def test_a_day_is_too_long() -> None:
    maintenance = ApiError(503, "Service Unavailable", "back tomorrow", 86400.0)
    assert Restarts(TIMING).failed(maintenance, 0.0, listing=False).seconds == RETRY_AFTER_CAP


@pytest.mark.parametrize(
    ("error", "listing", "relist", "whole"),
    [
        (ApiError(410, "Expired", ""), False, True, False),
        (ApiError(410, "Expired", ""), True, True, True),
        (ApiError(403, "Forbidden", ""), False, True, False),
        (ApiError(500, "InternalError", ""), False, False, False),
        (ApiError(0, "InvalidResponse", ""), False, True, False),
        (ApiError(0, "CredentialError", ""), False, False, False),
        (CUT, False, False, False),
    ],
)
def test_where_it_goes_on(error: ApiError, listing: bool, relist: bool, whole: bool) -> None:
    restart = Restarts(TIMING).failed(error, 0.0, listing=listing)
    assert (restart.relist, restart.whole) == (relist, whole)


def unreached(restarts: Restarts) -> bool:
    return restarts.unreached


def test_only_who_was_not_reached_may_have_another_history() -> None:
    restarts = Restarts(TIMING)
    restarts.asked()
    restarts.stands(1.0)
    restarts.failed(CUT, 2.0, listing=False)
    assert not unreached(restarts), "a connection that was cut"
    restarts.asked()
    restarts.failed(ApiError(0, "CredentialError", "no token"), 3.0, listing=False)
    assert not unreached(restarts), "nobody was asked"
    restarts.asked()
    restarts.failed(CUT, 4.0, listing=False)
    assert unreached(restarts)
    restarts.reached()
    assert not unreached(restarts)
