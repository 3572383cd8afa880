"""A change of USAGE_TIMEZONE: refused by all who write, and done by `rezone`: each event and count is then in exactly one day.

What is right is counted here from the moments themselves, with Python's clocks.
"""

import json
from collections import Counter
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
import pytest
import redis

from usage_pipeline.drain.rounds import DrainImpossible, drain_once
from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.rollups.calendar import day_window, month_of, week_of
from usage_pipeline.rollups.daily import DAILY_TABLES, current_day, replace_day, stale_days
from usage_pipeline.rollups.issue_stats import replace_issue_stats
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.rezone import run as rezone_run
from usage_pipeline.rollups.rezone.run import rezone
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import PostgresUnavailable, connect
from usage_pipeline.storage.time_zones import TimeZoneRefused
from usage_pipeline_tests.rigs.commands import Run, run_command
from usage_pipeline_tests.rigs.windows import archive_chunk, event_at, store_events

DAYS = 4
PAIRS = [
    ("UTC", "Asia/Shanghai"),
    ("UTC", "America/New_York"),
    ("Europe/Vienna", "Asia/Kathmandu"),
    ("Asia/Kathmandu", "America/St_Johns"),
    ("Pacific/Kiritimati", "Pacific/Pago_Pago"),
    ("Pacific/Pago_Pago", "Pacific/Kiritimati"),
]


class World:
    """Events and counts, one of each every half hour of some past days, stored and rolled up in a time zone."""

    def __init__(self, url: str, redis_url: str, zone: str, *, hour: int | None = None) -> None:
        """The last moment is of yesterday: of this hour of UTC, or of the hour that it is now."""
        self.url, self.redis_url = url, redis_url
        self.now = datetime.now(UTC)
        hour = self.now.hour if hour is None else hour
        until = self.now.replace(hour=hour, minute=10, second=0, microsecond=0) - timedelta(days=1)
        self.moments = [until - timedelta(minutes=30 * number) for number in range(48 * DAYS)]
        migrate(url, time_zone=zone)
        self.settings = self.in_zone(zone)
        with closing(connect(self.settings)) as connection:
            store_events(
                connection, self.settings, self.now, *(event_at(at, user_id=f"u{at.minute}") for at in self.moments)
            )
            self.drain()
            self.roll_up(connection)

    def in_zone(self, zone: str) -> Settings:
        return load_settings(database_url=self.url, redis_url=self.redis_url, usage_timezone=zone)

    def drain(self) -> None:
        with redis.Redis.from_url(self.redis_url) as client:
            for number, at in enumerate(self.moments):
                used = {"total_requests": 1, "last_used_at": int(at.timestamp() * 1000)}
                client.hset(f"apikey:k{number}:metrics", mapping=used)
                event = {
                    "event_id": f"00000000-0000-4000-8000-{number:012}",
                    "api_key_id": "k",
                    "user_id": "u",
                    "provider": "s3",
                    "event_type": "upload",
                    "file_size": 1,
                    "status": "success",
                    "at": at.isoformat(),
                }
                client.rpush("event_queue", json.dumps(event))
        drain_once(self.settings, ("api_key", "event"), budget_seconds=60)

    def roll_up(self, connection: psycopg.Connection) -> None:
        later = self.now + timedelta(days=40)
        while stale := stale_windows(connection, time_zone=self.settings.timezone, now=later):
            for one in stale:
                replace_window(connection, one.window, settings=self.settings, now=later)
        for day in stale_days(connection, today=date.max):
            [daily] = [one for one in DAILY_TABLES if one.family == day.family]
            replace_day(connection, daily, day.usage_date, today=current_day(self.settings.timezone))

    def truth(self, zone: str) -> Counter[date]:
        return Counter(at.astimezone(ZoneInfo(zone)).date() for at in self.moments)


@pytest.fixture(params=PAIRS, ids="-".join)
def world(request: pytest.FixtureRequest, database_url: str, redis_url: str) -> tuple[World, str]:
    start, other = request.param
    return World(database_url, redis_url, start), other


def by_day(postgres: psycopg.Connection, query: str) -> dict[date, int]:
    return {day: int(count) for day, count in postgres.execute(query).fetchall()}


