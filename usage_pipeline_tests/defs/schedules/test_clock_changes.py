"""Schedules over changes of clocks, in every time zone: at Dagster's own ticks, with the times that Dagster passes.

These times have a ZoneInfo. One with a fixed offset, as `datetime.fromisoformat` gives it, hides wall-clock arithmetic: `-` on
it is right by itself. The expected partitions are Dagster's own: the hour that ends at the tick's hour, and its days.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

import dagster as dg
import pytest
from dagster._time import datetime_from_timestamp
from dagster._utils.schedules import schedule_execution_time_iterator

from usage_pipeline.defs.partitions.calendar import window_partitions
from usage_pipeline.defs.schedules.all import schedules
from usage_pipeline.settings import Settings, SettingsError, load_settings

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


def changes(zone: str) -> list[datetime]:
    """The moments of 2026, to the hour, at which the clocks of a zone change."""
    of_zone = ZoneInfo(zone)

    def changed(at: datetime, span: timedelta) -> bool:
        return at.astimezone(of_zone).utcoffset() != (at + span).astimezone(of_zone).utcoffset()

    days = [at for at in (START + days * DAY for days in range(365)) if changed(at, DAY)]
    return [at for day in days for at in (day + hours * HOUR for hours in range(24)) if changed(at, HOUR)]


@cache
def zones_that_change() -> dict[str, list[datetime]]:
    """The zones of the database that settings accept and whose clocks change, with the moments."""
    found = {}
    for zone in sorted(available_timezones()):
        try:
            load_settings(usage_timezone=zone)
        except SettingsError:
            continue
        if moments := changes(zone):
            found[zone] = moments
    return found


def settings_in(zone: str) -> Settings:
    return load_settings(usage_timezone=zone, usage_start_date=date(2026, 1, 1), stats_start_date=date(2026, 1, 1))


def ticks(schedule: dg.ScheduleDefinition, first: datetime, last: datetime) -> Iterator[tuple[datetime, list[str]]]:
    """Dagster's ticks of that time, and the partitions that they ask for."""
    zone = schedule.execution_timezone
    assert zone
    for tick in schedule_execution_time_iterator(first.timestamp(), schedule.cron_schedule, zone, True):
        if tick.timestamp() > last.timestamp():
            return
        at = datetime_from_timestamp(tick.timestamp(), tz=zone)
        assert isinstance(at.tzinfo, ZoneInfo), "what these tests are about"
        requests = list(schedule(dg.build_schedule_context(scheduled_execution_time=at)))
        assert len({request.run_key for request in requests}) == len(requests)
        yield at.astimezone(UTC), [request.partition_key or "" for request in requests]


def faults(zone: str, moments: list[datetime]) -> list[str]:
    """What the schedules of hours, days and rankings of a zone ask for around its changes of clocks, where it is not right."""
    settings, found = settings_in(zone), []
    of_zone, partitions = settings.timezone, window_partitions(settings)
    known = {one.name: one for one in schedules(settings)}
    for change in moments:
        around = (change - 3 * HOUR, change + 4 * HOUR)
        for at, asked in ticks(known["usage_hourly_after_the_hour"], *around):
            # The hour that had ended when the tick's hour began, by the windows of Dagster's partitions.
            [right] = [
                window
                for window in partitions["hour"].get_partition_keys_in_time_window(
                    dg.TimeWindow((at - 2 * HOUR).astimezone(of_zone), at.astimezone(of_zone))
                )
                if partitions["hour"].time_window_for_partition_key(window).end.timestamp()
                == (at - timedelta(minutes=5)).timestamp()
            ]
            if asked != [right]:
                found.append(f"{zone} {at:%FT%RZ} hour: asked for {asked}, right is {right}")
        close = (change - HOUR / 2, change + 3 * HOUR / 2)
        for name, span in (
            ("usage_daily_hourly", around),
            ("usage_rankings_hourly", close),
            ("issue_ranking_hourly", close),
        ):
            for at, asked in ticks(known[name], *span):
                of_day = partitions["day"].time_window_for_partition_key(f"{at.astimezone(of_zone):%F}")
                # The day that has just ended is asked for in the first hour of the running one, and not after it.
                has_just_begun = at.timestamp() - of_day.start.timestamp() < 3600
                yesterday = f"{at.astimezone(of_zone).date() - timedelta(days=1)}"
                right_days = [yesterday] * has_just_begun + [f"{at.astimezone(of_zone):%F}"]
                if asked != right_days:
                    found.append(f"{zone} {at:%FT%RZ} {name}: asked for {asked}, right is {right_days}")
    return found


@pytest.mark.parametrize("letter", "AEFP")
def test_around_every_change_of_clocks_each_hour_and_day_is_asked_for_when_it_ends(letter: str) -> None:
    """In every zone of the database, in four parts by its first letter."""
    parts = {"A": "A", "E": "BCDE", "P": "P"}
    chosen = {
        zone: moments
        for zone, moments in zones_that_change().items()
        if (zone[0] in parts[letter] if letter in parts else zone[0] not in "ABCDEP")
    }
    assert chosen
    assert [fault for zone, moments in chosen.items() for fault in faults(zone, moments)] == []


def test_the_zones_that_skip_midnight_or_have_it_twice_are_among_them() -> None:
    assert {
        "Africa/Cairo",
        "Asia/Beirut",
        "America/Santiago",
        "America/Havana",
        "Europe/Vienna",
        "Pacific/Chatham",
    } <= set(zones_that_change())


@pytest.mark.parametrize(
    ("zone", "day"), [("Africa/Cairo", "2026-04-24"), ("Asia/Beirut", "2026-03-29"), ("Europe/Vienna", "2026-10-25")]
)
def test_schedules_of_a_day_ask_once_for_yesterday_also_when_their_hour_does_not_exist_or_comes_twice(
    zone: str, day: str
) -> None:
    """STATS_CRON_SCHEDULE at a time that clocks skip or show twice, and weeks and months after a midnight that is skipped."""
    cron = "30 2 * * *" if zone == "Europe/Vienna" else "30 0 * * *"
    settings = settings_in(zone).model_copy(update={"stats_cron_schedule": cron})
    known, of_zone = {one.name: one for one in schedules(settings)}, settings.timezone
    before = date.fromisoformat(day)
    first = datetime(before.year, before.month, before.day - 1, 12, tzinfo=of_zone)
    last = datetime(before.year, before.month, before.day, 12, tzinfo=of_zone)
    yesterday = before - timedelta(days=1)
    monday, month = yesterday - timedelta(days=yesterday.weekday()), yesterday.replace(day=1)
    for name, right in (
        ("issue_stats_daily", yesterday),
        ("usage_weekly_daily", monday),
        ("usage_monthly_daily", month),
    ):
        asked = [keys for _, keys in ticks(known[name], first, last)]
        assert asked == [[f"{right}"]], name
