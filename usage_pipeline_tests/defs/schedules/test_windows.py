"""Roll-ups through Dagster: runs, schedules at changes of clocks, late windows, checks."""

import json
import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest

from usage_pipeline.definitions import build_definitions
from usage_pipeline.defs.assets.windows import partition_window, window_partition
from usage_pipeline.defs.partitions.calendar import window_partitions
from usage_pipeline.defs.sensors.late_windows import late_windows_sensor
from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.rollups.calendar import GRAINS, day_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.defs.check_results import problems

NOW = datetime.now(UTC)
# Before this week and month, so that their windows are closed.
AT = datetime(NOW.year, NOW.month, 1, 10, 30, tzinfo=UTC) - timedelta(days=10)
DAY = AT.date()
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def store(postgres: psycopg.Connection, settings: Settings, *moments: datetime, **changes: Any) -> None:
    events = [
        {
            "event_id": str(uuid.uuid4()),
            "event_time": at.isoformat(),
            "user_id": "u",
            "team": "t",
            "service": "s",
            "provider": "openai",
            "model": "gpt-4o",
            "input_tokens": 100,
            "output_tokens": 10,
            **changes,
        }
        for at in moments
    ]
    assert ingest(
        postgres, EVENTS, [json.dumps(event).encode() for event in events], source="test", settings=settings
    ).inserted == len(moments)


def run(
    definitions: dg.Definitions, instance: dg.DagsterInstance, job: str, partition_key: str | None, **options: Any
) -> dg.ExecuteInProcessResult:
    return definitions.resolve_job_def(job).execute_in_process(
        instance=instance, run_config=QUIET, raise_on_error=False, partition_key=partition_key, **options
    )


def tick(sensor: dg.SensorDefinition, instance: dg.DagsterInstance, settings: Settings) -> dg.SensorResult:
    result = sensor(dg.build_sensor_context(instance=instance, resources={"settings": settings}))
    return result if isinstance(result, dg.SensorResult) else dg.SensorResult(skip_reason=result)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {f"{one.asset_key.path[-1]}.{one.check_name}": one.passed for one in result.get_asset_check_evaluations()}


def test_a_range_of_hours_is_one_run_with_metadata_for_each_and_its_checks(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings, postgres: psycopg.Connection
) -> None:
    store(postgres, settings, AT, AT, AT + timedelta(hours=1))
    keys = [f"{AT + timedelta(hours=offset):%Y-%m-%d-%H}:00" for offset in range(3)]
    tags = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
    result = run(definitions, instance, "usage_hourly", None, tags=tags)
    assert result.success
    events = {event.partition: event.materialization.metadata for event in result.get_asset_materialization_events()}
    assert [events[key]["sum_requests"].value for key in keys] == [2, 1, 0]
    assert [events[key]["dagster/partition_row_count"].value for key in keys] == [1, 1, 0]
    assert events[keys[0]]["price_version"].value.startswith("genai-prices ")
    # The hours after them are empty, which the check of the run's days finds.
    assert checks(result) == {
        "usage_hourly.no_gaps": False,
        "usage_hourly.no_negative_count": True,
        "usage_events.no_conflicts": True,
        "usage_events.no_dead_letters": True,
    }


def test_late_events_become_runs_for_exactly_their_windows_until_all_are_done(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings, postgres: psycopg.Connection
) -> None:
    sensor = definitions.resolve_sensor_def("late_windows")
    assert "No past hour, day, week or month has changed" in str(tick(sensor, instance, settings).skip_reason)
    # Not NOW, whose hour may be over by now.
    store(postgres, settings, AT, datetime.now(UTC))
    ran: list[tuple[str, str]] = []
    for _ in range(2):
        requests = tick(sensor, instance, settings).run_requests
        for request in requests:
            assert run(definitions, instance, request.job_name, request.partition_key).success
            ran.append((request.job_name, request.partition_key))
    monday, first = DAY - timedelta(days=DAY.weekday()), DAY.replace(day=1)
    assert ran == [
        ("usage_daily", f"{DAY}"),
        ("usage_hourly", f"{DAY}-10:00"),
        *sorted([("usage_monthly", f"{first}"), ("usage_weekly", f"{monday}")], key=lambda one: one[1]),
    ]
    assert tick(sensor, instance, settings).run_requests == []
    assert postgres.execute("select sum(requests) from analytics.usage_monthly").fetchone() == (1,)


