"""Drains and merchants' aggregations as the role usage_drain: they work in full, and what is not theirs is refused."""

import json
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis

from usage_pipeline.drain.rounds import drain_until_empty
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.commands import run_command
from usage_pipeline_tests.storage.roles.prepared_server import OWNER, PreparedServer
from usage_pipeline_tests.storage.roles.refusals import (
    changes_nothing_that_it_does_not_own,
    makes_partitions_of_two_days_at_most_and_of_our_tables_only,
    no_refusal_in_the_log,
    refuses,
    stores_no_time_that_no_program_reads,
    tables_of,
)

ROLE = "usage_drain"
NOW = datetime.now(UTC)
MOST = 2**63 - 1


@pytest.fixture
def settings(prepared: PreparedServer, redis_url: str) -> Settings:
    return load_settings(database_url=prepared.url(ROLE), redis_url=redis_url)


@pytest.fixture
def owner(prepared: PreparedServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(prepared.url(OWNER), autocommit=True) as connection:
        yield connection


@pytest.fixture
def session(prepared: PreparedServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(prepared.url(ROLE), autocommit=True) as connection:
        yield connection


def write_counters(client: redis.Redis, *, at: datetime, queued: list[str]) -> None:
    """Of every family: good ones, and some that are refused in whole or in part."""
    used = {"last_used_at": int(at.timestamp() * 1000)}
    client.hset("apikey:good:metrics", mapping=used | {"total_requests": 3, "failed_requests": "odd"})
    client.hset("apikey:bad:metrics", mapping={"total_requests": "many"})
    client.hset("apikey:full:metrics", mapping=used | {"total_requests": MOST})
    client.hset("provider:good:s3:metrics", mapping=used | {"user_id": "u", "provider": "s3", "upload_count": 2})
    token = {"usageCount": 3, "lastUsedAt": at.isoformat(), "instanceId": "i"}
    # About to expire, which the drain notes.
    client.set("token_usage:good:i", json.dumps(token), ex=30)
    client.rpush("event_queue", *queued)


def queued_event(event_id: str, **changes: object) -> str:
    members = {"event_id": event_id, "api_key_id": "good", "user_id": "u", "provider": "s3", "event_type": "upload"}
    return json.dumps(members | {"file_size": 1, "status": "success", "at": NOW.isoformat()} | changes)


def test_every_family_is_drained(
    prepared: PreparedServer, settings: Settings, redis_client: redis.Redis, owner: psycopg.Connection
) -> None:
    owner.execute("insert into usage.api_key_quotas (api_key_id, requests_per_day) values ('good', 10)")
    event_id = str(uuid.uuid4())
    with no_refusal_in_the_log(prepared):
        # A day whose partition is not there, and then again: totals are full, the event is a duplicate and a conflict.
        for at in (NOW - timedelta(days=30), NOW):
            queued = [queued_event(event_id), queued_event(event_id, file_size=2), "rubbish"]
            write_counters(redis_client, at=at, queued=queued)
            report = drain_until_empty(settings, should_stop=threading.Event())
            assert report.is_complete, report
            assert report.dead_letters
    stored = """
        select 'key', total_requests from usage.api_keys where api_key_id in ('good', 'full')
        union all
        select 'provider', upload_count from usage.provider_usage
        union all
        select 'token', usage_count from usage.api_access_tokens where token_id = 'good'
        union all
        select 'event', count(*) from raw.request_events
        order by 1, 2
    """
    assert owner.execute(stored).fetchall() == [("event", 1), ("key", 6), ("key", MOST), ("provider", 4), ("token", 6)]


def test_merchants_are_aggregated(
    prepared: PreparedServer, settings: Settings, redis_client: redis.Redis, owner: psycopg.Connection
) -> None:
    today = NOW.date()
    with no_refusal_in_the_log(prepared):
        # The second look: one is lower, one was mended.
        for calls, odd in ((10, "x"), (7, "1")):
            redis_client.set(f"usage:m:{today}:calls", calls)
            redis_client.set(f"usage:m:{today}:odd", odd)
            aggregate(settings, [today])
    stored = "select metric_type, metric_value from usage.merchant_usage order by 1"
    assert owner.execute(stored).fetchall() == [("calls", 10), ("odd", 1)]
    assert owner.execute("select count(*) from ops.counter_regressions").fetchall() == [(1,)]


def test_it_changes_nothing_that_it_does_not_own(session: psycopg.Connection, owner: psycopg.Connection) -> None:
    changes_nothing_that_it_does_not_own(session, tables_of(owner))
    makes_partitions_of_two_days_at_most_and_of_our_tables_only(session)
    stores_no_time_that_no_program_reads(
        session, "insert into ops.touched_days (family, usage_date) values ('api_key', %s::timestamptz::date)"
    )
    for statement in (
        "update usage.api_access_tokens set scopes = '{read,ingest}'",
        "update usage.api_access_tokens set token_hash = 'mine'",
        "update usage.api_access_tokens set revoked_at = null",
        "insert into usage.api_access_tokens (token_id, token_prefix, token_hash) values ('mine', 'upt_mine', 'hash')",
        "update raw.api_key_deltas set total_requests = 0",
        "insert into analytics.usage_events (event_id) values (gen_random_uuid())",
        "update ops.calendar set time_zone = 'Asia/Tokyo'",
        "update usage.api_key_quotas set requests_per_day = null",
        "insert into usage.api_key_daily (usage_date) values ('2026-01-01')",
    ):
        refuses(session, statement)


def test_of_whole_dead_letters_it_reads_those_of_merchants_only(
    session: psycopg.Connection, owner: psycopg.Connection
) -> None:
    for family in ("merchant", "usage_event", "message_archive", "event"):
        owner.execute(
            "insert into ops.dead_letters (family, source_key, reason, raw, raw_format, claimed_at)"
            " values (%s, %s, 'expected one, came none', 'PROMPT', 'string', now())",
            (family, family.encode()),
        )
    assert session.execute("select distinct family from ops.merchant_letters").fetchall() == [("merchant",)]
    with pytest.raises(psycopg.errors.WithCheckOptionViolation):
        session.execute("update ops.merchant_letters set family = 'event'")


def test_it_reads_nothing_but_what_it_counts(session: psycopg.Connection) -> None:
    for table in (
        "analytics.usage_events",
        "analytics.message_archives",
        "analytics.usage_daily",
        "app.issues",
        "stats.popular_issues",
        "reporting.usage_by_team",
        "ops.event_conflicts",
        "ops.alerts",
    ):
        refuses(session, f"select * from {table}")
    for statement in (
        "select raw from ops.dead_letters",
        "select reason from ops.dead_letters",
        "update ops.dead_letters set raw = ''",
        "delete from ops.merchant_letters",
    ):
        refuses(session, statement)
    for column in ("token_hash", "scopes", "name"):
        refuses(session, f"select {column} from usage.api_access_tokens")


@pytest.mark.parametrize(
    "command", [["tokens", "create", "mine", "--scope", "read", "--never-expires"], ["migrate"], ["erase-user", "u"]]
)
def test_commands_of_the_owner_are_refused_in_one_line(command: list[str], settings: Settings) -> None:
    done = run_command(settings, *command)
    assert done.returncode == 2, done.stdout
    line = done.stderr.splitlines()[-1]
    assert line.startswith("usage-pipeline: PostgreSQL: permission denied for ")
    assert "take that of the owner of the database" in line
    assert "Traceback" not in done.stderr
