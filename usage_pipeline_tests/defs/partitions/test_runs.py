"""A range run with a partition that fails: its neighbours stand, only that one is red, and only that one is tried again."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest
import redis

from usage_pipeline.defs.retries import IO_RETRY
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline_tests.rigs.clock import days_ago

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
DAYS = [days_ago(ago) for ago in range(9, 0, -1)]
BAD = DAYS[3]
GOOD = [str(day) for day in DAYS if day != BAD]
DAILY, STATS, RANKING, MERCHANTS = (
    dg.AssetKey(path.split("/"))
    for path in ("usage/api_key_daily", "stats/daily_issue_stats", "stats/popular_api_keys", "usage/merchant_usage")
)
# Something that goes wrong with a day for real: a trigger. `attempts` counts although the transaction is rolled back.
TRIGGER = """
create sequence attempts;
create function misfortune() returns trigger language plpgsql as $$
begin
    if {condition} and nextval('attempts') <= {times} then {event}; end if;
    return new;
end $$;
create trigger misfortune before insert on {table} for each row execute function misfortune()
"""
RAISE = "raise exception 'a bad day'"
HANG_UP = "perform pg_terminate_backend(pg_backend_pid()), pg_sleep(5)"


def trouble(postgres: psycopg.Connection, table: str, condition: str, event: str, *, times: int) -> None:
    """So often, something happens to a new row that meets the condition."""
    postgres.execute(TRIGGER.format(table=table, condition=condition, event=event, times=times))


def tries(postgres: psycopg.Connection) -> int:
    [(last, is_called)] = postgres.execute("select last_value, is_called from attempts").fetchall()
    return int(last) if is_called else 0


def store_deltas(settings: Settings, client: redis.Redis) -> None:
    """Five requests of one API key on each day."""
    for day in DAYS:
        at_ms = int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp() * 1000)
        client.hset(f"apikey:{day}:metrics", mapping={"total_requests": 5, "last_used_at": at_ms})
    assert drain_once(settings, ["api_key"]).keys == len(DAYS)


def run(
    definitions: dg.Definitions, instance: dg.DagsterInstance, job: str, key: dg.AssetKey, **options: Any
) -> dg.ExecuteInProcessResult:
    tags = {"dagster/asset_partition_range_start": str(DAYS[0]), "dagster/asset_partition_range_end": str(DAYS[-1])}
    return definitions.resolve_job_def(job).execute_in_process(
        instance=instance, run_config=QUIET, raise_on_error=False, asset_selection=[key], **({"tags": tags} | options)
    )


def materialized(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Metadata of the newest materialization of each partition, as the UI shows it."""
    events = result.get_asset_materialization_events()
    return {str(event.partition): event.materialization.metadata for event in events}


def failure(result: dg.ExecuteInProcessResult) -> Any:
    [found] = [event for event in result.all_events if event.is_step_failure]
    return found.step_failure_data


