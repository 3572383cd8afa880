"""Statistics and rankings through Dagster: a year as range runs, equal to a recomputation; the cache; schedules; checks."""

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import psycopg
import pytest
import redis

from usage_pipeline.definitions import build_definitions
from usage_pipeline.defs.assets.rankings import ranking_key
from usage_pipeline.issues.load import load_issues
from usage_pipeline.rollups.rankings import RANKINGS
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.defs.check_results import problems
from usage_pipeline_tests.rigs.clock import days_ago, today
from usage_pipeline_tests.rigs.issues import (
    made_up_file,
    real_file,
    recomputed_days,
    recomputed_rankings,
    row_versions,
    stored_days,
    stored_rankings,
)

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
STATS, POPULAR = dg.AssetKey(["stats", "daily_issue_stats"]), dg.AssetKey(["stats", "popular_issues"])
TABLES = ("stats.daily_issue_stats", "stats.popular_issues")


def days_of(first: date, last: date) -> list[date]:
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]


def run(
    definitions: dg.Definitions, instance: dg.DagsterInstance, job: str, first: date, last: date, **options: Any
) -> dg.ExecuteInProcessResult:
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=instance,
        run_config=QUIET,
        tags={"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)},
        **options,
    )
    assert result.success
    return result


def backfill(definitions: dg.Definitions, instance: dg.DagsterInstance, first: date, last: date) -> None:
    """In runs of 366 days, as the backfill policy cuts them."""
    days = days_of(first, last)
    for some in (days[offset : offset + 366] for offset in range(0, len(days), 366)):
        run(definitions, instance, "issue_stats", some[0], some[-1])
        run(definitions, instance, "issue_ranking", some[0], some[-1])


def assert_every_day_equals_a_recomputation(
    postgres: psycopg.Connection, path: Path, first: date, last: date, zone: str
) -> None:
    assert stored_days(postgres) == recomputed_days(path, first, last, zone)
    expected = recomputed_rankings(path, days_of(first, last), zone)
    assert stored_rankings(postgres) == {day: rows for day, rows in expected.items() if rows}


def test_the_real_issues_in_two_range_runs_equal_a_recomputation_and_a_second_backfill_changes_nothing(
    settings: Settings, postgres: psycopg.Connection, instance: dg.DagsterInstance
) -> None:
    """All five years: without Dagster in rollups/test_stats_of_real_issues.py, through the daemon in end_to_end."""
    zone, path, first, last = "Europe/Vienna", real_file(), date(2019, 12, 1), date(2020, 12, 31)
    postgres.execute("update ops.calendar set time_zone = %s", (zone,))
    assert load_issues(postgres, path).is_success
    definitions = build_definitions({"settings": settings.model_copy(update={"usage_timezone": zone})})
    backfill(definitions, instance, first, last)
    assert_every_day_equals_a_recomputation(postgres, path, first, last, zone)
    before = [row_versions(postgres, table) for table in TABLES]
    backfill(definitions, instance, date(2020, 9, 1), date(2020, 12, 31))
    assert [row_versions(postgres, table) for table in TABLES] == before


