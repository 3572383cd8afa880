"""The request event queue: each event once by its id, in order, page by page."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.event_queue import parse_event
from usage_pipeline.drain.protocol import DrainLimits
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.settings import Settings
from usage_pipeline.values import Malformed, TimeWindow
from usage_pipeline_tests.drain.rig import Life, assert_at_rest, event_item, lives

ID = "123e4567-e89b-12d3-a456-426614174000"
NOW = datetime.now(UTC)
WINDOW = TimeWindow.around(int(NOW.timestamp() * 1000), retention_days=180)


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usage_pipeline.drain.event_queue.PAGE_ITEMS", 3)


def sizes(postgres: psycopg.Connection) -> list[int]:
    return [size for (size,) in postgres.execute("select file_size from raw.request_events order by file_size")]


def test_an_event_written_as_in_the_contracts_ends_in_its_table(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    at = "2026-01-02T03:04:05.678Z" if NOW.year < 2026 else NOW.replace(microsecond=0).isoformat()
    item = event_item(
        event_id=ID, api_key_id="a:b", user_id="ü", provider="s3", file_size=2**62, status="failure", at=at, region="eu"
    )
    redis_client.rpush("event_queue", item)
    report = drain_once(settings)
    assert (report.keys, report.dead_letters) == (1, 0)
    columns = "event_id::text, api_key_id, user_id, provider, event_type, file_size, status, at, extra, usage_date"
    assert postgres.execute(f"select {columns} from raw.request_events").fetchall() == [
        (
            ID,
            "a:b",
            "ü",
            "s3",
            "upload",
            2**62,
            "failure",
            datetime.fromisoformat(at),
            {"region": "eu"},
            datetime.fromisoformat(at).date(),
        )
    ]
    assert_at_rest(redis_client, postgres, "event")


def test_a_long_queue_is_stored_in_pages_in_its_order(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.rpush("event_queue", *(event_item(file_size=number) for number in range(8)))
    drain_once(settings)
    pages = postgres.execute(
        "select array_agg(file_size order by file_size) from raw.request_events group by batch_id order by batch_id"
    ).fetchall()
    assert pages == [([0, 1, 2],), ([3, 4, 5],), ([6, 7],)]
    ledger = postgres.execute("select batch_id, keys, stored_rows from ops.sync_batches order by batch_id").fetchall()
    assert [row[1:] for row in ledger] == [(3, 3), (3, 3), (2, 2)]
    assert [row[0].partition("/")[2] for row in ledger] == ["0000000", "0000001", "0000002"]
    assert_at_rest(redis_client, postgres, "event")


def test_an_event_that_comes_again_is_stored_once_the_first_one_kept(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """A retry may stamp its own time, order its members anew, and write its id in capitals."""
    first = event_item(event_id=ID, file_size=1, at=NOW.isoformat(), x=1, y=2)
    retry = json.loads(event_item(event_id=ID.upper(), file_size=1, at=(NOW - timedelta(days=1)).isoformat(), x=1, y=2))
    again = json.dumps(dict(reversed(retry.items())), separators=(",", ":")).encode()
    redis_client.rpush("event_queue", first, again, *(event_item() for _ in range(3)), again)
    report = drain_once(settings)
    redis_client.rpush("event_queue", again)
    second = drain_once(settings)
    assert (report.keys, report.dead_letters, second.keys, second.dead_letters) == (6, 0, 1, 0)
    assert postgres.execute("select at from raw.request_events where event_id = %s", (ID,)).fetchall() == [(NOW,)]
    assert postgres.execute("select sum(duplicates), sum(stored_rows) from ops.sync_batches").fetchall() == [(3, 4)]
    assert_at_rest(redis_client, postgres, "event")


@pytest.mark.parametrize("pages_apart", [False, True])
@pytest.mark.parametrize("change", [{"file_size": 2}, {"status": "failure"}, {"user_id": "v"}, {"note": "x"}], ids=str)
def test_the_same_id_with_another_payload_is_a_conflict(
    pages_apart: bool,
    change: dict[str, object],
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
) -> None:
    conflict = event_item(event_id=ID, **({"file_size": 1} | change))
    redis_client.rpush("event_queue", event_item(event_id=ID, file_size=1))
    if pages_apart:
        redis_client.rpush("event_queue", *(event_item(file_size=9) for _ in range(3)))
    redis_client.rpush("event_queue", conflict)
    drain_once(settings)
    kept = postgres.execute("select file_size, status, user_id from raw.request_events where event_id = %s", (ID,))
    assert kept.fetchall() == [(1, "success", "u")]
    [(reason, raw, position)] = postgres.execute("select reason, raw, position from ops.dead_letters").fetchall()
    assert reason.startswith("event_id: expected the stored payload (hash ")
    stored_hash, came_hash = reason.split("hash ")[1][:32], reason.split("hash ")[2][:32]
    query = "select encode(payload_hash, 'hex') from raw.request_event_ids where event_id = %s"
    [(known,)] = postgres.execute(query, (ID,)).fetchall()
    assert (stored_hash, came_hash != known, len(came_hash)) == (known, True, 32)
    assert (raw, position) == (conflict, 4 if pages_apart else 1)
    assert_at_rest(redis_client, postgres, "event")


def test_the_timeline_is_left_alone(settings: Settings, redis_client: redis.Redis) -> None:
    redis_client.zadd("apikey:k:timeline", {ID: 1})
    redis_client.rpush("event_queue", event_item(event_id=ID))
    drain_once(settings)
    assert redis_client.zrange("apikey:k:timeline", 0, -1) == [ID.encode()]


def test_a_reached_limit_leaves_the_rest_of_the_pages_claimed(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.rpush("event_queue", *(event_item(file_size=number) for number in range(9)))

    def is_first_page_stored() -> bool:
        return bool(postgres.execute("select count(*) from ops.sync_batches").fetchone() != (0,))

    report = drain_once(settings, ["event"], should_stop=is_first_page_stored)
    assert not report.is_complete
    assert sizes(postgres) == [0, 1, 2]
    drain_once(settings)
    assert sizes(postgres) == [*range(9)]
    assert_at_rest(redis_client, postgres, "event")


def drains_with_a_budget(settings: Settings, steps: int) -> tuple[int, int]:
    """How many drains by one process, each of so many steps, it takes until nothing is left; and how many pages they read."""
    reads = drains = 0
    with Life(settings) as life:
        read_items = life.releasing.read_items

        def counting_read(*arguments: Any) -> list[bytes]:
            nonlocal reads
            reads += 1
            return read_items(*arguments)

        life.releasing.read_items = counting_read  # type: ignore[method-assign]
        is_complete = False
        while not is_complete and drains < 50:
            drains += 1
            end = life.steps + steps
            life.limits = DrainLimits(should_stop=lambda end=end: life.steps >= end)
            is_complete = life.drain("event").is_complete
    return drains, reads


def test_a_budget_that_ends_at_any_step_reads_each_page_once_and_finishes_in_as_many_drains(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain that reads stored pages again does nothing else at last, and the queue is never finished."""
    pages, budget, drains = 5, 0, 0
    with lives(monkeypatch):
        while drains != 1:
            redis_client.rpush("event_queue", *(event_item() for _ in range(3 * pages)))
            drains, reads = drains_with_a_budget(settings, budget)
            assert reads == pages, f"budget of {budget} steps"
            assert drains <= pages + 1, f"budget of {budget} steps"
            assert_at_rest(redis_client, postgres, "event")
            budget += 1
            assert budget < 500, "a budget that is large enough takes one drain"
    assert postgres.execute("select count(*) from raw.request_events").fetchone() == (3 * pages * budget,)


