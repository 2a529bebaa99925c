"""When a rollout may start something: windows by cron schedule, duration and time zone.

Solves: whether any window is open at a moment, and when that changes. A window opens at every minute of its zone's
local time that the schedule names, and is open for its duration in elapsed time. Schedules are crontab(5)'s five
fields: `*`, numbers, names of months and days, ranges, steps, lists; day 7 is Sunday; where both day fields are
restricted, either suffices. A local time that a change of clocks leaves out counts as much later as the clocks were
put forward (02:30 as 03:30); one that comes twice counts the first time. Everything follows from the moment asked
about and nothing is remembered: a clock that jumps back into a window opens it again.

Deliberately own code rather than a library: a hundred lines, of which a library would save half, and whose rules for
changes of clocks it would not let us say. Knows nothing of rollouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from proxymode_api.durations import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxymode_api.rollout import Window

_DAY: Final = timedelta(days=1)
HORIZON: Final = timedelta(days=8 * 366)
"""A schedule that names a day names one within this: 29 February is at most eight years away."""
LONGEST: Final = timedelta(days=7)

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class WindowError(ValueError):
    """A window that cannot be understood; the message names the field, the value and what would be right."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron schedule, field by field; `weekdays` from 0, Sunday. `either_day`: both day fields are restricted."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool

    def names(self, day: date) -> bool:
        """Whether it names any time of this day."""
        in_month, in_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        fits = (in_month or in_week) if self.either_day else (in_month and in_week)
        return day.month in self.months and fits


def parse_schedule(text: str) -> Schedule:
    """`0 22 * * mon-fri` as a Schedule. Raises WindowError."""
    fields = text.lower().split()
    if len(fields) != 5:
        raise WindowError(f"schedule {text!r} has {len(fields)} fields: write minute, hour, day, month and weekday")
    minutes, hours, days, months, weekdays = fields
    return Schedule(
        minutes=tuple(sorted(_field(text, "minute", minutes, 0, 59))),
        hours=tuple(sorted(_field(text, "hour", hours, 0, 23))),
        days=frozenset(_field(text, "day", days, 1, 31)),
        months=frozenset(_field(text, "month", months, 1, 12, _MONTHS)),
        weekdays=frozenset(day % 7 for day in _field(text, "weekday", weekdays, 0, 7, _WEEKDAYS)),
        either_day=not days.startswith("*") and not weekdays.startswith("*"),
    )


def _field(schedule: str, what: str, text: str, lowest: int, highest: int, names: tuple[str, ...] = ()) -> set[int]:
    def number(part: str) -> int:
        if part in names:
            return names.index(part) + lowest
        if not (part.isascii() and part.isdigit() and lowest <= int(part) <= highest):
            raise _wrong(part)
        return int(part)

    def _wrong(part: str) -> WindowError:
        or_names = f" or {names[0]} to {names[-1]}" if names else ""
        return WindowError(f"schedule {schedule!r}: {part!r} is no {what}: write {lowest} to {highest}{or_names}")

    found: set[int] = set()
    for item in text.split(","):
        span, slash, step = item.partition("/")
        if slash and not (step.isascii() and step.isdigit() and 1 <= int(step) <= highest):
            raise WindowError(f"schedule {schedule!r}: {step!r} is no step of a {what}: write 1 to {highest}")
        first, dash, last = span.partition("-")
        if span == "*":
            low, high = lowest, highest
        else:
            low = number(first)
            high = number(last) if dash else highest if slash else low
        if low > high:
            raise _wrong(span)
        found.update(range(low, high + 1, int(step) if slash else 1))
    return found


@lru_cache(maxsize=64)
def _opening(window: tuple[str, str, str]) -> tuple[Schedule, ZoneInfo, timedelta]:
    schedule, duration, zone = window
    parsed = parse_schedule(schedule)
    try:
        found = ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:
        right = "write the name of one in the IANA database, as in UTC or Europe/Berlin"
        raise WindowError(f"timeZone {zone!r} is no time zone: {right}") from error
    if not any(parsed.names(date(2000, 1, 1) + n * _DAY) for n in range(HORIZON.days)):
        raise WindowError(f"schedule {schedule!r} names no day that exists")
    length = parse_duration(duration)
    if not timedelta() < length <= LONGEST:
        raise WindowError(f"duration {duration!r}: write more than 0 and at most {LONGEST // timedelta(hours=1)}h")
    return parsed, found, length


def check(window: Window) -> None:
    """Raises WindowError where the window cannot be understood."""
    _opening(_key(window))


def _key(window: Window) -> tuple[str, str, str]:
    return window.schedule, window.duration, window.time_zone


@lru_cache(maxsize=256)
def _openings(window: tuple[str, str, str], day: date) -> tuple[datetime, ...]:
    """When the window opens on this local day, in UTC, sorted."""
    schedule, zone, _ = _opening(window)
    if not schedule.names(day):
        return ()
    times = (time(hour, minute, tzinfo=zone) for hour in schedule.hours for minute in schedule.minutes)
    return tuple(sorted({datetime.combine(day, local).astimezone(UTC) for local in times}))


@dataclass(frozen=True, slots=True)
class Hours:
    """`closes`: when the window that opened last closes, None: none is open. `opens`: when the next one does, by the
    zone of that window; None: none ever does again within eight years."""

    closes: datetime | None
    opens: datetime | None

    @property
    def open(self) -> bool:
        return self.closes is not None

    @property
    def due(self) -> datetime | None:
        """When to look again."""
        return self.closes or self.opens


def hours(windows: Iterable[Window], now: datetime) -> Hours:
    """Whether one of the windows is open at `now`. Raises WindowError."""
    keys = [_key(window) for window in windows]
    closes = max((end for key in keys if (end := _closes(key, now)) is not None), default=None)
    if closes is not None:
        return Hours(closes, None)
    return Hours(None, min((start for key in keys if (start := _next(key, now)) is not None), default=None))


def _closes(window: tuple[str, str, str], now: datetime) -> datetime | None:
    _, zone, duration = _opening(window)
    # A day more on either side, since a zone may leave out a whole local day.
    last = _local_day(now, zone) + _DAY
    begun = [
        opening
        for back in range((duration // _DAY) + 4)
        for opening in _openings(window, last - back * _DAY)
        if opening <= now < opening + duration
    ]
    return max(begun) + duration if begun else None


def _next(window: tuple[str, str, str], now: datetime) -> datetime | None:
    schedule, zone, _ = _opening(window)
    for day in _days(_local_day(now, zone) - _DAY, schedule):
        # The day after may open before the end of a day that a zone has left out.
        coming = [at for found in (day, day + _DAY) for at in _openings(window, found) if at > now]
        if coming:
            return min(coming).astimezone(zone)
    return None


def _days(first: date, schedule: Schedule) -> Iterator[date]:
    for ahead in range(HORIZON.days):
        day = first + ahead * _DAY
        if schedule.names(day):
            yield day


def _local_day(moment: datetime, zone: ZoneInfo) -> date:
    return moment.astimezone(zone).date()