def test_each_event_and_count_is_in_its_day_of_the_new_zone(
    world: tuple[World, str], postgres: psycopg.Connection
) -> None:
    made, other = world
    settings, zone = made.in_zone(other), ZoneInfo(other)
    with closing(connect(settings, any_time_zone=True)) as connection:
        report = rezone(connection, settings)
    assert report.problems == []
    days = dict(made.truth(other))
    assert by_day(postgres, "select usage_date, sum(requests) from analytics.usage_daily group by 1") == days
    assert by_day(postgres, "select usage_date, sum(requests) from analytics.usage_user_daily group by 1") == days
    assert by_day(postgres, "select usage_date, sum(total_requests) from usage.api_key_daily group by 1") == days
    assert by_day(postgres, "select usage_date, count(*) from raw.request_events group by 1") == days
    assert by_day(postgres, "select usage_date, count(*) from raw.request_event_ids group by 1") == days
    weeks, months = Counter[date](), Counter[date]()
    for day, count in days.items():
        weeks[week_of(day)] += count
        months[month_of(day)] += count
    assert by_day(postgres, "select week_start, sum(requests) from analytics.usage_weekly group by 1") == weeks
    assert by_day(postgres, "select month_start, sum(requests) from analytics.usage_monthly group by 1") == months
    hours = Counter(at.astimezone(zone).replace(minute=0).astimezone(UTC) for at in made.moments)
    assert by_day(postgres, "select hour_start, sum(requests) from analytics.usage_hourly group by 1") == hours
    latencies = "select usage_date, sum(one) from analytics.usage_latency_daily, unnest(requests) as one group by 1"
    assert by_day(postgres, latencies) == days
    for day, first, end in postgres.execute("select usage_date, day_start, day_end from analytics.day_prices"):
        if day in days:
            window = day_window(day, zone)
            assert (first, end) == (window.first, window.end)
    # Nothing waits, nothing is late data, and a repetition changes nothing.
    assert postgres.execute("select count(*) from ops.touched_windows").fetchone() == (0,)
    assert postgres.execute("select count(*) from ops.late_data").fetchone() == (0,)
    with closing(connect(settings)) as connection:
        again = rezone(connection, settings)
    assert (again.rows_moved, again.days_made, again.windows_made, again.problems) == (0, 0, 0, [])


def test_all_who_write_refuse_another_zone_in_one_line_that_names_the_command(
    database_url: str, redis_url: str, run: Run, postgres: psycopg.Connection
) -> None:
    made = World(database_url, redis_url, "UTC")
    other = made.in_zone("Asia/Shanghai")
    line = (
        "USAGE_TIMEZONE: expected UTC, in which the days of this database are, came Asia/Shanghai; to change it, run: "
    )
    with pytest.raises(PostgresUnavailable, match=line):
        connect(other)
    with pytest.raises(DrainImpossible, match=line):
        drain_once(other, ("api_key",), budget_seconds=10)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=line):
        ingest(postgres, EVENTS, [json.dumps(event_at(made.moments[0])).encode()], source="t", settings=other)
    with pytest.raises(TimeZoneRefused, match=line):
        replace_window(postgres, day_window(made.moments[0].date(), other.timezone), settings=other)
    with pytest.raises(TimeZoneRefused, match=line):
        migrate(database_url, time_zone="Asia/Shanghai")
    for command in (("migrate",), ("drain", "--once"), ("stats",)):
        result = run(*command, USAGE_TIMEZONE="Asia/Shanghai")
        assert (result.returncode, result.stdout) == (2, ""), command
        assert "usage-pipeline rezone" in result.stderr
        assert "Traceback" not in result.stderr
    assert postgres.execute("select time_zone from ops.calendar").fetchone() == ("UTC",)


