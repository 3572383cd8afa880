"""What no role of a process may do to what it does not own, on any table; and what the server's log has against it."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from usage_pipeline_tests.storage.roles.prepared_server import PreparedServer

SCHEMAS = ["app", "raw", "usage", "analytics", "stats", "reporting", "ops"]
REFUSED = psycopg.errors.InsufficientPrivilege


def tables_of(connection: psycopg.Connection) -> list[str]:
    """Every table and partition, as schema.name."""
    found = connection.execute(
        "select oid::regclass::text from pg_class"
        " where relnamespace::regnamespace::text = any(%s) and relkind in ('r', 'p') order by 1",
        (SCHEMAS,),
    )
    return [name for (name,) in found]


def refuses(connection: psycopg.Connection, statement: str) -> None:
    with pytest.raises(REFUSED):
        connection.execute(statement)


def changes_nothing_that_it_does_not_own(connection: psycopg.Connection, tables: list[str]) -> None:
    assert len(tables) > 60
    for table in tables:
        for statement in (f"drop table {table}", f"alter table {table} rename to mine", f"delete from {table}"):
            refuses(connection, statement)
    for statement in (
        "truncate usage.api_keys",
        "drop schema usage cascade",
        "drop database usage",
        "create schema mine",
        "create table public.mine (note text)",
        "create table ops.mine (note text)",
        "create role mine",
        "set role usage_pipeline",
        "alter function ops.create_partition owner to current_user",
        "copy (select 1) to program 'true'",
        "select lo_from_bytea(0, '\\x00')",
        "select * from public.usage_pipeline_version",
    ):
        refuses(connection, statement)


def makes_partitions_of_two_days_at_most_and_of_our_tables_only(connection: psycopg.Connection) -> None:
    for table, first, following, error in (
        ("usage.api_keys", "2031-01-01", "2031-01-02", psycopg.errors.WrongObjectType),
        ("pg_catalog.pg_class", "2031-01-01", "2031-01-02", psycopg.errors.WrongObjectType),
        ("raw.nothing", "2031-01-01", "2031-01-02", psycopg.errors.WrongObjectType),
        ("raw.token_deltas", "2031-01-01", "2041-01-02", psycopg.errors.InvalidParameterValue),
        ("raw.token_deltas", "-infinity", "infinity", psycopg.errors.InvalidParameterValue),
        ("raw.token_deltas", "2031-01-02", "2031-01-01", psycopg.errors.InvalidParameterValue),
        ("raw.token_deltas", "2131-01-01", "2131-01-02", psycopg.errors.InvalidParameterValue),
        (
            "analytics.usage_events",
            "2026-01-01 00:00Z",
            "2026-01-01 00:00:00.000001Z",
            psycopg.errors.InvalidParameterValue,
        ),
        ("analytics.usage_events", "2026-01-01 05:00Z", "2026-01-01 06:00Z", psycopg.errors.InvalidParameterValue),
    ):
        with pytest.raises(error):
            connection.execute("select ops.create_partition(%s, %s, %s)", (table, first, following))
    refuses(
        connection,
        "create table raw.mine partition of raw.token_deltas for values from ('2032-01-01') to ('2032-01-02')",
    )


def stores_no_time_that_no_program_reads(connection: psycopg.Connection, insert: str) -> None:
    """One such row would fail each look at all of them, with the rights of the owner."""
    for at in ("0001-01-01 BC", "-infinity", "infinity", "10000-01-01"):
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(insert, (at,))


@contextmanager
def no_refusal_in_the_log(prepared: PreparedServer) -> Iterator[None]:
    """Inside this block no statement of anybody is refused, however well its failure is handled."""
    log = prepared.postgres.data_folder / "server.log"
    before = len(log.read_text(encoding="utf-8", errors="replace"))
    yield
    after = log.read_text(encoding="utf-8", errors="replace")[before:]
    assert "permission denied" not in after, after
    assert "must be owner" not in after, after
