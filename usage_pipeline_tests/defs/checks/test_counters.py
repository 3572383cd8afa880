"""Checks of the counters through Dagster: where they are, which stop what comes after them, and what they say."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest
import redis
from usage_recorder.recorder import Recorder

from usage_pipeline.defs.checks.results import SHOWN_FAULTS, faults_result
from usage_pipeline.drain.dead_letters import Choice
from usage_pipeline.drain.ways_out.discard import Decision, discard
from usage_pipeline_tests.defs.check_results import problems
from usage_pipeline_tests.rigs.clock import days_ago, today

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

# Every check of a counter, and whether what comes after its asset in a run is held back when it fails.
CHECKS = {
    **{
        f"usage/{name}_daily.{check}": True for name in ("api_key", "provider", "token") for check in ("is_sum_of_raw",)
    },
    **{f"usage/{name}_daily.no_negative_count": True for name in ("api_key", "provider", "token")},
    **{f"usage/{name}_daily.days_are_complete": False for name in ("api_key", "provider", "token")},
    **{f"usage/{name}.is_sum_of_raw": True for name in ("api_keys", "provider_usage", "api_access_tokens")},
    **{
        f"snapshots/{name}.no_dead_letters": False
        for name in ("api_key_deltas", "provider_deltas", "token_deltas", "request_events")
    },
    **{
        f"redis/{name}.backlog_is_young": False
        for name in ("api_key_metrics", "provider_metrics", "token_usage", "event_queue")
    },
    "redis/api_key_metrics.redis_keeps_all": False,
    **{f"usage/merchant_usage.{check}": False for check in ("no_regressions", "days_are_complete", "no_dead_letters")},
    "analytics/usage_daily.events_are_counted_once": True,
    **{f"analytics/usage_{grain}.no_negative_count": True for grain in ("hourly", "daily", "weekly", "monthly")},
    **{f"analytics/usage_{grain}.windows_are_complete": False for grain in ("daily", "weekly", "monthly")},
    **{f"analytics/usage_{grain}.is_sum_of_days": False for grain in ("weekly", "monthly")},
    "analytics/usage_events.no_conflicts": False,
    "analytics/usage_events.no_dead_letters": False,
    "ops/landed_files.folder_is_read": False,
    "ops/reconciliation.nothing_is_missing": False,
    "ops/reconciliation.redis_did_not_go_back": False,
    "stats/popular_api_keys.has_no_gap": True,
}


def execute(
    definitions: dg.Definitions, instance: dg.DagsterInstance, job: str, **options: Any
) -> dg.ExecuteInProcessResult:
    return definitions.resolve_job_def(job).execute_in_process(
        instance=instance, run_config=QUIET, raise_on_error=False, **options
    )


def evaluated(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """`asset.check` -> its evaluation."""
    return {f"{one.asset_key.to_user_string()}.{one.check_name}": one for one in result.get_asset_check_evaluations()}


def run(definitions: dg.Definitions, instance: dg.DagsterInstance, job: str, **options: Any) -> dict[str, Any]:
    return evaluated(execute(definitions, instance, job, **options))


def with_job(definitions: dg.Definitions, selection: dg.AssetSelection) -> dg.Definitions:
    """And the job `chosen` of this selection."""
    return dg.Definitions.merge(definitions, dg.Definitions(jobs=[dg.define_asset_job("chosen", selection)]))


def failed(checks: dict[str, Any]) -> dict[str, str]:
    return {name: "\n".join(problems(one)) for name, one in checks.items() if not one.passed}


def test_every_check_is_there_and_those_that_bad_data_would_pass_are_blocking(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {
        f"{key.asset_key.to_user_string()}.{key.name}": graph.get_check_spec(key).blocking
        for key in graph.asset_check_keys
    }
    assert found | CHECKS == found


def test_at_most_ten_faults_are_shown_and_all_are_counted() -> None:
    result = faults_result([f"key {number}" for number in range(25)], severity=dg.AssetCheckSeverity.ERROR)
    assert problems(result) == [*(f"key {number}" for number in range(SHOWN_FAULTS)), "and 15 more"]
    assert (result.passed, result.description) == (False, "Problems found: 25, see `found`.")


@pytest.mark.filterwarnings("ignore:.*varying BackfillPolicies")
def test_checks_of_days_pass_and_a_wrong_day_holds_back_what_is_made_of_it(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
) -> None:
    day = days_ago(20)
    at_ms = int((datetime.now(UTC) - timedelta(days=20)).timestamp() * 1000)
    redis_client.hset("apikey:a:metrics", mapping={"total_requests": 3, "last_used_at": at_ms})
    assert failed(run(definitions, instance, "drain_now")) == {}
    checks = run(definitions, instance, "daily_tables", partition_key=str(day))
    assert (len(checks), failed(checks)) == (9, {})
    # The next batch of the day, whose replacement is spoilt.
    postgres.execute(
        "create function spoil() returns trigger language plpgsql as "
        "$$ begin new.failed_requests := -1; return new; end $$"
    )
    postgres.execute("create trigger spoil before update on usage.api_key_daily for each row execute function spoil()")
    redis_client.hset("apikey:a:metrics", mapping={"total_requests": 4, "last_used_at": at_ms})
    run(definitions, instance, "drain_now")
    selection = [dg.AssetKey(["usage", "api_key_daily"]), dg.AssetKey(["stats", "popular_api_keys"])]
    both = with_job(definitions, dg.AssetSelection.assets(*selection))
    result = execute(both, instance, "chosen", partition_key=str(day))
    assert not result.success
    assert [event.asset_key for event in result.get_asset_materialization_events()] == selection[:1]
    found = failed(evaluated(result))
    assert (
        f"{day}, api_key_id a: failed_requests -1 in the day, 0 drained" in found["usage/api_key_daily.is_sum_of_raw"]
    )
    assert f"{day}, a: failed_requests -1" in found["usage/api_key_daily.no_negative_count"]


def test_the_hourly_checks_see_totals_that_are_wrong_and_what_was_refused(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.hset("apikey:a:metrics", "total_requests", 3)
    redis_client.hset("apikey:b:metrics", "total_requests", "many")
    redis_client.rpush("event_queue", "junk")
    run(definitions, instance, "drain_now")
    checks = run(definitions, instance, "counter_checks")
    assert len(checks) == 8
    assert sorted(failed(checks)) == [
        "snapshots/api_key_deltas.no_dead_letters",
        "snapshots/request_events.no_dead_letters",
    ]
    postgres.execute("update usage.api_keys set total_requests = 8 where api_key_id = 'a'")
    found = failed(run(definitions, instance, "counter_checks"))["usage/api_keys.is_sum_of_raw"]
    assert found == "api_key_id a: total_requests 8 in the totals, 3 drained"


REDIS_FAULTS: dict[str, Callable[[redis.Redis], object]] = {
    "redis/token_usage.backlog_is_young": lambda client: client.hset(
        "usage_pipeline:open:token", "0000000000001-0000000000", "gone"
    ),
    "redis/event_queue.backlog_is_young": lambda client: client.rpush(
        "event_queue", '{"at": "2026-01-01T00:00:00.000Z"}'
    ),
}


@pytest.mark.parametrize("name", REDIS_FAULTS)
def test_observing_the_sources_looks_at_the_backlog(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_client: redis.Redis, name: str
) -> None:
    checks = run(definitions, instance, "observe_sources")
    assert (len(checks), failed(checks)) == (5, {})
    REDIS_FAULTS[name](redis_client)
    assert list(failed(run(definitions, instance, "observe_sources"))) == [name]


def test_observing_the_sources_looks_whether_redis_may_delete_counters(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_client: redis.Redis
) -> None:
    redis_client.config_set("maxmemory", "300mb")
    redis_client.config_set("maxmemory-policy", "volatile-lru")
    try:
        found = failed(run(definitions, instance, "observe_sources"))
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
        redis_client.config_set("maxmemory", 0)
    assert list(found) == ["redis/api_key_metrics.redis_keeps_all"]
    assert "maxmemory-policy volatile-lru, maxmemory 300 MB" in found["redis/api_key_metrics.redis_keeps_all"]


def test_merchant_checks_see_regressions_refused_counters_and_days_that_were_left_out(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.set(f"usage:m:{today()}:orders", 9)
    assert failed(run(definitions, instance, "merchant_usage", partition_key=str(today()))) == {}
    redis_client.set(f"usage:m:{today()}:orders", 4)
    redis_client.set(f"usage:m:{today()}:refunds", "many")
    postgres.execute("update ops.sync_batches set applied_at = applied_at - interval '1 day 1 hour'")
    found = failed(run(definitions, instance, "merchant_usage", partition_key=str(today())))
    assert f"{today()}, m orders: 9 stored, 4 in Redis" in found["usage/merchant_usage.no_regressions"]
    assert "refunds" in found["usage/merchant_usage.no_dead_letters"]
    assert f"{days_ago(1)}: not aggregated" in found["usage/merchant_usage.days_are_complete"]


def test_windows_with_a_count_below_zero_fail(
    definitions: dg.Definitions, instance: dg.DagsterInstance, postgres: psycopg.Connection
) -> None:
    grains = {"hourly": "hour_start", "daily": "usage_date", "weekly": "week_start", "monthly": "month_start"}
    month = days_ago(70).replace(day=1)
    monday = month - timedelta(days=month.weekday())
    checks = [dg.AssetCheckKey(dg.AssetKey(["analytics", f"usage_{grain}"]), "no_negative_count") for grain in grains]
    chosen = with_job(definitions, dg.AssetSelection.checks(*checks))
    tags = {"dagster/asset_partition_range_start": str(month), "dagster/asset_partition_range_end": str(month)}
    assert failed(run(chosen, instance, "chosen", tags=tags)) == {}
    columns = "team, service, provider, model, requests, errors, input_tokens, output_tokens, total_tokens"
    for grain, column in grains.items():
        postgres.execute(
            f"insert into analytics.usage_{grain} ({column}, {columns}, distinct_users, unpriced_requests) "
            "values (%s, 't', 's', 'p', 'm', 1, -1, 0, 0, 0, 1, 0)",
            (monday if grain == "weekly" else month,),
        )
    found = failed(run(chosen, instance, "chosen", tags=tags))
    assert sorted(found) == sorted(f"analytics/usage_{grain}.no_negative_count" for grain in grains)
    assert all("t, s, p, m: errors -1" in said for said in found.values())


def test_reconciliation_is_an_asset_that_says_what_is_missing(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_url: str, redis_client: redis.Redis
) -> None:
    with closing(Recorder.connect(redis_url, timeout_seconds=5)) as recorder:
        assert recorder.record_api_key("a", requests=5)
        assert recorder.record_token("t", "i")
    redis_client.hincrby("apikey:foreign:metrics", "total_requests", 2)
    run(definitions, instance, "drain_now")
    result = execute(definitions, instance, "reconcile")
    assert failed(evaluated(result)) == {}
    [event] = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert (metadata["missing"].value, metadata["not_recorded_by_us"].value) == (0, 2)
    rows = [record.data for record in metadata["newest_days"].records]
    assert [(row["family"], row["recorded"], row["stored"], row["difference"]) for row in rows] == [
        ("api_key", 5, 7, -2),
        ("token", 1, 1, 0),
    ]
    redis_client.hincrby(f"usage_pipeline:recorded:token:{today()}", "usage_count", 3)
    found = failed(run(definitions, instance, "reconcile"))
    assert found == {
        "ops/reconciliation.nothing_is_missing": f"token of {today()}: 3 of 4 recorded usage_count are missing"
    }


def test_the_check_of_dead_letters_counts_open_and_discarded_ones_and_ends_when_none_is_open(
    definitions: dg.Definitions, instance: dg.DagsterInstance, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    for name in ("a", "b"):
        redis_client.hset(f"apikey:{name}:metrics", "total_requests", "many")
    name = "snapshots/api_key_deltas.no_dead_letters"
    first = run(definitions, instance, "drain_now")[name]
    discard(postgres, Choice(ids=[1]), Decision("r", "somebody@host"))
    second = run(definitions, instance, "drain_now")[name]
    discard(postgres, Choice(ids=[2]), Decision("r", "somebody@host"))
    third = run(definitions, instance, "drain_now")[name]
    found = [
        (one.passed, one.metadata["open"].value, one.metadata["discarded"].value) for one in (first, second, third)
    ]
    assert found == [(False, 2, 0), (False, 1, 1), (True, 0, 2)]
