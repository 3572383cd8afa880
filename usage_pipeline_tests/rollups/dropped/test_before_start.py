"""Usage from before USAGE_START_DATE, and days on which nothing was counted: both leave by RETENTION_DAYS like all others."""

from datetime import timedelta

import psycopg
import redis

from usage_pipeline.checks import counters as counter_checks
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.rollups.daily import stale_days
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.settings import Settings
from usage_pipeline.storage.chunks.partitions import RAW_TABLES, chunks
from usage_pipeline.storage.lifecycle.report import LifecycleReport
from usage_pipeline_tests.rigs.windows import event_at, store_events
from usage_pipeline_tests.storage.lifecycle_rig import MIDNIGHT, NOW, count_of

AT = MIDNIGHT - timedelta(days=20) + timedelta(hours=12)
START = MIDNIGHT - timedelta(days=5)


def run_after_the_retention(settings: Settings) -> LifecycleReport:
    return run_lifecycle(settings, now=NOW + timedelta(days=settings.retention_days + 10))


def test_rows_from_before_the_start_are_rolled_up_by_the_lifecycle_and_leave(
    settings: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    starting = settings.model_copy(update={"usage_start_date": START.date()})
    # Stored while the start was earlier: now they would be refused, or counted at the time of their claim.
    store_events(postgres, settings, NOW, event_at(AT), event_at(START + timedelta(hours=1)))
    for days_ago in (20, 5):
        used_ms = int((MIDNIGHT - timedelta(days=days_ago) + timedelta(hours=1)).timestamp() * 1000)
        redis_client.hset("apikey:k:metrics", mapping={"total_requests": 7, "last_used_at": used_ms})
        drain_once(settings)
    report = run_lifecycle(starting, now=NOW)
    assert report.problems == []
    day = AT.date()
    assert set(report.rolled_up) >= {f"usage.api_key_daily of {day}", f"hour {AT:%Y-%m-%dT%H:%MZ}", f"day {day}"}
    assert [one.usage_date for one in stale_days(postgres, today=NOW.date())] == [START.date()], (
        "the sensor asks for it"
    )
    left = {one.window.day for one in stale_windows(postgres, time_zone=starting.timezone, now=NOW)}
    assert START.date() in left
    assert day not in left
    days = "select total_requests from usage.api_key_daily", "select requests from analytics.usage_daily"
    assert [postgres.execute(query).fetchall() for query in days] == [[(7,)], [(1,)]]
    assert run_lifecycle(starting, now=NOW).rolled_up == []
    run_after_the_retention(starting)
    for table, column in (("raw.api_key_deltas", "usage_date"), ("analytics.usage_events", "event_time")):
        kept = postgres.execute(f"select count(*) from {table} where {column} < %s", (START,)).fetchall()
        assert kept == [(0,)], f"{table} of before the start is pinned"
        assert count_of(postgres, table) == 1, "what the sensors ask for waits for them"
    assert counter_checks.total_faults(postgres, "api_key") == []


def test_partitions_of_days_on_which_nothing_was_counted_leave_also_without_archives(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    made = {table: [chunk.name for chunk in chunks(postgres, table)] for table in RAW_TABLES}
    assert all(made.values())
    assert count_of(postgres, "ops.touched_days") == 0
    report = run_after_the_retention(settings)
    assert report.waiting == []
    for table, names in made.items():
        assert not set(names) & {chunk.name for chunk in chunks(postgres, table)}, table
    assert count_of(postgres, "ops.dropped_spans") == 0, "nothing was in them"
