"""The automation of contracts §5: cadences by settings, one run at a time, a run key per attempt, ticks within their budget."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest
import redis
import yaml

from usage_pipeline.definitions import build_definitions
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.places import PROJECT

TAG = ".dagster/usage_pipeline_one_at_a_time"
AT = datetime(2026, 3, 1, 0, 10, tzinfo=UTC)
KEYS = 100_000


def repository(**settings: object) -> dg.RepositoryDefinition:
    return build_definitions({"settings": load_settings(**settings)}).get_repository_def()


def requests_of(schedule: dg.ScheduleDefinition, repository: dg.RepositoryDefinition) -> Iterator[dg.RunRequest]:
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(instance=instance, scheduled_execution_time=AT, repository_def=repository)
        yield from schedule.evaluate_tick(context).run_requests or []


def test_all_schedules_are_in_the_configured_time_zone_and_follow_their_settings() -> None:
    found = repository(
        usage_timezone="Europe/Vienna",
        usage_aggregation_interval=7_200_000,
        stats_cron_schedule="15 4 * * *",
        metrics_sync_interval_ms=10_000,
        api_token_sync_interval_ms=120_000,
    )
    schedules = {schedule.name: schedule for schedule in found.schedule_defs}
    assert {schedule.execution_timezone for schedule in schedules.values()} == {"Europe/Vienna"}
    assert {name: schedule.cron_schedule for name, schedule in schedules.items()} == {
        "merchant_usage_hourly": "0 */2 * * *",
        "daily_tables_hourly": "0 */2 * * *",
        "observe_sources_hourly": "0 */2 * * *",
        "issue_stats_daily": "15 4 * * *",
        "issue_ranking_hourly": "15 * * * *",
        "usage_rankings_hourly": "15 * * * *",
        "storage_lifecycle_daily": "30 4 * * *",
        "history_daily": "15 5 * * *",
        "external_posts_hourly": "40 * * * *",
        "usage_hourly_after_the_hour": "5 * * * *",
        "usage_daily_hourly": "10 * * * *",
        "usage_weekly_daily": "20 0 * * *",
        "usage_monthly_daily": "25 0 * * *",
        "report_of_week": "0 6 * * 1",
        "report_of_month": "10 6 1 * *",
        "reconcile_hourly": "25 * * * *",
        "freshness_hourly": "35 * * * *",
        "counter_checks_hourly": "50 * * * *",
    }
    sensors = {sensor.name: sensor.minimum_interval_seconds for sensor in found.sensor_defs}
    assert (sensors["drain_metrics"], sensors["drain_tokens"]) == (9, 119)


def test_every_scheduled_run_has_a_tag_that_only_one_run_at_a_time_may_have() -> None:
    found = repository(landing_url="landing")
    tags: list[str] = []
    for schedule in found.schedule_defs:
        job_tags = found.get_job(schedule.job_name).run_tags
        for request in requests_of(schedule, found):
            of_run = {**job_tags, **request.tags}
            # The API of the posts has a tag of its own, since all their runs are one.
            assert TAG in of_run or "usage_pipeline/external_api" in of_run, schedule.name
            if request.partition_key is not None:
                assert of_run[TAG] == f"{schedule.job_name}/{request.partition_key}"
                tags.append(of_run[TAG])
    assert len(tags) == len(set(tags)) == 16
    config = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    limits = {limit["key"]: limit for limit in config["concurrency"]["runs"]["tag_concurrency_limits"]}
    assert limits[TAG] == {"key": TAG, "value": {"applyLimitPerUniqueValue": True}, "limit": 1}


class Clock(datetime):
    """The time of a sensor."""

    moment = datetime.now(UTC)

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return cls.moment


def tick(definitions: dg.Definitions, instance: dg.DagsterInstance, name: str, cursor: str | None = None) -> Any:
    settings = definitions.get_repository_def().get_top_level_resources()["settings"]
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, definitions=definitions, resources={"settings": settings}
    )
    return definitions.resolve_sensor_def(name)(context)


@pytest.mark.parametrize(
    ("name", "module"), [("late_days", "sensors.drains"), ("late_windows", "sensors.late_windows")]
)
def test_what_failed_is_asked_for_again_after_an_hour_under_another_key_and_not_before(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    module: str,
) -> None:
    at = datetime.now(UTC).replace(minute=0, second=0) - timedelta(days=2)
    redis_client.hset("apikey:a:metrics", mapping={"total_requests": 5, "last_used_at": int(at.timestamp() * 1000)})
    postgres.execute(
        "insert into ops.touched_windows (grain, window_start) values ('hour', %s)", (at.replace(microsecond=0),)
    )
    tick(definitions, instance, "drain_metrics")
    monkeypatch.setattr(f"usage_pipeline.defs.{module}.datetime", Clock)
    keys = []
    for minutes in (1, 59, 61):
        monkeypatch.setattr(Clock, "moment", at + timedelta(days=2, minutes=minutes))
        [request] = tick(definitions, instance, name).run_requests
        keys.append(request.run_key)
        assert TAG in request.tags
    assert keys[0] == keys[1] != keys[2]


def test_a_drain_without_anything_to_drain_reports_every_half_hour_that_it_is_at_work(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    redis_client: redis.Redis,
) -> None:
    start = datetime.now(UTC)
    monkeypatch.setattr("usage_pipeline.defs.sensors.drains.datetime", Clock)
    cursor, reported = None, []
    for minutes in (0, 2, 29, 31, 33, 62):
        monkeypatch.setattr(Clock, "moment", start + timedelta(minutes=minutes))
        result = tick(definitions, instance, "drain_tokens", cursor)
        cursor = result.cursor
        reported.append(sorted(event.asset_key.to_user_string() for event in result.asset_events))
    both = ["snapshots/token_deltas", "usage/api_access_tokens"]
    assert reported == [[], [], [], both, [], both]


@pytest.fixture
def backlog(redis_client: redis.Redis) -> None:
    for first in range(0, KEYS, 10_000):
        pipeline = redis_client.pipeline(transaction=False)
        for number in range(first, first + 10_000):
            pipeline.hset(
                f"apikey:{number}:metrics", mapping={"total_requests": 1, "last_used_at": int(time.time() * 1000)}
            )
        pipeline.execute()


@pytest.mark.usefixtures("backlog")
def test_ticks_on_a_backlog_of_100_000_keys_end_after_their_budget_and_the_batch_in_hand_until_all_is_stored(
    settings: Settings, instance: dg.DagsterInstance, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """The budget is over before the first batch is stored, so that each tick may do what is in hand and no more."""
    hasty = settings.model_copy(update={"drain_budget_seconds": 0.01})
    result = tick(build_definitions({"settings": hasty}), instance, "drain_metrics")
    assert "The time for one tick is used up; the next tick goes on." in str(result.skip_reason)
    [(stored,)] = postgres.execute("select coalesce(sum(total_requests), 0) from usage.api_keys").fetchall()
    assert stored <= 2 * settings.drain_chunk_keys, "the batch in hand, and the one that was claimed beside it"
    assert redis_client.dbsize() >= KEYS - 2 * settings.drain_chunk_keys

    definitions, cursor = build_definitions({"settings": settings}), result.cursor
    for _ in range(10):
        started = time.monotonic()
        result = tick(definitions, instance, "drain_metrics", cursor)
        seconds, cursor = time.monotonic() - started, result.cursor
        # A batch takes a fraction of a second; the rest is for a machine that does much else.
        assert seconds < settings.drain_budget_seconds + 15
        if "The time for one tick is used up" not in str(result.skip_reason):
            break
    assert postgres.execute("select count(*), sum(total_requests) from usage.api_keys").fetchall() == [(KEYS, KEYS)]
    assert list(redis_client.scan_iter("apikey:*:metrics")) == []
    assert json.loads(cursor)["days"]
