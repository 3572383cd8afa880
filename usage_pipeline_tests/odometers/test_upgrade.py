"""The upgrade to lives of odometers, of a database that has odometers, regressions and reconciliations."""

import psycopg
import redis
from usage_recorder import keys as recorder_keys

from usage_pipeline.reconciliation.odometers import note_odometers
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import sql_folder
from usage_pipeline_tests.rigs.clock import today

BEFORE = """
drop table ops.odometer_lives;
alter table ops.odometers
    drop column life, drop column mark, drop column change, drop column changed_at, drop column problem;
alter table ops.counter_regressions drop column fell_to, drop column counter_before;
alter table ops.reconciliation drop column corrected;
alter table ops.reconciliation add constraint reconciliation_check
    check (difference = recorded - stored - live - claimed - dead - duplicates - carried);
insert into ops.counter_regressions (merchant_id, date, metric_type, stored_value, counter_value)
values ('m', '2026-11-01', 'x', 100, 60);
"""


def test_what_was_noted_before_counts_on(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    postgres.execute(BEFORE.encode())
    columns = "family, usage_date, counted, forgotten, fallen_at, surplus"
    noted = f"insert into ops.odometers ({columns}) values (%s, %s, %s, %s, %s, %s)"
    postgres.execute(noted, ("api_key", today(), 50, 0, None, None))
    postgres.execute(noted, ("token", today(), 50, 20, "2026-11-01", 0))
    [migration] = (sql_folder() / "migrations" / "versions").glob("*_lives_of_odometers.sql")
    postgres.execute(migration.read_text(encoding="utf-8").encode())
    assert postgres.execute("select fell_to from ops.counter_regressions").fetchall() == [(60,)]

    # Recorders of the version before give no names.
    redis_client.hset(recorder_keys.recorded("api_key", today()), "total_requests", 55)
    redis_client.hset(recorder_keys.recorded("token", today()), "usage_count", 51)
    seen = note_odometers(settings)
    assert (seen.recorded["api_key", today()], seen.forgotten["api_key", today()]) == (55, 0)
    assert (seen.recorded["token", today()], seen.forgotten["token", today()]) == (71, 20)
    redis_client.hset(recorder_keys.recorded("api_key", today()), "total_requests", 30)
    seen = note_odometers(settings)
    assert (seen.recorded["api_key", today()], seen.forgotten["api_key", today()]) == (55, 25)
