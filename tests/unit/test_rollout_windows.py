"""When windows are open: cron's rules, changes of clocks, clocks that jump; and what a rollout does outside of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxymode_api.annotations import RETRY_ANNOTATION
from proxymode_api.common import Mode
from proxymode_api.modes import ObservedMode
from proxymode_api.rollout import Approval, OnFailure, Window
from proxymode_operator.rollout.model import WriteKind
from proxymode_operator.rollout.windows import WindowError, check, hours, parse_schedule
from rollout_world import START, World, percent_stages

NIGHT = Window(schedule="0 22 * * mon-fri", duration="4h", time_zone="Europe/Berlin")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def opens(schedule: str, zone: str, after: str) -> str:
    """The next opening, as UTC."""
    found = hours([Window(schedule=schedule, duration="1m", time_zone=zone)], utc(after))
    assert found.opens is not None
    return found.opens.astimezone(UTC).strftime("%Y-%m-%dT%H:%M")


@pytest.mark.parametrize(
    ("text", "field", "values"),
    [
        ("5 * * * *", "minutes", (5,)),
        ("*/20 * * * *", "minutes", (0, 20, 40)),
        ("10/20 * * * *", "minutes", (10, 30, 50)),
        ("1-9/4,30 * * * *", "minutes", (1, 5, 9, 30)),
        ("0 8-10,22 * * *", "hours", (8, 9, 10, 22)),
        ("0 0 1,15 * *", "days", (1, 15)),
        ("0 0 * jan-mar,12 *", "months", (1, 2, 3, 12)),
        ("0 0 * * FRI-SUN", "weekdays", None),
        ("0 0 * * 5-7", "weekdays", (0, 5, 6)),
        ("0 0 * * sun,sat", "weekdays", (0, 6)),
    ],
)
def test_a_schedule_means_what_crontab_says(text: str, field: str, values: tuple[int, ...] | None) -> None:
    if values is None:
        with pytest.raises(WindowError, match="'fri-sun' is no weekday"):
            parse_schedule(text)
    else:
        assert tuple(sorted(getattr(parse_schedule(text), field))) == values


@pytest.mark.parametrize(
    ("window", "text"),
    [
        ({"schedule": "0 22 * *"}, "schedule '0 22 * *' has 4 fields: write minute, hour, day, month and weekday"),
        ({"schedule": "60 * * * *"}, "schedule '60 * * * *': '60' is no minute: write 0 to 59"),
        ({"schedule": "0 0 0 * *"}, "'0' is no day: write 1 to 31"),
        ({"schedule": "0 0 * 13 *"}, "'13' is no month: write 1 to 12 or jan to dec"),
        ({"schedule": "0 0 * * mo"}, "'mo' is no weekday: write 0 to 7 or sun to sat"),
        ({"schedule": "*/0 * * * *"}, "'0' is no step of a minute: write 1 to 59"),
        ({"schedule": "30-10 * * * *"}, "'30-10' is no minute"),
        ({"schedule": "1, * * * *"}, "'' is no minute"),
        ({"schedule": "² * * * *"}, "'²' is no minute"),
        ({"schedule": "0 0 30 2 *"}, "schedule '0 0 30 2 *' names no day that exists"),
        ({"time_zone": "Mars/Phobos"}, "timeZone 'Mars/Phobos' is no time zone: write the name of one"),
        ({"time_zone": "Europe"}, "timeZone 'Europe' is no time zone"),
        ({"time_zone": "/etc/passwd"}, "timeZone '/etc/passwd' is no time zone"),
        ({"duration": "0"}, "duration '0': write more than 0 and at most 168h"),
        ({"duration": "169h"}, "duration '169h': write more than 0 and at most 168h"),
    ],
)
def test_what_cannot_be_understood_is_said_with_what_would_be_right(window: dict[str, str], text: str) -> None:
    with pytest.raises(WindowError) as caught:
        check(Window(**{"schedule": "0 22 * * *", "duration": "4h"} | window))
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("now", "closes", "next_opening"),
    [
        ("2026-11-20T20:59:59", None, "2026-11-20T22:00:00+01:00"),
        ("2026-11-20T21:00:00", "2026-11-21T01:00:00", None),
        ("2026-11-21T00:59:59", "2026-11-21T01:00:00", None),
        ("2026-11-21T01:00:00", None, "2026-11-23T22:00:00+01:00"),
    ],
)
def test_a_window_is_open_from_its_opening_for_its_duration(
    now: str, closes: str | None, next_opening: str | None
) -> None:
    found = hours([NIGHT], utc(now))
    assert found.closes == (utc(closes) if closes else None)
    assert (found.opens.isoformat() if found.opens else None) == next_opening
    assert found.due is not None


def test_either_of_several_windows_will_do() -> None:
    noon = Window(schedule="0 12 * * *", duration="30m")
    assert hours([NIGHT, noon], utc("2026-11-21T12:10:00")).open
    closed = hours([NIGHT, noon], utc("2026-11-21T12:30:00"))
    assert closed.opens == utc("2026-11-22T12:00:00"), "the nearest"


def test_both_day_fields_mean_either() -> None:
    assert opens("0 0 1 * mon", "UTC", "2026-11-21T00:00:00") == "2026-11-23T00:00"
    assert opens("0 0 1 * mon", "UTC", "2026-11-30T00:01:00") == "2026-12-01T00:00"
    assert opens("0 0 */2 * mon", "UTC", "2026-11-21T00:00:00") == "2026-11-23T00:00", "a * is no restriction"


def test_a_leap_day_is_waited_for() -> None:
    assert opens("0 0 29 2 *", "UTC", "2096-03-01T00:00:00") == "2104-02-29T00:00"


@pytest.mark.parametrize(
    ("schedule", "zone", "after", "expected"),
    [
        # 29 March 2026: 02:00 to 03:00 is left out in Berlin; 02:30 counts as 03:30, which is 01:30 UTC.
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T00:00:00", "2026-03-29T01:30"),
        ("30 3 * * *", "Europe/Berlin", "2026-03-29T00:00:00", "2026-03-29T01:30"),
        # 25 October 2026: 02:00 to 03:00 comes twice; the first is 00:30 UTC, the second counts for nothing.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00", "2026-10-25T00:30"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:31:00", "2026-10-26T01:30"),
        # Half an hour, and in the other half of the year.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T10:00:00", "2026-10-03T15:45"),
        # 30 December 2011 was left out in Samoa: its noon is that of the 31st.
        ("0 12 30 12 *", "Pacific/Apia", "2011-12-29T12:00:00", "2011-12-30T22:00"),
    ],
)
def test_changes_of_clocks(schedule: str, zone: str, after: str, expected: str) -> None:
    assert opens(schedule, zone, after) == expected


def test_a_duration_is_elapsed_time_also_over_a_change_of_clocks() -> None:
    window = Window(schedule="0 1 * * *", duration="3h", time_zone="Europe/Berlin")
    assert hours([window], utc("2026-03-29T01:00:00")).closes == utc("2026-03-29T03:00:00")
    assert hours([window], utc("2026-10-25T01:00:00")).closes == utc("2026-10-25T02:00:00")


FIELDS = st.tuples(
    st.sampled_from(["0", "30", "*/15", "5,50", "10-12"]),
    st.sampled_from(["*", "2", "1-3", "22", "0,12"]),
    st.sampled_from(["*", "1", "*/10", "28-31"]),
    st.sampled_from(["*", "3", "10", "1-6"]),
    st.sampled_from(["*", "0", "1-5", "7", "sat"]),
)


@settings(max_examples=150, deadline=None)
@given(
    fields=FIELDS,
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu"]),
    day=st.sampled_from([datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC), START]),
    minute=st.integers(0, 3 * 1440),
    minutes=st.sampled_from([1, 45, 240, 1500]),
)
def test_open_is_what_going_back_minute_by_minute_finds(
    fields: tuple[str, ...], zone: str, day: datetime, minute: int, minutes: int
) -> None:
    """Against the definition, told in another way: some minute within the duration before now is on the schedule; a
    minute that is there is looked up, one that was left out is at what it counts as."""
    now = day + timedelta(minutes=minute)
    window = Window(schedule=" ".join(fields), duration=f"{minutes}m", time_zone=zone)
    named = parse_schedule(window.schedule)

    def begins(moment: datetime) -> bool:
        here = moment.astimezone(ZoneInfo(zone))
        first = here.fold == 0
        # What was the time by the offset of an hour before: another one where the clocks have just been put forward.
        offset = (moment - timedelta(hours=1)).astimezone(ZoneInfo(zone)).utcoffset()
        assert offset is not None
        unchanged = (moment + offset).replace(tzinfo=None)
        local = here.replace(tzinfo=None)
        times = [local] if first else []
        times += [unchanged] if unchanged < local else []
        return any(t.minute in named.minutes and t.hour in named.hours and named.names(t.date()) for t in times)

    expected = any(begins(now - timedelta(minutes=back)) for back in range(minutes))
    assert hours([window], now).open is expected


# The rollout. START is a midnight UTC.
LATER = Window(schedule="30 0 * * *", duration="10m")


def test_nothing_is_told_before_a_window_opens_and_the_condition_says_when() -> None:
    world = World.of(2, windows=[LATER])
    world.run(20)
    assert world.told() == []
    assert world.told(WriteKind.PREPARE) == ["n0", "n1"], "preflight is done ahead"
    progressing = world.condition("Progressing")
    assert (world.status.status, progressing.status, progressing.reason) == (
        "WaitingForWindow",
        "False",
        "OutsideWindow",
    )
    assert "the next window opens at 2026-11-21T00:30:00+00:00" in progressing.message
    assert world.reasons().count("OutsideWindow") == 1
    world.pass_time((START + timedelta(minutes=29, seconds=59) - world.now).total_seconds())
    assert world.look().wake_at == START + timedelta(minutes=30)
    assert world.told() == []
    world.pass_time(1)
    world.run(20)
    assert world.status.status == "Complete"


def test_a_node_in_mid_switch_when_the_window_closes_finishes_and_no_other_begins() -> None:
    world = World.of(2, windows=[Window(schedule="0 0 * * *", duration="1m")])
    world.decide()
    world.agents_step()
    world.decide()
    assert world.told() == ["n0"]
    world.pass_time(60)
    world.run(20)
    assert world.told() == ["n0"]
    assert (world.status.nodes.updated, world.status.status) == (1, "WaitingForWindow")


def test_a_node_whose_services_nobody_handles_waits_for_no_window_but_for_all_else() -> None:
    """A node that joins a cluster without kube-proxy."""
    stages = percent_stages(50, 100)
    stages[1] = stages[1].model_copy(update={"approval": Approval.MANUAL})
    world = World.of(2, stages=stages, max_unavailable=1, windows=[LATER])
    world.agents["n0"].kernel = world.agents["n1"].kernel = ObservedMode.NONE
    world.edit(rollout__paused=True)
    world.run(20)
    assert world.told() == []
    world.edit(rollout__paused=False)
    world.run(20)
    assert world.told() == ["n0"], "the other one's stage waits for a person"
    world.annotate("proxymode.io/promote", "all")
    world.run(20)
    assert world.told() == ["n0", "n1"]
    assert world.status.status == "Complete"

    kube_proxys = world.join()
    world.agents[kube_proxys].kernel = ObservedMode.KUBE_PROXY_IPVS
    newcomer = world.join()
    world.agents[newcomer].kernel = ObservedMode.NONE
    world.run(20)
    assert world.told()[2:] == [newcomer]


def test_soak_and_approval_go_on_outside_a_window() -> None:
    stages = percent_stages(50, 100, soak="5m")
    stages[1] = stages[1].model_copy(update={"approval": Approval.MANUAL})
    world = World.of(2, stages=stages, windows=[Window(schedule="0 0 * * *", duration="1m")])
    world.run(20)
    assert world.stage("p50").phase == "Soaking"
    world.pass_time(400)
    world.run(3)
    assert world.status.status == "AwaitingApproval"


def test_a_rollback_a_retry_and_a_skip_do_not_wait_for_a_window() -> None:
    for deed in ("rollback", "retry", "skip"):
        world = World.of(
            2,
            windows=[Window(schedule="0 0 * * *", duration="1m")],
            on_failure=OnFailure.ROLLBACK if deed == "rollback" else OnFailure.PAUSE,
        )
        world.agents["n0"].fails = world.agents["n0"].gives_up = True
        for _ in range(2):
            world.decide()
            world.agents_step()
        assert world.told() == ["n0"]
        world.pass_time(120)
        world.agents_step()
        if deed == "retry":
            world.annotate(RETRY_ANNOTATION, "all")
        if deed == "skip":
            world.skip("n0", "broken NIC")
        world.run(5)
        kind = WriteKind.RETRY if deed == "retry" else WriteKind.RETURN
        assert world.told(kind) == ["n0"], deed
        assert world.told() == ["n0"]


def test_a_clock_that_jumps_back_into_a_window_opens_it_again() -> None:
    world = World.of(2, windows=[Window(schedule="0 0 * * *", duration="1m")])
    world.pass_time(600)
    world.run(3)
    assert world.told() == []
    world.now = START
    world.run(10)
    assert world.told() == ["n0", "n1"]


def test_a_window_that_cannot_be_understood_is_refused_and_nothing_moves() -> None:
    world = World.of(2, windows=[LATER, Window(schedule="0 0 * * *", duration="1h", time_zone="Mars/Phobos")])
    world.run(10)
    assert world.told() == []
    assert world.status.status == "Refused"
    assert world.condition("Accepted").message.startswith("spec.rollout.windows[1].timeZone 'Mars/Phobos' is no time")


def test_an_undo_keeps_to_the_windows_but_sends_a_failed_node_home_at_once() -> None:
    world = World.of(3, windows=[Window(schedule="0 0 * * *", duration="1m")], failure_threshold=3)
    world.decide()
    world.agents_step()
    world.agents["n1"].fails = world.agents["n1"].gives_up = True
    world.edit(rollout__max_unavailable=2)
    for _ in range(6):
        world.decide()
        world.agents_step()
    world.pass_time(120)
    world.edit(mode=Mode.IPVS)
    before = len(world.told())
    world.run(10)
    assert world.told()[before:] == ["n1"]
