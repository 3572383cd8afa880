"""Day partitions: made once, by whoever comes first, with the rules of their parent."""

import threading
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from usage_pipeline.storage.chunks.partitions import RAW_TABLES, ensure_partitions
from usage_pipeline.storage.sql import load

TABLE = "raw.api_key_deltas"
DAYS = [date(2022, 2, 28), date(2022, 3, 1)]


def partitions(postgres: psycopg.Connection, table: str) -> dict[str, str]:
    query = """
        select relname, pg_get_expr(relpartbound, pg_class.oid) from pg_inherits
        join pg_class on pg_class.oid = inhrelid where inhparent = %s::text::regclass
    """
    return dict(postgres.execute(query, (table,)).fetchall())


def test_missing_days_are_made_once(postgres: psycopg.Connection) -> None:
    assert ensure_partitions(postgres, TABLE, [*DAYS, DAYS[0]]) == DAYS
    assert ensure_partitions(postgres, TABLE, DAYS) == []
    made = partitions(postgres, TABLE)
    assert made["api_key_deltas_20220228"] == "FOR VALUES FROM ('2022-02-28') TO ('2022-03-01')"
    assert made["api_key_deltas_20220301"] == "FOR VALUES FROM ('2022-03-01') TO ('2022-03-02')"


def test_no_day_asks_for_nothing(postgres: psycopg.Connection) -> None:
    assert ensure_partitions(postgres, TABLE, []) == []


@pytest.mark.parametrize("table", RAW_TABLES)
def test_yesterday_to_three_days_ahead_are_there_after_a_migration(table: str, postgres: psycopg.Connection) -> None:
    today = datetime.now(UTC).date()
    expected = {f"{table.split('.')[1]}_{today + timedelta(days=offset):%Y%m%d}" for offset in range(4)}
    assert expected <= partitions(postgres, table).keys()


def test_two_connections_at_once_make_each_day_once(database_url: str, postgres: psycopg.Connection) -> None:
    days = [date(2021, 1, 1) + timedelta(days=number) for number in range(20)]
    made: list[date] = []
    failures: list[Exception] = []
    start = threading.Barrier(3)

    def ensure() -> None:
        try:
            with psycopg.connect(database_url, autocommit=True) as connection:
                start.wait(30)
                for first in range(0, 20, 4):
                    made.extend(ensure_partitions(connection, TABLE, days[first : first + 4]))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ensure) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert sorted(made) == days


def test_a_rolled_back_transaction_takes_its_partitions_along(postgres: psycopg.Connection) -> None:
    with postgres.transaction(force_rollback=True):
        assert ensure_partitions(postgres, TABLE, DAYS) == DAYS
    assert ensure_partitions(postgres, TABLE, DAYS) == DAYS


def test_a_new_partition_takes_rows_and_refuses_nulls(postgres: psycopg.Connection) -> None:
    ensure_partitions(postgres, TABLE, DAYS)
    insert = "insert into raw.api_key_deltas values (%s, 'b', 'apikey:k:metrics', 'k', 1, 1, 0, 0, 0)"
    postgres.execute(insert, (DAYS[0],))
    assert postgres.execute("select count(*) from raw.api_key_deltas_20220228").fetchall() == [(1,)]
    with pytest.raises(psycopg.errors.NotNullViolation):
        postgres.execute("insert into raw.api_key_deltas (usage_date) values (%s)", (DAYS[0],))


def test_the_bounds_of_a_partition_are_asked_once(postgres: psycopg.Connection) -> None:
    """Asked again for each use, they may be gone after the test that they are there: the partition is dropped meanwhile."""
    query = f"explain (verbose, costs off) {load('storage/chunks/select_partition_bounds')}"
    plan = "\n".join(line for (line,) in postgres.execute(query, {"parent": "raw.token_deltas"}))
    assert plan.count("pg_get_expr") == 1