def test_a_window_is_asked_for_anew_when_it_changes_again_and_not_while_it_waits(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings, postgres: psycopg.Connection
) -> None:
    sensor = definitions.resolve_sensor_def("late_windows")
    store(postgres, settings, AT)
    first = [request.run_key for request in tick(sensor, instance, settings).run_requests]
    assert [request.run_key for request in tick(sensor, instance, settings).run_requests] == first
    store(postgres, settings, AT)
    again = [request.run_key for request in tick(sensor, instance, settings).run_requests]
    assert len(again) == len(first) == 2
    assert not set(again) & set(first)


def test_a_tick_asks_for_some_windows_the_oldest_first_and_for_none_before_the_first_partition(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings, postgres: psycopg.Connection
) -> None:
    sensor = definitions.resolve_sensor_def("late_windows")
    store(postgres, settings, *(AT - timedelta(hours=hours) for hours in range(60)))
    keys = [request.partition_key for request in tick(sensor, instance, settings).run_requests]
    assert len(keys) == 25
    assert keys == sorted(keys)
    assert keys[0].startswith(str((AT - timedelta(hours=59)).date()))
    later = settings.model_copy(update={"usage_start_date": DAY})
    sensor = build_definitions({"settings": later}).resolve_sensor_def("late_windows")
    keys = [request.partition_key for request in tick(sensor, instance, later).run_requests]
    assert {key[:10] for key in keys} == {str(DAY)}


def test_windows_whose_events_are_archived_ask_for_the_lifecycle_and_wait(
    instance: dg.DagsterInstance, settings: Settings, postgres: psycopg.Connection
) -> None:
    store(postgres, settings, AT, AT + timedelta(days=1))
    window = day_window(DAY, settings.timezone)
    postgres.execute(
        "insert into ops.archives (table_name, chunk_start, chunk_end, address, rows, bytes, checksum) "
        "values ('analytics.usage_events', %s, %s, 'a', 1, 1, 'x')",
        (window.first, window.end),
    )

    requests = tick(late_windows_sensor(settings), instance, settings).run_requests
    other = str(DAY + timedelta(days=1))
    assert [(request.job_name, (request.partition_key or "")[:10]) for request in requests] == [
        ("usage_daily", other),
        ("usage_hourly", other),
        ("storage_lifecycle", ""),
    ]


def test_an_archived_day_fails_its_run_with_the_command_that_helps(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings, postgres: psycopg.Connection
) -> None:
    window = day_window(DAY, settings.timezone)
    postgres.execute(
        "insert into ops.archives (table_name, chunk_start, chunk_end, address, rows, bytes, checksum) "
        "values ('analytics.usage_events', %s, %s, 'a', 1, 1, 'x')",
        (window.first, window.end),
    )
    result = run(definitions, instance, "usage_daily", str(DAY))
    assert not result.success
    failures = [event for event in result.all_events if event.is_step_failure]
    assert f"usage-pipeline archive restore {DAY}" in str(failures[0].step_failure_data.error)


def test_checks_of_a_day_pass_and_fail_with_the_numbers(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings, postgres: psycopg.Connection
) -> None:
    store(postgres, settings, AT)
    assert checks(run(definitions, instance, "usage_daily", str(DAY))) == {
        "usage_daily.events_are_counted_once": True,
        "usage_daily.few_errors": True,
        "usage_daily.models_have_prices": True,
        "usage_daily.costs_agree": True,
        "usage_daily.tokens_are_attributed": True,
        "usage_daily.tags_are_few": True,
        "usage_daily.senders_are_known": True,
        "usage_daily.no_negative_count": True,
        "usage_daily.windows_are_complete": True,
    }
    store(postgres, settings, *[AT] * 30, status_code=500, model="unheard-of")
    postgres.execute(
        "delete from analytics.usage_event_ids where event_id in (select event_id from analytics.usage_events limit 1)"
    )
    store(postgres, settings, AT - timedelta(days=1))
    postgres.execute("update ops.touched_windows set touched_at = touched_at - interval '3 hours'")
    result = run(definitions, instance, "usage_daily", str(DAY))
    assert not result.success, "weeks, months and rankings must not be made of it"
    assert {name for name, passed in checks(result).items() if passed} == {
        "usage_daily.costs_agree",
        "usage_daily.no_negative_count",
        "usage_daily.tags_are_few",
        "usage_daily.senders_are_known",
        "usage_daily.tokens_are_attributed",
    }
    found = {one.check_name: one for one in result.get_asset_check_evaluations()}
    assert found["events_are_counted_once"].severity == dg.AssetCheckSeverity.ERROR
    assert "31 events, 30 in the registry" in str(problems(found["events_are_counted_once"]))
    assert "openai/unheard-of: 30 requests" in str(problems(found["models_have_prices"]))
    assert str(DAY - timedelta(days=1)) in str(problems(found["windows_are_complete"]))


