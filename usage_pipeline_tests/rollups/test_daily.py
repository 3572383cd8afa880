"""Daily tables are replaced from raw: a re-run changes nothing, late data is noted, a lost source is refused."""

from contextlib import closing
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
import redis

from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.rollups.daily import DAILY_TABLES, SourceGoneError, current_day, replace_day, stale_days
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline_tests.rigs.clock import days_ago, today

API_KEY, PROVIDER, TOKEN = DAILY_TABLES


def noon_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp() * 1000)


def record(client: redis.Redis, key: str, day: date, requests: int) -> None:
    client.hset(f"apikey:{key}:metrics", mapping={"total_requests": requests, "last_used_at": noon_ms(day)})


def daily_rows(postgres: psycopg.Connection, day: date) -> list[tuple[object, ...]]:
    return postgres.execute(
        "select api_key_id, total_requests, updated_at from usage.api_key_daily where usage_date = %s order by 1",
        (day,),
    ).fetchall()


def test_a_day_is_the_sum_of_its_raw_rows_and_a_rerun_touches_nothing(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    for requests in (3, 4):
        record(redis_client, "a", days_ago(1), requests)
        record(redis_client, "b", days_ago(2), requests)
        drain_once(settings)
    first = replace_day(postgres, API_KEY, days_ago(1), today=today())
    rows = daily_rows(postgres, days_ago(1))
    assert [row[:2] for row in rows] == [("a", 7)]
    assert (first.rows, first.changed_rows, first.sums["total_requests"]) == (1, 1, 7)
    again = replace_day(postgres, API_KEY, days_ago(1), today=today())
    assert (again.rows, again.changed_rows, again.is_late) == (1, 0, False)
    assert daily_rows(postgres, days_ago(1)) == rows


def test_rows_that_raw_does_not_have_are_taken_out(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    record(redis_client, "a", days_ago(1), 3)
    drain_once(settings)
    postgres.execute(
        "insert into usage.api_key_daily values (%s, 'stray', 1, 1, 0, 0, 0, null), (%s, 'other day', 1, 1, 0, 0, 0, null)",
        (days_ago(1), today()),
    )
    report = replace_day(postgres, API_KEY, days_ago(1), today=today())
    assert report.changed_rows == 2
    assert [row[0] for row in daily_rows(postgres, days_ago(1))] == ["a"]
    assert [row[0] for row in daily_rows(postgres, today())] == ["other day"]


def test_providers_and_tokens_have_days_too(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.hset("provider:k:s3:metrics", mapping={"upload_count": 2, "total_file_size": 30})
    redis_client.set("token_usage:t:h:1", '{"usageCount": 5, "instanceId": "h:1"}')
    redis_client.set("token_usage:t:h:2", '{"usageCount": 6, "instanceId": "h:2"}')
    drain_once(settings)
    assert replace_day(postgres, PROVIDER, today(), today=today()).sums == {
        "rows": 1,
        "upload_count": 2,
        "total_file_size": 30,
    }
    assert replace_day(postgres, TOKEN, today(), today=today()).sums == {"rows": 1, "usage_count": 11}


def test_a_closed_day_that_changes_is_stale_until_it_is_replaced_and_leaves_a_trace(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    assert stale_days(postgres, today=today()) == []
    replace_day(postgres, API_KEY, days_ago(1), today=today())
    record(redis_client, "a", days_ago(1), 3)
    drain_once(settings)
    [stale] = stale_days(postgres, today=today())
    assert (stale.family, stale.usage_date) == ("api_key", days_ago(1))
    assert replace_day(postgres, API_KEY, days_ago(1), today=today()).is_late
    assert stale_days(postgres, today=today()) == []
    [(table, day, before, after)] = postgres.execute(
        "select table_name, usage_date, before, after from ops.late_data"
    ).fetchall()
    assert (table, day, before["rows"], after["total_requests"]) == ("usage.api_key_daily", days_ago(1), 0, 3)


def test_the_first_roll_up_of_a_past_day_is_not_late_data(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    record(redis_client, "a", days_ago(1), 3)
    drain_once(settings)
    assert not replace_day(postgres, API_KEY, days_ago(1), today=today()).is_late
    assert postgres.execute("select count(*) from ops.late_data").fetchone() == (0,)


def test_a_day_that_is_still_running_is_never_stale(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    record(redis_client, "a", today(), 3)
    drain_once(settings)
    assert stale_days(postgres, today=today()) == []
    assert [day.usage_date for day in stale_days(postgres, today=today() + timedelta(days=1))] == [today()]


def test_a_day_whose_source_is_gone_is_not_replaced_by_less(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    record(redis_client, "a", days_ago(1), 3)
    drain_once(settings)
    replace_day(postgres, API_KEY, days_ago(1), today=today())
    rows = daily_rows(postgres, days_ago(1))
    postgres.execute(f"drop table raw.api_key_deltas_{days_ago(1):%Y%m%d}")
    with pytest.raises(SourceGoneError, match=f"archive restore {days_ago(1)}"):
        replace_day(postgres, API_KEY, days_ago(1), today=today())
    assert daily_rows(postgres, days_ago(1)) == rows


def test_a_day_is_replaced_by_one_transaction_at_a_time_which_is_not_waited_for_forever(
    settings: Settings, redis_client: redis.Redis, database_url: str
) -> None:
    record(redis_client, "a", days_ago(1), 5)
    drain_once(settings)
    with closing(connect(settings, statement_seconds=7)) as connection, psycopg.connect(database_url) as other:
        assert connection.execute("show statement_timeout").fetchone() == ("7s",)
        assert connection.execute("show lock_timeout").fetchone() == ("5min",)
        connection.execute("set lock_timeout = '50ms'")
        key = (API_KEY.table, days_ago(1).toordinal())
        other.execute("select pg_advisory_xact_lock(hashtext(%s), %s)", key)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            replace_day(connection, API_KEY, days_ago(1), today=today())
        assert replace_day(connection, PROVIDER, days_ago(1), today=today()).rows == 0
        other.rollback()
        assert replace_day(connection, API_KEY, days_ago(1), today=today()).rows == 1


def test_an_empty_day_without_a_partition_is_an_empty_day(postgres: psycopg.Connection) -> None:
    report = replace_day(postgres, API_KEY, date(2025, 2, 3), today=today())
    assert (report.rows, report.changed_rows) == (0, 0)


def test_the_current_day_is_that_of_the_time_zone(settings: Settings) -> None:
    days = {
        current_day(settings.model_copy(update={"usage_timezone": name}).timezone)
        for name in ("Etc/GMT+12", "Etc/GMT-14")
    }
    assert len(days) == 2