def test_a_queue_that_came_back_after_all_its_pages_were_stored_is_not_read_again(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """A fail-over may forget the deletion of the claimed list."""
    redis_client.rpush("event_queue", *(event_item(file_size=number) for number in range(8)))
    with Life(settings) as life:
        held: dict[str, bytes] = {}
        release = life.releasing.release

        def keep_and_release(batch_id: str, keys: Any) -> bool:
            name = names.claim(batch_id, b"event_queue")
            held[name.decode()] = redis_client.dump(name) or b""
            return bool(release(batch_id, keys))

        life.releasing.release = keep_and_release  # type: ignore[method-assign]
        life.drain("event")
    [(name, dump)] = held.items()
    redis_client.restore(name, 0, dump)
    with Life(settings) as life:
        life.releasing.read_items = None  # type: ignore[union-attr,method-assign,assignment]
        life.drain("event")
    assert sizes(postgres) == [*range(8)]
    assert_at_rest(redis_client, postgres, "event")


@given(st.binary() | st.binary().map(lambda noise: event_item(x="Y").replace(b"Y", noise)))
def test_no_item_is_worse_than_malformed(item: bytes) -> None:
    try:
        *_, extra = parse_event(item, WINDOW).row
    except Malformed as malformed:
        str(malformed).encode()
    else:
        assert extra is None or isinstance(json.loads(extra), dict)
