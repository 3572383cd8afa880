"""A dead letter is replayed through the path of a drain, and counts once however often it is replayed."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis

from usage_pipeline.drain import dead_letters, families
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.drain.store import UsageStore
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect

MAX = 2**63 - 1


def replay(settings: Settings, **options: object) -> list[dead_letters.ReplayResult]:
    with closing(connect(settings)) as connection:
        store = UsageStore(connection, usage_timezone="UTC", drained_by="test")
        return list(
            dead_letters.replay(connection, store, dead_letters.Choice(**options), times=settings.possible_times)
        )


def total(postgres: psycopg.Connection, api_key_id: str) -> int:
    row = postgres.execute("select total_requests from usage.api_keys where api_key_id = %s", (api_key_id,)).fetchone()
    return row[0] if row else 0


@pytest.fixture
def overflowing(settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection) -> Settings:
    """A dead letter of 5 requests, refused since the total was full; the total has room again."""
    redis_client.hset("apikey:full:metrics", "total_requests", MAX)
    drain_once(settings)
    yesterday_ms = int((datetime.now(UTC) - timedelta(days=1)).timestamp() * 1000)
    redis_client.hset("apikey:full:metrics", mapping={"total_requests": 5, "last_used_at": yesterday_ms})
    redis_client.hset("apikey:other:metrics", "total_requests", 7)
    report = drain_once(settings)
    assert report.dead_letters == 1
    assert (total(postgres, "full"), total(postgres, "other")) == (MAX, 7)
    return settings


def test_a_letter_stays_while_its_cause_stays(overflowing: Settings, postgres: psycopg.Connection) -> None:
    [result] = replay(overflowing)
    assert not result.is_counted
    assert "bigint" in result.reason
    assert total(postgres, "full") == MAX
    assert postgres.execute("select count(*) from ops.dead_letters").fetchone() == (1,)


def test_a_letter_counts_once_after_its_cause_is_mended(overflowing: Settings, postgres: psycopg.Connection) -> None:
    postgres.execute("update usage.api_keys set total_requests = 100 where api_key_id = 'full'")
    with ThreadPoolExecutor(3) as pool:
        rounds = list(pool.map(lambda _: replay(overflowing), range(3)))
    rounds.append(replay(overflowing))
    assert all(result.is_counted for results in rounds for result in results)
    assert total(postgres, "full") == 105
    [(day,)] = postgres.execute(
        "select usage_date from raw.api_key_deltas where api_key_id = 'full' and total_requests = 5"
    ).fetchall()
    assert day == datetime.now(UTC).date() - timedelta(days=1)
    assert replay(overflowing) == []


def test_a_letter_counts_once_the_code_knows_its_form(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_client.hset("apikey:a:metrics", mapping={"total_requests": b"1e3", "total_file_size": 2})
    drain_once(settings)
    assert [result.is_counted for result in replay(settings)] == [False]
    count = families.values.count
    monkeypatch.setattr(families.values, "count", lambda name, value: 1000 if value == b"1e3" else count(name, value))
    assert [result.is_counted for result in replay(settings, families=["token"])] == []
    assert [result.is_counted for result in replay(settings, families=["api_key"])] == [True]
    assert total(postgres, "a") == 1000


def test_an_event_in_conflict_stays_a_letter_and_a_mended_one_is_stored(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    event = {
        "event_id": str(uuid.uuid4()),
        "api_key_id": "k",
        "user_id": "u",
        "provider": "p",
        "event_type": "upload",
        "file_size": 3,
        "status": "success",
        "at": datetime.now(UTC).isoformat(),
    }
    redis_client.rpush("event_queue", json.dumps(event), json.dumps({**event, "file_size": 4}))
    drain_once(settings)
    [letter] = dead_letters.list_dead_letters(postgres)
    assert "another" in letter.reason
    assert [result.is_counted for result in replay(settings, ids=[letter.dead_letter_id])] == [False]
    postgres.execute("delete from raw.request_events")
    postgres.execute("delete from raw.request_event_ids")
    assert [result.is_counted for result in replay(settings)] == [True]
    assert postgres.execute("select file_size from raw.request_events").fetchall() == [(4,)]


def test_a_key_of_another_type_and_a_merchant_counter_say_why_they_cannot_be_replayed(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.rpush("apikey:list:metrics", "x")
    drain_once(settings)
    postgres.execute(
        "insert into ops.dead_letters (family, source_key, reason, raw, raw_format, claimed_at)"
        " values ('merchant', 'usage:m:2026-01-01:x', 'r', 'v', 'string', now())"
    )
    reasons = [result.reason for result in replay(settings)]
    assert "expected a Redis hash" in reasons[0]
    assert "each aggregation reads them again" in reasons[1]