def test_a_database_without_data_takes_another_zone_by_migrate(database_url: str, postgres: psycopg.Connection) -> None:
    migrate(database_url, time_zone="Asia/Shanghai")
    assert postgres.execute("select time_zone from ops.calendar").fetchone() == ("Asia/Shanghai",)


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", ["move_raw_days", "replace_moved_days", "_make_windows", "_make_statistics"])
def test_a_kill_at_any_step_keeps_writers_out_until_the_next_rezone_has_finished(
    database_url: str,
    redis_url: str,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    made = World(database_url, redis_url, "UTC")
    settings = made.in_zone("Asia/Kathmandu")

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with closing(connect(settings, any_time_zone=True)) as connection:
        with monkeypatch.context() as patch:
            patch.setattr(rezone_run, step, killed)
            with pytest.raises(Killed):
                rezone(connection, settings)
        for zone in ("UTC", "Asia/Kathmandu"):
            with pytest.raises(PostgresUnavailable, match="usage-pipeline rezone"):
                connect(made.in_zone(zone))
        with pytest.raises(TimeZoneRefused, match="was interrupted"):
            rezone(connection, made.in_zone("Asia/Tokyo"))
        assert rezone(connection, settings).problems == []
    days = dict(made.truth("Asia/Kathmandu"))
    assert by_day(postgres, "select usage_date, sum(requests) from analytics.usage_daily group by 1") == days
    assert by_day(postgres, "select usage_date, sum(total_requests) from usage.api_key_daily group by 1") == days
    connect(settings).close()


@pytest.mark.parametrize("hour", [0, 23])
@pytest.mark.parametrize("other", ["Asia/Shanghai", "America/New_York", "Asia/Kathmandu", "Pacific/Kiritimati"])
def test_days_whose_events_are_archived_stay_and_each_event_is_still_in_one_day(
    database_url: str, redis_url: str, postgres: psycopg.Connection, other: str, hour: int
) -> None:
    """Then the archive is read back, and another rezone makes the days that were kept."""
    made = World(database_url, redis_url, "UTC", hour=hour)
    settings = made.in_zone(other)
    gone = day_window(min(made.moments).date() + timedelta(days=1), ZoneInfo("UTC"))
    archive_chunk(postgres, gone)
    postgres.execute("create table kept as select * from analytics.usage_events where event_time < %s", (gone.end,))
    postgres.execute("delete from analytics.usage_events where event_time < %s", (gone.end,))
    kept = {day: count for day, count in made.truth("UTC").items() if day <= gone.day}
    with closing(connect(settings, any_time_zone=True)) as connection:
        report = rezone(connection, settings)
        [problem] = report.problems
        assert f"days before {gone.next_day}" in problem or report.kept_before == gone.next_day + timedelta(days=1)
        assert "archive restore" in problem
        daily = "select usage_date, sum(requests) from analytics.usage_daily group by 1"
        found = by_day(postgres, daily)
        assert sum(found.values()) == len(made.moments)
        assert {day: count for day, count in found.items() if day <= gone.day} == kept
        hourly = postgres.execute("select sum(requests) from analytics.usage_hourly").fetchone()
        assert hourly == (len(made.moments),)
        # A late event at the border is counted once, too.
        late = gone.end + timedelta(minutes=7)
        store_events(connection, settings, made.now, event_at(late))
        for one in stale_windows(connection, time_zone=settings.timezone, now=made.now):
            replace_window(connection, one.window, settings=settings, now=made.now)
        for one in stale_windows(connection, time_zone=settings.timezone, now=made.now):
            replace_window(connection, one.window, settings=settings, now=made.now)
        assert sum(by_day(postgres, daily).values()) == len(made.moments) + 1
        assert postgres.execute("select count(*) from ops.touched_windows where grain = 'day'").fetchone() == (0,)
        # Read back.
        postgres.execute("insert into analytics.usage_events select * from kept")
        postgres.execute("update ops.archives set restored_at = now()")
        assert rezone(connection, settings).problems == []
    assert by_day(postgres, daily) == dict(
        Counter(at.astimezone(settings.timezone).date() for at in (*made.moments, late))
    )
    hours = postgres.execute("select sum(requests) from analytics.usage_hourly").fetchone()
    assert hours == (len(made.moments) + 1,)


def test_raw_rows_whose_day_is_only_in_an_archive_stay_and_are_named(
    database_url: str, redis_url: str, postgres: psycopg.Connection
) -> None:
    made = World(database_url, redis_url, "UTC")
    settings = made.in_zone("Asia/Shanghai")
    day = min(made.moments).date() + timedelta(days=2)
    postgres.execute(
        "insert into ops.archives (table_name, chunk_start, chunk_end, address, rows, bytes, checksum) "
        "values ('raw.api_key_deltas', %s, %s, 'a', 1, 1, 'x')",
        (day_window(day, ZoneInfo("UTC")).first, day_window(day, ZoneInfo("UTC")).end),
    )
    postgres.execute("delete from raw.api_key_deltas where usage_date = %s", (day,))
    with closing(connect(settings, any_time_zone=True)) as connection:
        report = rezone(connection, settings)
    assert any(f"raw.api_key_deltas: rows of {day} stay on {day - timedelta(days=1)}" in one for one in report.problems)
    daily = by_day(postgres, "select usage_date, sum(total_requests) from usage.api_key_daily group by 1")
    assert sum(daily.values()) == len(made.moments)
    assert daily[day] == made.truth("UTC")[day]


def test_the_command_prints_what_it_did_and_what_it_could_not_do(
    database_url: str, redis_url: str, postgres: psycopg.Connection
) -> None:
    made = World(database_url, redis_url, "UTC")
    first = min(made.moments).date()
    with closing(connect(made.settings)) as connection:
        replace_issue_stats(connection, first, first + timedelta(days=1), settings=made.settings)
    gone = day_window(first, ZoneInfo("UTC"))
    archive_chunk(postgres, gone)
    postgres.execute("create table kept as select * from analytics.usage_events where event_time < %s", (gone.end,))
    postgres.execute("delete from analytics.usage_events where event_time < %s", (gone.end,))
    result = run_command(made.in_zone("Asia/Shanghai"), "rezone", "--json", USAGE_TIMEZONE="Asia/Shanghai")
    assert result.returncode == 1, result.stderr
    said = json.loads(result.stdout)
    assert (said["success"], said["time_zone"], said["earlier_zone"]) == (False, "Asia/Shanghai", "UTC")
    assert said["kept_before"] == str(first + timedelta(days=1))
    assert len(said["problems"]) == 1
    postgres.execute("insert into analytics.usage_events select * from kept")
    postgres.execute("update ops.archives set restored_at = now()")
    result = run_command(made.in_zone("Asia/Shanghai"), "rezone", USAGE_TIMEZONE="Asia/Shanghai")
    assert result.returncode == 0, result.stderr
    assert "Days are in Asia/Shanghai now" in result.stdout


def test_on_an_older_schema_the_command_says_in_one_line_what_to_run_first(
    database_url: str, redis_url: str, postgres: psycopg.Connection
) -> None:
    postgres.execute("alter table ops.calendar drop column rezoning_since")
    settings = load_settings(database_url=database_url, redis_url=redis_url)
    result = run_command(settings, "rezone")
    assert (result.returncode, result.stdout) == (2, "")
    assert "run: usage-pipeline migrate" in result.stderr
    assert "Traceback" not in result.stderr


def test_raw_rows_move_to_a_day_that_was_dropped_and_are_added_to_what_is_stored_of_it(
    database_url: str, redis_url: str, postgres: psycopg.Connection
) -> None:
    made = World(database_url, redis_url, "UTC")
    settings = made.in_zone("America/New_York")
    day = min(made.moments).date() + timedelta(days=2)
    postgres.execute(f"drop table raw.api_key_deltas_{day:%Y%m%d}")
    postgres.execute(
        "insert into ops.dropped_spans (table_name, span_start, span_end, reason, edges_kept) "
        "values ('raw.api_key_deltas', %s, %s, 'test', true)",
        (day_window(day, ZoneInfo("UTC")).first, day_window(day, ZoneInfo("UTC")).end),
    )
    with closing(connect(settings, any_time_zone=True)) as connection:
        assert rezone(connection, settings).problems == []
    daily = by_day(postgres, "select usage_date, sum(total_requests) from usage.api_key_daily group by 1")
    following = [at for at in made.moments if at.date() == day + timedelta(days=1)]
    came = sum(at.astimezone(settings.timezone).date() == day for at in following)
    assert came > 0
    assert daily[day] == made.truth("UTC")[day] + came
    assert sum(daily.values()) == len(made.moments)
