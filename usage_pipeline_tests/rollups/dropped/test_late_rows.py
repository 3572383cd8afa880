"""Late rows for what was dropped: added to the stored numbers where that is exact, else told; nothing waits for ever."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import hiredis
import psycopg
import pytest
import redis

from usage_pipeline.checks import counters as counter_checks
from usage_pipeline.checks import windows as window_checks
from usage_pipeline.drain.dead_letters import replay
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.drain.store import UsageStore
from usage_pipeline.events.erasure.erase import erase
from usage_pipeline.rollups.calendar import Window, day_window, hour_window, month_of, window_at
from usage_pipeline.rollups.daily import DAILY_TABLES, replace_day, stale_days
from usage_pipeline.rollups.dropped.kept import keep_before_drop
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.recost import recost
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.manifest import archives
from usage_pipeline.storage.chunks.dropped import mark_dropped
from usage_pipeline_tests.rigs.windows import event_at, store_events
from usage_pipeline_tests.storage.lifecycle_rig import MIDNIGHT, NOW, count_of, waiting_on

AT = MIDNIGHT - timedelta(days=29) + timedelta(hours=12, minutes=5)
DAY = AT.date()
USED_MS = str(int(AT.timestamp() * 1000))
# A day later than the 30 days of the short retention.
LATER = NOW + timedelta(days=3)
API_KEY = DAILY_TABLES[0]
USERS = 50
KEYS = 20


@pytest.fixture(params=[False, True], ids=["native", "with archives"])
def long(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Settings:
    """Retention is 180 days, as it will be after it was raised."""
    return settings.model_copy(update={"archive_url": str(tmp_path / "archive") if request.param else None})


@pytest.fixture
def dropped(long: Settings, postgres: psycopg.Connection, redis_client: redis.Redis) -> None:
    """Fifty events and twenty keys of a day, rolled up; the retention was 30 days, and the lifecycle dropped all of them."""
    store_events(postgres, long, NOW, *(event_at(AT, user_id=f"user-{number}") for number in range(USERS)))
    count(redis_client, **{f"k{number}": 100 for number in range(KEYS)})
    drain_once(long)
    roll_up(postgres, long)
    run_lifecycle(long, now=NOW)
    run_lifecycle(long.model_copy(update={"retention_days": 30}), now=LATER)
    assert count_of(postgres, "analytics.usage_events") == count_of(postgres, "raw.api_key_deltas") == 0
    assert archives(postgres, only_in_files=True) == []


def count(client: redis.Redis, **requests: int) -> None:
    for key, number in requests.items():
        client.hset(f"apikey:{key}:metrics", mapping={"total_requests": number, "last_used_at": USED_MS})


def roll_up(postgres: psycopg.Connection, settings: Settings, now: datetime = LATER) -> None:
    """What the runs of the sensors do, and those of the schedules for a week and a month that still run."""
    for stale in stale_days(postgres, today=now.date()):
        daily = next(one for one in DAILY_TABLES if one.family == stale.family)
        replace_day(postgres, daily, stale.usage_date, today=now.date())
    for _ in range(2):
        for one in stale_windows(postgres, time_zone=settings.timezone, now=now):
            replace_window(postgres, one.window, settings=settings, now=now)
    longer = "select distinct grain, window_start from ops.touched_windows where grain in ('week', 'month')"
    for grain, start in postgres.execute(longer).fetchall():
        replace_window(postgres, window_at(grain, start, settings.timezone), settings=settings, now=now)


def numbers(postgres: psycopg.Connection) -> dict[str, Any]:
    def one(query: str, *arguments: object) -> Any:
        [row] = postgres.execute(query, arguments).fetchall()
        return tuple(row)

    return {
        "hour": one("select sum(requests), sum(distinct_users), sum(cost_usd) from analytics.usage_hourly"),
        "day": one("select sum(requests), sum(distinct_users), sum(cost_usd) from analytics.usage_daily"),
        "month": one(
            "select sum(requests), sum(distinct_users) from analytics.usage_monthly where month_start = %s",
            month_of(DAY),
        ),
        "keys": one("select count(*), sum(total_requests) from usage.api_key_daily"),
    }


BEFORE = {"hour": (50, 50), "day": (50, 50), "month": (50, 50), "keys": (20, 2_000)}


def counts(postgres: psycopg.Connection) -> dict[str, Any]:
    return {name: tuple(int(each) for each in found[:2]) for name, found in numbers(postgres).items()}


def late_row(postgres: psycopg.Connection, settings: Settings, client: redis.Redis, **changes: Any) -> None:
    store_events(postgres, settings, NOW, event_at(AT, **changes))
    count(client, k1=1)
    drain_once(settings)


@pytest.mark.usefixtures("dropped")
def test_late_rows_are_added_to_what_is_stored_of_a_dropped_day(
    long: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    assert counts(postgres) == BEFORE
    late_row(postgres, long, redis_client, user_id="late", latency_ms=9_000)
    [(live,)] = postgres.execute("select sum(requests) from analytics.usage_hourly_live").fetchall()
    assert live == USERS, "until it is rolled up, the view shows the stored hour, and not the late event alone"
    assert counter_checks.total_faults(postgres, "api_key") == []
    roll_up(postgres, long)
    expected = {"hour": (51, 50), "day": (51, 51), "month": (51, 51), "keys": (20, 2_001)}
    assert counts(postgres) == expected, "who used an hour is not known any more, who used a day is"
    [(p50, p99)] = postgres.execute("select latency_p50_ms, latency_p99_ms from analytics.usage_daily").fetchall()
    assert (p50, p99) == (350, 350 + (9_000 - 350) * 0.5), "the latencies of a day are exact"
    assert postgres.execute("select latency_p99_ms from analytics.usage_hourly").fetchall() == [(350,)]
    # A backfill, and another run, change nothing.
    for window in windows(long):
        assert replace_window(postgres, window, settings=long, now=LATER).changed_rows == 0
    assert replace_day(postgres, API_KEY, DAY, today=LATER.date()).changed_rows == 0
    assert counts(postgres) == expected
    assert counter_checks.total_faults(postgres, "api_key") == []
    assert counter_checks.day_sum_faults(postgres, "api_key", DAY, DAY) == []
    assert window_checks.day_count_faults(postgres, DAY, DAY, long.timezone) == []


def windows(settings: Settings) -> tuple[Window, Window]:
    return hour_window(AT.replace(minute=0), settings.timezone), day_window(DAY, settings.timezone)


@pytest.mark.usefixtures("dropped")
def test_what_is_added_to_a_dropped_day_is_told(
    long: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    late_row(postgres, long, redis_client)
    for window in windows(long):
        report = replace_window(postgres, window, settings=long, now=LATER)
        assert (report.is_late, report.kept_requests, report.uncounted_events) == (True, USERS, 0)
    told = postgres.execute(
        "select (before ->> 'requests')::int, (after ->> 'requests')::int, (after ->> 'kept_requests')::int"
        " from ops.late_data where window_start is not null order by late_data_id"
    ).fetchall()
    assert told == [(50, 51, 50)] * 2
    measures = postgres.execute(
        "select distinct measure from reporting.late_corrections where table_name like 'analytics%'"
    )
    assert {measure for (measure,) in measures} == {"requests", "total_tokens", "cost_usd", "list_cost_usd"}, (
        "corrections alone"
    )
    marks = postgres.execute(
        "select table_name, reason from ops.dropped_spans where span_start <= %s and span_end > %s order by 1", (AT, AT)
    ).fetchall()
    assert {table for table, _ in marks} >= {"analytics.usage_events", "raw.api_key_deltas"}
    assert {reason for _, reason in marks} == {"it was older than RETENTION_DAYS"}


@pytest.mark.usefixtures("dropped")
def test_late_rows_leave_like_all_others_and_count_once_when_more_come(
    long: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    for number in range(1, 4):
        late_row(postgres, long, redis_client, user_id="late")
        roll_up(postgres, long)
        report = run_lifecycle(long.model_copy(update={"retention_days": 30}), now=LATER)
        assert waiting_on(report, f"{DAY:%Y%m%d}") == []
        assert count_of(postgres, "analytics.usage_events") == count_of(postgres, "raw.api_key_deltas") == 0
        assert count_of(postgres, "ops.kept_windows") == count_of(postgres, "analytics.usage_user_daily_kept") == 0
        expected = {"hour": (50 + number, 50), "day": (50 + number, 51), "month": (50 + number, 51)}
        assert counts(postgres) == {**expected, "keys": (20, 2_000 + number)}
        for window in windows(long):
            assert replace_window(postgres, window, settings=long, now=LATER).changed_rows == 0
        assert replace_day(postgres, API_KEY, DAY, today=LATER.date()).changed_rows == 0


@pytest.mark.usefixtures("dropped")
def test_a_dead_letter_that_is_replayed_after_the_retention_is_added_to_its_day(
    long: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    redis_client.hset("apikey:broken:metrics", mapping={"total_requests": "x", "last_used_at": USED_MS})
    drain_once(long)
    postgres.execute(
        "update ops.dead_letters set raw = %s",
        (hiredis.pack_command(("total_requests", "1", "last_used_at", USED_MS)),),
    )
    store = UsageStore(postgres, usage_timezone=long.usage_timezone, drained_by="test")
    assert [one.is_counted for one in replay(postgres, store, times=long.possible_times)] == [True]
    roll_up(postgres, long)
    assert counts(postgres)["keys"] == (21, 2_001)
    assert counter_checks.total_faults(postgres, "api_key") == []


@pytest.mark.usefixtures("dropped")
def test_an_erasure_reaches_what_is_kept_of_dropped_events(
    long: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    late_row(postgres, long, redis_client, user_id="user-7")
    roll_up(postgres, long)
    erased = erase(long, "user-7")
    assert erased.counts["analytics.usage_user_daily_kept"] == 1
    late_row(postgres, long, redis_client, user_id="user-8")
    roll_up(postgres, long)
    assert counts(postgres)["day"] == (52, 50)
    users = "select requests from analytics.usage_user_daily where user_id = %s"
    assert postgres.execute(users, (erased.pseudonym,)).fetchall() == [(2,)]


@pytest.mark.usefixtures("dropped")
def test_costs_of_dropped_events_stay_as_they_are(
    long: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    before = numbers(postgres)
    version = postgres.execute("select price_version from analytics.price_versions").fetchall()[0][0]
    late_row(postgres, long, redis_client)
    [day] = recost(postgres, [DAY], version, settings=long)
    assert "they were dropped at the end of the retention" in day.problem
    assert numbers(postgres) == before


def test_late_events_of_a_window_of_which_nobody_knows_what_was_dropped_are_told_and_keep_nothing_waiting(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    store_events(postgres, settings, NOW, event_at(AT), event_at(AT))
    roll_up(postgres, settings)
    # As the migration finds it: half of the day, and what that half had of it is not known.
    noon = MIDNIGHT - timedelta(days=29) + timedelta(hours=12)
    mark_dropped(postgres, "analytics.usage_events", noon - timedelta(days=1), noon, reason="found", edges_kept=False)
    store_events(postgres, settings, NOW, event_at(AT))
    hour, day = windows(settings)
    report = replace_window(postgres, day, settings=settings, now=LATER)
    assert (report.changed_rows, report.uncounted_events, report.sums["requests"]) == (0, 3, 2)
    assert replace_window(postgres, hour, settings=settings, now=LATER).sums["requests"] == 3, "it is not in that half"
    assert stale_windows(postgres, time_zone=settings.timezone, now=LATER) == []
    told = "select table_name, after ->> 'uncounted_events' from ops.late_data where after ? 'uncounted_events'"
    assert postgres.execute(told).fetchall() == [("analytics.usage_daily", "3")]
    # Another part of the day is dropped, whose share is known and kept. It is still not all.
    quarter = (noon, noon + timedelta(minutes=1))
    keep_before_drop(postgres, "analytics.usage_events", *quarter)
    mark_dropped(postgres, "analytics.usage_events", *quarter, reason="test")
    assert count_of(postgres, "ops.kept_windows") > 0
    assert replace_window(postgres, day, settings=settings, now=LATER).sums["requests"] == 2
    report = run_lifecycle(settings.model_copy(update={"retention_days": 28}), now=LATER)
    assert waiting_on(report, f"{DAY:%Y%m%d}") == []


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["missing", "empty"])
def test_a_file_that_cannot_be_read_leaves_at_its_end_and_is_told_once(
    damage: Callable[[Path], object], settings: Settings, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    """Its day in Vienna begins in the chunk before: what that file has of the next day would be needed."""
    changed = {"usage_timezone": "Europe/Vienna", "archive_url": str(tmp_path / "archive")}
    vienna = settings.model_copy(update=changed)
    postgres.execute("update ops.calendar set time_zone = 'Europe/Vienna'")
    evening, morning = AT.replace(hour=23), AT.replace(hour=9) + timedelta(days=1)
    store_events(postgres, vienna, NOW, event_at(evening), event_at(morning))
    roll_up(postgres, vienna)
    run_lifecycle(vienna, now=NOW)
    first, _ = archives(postgres, table="analytics.usage_events", only_in_files=True)
    damage(tmp_path / "archive" / first.address)
    cut = vienna.model_copy(update={"retention_days": 28})
    now = MIDNIGHT + timedelta(hours=5)
    report = run_lifecycle(cut, now=now)
    assert len(report.problems) == 1
    assert first.address in report.problems[0]
    assert run_lifecycle(cut, now=now).problems == []
    spans = "select edges_kept from ops.dropped_spans where table_name = 'analytics.usage_events'"
    assert postgres.execute(spans).fetchall() == [(False,)]
    store_events(postgres, vienna, NOW, event_at(morning))
    run_lifecycle(vienna, now=now)
    roll_up(postgres, vienna)
    days = "select sum(requests) from analytics.usage_daily where usage_date = %s"
    assert postgres.execute(days, (morning.date(),)).fetchall() == [(2,)], "less than 3, and not less than before"