def test_made_up_issues_over_changes_of_clocks_equal_a_recomputation(
    settings: Settings, postgres: psycopg.Connection, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    # Midnight comes twice in Havana on 3 November 2024, and not at all on 10 March.
    zone, first, last = "America/Havana", date(2024, 3, 1), date(2024, 11, 30)
    postgres.execute("update ops.calendar set time_zone = %s", (zone,))
    path = made_up_file(tmp_path / "issues.csv", first, 240)
    load_issues(postgres, path)
    backfill(
        build_definitions({"settings": settings.model_copy(update={"usage_timezone": zone})}), instance, first, last
    )
    assert_every_day_equals_a_recomputation(postgres, path, first, last, zone)


def test_a_range_is_one_run_with_metadata_for_each_day(
    definitions: dg.Definitions, instance: dg.DagsterInstance, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    load_issues(postgres, made_up_file(tmp_path / "issues.csv", date(2024, 1, 1), 30))
    result = run(definitions, instance, "issue_stats", date(2024, 1, 1), date(2024, 1, 31))
    events = {event.partition: event.materialization.metadata for event in result.get_asset_materialization_events()}
    assert list(events) == [str(day) for day in days_of(date(2024, 1, 1), date(2024, 1, 31))]
    found = stored_days(postgres)
    assert [event["sum_comments"].value for event in events.values()] == [row[2] for row in found.values()]
    assert [day for day, event in events.items() if "plot" in event] == ["2024-01-31"]


def test_a_ranking_shows_its_entries_and_the_newest_one_is_published(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    postgres: psycopg.Connection,
    redis_client: redis.Redis,
) -> None:
    postgres.execute(
        "insert into app.issues (id, title, status, view_count, created_at) "
        "select n::text, 'One', 'OPEN', n, now() - n * interval '10 hours' from generate_series(1, 15) as n"
    )
    results = [
        definitions.resolve_job_def(job).execute_in_process(
            instance=instance, run_config=QUIET, partition_key=str(today())
        )
        for job in ("issue_ranking", "usage_rankings")
    ]
    materializations = [event for result in results for event in result.get_asset_materialization_events()]
    events = {event.asset_key: event.materialization.metadata for event in materializations if event.asset_key}
    assert events.keys() == {ranking_key(ranking) for ranking in RANKINGS}
    published = msgspec.json.decode(redis_client.get("popular:issues") or b"")
    assert [entry["rank"] for entry in published] == list(range(1, 11))
    shown = events[POPULAR]["ranking"]
    assert isinstance(shown, dg.TableMetadataValue)
    assert [record.data["id"] for record in shown.records] == [entry["id"] for entry in published]
    assert events[POPULAR]["cache"].value == "up to date"
    assert sorted(redis_client.keys("popular:*")) == sorted(ranking.cache_key.encode() for ranking in RANKINGS)
    checks = [check for result in results for check in result.get_asset_check_evaluations()]
    assert [(check.check_name, check.passed) for check in checks] == [("has_no_gap", True)] * len(RANKINGS)
    # A backfill of older dates leaves the newest in the cache.
    older = days_ago(1)
    run(definitions, instance, "issue_ranking", older - timedelta(days=3), older)
    assert msgspec.json.decode(redis_client.get("popular:issues") or b"") == published


def test_without_redis_the_ranking_is_stored_and_the_run_says_so(
    settings: Settings, instance: dg.DagsterInstance, postgres: psycopg.Connection
) -> None:
    postgres.execute(
        "insert into app.issues (id, title, status) select n::text, 't', 'OPEN' from generate_series(1, 12) as n"
    )
    away = settings.model_copy(update={"redis_url": type(settings.redis_dsn)("redis://:hunter2@127.0.0.1:1")})
    definitions = build_definitions({"settings": away})
    day = today()
    result = run(definitions, instance, "issue_ranking", day, day)
    [event] = result.get_asset_materialization_events()
    assert "127.0.0.1:1" in event.materialization.metadata["cache"].value
    assert "hunter2" not in str(event)
    assert len(stored_rankings(postgres)[day]) == 10


@pytest.mark.filterwarnings("ignore:Asset job both materializes assets with varying BackfillPolicies")
def test_sixty_days_of_usage_and_the_rankings_of_it_in_one_run(
    settings: Settings, instance: dg.DagsterInstance, postgres: psycopg.Connection
) -> None:
    """The last ranking is made of days of the same run, the first one of days before it, too."""
    first, last = days_ago(70), days_ago(11)
    for day in days_of(first, last):
        postgres.execute(
            "insert into usage.api_key_daily values (%s, 'k', 1, 1, 0, 0, 0, null), (%s, 'l', 2, 2, 0, 0, 0, null)",
            (day, day),
        )
    definitions = build_definitions({"settings": settings})
    keys = [dg.AssetKey(["stats", "popular_models"]), dg.AssetKey(["stats", "popular_api_keys"])]
    usage = dg.define_asset_job(
        "both", selection=dg.AssetSelection.assets(dg.AssetKey(["analytics", "usage_daily"]), *keys)
    )
    merged = dg.Definitions.merge(definitions, dg.Definitions(jobs=[usage]))
    result = run(merged, instance, "both", first, last)
    by_asset: dict[str, list[str]] = {}
    for event in result.get_asset_materialization_events():
        assert event.asset_key is not None
        by_asset.setdefault(event.asset_key.path[-1], []).append(str(event.partition))
    days = [str(day) for day in days_of(first, last)]
    assert by_asset == {"usage_daily": days, "popular_models": days, "popular_api_keys": days}
    query = "select score from stats.popular_api_keys where id = 'l' order by ranking_date"
    assert [score for (score,) in postgres.execute(query)] == [2, 4, 6, 8, 10, 12, *[14] * 54]


def test_the_check_finds_gaps_wrong_orders_and_missing_entries(
    definitions: dg.Definitions, instance: dg.DagsterInstance, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    load_issues(postgres, made_up_file(tmp_path / "issues.csv", date(2024, 1, 1), 30))
    day = date(2024, 1, 20)
    broken = [
        "update stats.popular_issues set score = 0 where rank = 1",
        "delete from stats.popular_issues where rank in (3, 10)",
    ]
    broken.append("delete from stats.popular_issues where rank = 10")
    check = dg.AssetSelection.checks(dg.AssetCheckKey(POPULAR, "has_no_gap"))
    alone = dg.Definitions.merge(definitions, dg.Definitions(jobs=[dg.define_asset_job("alone", selection=check)]))
    tags = {"dagster/partition": str(day)}
    said = []
    for statement in ["select", *broken]:
        run(definitions, instance, "issue_ranking", day, day)
        postgres.execute(statement)
        [found] = (
            alone.resolve_job_def("alone")
            .execute_in_process(instance=instance, run_config=QUIET, tags=tags, raise_on_error=False)
            .get_asset_check_evaluations()
        )
        said.append((found.passed, str(problems(found))))
        assert found.blocking is True
    assert [passed for passed, _ in said] == [True, False, False, False]
    assert [
        "no score above the one before it" in said[1][1],
        "the ranks 1 to 8" in said[2][1],
        "expected 10 entries" in said[3][1],
    ] == [
        True,
        True,
        True,
    ]


SCHEDULED = [
    ("issue_stats_daily", "2026-10-26T03:00:00+01:00", ["2026-10-25"]),
    # Just after midnight in Vienna it is the evening before in UTC.
    ("issue_stats_daily", "2026-10-26T00:00:00+01:00", ["2026-10-25"]),
    ("usage_rankings_hourly", "2026-10-25T23:15:00+01:00", ["2026-10-25"]),
    ("usage_rankings_hourly", "2026-10-26T00:15:00+01:00", ["2026-10-25", "2026-10-26"]),
    ("usage_rankings_hourly", "2026-10-26T01:15:00+01:00", ["2026-10-26"]),
    ("issue_ranking_hourly", "2026-10-26T00:15:00+01:00", ["2026-10-25", "2026-10-26"]),
]


@pytest.mark.parametrize(("name", "scheduled", "keys"), SCHEDULED)
def test_schedules_ask_for_their_days_in_the_time_zone(name: str, scheduled: str, keys: list[str]) -> None:
    requests = requests_of(name, scheduled, usage_timezone="Europe/Vienna", stats_cron_schedule="0 3 * * *")
    assert [request.partition_key for request in requests] == keys
    assert len({request.run_key for request in requests}) == len(keys)


def test_an_hour_that_comes_twice_has_runs_of_its_own() -> None:
    keys = {
        request.run_key
        for offset in ("+02:00", "+01:00")
        for request in requests_of(
            "usage_rankings_hourly", f"2026-10-25T02:30:00{offset}", usage_timezone="Europe/Vienna"
        )
    }
    assert len(keys) == 2


def test_nothing_before_the_start_dates_is_asked_for() -> None:
    starts = {"stats_start_date": "2026-10-20", "usage_start_date": "2026-10-25"}
    for name, days in {
        "issue_stats_daily": {20: 0, 21: 1},
        "issue_ranking_hourly": {19: 0, 20: 1},
        "usage_rankings_hourly": {24: 0, 25: 1},
    }.items():
        for day, expected in days.items():
            assert len(requests_of(name, f"2026-10-{day}T03:00:00+00:00", **starts)) == expected


def requests_of(name: str, scheduled: str, **options: Any) -> list[dg.RunRequest]:
    settings = load_settings(**options)
    schedule = build_definitions({"settings": settings}).resolve_schedule_def(name)
    assert schedule.execution_timezone == settings.usage_timezone
    context = dg.build_schedule_context(
        scheduled_execution_time=datetime.fromisoformat(scheduled), resources={"settings": settings}
    )
    return list(schedule(context))