def failed_partitions(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    found = failure(result).user_failure_data.metadata["failed_partitions"].value
    assert isinstance(found, dict)
    return found


def test_a_day_that_fails_for_good_leaves_its_neighbours_and_a_re_run_of_it_mends_it(
    settings: Settings,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    postgres: psycopg.Connection,
    redis_client: redis.Redis,
) -> None:
    store_deltas(settings, redis_client)
    trouble(postgres, "usage.api_key_daily", f"new.usage_date = '{BAD}'", RAISE, times=3)
    result = run(definitions, instance, "daily_tables", DAILY)
    assert not result.success
    assert tries(postgres) == 3, "by the retry policy, and the neighbours are not made again"
    first_lines = materialized(result)
    assert sorted(first_lines) == GOOD
    assert {one["changed_rows"].value for one in first_lines.values()} == {1}
    assert {one["sum_total_requests"].value for one in first_lines.values()} == {5}
    assert failed_partitions(result) == {str(BAD): "RaiseException: a bad day"}
    assert f"{BAD}: RaiseException: a bad day" in failure(result).user_failure_data.description
    stored = postgres.execute("select usage_date::text from usage.api_key_daily order by 1").fetchall()
    assert [day for (day,) in stored] == GOOD
    # Only the bad day is red: that is what "re-run failed" of the UI launches.
    attempts = instance.event_log_storage.get_latest_asset_partition_materialization_attempts_without_materializations
    assert set(attempts(DAILY)) == {str(BAD)}

    mended = run(definitions, instance, "daily_tables", DAILY, partition_key=str(BAD), tags={})
    assert mended.success
    assert list(materialized(mended)) == [str(BAD)]
    assert set(attempts(DAILY)) == set()


def test_a_day_whose_source_is_gone_is_not_tried_again(
    settings: Settings,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    postgres: psycopg.Connection,
    redis_client: redis.Redis,
) -> None:
    store_deltas(settings, redis_client)
    assert run(definitions, instance, "daily_tables", DAILY).success
    [(partition,)] = postgres.execute(
        "select distinct tableoid::regclass::text from raw.api_key_deltas where usage_date = %s", (BAD,)
    ).fetchall()
    postgres.execute(f"drop table {partition}")
    result = run(definitions, instance, "daily_tables", DAILY)
    assert not result.success
    assert list(failed_partitions(result)) == [str(BAD)]
    assert "usage-pipeline archive restore" in failed_partitions(result)[str(BAD)]
    assert sorted(materialized(result)) == GOOD
    assert not [event for event in result.all_events if event.event_type_value == "STEP_RESTARTED"]


@pytest.mark.parametrize("event", [RAISE, HANG_UP], ids=["an error", "a lost connection"])
def test_what_fails_once_is_done_by_the_retry_and_the_days_done_before_keep_their_metadata(
    settings: Settings,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    postgres: psycopg.Connection,
    redis_client: redis.Redis,
    event: str,
) -> None:
    store_deltas(settings, redis_client)
    trouble(postgres, "usage.api_key_daily", f"new.usage_date = '{BAD}'", event, times=1)
    result = run(definitions, instance, "daily_tables", DAILY)
    assert result.success
    assert tries(postgres) == 2
    found = materialized(result)
    assert sorted(found) == [str(day) for day in DAYS]
    assert {one["changed_rows"].value for one in found.values()} == {1}
    assert {"null_shares" in one for one in found.values()} == {True}


def test_days_made_by_one_statement_stand_too(
    definitions: dg.Definitions, instance: dg.DagsterInstance, postgres: psycopg.Connection
) -> None:
    trouble(postgres, "stats.daily_issue_stats", f"new.date = '{BAD}'", RAISE, times=1_000)
    result = run(definitions, instance, "issue_stats", STATS)
    assert not result.success
    assert list(failed_partitions(result)) == [str(BAD)]
    assert sorted(materialized(result)) == GOOD
    stored = postgres.execute("select date::text from stats.daily_issue_stats order by 1").fetchall()
    assert [day for (day,) in stored] == GOOD
    assert "plot" in materialized(result)[str(DAYS[-1])]


def test_rankings_and_merchants_stand_too(
    definitions: dg.Definitions, instance: dg.DagsterInstance, postgres: psycopg.Connection
) -> None:
    postgres.execute(
        "insert into usage.api_key_daily values (%s, 'k', 1, 1, 0, 0, 0, null)", (DAYS[0] - timedelta(days=1),)
    )
    postgres.execute(
        "alter table stats.popular_api_keys add constraint no_such_day check (ranking_date <> '" + str(BAD) + "')"
    )
    result = run(definitions, instance, "usage_rankings", RANKING)
    assert not result.success
    assert list(failed_partitions(result)) == [str(BAD)]
    assert sorted(materialized(result)) == GOOD

    trouble(postgres, "ops.sync_batches", f"'{BAD}' = any(new.usage_dates)", RAISE, times=1_000)
    result = run(definitions, instance, "merchant_usage", MERCHANTS)
    assert not result.success
    assert list(failed_partitions(result)) == [str(BAD)]
    assert sorted(materialized(result)) == GOOD


@pytest.mark.parametrize("interrupt", [dg.DagsterExecutionInterruptedError, KeyboardInterrupt])
def test_what_is_interrupted_is_not_tried_again(interrupt: type[BaseException]) -> None:
    """Otherwise Dagster would: a run that is cancelled would begin anew, and succeed."""
    tries = []

    @dg.asset(retry_policy=IO_RETRY)
    def interrupted() -> None:
        tries.append(1)
        raise interrupt

    result = dg.materialize([interrupted], raise_on_error=False, run_config=QUIET)
    assert not result.success
    assert len(tries) == 1


REFUSED = [
    (
        "select missing from usage.api_keys",
        'PostgreSQL refused: column "missing" does not exist',
        "usage-pipeline migrate",
    ),
    ("select 'x'::int", 'PostgreSQL refused: invalid input syntax for type integer: "x"', None),
    (
        "insert into usage.api_keys (api_key_id) values (null)",
        'PostgreSQL refused: null value in column "api_key_id"',
        None,
    ),
]


@pytest.mark.parametrize(("statement", "headline", "hint"), REFUSED, ids=["42", "22", "23"])
def test_what_postgresql_refuses_for_good_is_not_tried_again_and_its_sentence_is_the_headline(
    settings: Settings, statement: str, headline: str, hint: str | None
) -> None:
    tries = []

    @dg.asset(retry_policy=IO_RETRY)
    def refused() -> None:
        tries.append(1)
        with closing(connect(settings)) as connection:
            connection.execute(statement)

    result = dg.materialize([refused], raise_on_error=False, run_config=QUIET)
    assert not result.success
    assert len(tries) == 1
    described = failure(result).user_failure_data.description
    assert described.startswith(headline)
    assert (hint or "") in described
    assert headline in failure(result).error.message


def test_what_another_transaction_broke_is_tried_again() -> None:
    tries = []

    @dg.asset(retry_policy=IO_RETRY)
    def broken_once() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise psycopg.errors.SerializationFailure("could not serialize access")

    assert dg.materialize([broken_once], raise_on_error=False, run_config=QUIET).success
    assert len(tries) == 2


@pytest.mark.parametrize("partition", [None, str(BAD)])
def test_days_of_a_table_that_is_not_as_it_should_be_are_tried_once(
    settings: Settings,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    postgres: psycopg.Connection,
    redis_client: redis.Redis,
    partition: str | None,
) -> None:
    store_deltas(settings, redis_client)
    postgres.execute("alter table usage.api_key_daily rename column total_requests to another")
    options = {} if partition is None else {"partition_key": partition, "tags": {}}
    result = run(definitions, instance, "daily_tables", DAILY, **options)
    assert not result.success
    assert not [event for event in result.all_events if event.event_type_value == "STEP_RESTARTED"]
    assert "does not exist" in failure(result).user_failure_data.description
