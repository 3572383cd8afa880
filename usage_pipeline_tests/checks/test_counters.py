"""Checks of the counters on real data: each passes on what the drain and the roll-up made, and fails on what they would not."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis

from usage_pipeline.checks import counters as counter_checks
from usage_pipeline.checks.counters import COUNTER_TABLES
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.rollups.daily import replace_day
from usage_pipeline.settings import Settings

NOW = datetime.now(UTC)
TODAY, YESTERDAY = NOW.date(), NOW.date() - timedelta(days=1)
FAMILIES = ("api_key", "provider", "token")


def write(client: redis.Redis, *days_ago: int) -> None:
    for ago in days_ago:
        at = NOW - timedelta(days=ago)
        at_ms = int(at.timestamp() * 1000)
        client.hset(f"apikey:k{ago}:metrics", mapping={"total_requests": 5, "last_used_at": at_ms})
        client.hset(f"provider:k{ago}:s3:metrics", mapping={"upload_count": 5, "last_used_at": at_ms})
        usage = f'{{"usageCount": 5, "instanceId": "i", "lastUsedAt": "{at.isoformat()}"}}'
        client.set(f"token_usage:t{ago}:i", usage)


def roll(postgres: psycopg.Connection, *days_ago: int) -> None:
    for tables in COUNTER_TABLES.values():
        for ago in days_ago:
            replace_day(postgres, tables.daily, TODAY - timedelta(days=ago), today=TODAY)


@pytest.fixture
def drained(settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection) -> None:
    """Yesterday is rolled up, today is not."""
    write(redis_client, 0, 1)
    drain_once(settings)
    roll(postgres, 1)


def archive(postgres: psycopg.Connection, family: str) -> None:
    postgres.execute(
        "insert into ops.archives (table_name, chunk_start, chunk_end, address, rows, bytes, checksum) "
        "values (%s, %s, %s, %s, 1, 1, 'x')",
        (f"raw.{family}_deltas", YESTERDAY, TODAY, family),
    )
    postgres.execute(f"delete from raw.{family}_deltas where usage_date = %s", (YESTERDAY,))


@pytest.mark.usefixtures("drained")
@pytest.mark.parametrize("family", FAMILIES)
def test_totals_are_what_was_drained_or_it_is_told_of_which_key(family: str, postgres: psycopg.Connection) -> None:
    tables = COUNTER_TABLES[family]
    count = tables.counts[0]
    assert counter_checks.total_faults(postgres, family) == []
    postgres.execute(f"update {tables.totals} set {count} = {count} + 2 where {tables.keys[0]} like '_0'")
    [fault] = counter_checks.total_faults(postgres, family)
    assert fault.startswith(f"{tables.keys[0]} ")
    assert fault.endswith(f": {count} 7 in the totals, 5 drained")
    postgres.execute(f"delete from {tables.totals}")
    assert len(counter_checks.total_faults(postgres, family)) == 2


@pytest.mark.usefixtures("drained")
@pytest.mark.parametrize("family", FAMILIES)
def test_totals_outlive_raw_rows_that_are_archived_or_dropped_and_late_rows_count_beside_them(
    family: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    archive(postgres, family)
    assert counter_checks.total_faults(postgres, family) == []
    write(redis_client, 1)
    drain_once(settings)
    assert counter_checks.total_faults(postgres, family) == []
    postgres.execute("delete from ops.archives")
    assert counter_checks.total_faults(postgres, family) != [], "without the archive nobody knows of the older rows"


@pytest.mark.usefixtures("drained")
@pytest.mark.parametrize("family", FAMILIES)
def test_days_are_sums_of_raw_or_it_is_told_of_which_day_and_key(
    family: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    tables, span = COUNTER_TABLES[family], (YESTERDAY - timedelta(days=1), TODAY)
    count = tables.counts[0]
    assert counter_checks.day_sum_faults(postgres, family, *span) == []
    write(redis_client, 1)
    drain_once(settings)
    assert counter_checks.day_sum_faults(postgres, family, *span) == [], "the roll-up is still to come"
    roll(postgres, 1)
    assert counter_checks.day_sum_faults(postgres, family, *span) == []
    postgres.execute(f"update {tables.daily.table} set {count} = 9")
    [fault] = counter_checks.day_sum_faults(postgres, family, *span)
    assert fault.startswith(f"{YESTERDAY}, {tables.keys[0]} ")
    assert f"{count} 9 in the day, 10 drained" in fault
    assert counter_checks.day_sum_faults(postgres, family, TODAY, TODAY) == []
    postgres.execute(f"delete from {tables.daily.table}")
    assert f"{count} 0 in the day, 10 drained" in counter_checks.day_sum_faults(postgres, family, *span)[0]
    archive(postgres, family)
    assert counter_checks.day_sum_faults(postgres, family, *span) == [], "raw is not whole"


@pytest.mark.usefixtures("drained")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_count_below_zero_is_told_with_its_day_and_key(family: str, postgres: psycopg.Connection) -> None:
    tables = COUNTER_TABLES[family]
    of_days = (tables.daily.table, "usage_date", YESTERDAY, TODAY)
    assert counter_checks.negative_faults(postgres, *of_days) == []
    postgres.execute(f"update {tables.daily.table} set {tables.counts[-1]} = -3")
    [fault] = counter_checks.negative_faults(postgres, *of_days)
    assert fault.startswith(f"{YESTERDAY}, ")
    assert fault.endswith(f": {tables.counts[-1]} -3")
    assert counter_checks.negative_faults(postgres, tables.daily.table, "usage_date", TODAY, TODAY) == []


def test_a_day_that_nobody_rolled_up_and_a_day_without_usage_are_told(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    def faults(hours: float, family: str = "api_key") -> list[str]:
        return counter_checks.day_completeness_faults(
            postgres, family, today=TODAY, now=datetime.now(UTC) + timedelta(hours=hours)
        )

    write(redis_client, 0, 1, 3)
    drain_once(settings)
    empty = f"{TODAY - timedelta(days=2)}: no usage, but the days around it have some"
    assert faults(1.9) == [empty]
    overdue = faults(2.1)
    assert [fault[:37] for fault in overdue[:2]] == [
        f"{TODAY - timedelta(days=ago)}: not rolled up since its c" for ago in (3, 1)
    ]
    assert overdue[2:] == [empty]
    archive(postgres, "api_key")
    assert len(faults(2.1)) == 2, "the lifecycle run reads an archive back within a day"
    assert len(faults(26.1)) == 3
    write(redis_client, 2)
    drain_once(settings)
    roll(postgres, 2, 3)
    assert [fault[:10] for fault in faults(2.1, "token")] == [str(YESTERDAY)]
