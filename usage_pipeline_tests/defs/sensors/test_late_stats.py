"""The sensor of late statistics, and the runs that it asks for."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest

from usage_pipeline.defs.sensors import late_stats as module
from usage_pipeline.rollups.rankings import RANKINGS, replace_rankings
from usage_pipeline.rollups.stale.dates import mark_made
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.clock import days_ago, today

QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
ISSUES = RANKINGS[0]


def tick(definitions: dg.Definitions, instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    """A tick as the daemon evaluates it: its run requests and cursor."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=definitions)
    return definitions.resolve_sensor_def("late_stats").evaluate_tick(context)


def ranges(result: Any) -> list[tuple[str | None, set[str], str, str]]:
    """Of each request: the job, the assets, the first and the last date."""
    return [
        (
            request.job_name,
            {key.path[-1] for key in request.asset_selection or []},
            request.tags["dagster/asset_partition_range_start"],
            request.tags["dagster/asset_partition_range_end"],
        )
        for request in result.run_requests or []
    ]


def execute(definitions: dg.Definitions, instance: dg.DagsterInstance, request: dg.RunRequest) -> bool:
    """Runs what the sensor asked for, as a run of the daemon does."""
    assert request.job_name is not None
    job = definitions.resolve_job_def(request.job_name)
    return job.execute_in_process(
        instance=instance,
        run_config=QUIET,
        tags=request.tags,
        asset_selection=list(request.asset_selection or []),
        raise_on_error=False,
    ).success


def add_issue(postgres: psycopg.Connection, issue: str, day: date) -> None:
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    postgres.execute("insert into app.issues (id, title, status, created_at) values (%s, 't', 'OPEN', %s)", (issue, at))


def test_rankings_follow_a_late_event_and_a_late_issue_by_runs_for_exactly_their_dates(
    definitions: dg.Definitions, instance: dg.DagsterInstance, postgres: psycopg.Connection, settings: Settings
) -> None:
    dates = [days_ago(days) for days in range(30, 0, -1)]
    for ranking in RANKINGS:
        replace_rankings(postgres, ranking, dates, settings=settings)
    assert tick(definitions, instance).run_requests == []
    late = days_ago(20)
    add_issue(postgres, "late", late)
    postgres.execute("insert into usage.api_key_daily values (%s, 'k', 7, 7, 0, 0, 0, null)", (days_ago(3),))
    found = tick(definitions, instance)
    assert ranges(found) == [
        ("issue_ranking", {"popular_issues"}, str(late), str(days_ago(14))),
        # Not of today: a sensor keeps that ranking.
        ("usage_rankings", {"popular_api_keys"}, str(days_ago(3)), str(days_ago(1))),
    ]
    assert all(execute(definitions, instance, request) for request in found.run_requests or [])
    query = "select ranking_date from stats.popular_issues where id = 'late' order by 1"
    assert [day for (day,) in postgres.execute(query)] == [late + timedelta(days=ahead) for ahead in range(7)]
    query = "select ranking_date from stats.popular_api_keys where score = 7 order by 1"
    assert [day for (day,) in postgres.execute(query)] == [days_ago(3), days_ago(2), days_ago(1)]
    assert tick(definitions, instance, found.cursor).run_requests == []


def test_what_was_asked_for_is_passed_over_and_asked_for_again_more_and_more_rarely(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_RUNS_PER_TICK", 2)
    # Dates that do not follow each other are a run each.
    apart = [days_ago(days) for days in (9, 7, 5, 3)]
    mark_made(postgres, ISSUES.table, apart)
    for day in apart:
        postgres.execute("insert into ops.touched_dates values (%s, %s)", (ISSUES.table, day))
    asked, cursor = [], None
    for _ in range(3):
        found = tick(definitions, instance, cursor)
        asked.append([first for _, _, first, _ in ranges(found)])
        cursor = found.cursor
    # None of them is mended. Still every one gets its turn, and then all of them wait.
    assert asked == [[str(day) for day in apart[:2]], [str(day) for day in apart[2:]], []]

    def times_asked(hours: float) -> int:
        """How often the oldest is asked for within these hours, with a look every minute."""
        seen = set()
        for minute in range(int(hours * 60)):
            postgres.execute(
                "update ops.touched_dates set touched_at = %s", (datetime.now(UTC) - timedelta(minutes=minute),)
            )
            requests = tick(definitions, instance).run_requests or []
            seen.add(str(requests[0].run_key).rpartition(":")[2])
        return len(seen)

    assert times_asked(2.7) == 5


def test_dates_before_the_start_and_dates_that_were_never_made_are_not_asked_for(
    definitions: dg.Definitions, instance: dg.DagsterInstance, postgres: psycopg.Connection
) -> None:
    mark_made(postgres, ISSUES.table, [date(2014, 12, 31), today()])
    for day in (date(2014, 12, 31), days_ago(4), today()):
        postgres.execute("insert into ops.touched_dates values (%s, %s)", (ISSUES.table, day))
    assert tick(definitions, instance).run_requests == []


def test_ten_years_of_late_issues_are_a_handful_of_runs(
    definitions: dg.Definitions, instance: dg.DagsterInstance, postgres: psycopg.Connection
) -> None:
    dates = [date(2015, 1, 1) + timedelta(days=offset) for offset in range(3_653)]
    mark_made(postgres, ISSUES.table, dates)
    postgres.execute(
        "insert into ops.touched_dates select %s, date from unnest(%s::date[]) as one (date)", (ISSUES.table, dates)
    )
    found = ranges(tick(definitions, instance))
    assert len(found) == 10
    assert (found[0][2], found[0][3], found[-1][3]) == ("2015-01-01", "2016-01-01", "2024-12-31")