@pytest.mark.parametrize(
    ("job", "first"), [("usage_weekly", DAY - timedelta(days=DAY.weekday())), ("usage_monthly", DAY.replace(day=1))]
)
def test_the_check_of_weeks_and_months_looks_at_those_of_the_run(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    settings: Settings,
    postgres: psycopg.Connection,
    job: str,
    first: date,
) -> None:
    store(postgres, settings, AT)
    assert run(definitions, instance, "usage_daily", str(DAY)).success
    passed = checks(run(definitions, instance, job, str(first)))
    assert passed == {
        f"{job}.is_sum_of_days": True,
        f"{job}.no_negative_count": True,
        f"{job}.windows_are_complete": True,
    }
    postgres.execute("update analytics.usage_daily set errors = errors + 1")
    failed = checks(run(definitions, instance, job, str(first)))
    assert [name for name, is_passed in failed.items() if not is_passed] == [f"{job}.is_sum_of_days"]


SCHEDULED = [
    ("usage_hourly_after_the_hour", "2026-10-25T02:05:00+02:00", ["2026-10-25-01:00"]),
    # 3:05 after the clock went back: the hour before is the second one that shows 2.
    ("usage_hourly_after_the_hour", "2026-10-25T03:05:00+01:00", ["2026-10-25-02:00+0100"]),
    ("usage_hourly_after_the_hour", "2026-03-29T03:05:00+02:00", ["2026-03-29-01:00"]),
    ("usage_daily_hourly", "2026-10-26T00:10:00+01:00", ["2026-10-25", "2026-10-26"]),
    ("usage_daily_hourly", "2026-10-25T23:10:00+01:00", ["2026-10-25"]),
    ("usage_weekly_daily", "2026-10-26T00:20:00+01:00", ["2026-10-19"]),
    ("usage_weekly_daily", "2026-10-27T00:20:00+01:00", ["2026-10-26"]),
    ("usage_monthly_daily", "2026-11-01T00:25:00+01:00", ["2026-10-01"]),
    ("usage_monthly_daily", "2026-11-02T00:25:00+01:00", ["2026-11-01"]),
]


@pytest.mark.parametrize(("name", "scheduled", "keys"), SCHEDULED)
def test_schedules_ask_for_what_has_just_closed_in_the_time_zone(name: str, scheduled: str, keys: list[str]) -> None:
    settings = load_settings(usage_timezone="Europe/Vienna")
    definitions = build_definitions({"settings": settings})
    schedule = definitions.resolve_schedule_def(name)
    assert schedule.execution_timezone == "Europe/Vienna"
    # As Dagster passes it: with a ZoneInfo, and not with a fixed offset.
    at = datetime.fromisoformat(scheduled).astimezone(settings.timezone)
    requests = list(schedule(dg.build_schedule_context(scheduled_execution_time=at, resources={"settings": settings})))
    assert [request.partition_key for request in requests] == keys
    assert len({request.run_key for request in requests}) == len(keys)


def test_nothing_before_the_start_date_is_asked_for() -> None:
    settings = load_settings(usage_start_date="2026-10-25")
    schedule = build_definitions({"settings": settings}).resolve_schedule_def("usage_daily_hourly")
    context = dg.build_schedule_context(
        scheduled_execution_time=datetime(2026, 10, 25, 0, 10, tzinfo=UTC), resources={"settings": settings}
    )
    assert [request.partition_key for request in schedule(context)] == ["2026-10-25"]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Vienna", "Asia/Kolkata", "America/Havana", "Africa/Cairo"])
def test_every_partition_is_a_window_and_back(zone: str) -> None:
    settings = load_settings(usage_timezone=zone, usage_start_date="2025-01-15")
    partitions = window_partitions(settings)
    until = datetime(2026, 1, 20, tzinfo=UTC)
    for grain in GRAINS:
        previous_end = None
        for key in partitions[grain].get_partition_keys(current_time=until):
            window = partition_window(grain, partitions[grain], key, settings)
            assert previous_end in (None, window.first), key
            previous_end = window.end
            assert window_partition(grain, partitions[grain], window) == key
    # The week and the month of the start date are there as a whole.
    assert partitions["week"].get_first_partition_key() == "2025-01-13"
    assert partitions["month"].get_first_partition_key() == "2025-01-01"
