"""Late events for days that stayed in an earlier time zone, since their events were archived or dropped when it changed.

They count in their day of that zone, and nothing waits for ever.
"""

from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pytest

from usage_pipeline.events.pricing.prices import package_version
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.recost import recost
from usage_pipeline.rollups.rezone.run import rezone
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import connect
from usage_pipeline_tests.rigs.windows import event_at, store_events

NOW = datetime.now(UTC)
NOON = NOW.replace(hour=12, minute=0, second=0, microsecond=0)
OLDEST, LIFECYCLE_DAYS = 14, 8
PAIRS = [
    ("UTC", "Asia/Shanghai"),
    ("UTC", "America/New_York"),
    ("Asia/Kathmandu", "Europe/Vienna"),
    ("America/New_York", "Asia/Kathmandu"),
]


def roll_up(connection: psycopg.Connection, settings: Settings) -> None:
    """As the sensors do it."""
    for _ in range(3):
        for one in stale_windows(connection, time_zone=settings.timezone, now=NOW + timedelta(days=40)):
            if not one.is_archived:
                replace_window(connection, one.window, settings=settings, now=NOW)


@pytest.mark.parametrize("is_archived", [False, True], ids=["dropped", "archived"])
@pytest.mark.parametrize(("start", "other"), PAIRS)
def test_late_events_before_the_border_count_in_their_day_of_the_earlier_zone(
    database_url: str, redis_url: str, tmp_path: Path, start: str, other: str, is_archived: bool
) -> None:
    def in_zone(zone: str, retention: int = 180, compression: int = 170) -> Settings:
        return load_settings(
            database_url=database_url,
            redis_url=redis_url,
            usage_timezone=zone,
            archive_url=str(tmp_path) if is_archived else None,
            retention_days=retention,
            compression_after_days=compression,
        )

    migrate(database_url, time_zone=start)
    moments = [NOON - timedelta(days=days, hours=hours) for days in range(2, OLDEST) for hours in (-11, 0, 11)]
    with closing(connect(in_zone(start))) as connection:
        store_events(connection, in_zone(start), NOW, *(event_at(at) for at in moments))
        roll_up(connection, in_zone(start))
    old = in_zone(start, 180 if is_archived else LIFECYCLE_DAYS, LIFECYCLE_DAYS - 1)
    report = run_lifecycle(old, now=NOW)
    assert report.archived if is_archived else report.dropped
    # These wait when the time zone changes.
    waiting = [NOON - timedelta(days=10, hours=hours) for hours in (-10, 10)]
    with closing(connect(old)) as connection:
        store_events(connection, in_zone(start), NOW, *(event_at(at) for at in waiting))
    settings = in_zone(other)
    with closing(connect(settings, any_time_zone=True)) as connection:
        kept_before = rezone(connection, settings).kept_before
        assert kept_before is not None
        [(border,)] = connection.execute("select first_moment from ops.zone_borders").fetchall()
        # In the middle of what is gone; and shortly before the border, which may be of the border's day in the new zone.
        late = [NOON - timedelta(days=11, hours=hours) for hours in (-11, -3, 4, 11)]
        late += (
            waiting
            + [border - timedelta(minutes=minutes) for minutes in (10, 100, 1_000)]
            + [border + timedelta(minutes=10)]
        )
        store_events(connection, settings, NOW, *(event_at(at) for at in late if at not in waiting))
        for _ in range(3):
            roll_up(connection, settings)
            # It reads back what roll-ups wait for.
            assert run_lifecycle(settings, now=NOW).problems == []
        roll_up(connection, settings)

        def day_of(at: datetime) -> object:
            return (
                at.astimezone(ZoneInfo(start)).date()
                if at < border
                else max(kept_before, at.astimezone(ZoneInfo(other)).date())
            )

        expected = Counter(map(day_of, moments + late))
        for table in ("usage_daily", "usage_user_daily"):
            query = f"select usage_date, sum(requests) from analytics.{table} group by 1"
            assert dict(connection.execute(query).fetchall()) == expected
        [(hours,)] = connection.execute("select sum(requests) from analytics.usage_hourly").fetchall()
        assert hours == len(moments) + len(late)
        assert connection.execute("select grain, window_start from ops.touched_windows").fetchall() == []
        # And their partitions leave.
        connection.execute("update ops.archives set restored_at = restored_at - interval '2 days'")
        gone = run_lifecycle(in_zone(other, LIFECYCLE_DAYS, LIFECYCLE_DAYS - 1), now=NOW)
        assert (gone.waiting, gone.problems) == ([], [])
        assert dict(connection.execute(query).fetchall()) == expected
        day = day_window(kept_before, ZoneInfo(other))
        assert connection.execute(
            "select count(*) from analytics.usage_events where event_time < %s",
            (day.first - timedelta(days=2),),
        ).fetchone() == (0,)


@pytest.mark.parametrize("other", ["Asia/Shanghai", "America/New_York"])
def test_the_day_that_begins_at_the_border_is_costed_again_and_the_one_before_it_is_not(
    database_url: str, redis_url: str, tmp_path: Path, other: str
) -> None:
    start, settings = (
        load_settings(
            database_url=database_url, redis_url=redis_url, usage_timezone=zone, archive_url=str(tmp_path), **days
        )
        for zone, days in (("UTC", {"compression_after_days": 5}), (other, {}))
    )
    migrate(database_url, time_zone="UTC")
    with closing(connect(start)) as connection:
        store_events(connection, start, NOW, *(event_at(NOON - timedelta(hours=hours)) for hours in range(100, 200)))
        roll_up(connection, start)
    assert run_lifecycle(start, now=NOW).archived
    with closing(connect(settings, any_time_zone=True)) as connection:
        day = rezone(connection, settings).kept_before
        assert day is not None
        days = [day - timedelta(days=1), day]
        before, recosted = recost(connection, days, package_version(), settings=settings)
        assert "archive restore" in before.problem
        assert recosted.problem == ""
        assert connection.execute("select grain, window_start from ops.touched_windows").fetchall() == []
