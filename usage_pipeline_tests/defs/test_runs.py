"""Runs of the code location in this process, on real servers: drains, days, merchants, sources."""

import signal
import time
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import redis

from usage_pipeline.definitions import build_definitions
from usage_pipeline.defs.jobs import issue_stats
from usage_pipeline.defs.run_now import materialize_days
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.clock import days_ago, today

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def run(
    definitions: dg.Definitions, job: str, instance: dg.DagsterInstance, **options: object
) -> dg.ExecuteInProcessResult:
    return definitions.resolve_job_def(job).execute_in_process(
        instance=instance, run_config=QUIET, raise_on_error=False, **options
    )


def write_days(client: redis.Redis, days: int) -> None:
    for ago in range(1, days + 1):
        day = datetime.now(UTC) - timedelta(days=ago)
        for number in range(3):
            key = f"apikey:{day.date()}-{number}:metrics"
            client.hset(key, mapping={"total_requests": ago, "last_used_at": int(day.timestamp() * 1000)})


def test_materializing_snapshots_drains_now_and_reports_what_was_drained(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.hset("apikey:a:metrics", "total_requests", 3)
    redis_client.set("token_usage:t:i", '{"usageCount": 5, "instanceId": "i"}')
    result = run(definitions, "drain_now", instance)
    assert result.success
    assert postgres.execute("select total_requests from usage.api_keys").fetchall() == [(3,)]
    assert postgres.execute("select usage_count from usage.api_access_tokens").fetchall() == [(5,)]
    reported = {
        event.asset_key.to_user_string(): event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }
    assert len(reported) == 7
    assert reported["snapshots/api_key_deltas"]["keys"].value == 1
    assert reported["snapshots/api_key_deltas"]["days_touched"].value == today().isoformat()


def test_selecting_one_table_drains_its_family_only(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.hset("apikey:a:metrics", "total_requests", 3)
    redis_client.set("token_usage:t:i", '{"usageCount": 5, "instanceId": "i"}')
    selected = [dg.AssetKey(["usage", "api_keys"])]
    result = run(definitions, "drain_now", instance, asset_selection=selected)
    assert result.success
    assert [event.asset_key for event in result.get_asset_materialization_events()] == selected
    assert redis_client.exists("token_usage:t:i")
    assert postgres.execute("select total_requests from usage.api_keys").fetchall() == [(3,)]


def test_a_range_of_days_is_one_run_with_metadata_for_each_day(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    write_days(redis_client, 30)
    assert run(definitions, "drain_now", instance).success
    days = [days_ago(ago).isoformat() for ago in range(30, 0, -1)]
    result = run(
        definitions,
        "daily_tables",
        instance,
        asset_selection=[dg.AssetKey(["usage", "api_key_daily"])],
        tags={"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[-1]},
    )
    assert result.success
    events = {event.partition: event.materialization.metadata for event in result.get_asset_materialization_events()}
    assert sorted(events) == days
    assert {events[day]["dagster/partition_row_count"].value for day in days} == {3}
    assert [events[day]["sum_total_requests"].value for day in days] == [3 * ago for ago in range(30, 0, -1)]
    assert (
        postgres.execute(
            "select usage_date, sum(total_requests) from usage.api_key_daily group by 1 order by 1"
        ).fetchall()
        == postgres.execute(
            "select usage_date, sum(total_requests) from raw.api_key_deltas group by 1 order by 1"
        ).fetchall()
    )


def test_a_second_run_of_a_day_changes_nothing(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_client: redis.Redis
) -> None:
    write_days(redis_client, 1)
    assert run(definitions, "drain_now", instance).success
    day = days_ago(1).isoformat()
    changed = []
    for _ in range(2):
        result = run(definitions, "daily_tables", instance, partition_key=day)
        [event] = [e for e in result.get_asset_materialization_events() if e.asset_key.path[-1] == "api_key_daily"]
        changed.append(event.materialization.metadata["changed_rows"].value)
    assert changed == [3, 0]


def test_merchant_counters_of_a_day(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.incrby(f"usage:m:1:{today()}:orders", 7)
    result = run(definitions, "merchant_usage", instance, partition_key=today().isoformat())
    assert result.success
    [event] = result.get_asset_materialization_events()
    assert event.materialization.metadata["keys_found"].value == 1
    assert postgres.execute("select merchant_id, metric_value from usage.merchant_usage").fetchall() == [("m:1", 7)]


def test_the_run_of_today_materializes_earlier_days_whose_merchant_counters_grew(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    late, still = days_ago(3).isoformat(), days_ago(4).isoformat()
    for day in (late, still):
        redis_client.incrby(f"usage:shop-2:{day}:orders", 10)
        assert run(definitions, "merchant_usage", instance, partition_key=day).success
    redis_client.incrby(f"usage:shop-2:{late}:orders", 50)

    def materializations(day: str) -> int:
        wanted = dg.AssetRecordsFilter(dg.AssetKey(["usage", "merchant_usage"]), asset_partitions=[day])
        return len(instance.fetch_materializations(wanted, limit=10).records)

    assert run(definitions, "merchant_usage", instance, partition_key=days_ago(1).isoformat()).success
    assert run(definitions, "merchant_usage", instance, partition_key=today().isoformat()).success
    stored = postgres.execute("select date::text, metric_value from usage.merchant_usage order by date").fetchall()
    assert stored == [(still, 10), (late, 60)]
    assert (materializations(late), materializations(still)) == (2, 1)
    assert run(definitions, "merchant_usage", instance, partition_key=today().isoformat()).success
    assert materializations(late) == 2


def test_sources_are_observed(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_client: redis.Redis
) -> None:
    redis_client.hset("apikey:a:metrics", "total_requests", 3)
    redis_client.hset("usage_pipeline:open:token", "0000000000001-0000000000", "gone")
    redis_client.set("usage_pipeline:claim:0000000000001-0000000000:{token_usage:t:i}", "{}")
    redis_client.rpush("event_queue", "1", "2")
    result = run(definitions, "observe_sources", instance)
    assert result.success
    seen = {
        event.asset_observation_data.asset_observation.asset_key.path[-1]: {
            name: value.value for name, value in event.asset_observation_data.asset_observation.metadata.items()
        }
        for event in result.get_asset_observation_events()
    }
    assert seen["api_key_metrics"]["live_keys"] == 1
    assert seen["event_queue"]["live_keys"] == 2
    assert (seen["token_usage"]["claimed_keys"], seen["token_usage"]["open_batches"]) == (1, 1)
    assert seen["token_usage"]["oldest_open_batch_seconds"] > 0


def test_a_drain_without_postgresql_fails_with_the_reason_and_claims_nothing(
    settings: Settings, instance: dg.DagsterInstance, redis_client: redis.Redis
) -> None:
    redis_client.hset("apikey:a:metrics", "total_requests", 3)
    away = settings.model_copy(
        update={"database_url": type(settings.database_url)("postgresql://postgres@127.0.0.1:1/none")}
    )
    result = run(build_definitions({"settings": away}), "drain_now", instance)
    assert not result.success
    [failure] = [event for event in result.all_events if event.is_step_failure]
    assert "nothing is claimed" in str(failure.step_failure_data.error)
    assert redis_client.exists("apikey:a:metrics")


@pytest.mark.parametrize("family", ["api_key", "provider"])
def test_a_drain_beside_another_says_who_works(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:
    monkeypatch.setattr("usage_pipeline.defs.assets.snapshots._WAIT_FOR_LOCK_SECONDS", 0.1)
    postgres.execute("select pg_advisory_lock(hashtext('drain'), hashtext(%s))", (family,))
    result = run(definitions, "drain_now", instance)
    assert not result.success
    [failure] = [event for event in result.all_events if event.is_step_failure]
    assert f"Another process drains {family} now" in str(failure.step_failure_data.error)


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_run_of_the_demo_that_fails_is_told_and_one_that_is_stopped_stops_the_demo(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture, is_stopped: bool
) -> None:
    """While a job runs, Dagster has the signals: it only fails the run."""

    @dg.asset
    def broken() -> None:
        if is_stopped:
            signal.raise_signal(signal.SIGINT)
            time.sleep(60)
        raise ValueError("nothing to divide")

    defs = dg.Definitions([broken], jobs=[dg.define_asset_job(issue_stats.name, [broken])])
    (tmp_path / "dagster.yaml").touch()
    span: dict[str, Any] = {
        "counter_days": [],
        "event_days": [],
        "hours_from": today(),
        "issue_days": (today(), today()),
    }
    with pytest.raises(KeyboardInterrupt) if is_stopped else nullcontext():
        assert not materialize_days(defs, settings, **span, home=tmp_path)
    told = [record.message for record in caplog.records if record.name == "usage_pipeline.defs.run_now"]
    assert told == ([] if is_stopped else ["broken: ValueError: nothing to divide"])
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert {one.tags["user"] for one in instance.get_runs()} == {"demo"}, "as the UI names who launched it"
