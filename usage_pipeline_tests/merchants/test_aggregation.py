"""Merchant counters (contracts §1.4): aggregation, status and accepted resets, on real servers."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from typing import Any

import psycopg
import pytest
import redis
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from usage_recorder.keys import merchant_counter

from usage_pipeline.drain.batch import claimed_ms
from usage_pipeline.merchants import aggregation as merchants
from usage_pipeline.merchants import counters as merchant_counters
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.merchants.counters import CounterKey, FoundKey, Reading, parse_counter_key
from usage_pipeline.merchants.regressions import Filters, accept_corrections, accept_resets
from usage_pipeline.merchants.report import MOST_LISTED
from usage_pipeline.merchants.status import MissingCounter, day_status
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import PostgresUnavailable
from usage_pipeline.storage.redis import PinnedConnection, RedisUnavailable
from usage_pipeline.values import MAX_COUNT, Malformed

DAY = date(2025, 3, 14)
NEXT_DAY = DAY + timedelta(days=1)

Stored = dict[tuple[str, date, str], int]


def stored(postgres: psycopg.Connection) -> Stored:
    rows = postgres.execute("select merchant_id, date, metric_type, metric_value from usage.merchant_usage")
    return {(merchant, day, metric): value for merchant, day, metric, value in rows}


def updated_at(postgres: psycopg.Connection) -> dict[tuple[str, date, str], datetime]:
    rows = postgres.execute("select merchant_id, date, metric_type, updated_at from usage.merchant_usage")
    return {(merchant, day, metric): at for merchant, day, metric, at in rows}


def letters(postgres: psycopg.Connection) -> dict[bytes, tuple[str, bytes, str]]:
    rows = postgres.execute(
        "select source_key, reason, raw, raw_format, batch_id, family from ops.dead_letters"
    ).fetchall()
    assert all(batch_id is None and family == "merchant" for *_, batch_id, family in rows)
    assert len({row[0] for row in rows}) == len(rows), "a key has two dead letters"
    return {key: (reason, raw, raw_format) for key, reason, raw, raw_format, *_ in rows}


def regressions(postgres: psycopg.Connection) -> list[tuple[Any, ...]]:
    return postgres.execute(
        """
        select merchant_id, stored_value, counter_value, accepted_at is null
        from ops.counter_regressions order by merchant_id, detected_at
        """
    ).fetchall()


def count(client: redis.Redis, merchant: str, value: int, *, day: date = DAY, metric: str = "api_calls") -> None:
    client.set(merchant_counter(merchant, day, metric), value, ex=7 * 86_400)


def fall_to_20(settings: Settings, client: redis.Redis) -> None:
    """A counter of m1 that was stored at 100 and reads 20 now: an open regression."""
    for value in (100, 20):
        count(client, "m1", value)
        aggregate(settings, [DAY])


# keys


@pytest.mark.parametrize(
    ("key", "merchant", "metric"),
    [
        ("usage:m1:2025-03-14:api_calls", "m1", "api_calls"),
        ("usage:eu:shop:7:2025-03-14:api_calls", "eu:shop:7", "api_calls"),
        ("usage::m:2025-03-14:api_calls", ":m", "api_calls"),
        ("usage:m:2020-01-01:2025-03-14:api_calls", "m:2020-01-01", "api_calls"),
        ("usage:{m1}:2025-03-14:{x}", "{m1}", "{x}"),
        ("usage:Käse 🧀:2025-03-14:größe", "Käse 🧀", "größe"),
        (f"usage:{'m' * 200}:2025-03-14:x", "m" * 200, "x"),
    ],
)
def test_the_last_two_parts_are_date_and_metric(key: str, merchant: str, metric: str) -> None:
    parsed = parse_counter_key(key.encode())
    assert parsed == CounterKey(merchant, DAY, metric)
    assert parsed.redis_key == key.encode()


@pytest.mark.parametrize(
    "key",
    [
        "usage:m1",
        "usage:",
        "usage:cache:x",
        "usage:a:b:c:d",
        "usage:m:2025-02-30:x:y",
        "usage:m:1:2025-3-14:x",
        "usage_pipeline:m:2025-03-14:x",
        "other:m:2025-03-14:x",
    ],
)
def test_other_usage_keys_are_not_ours(key: str) -> None:
    assert parse_counter_key(key.encode()) is None


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (b"usage:m1:2025-02-30:x", "date: expected a day as YYYY-MM-DD, came '2025-02-30'"),
        (b"usage:m1:20250314:x", "date: expected"),
        (b"usage:m1:2025-03-14T00:x", "date: expected"),
        ("usage:m1:٢٠٢٥-03-14:x".encode(), "date: expected"),
        (b"usage:m1:2025-03-14\n:x", "date: expected"),
        (b"usage::2025-03-14:x", "merchant_id: expected 1 to 200 characters, came 0"),
        (b"usage:m:2025-03-14:", "metric_type: expected 1 to 200 characters, came 0"),
        (b"usage:" + b"m" * 201 + b":2025-03-14:x", "merchant_id: expected 1 to 200 characters, came 201"),
        (b"usage:\xff:2025-03-14:x", "merchant_id: expected UTF-8"),
        (b"usage:m:2025-03-14:a\0b", "metric_type: expected no NUL"),
    ],
)
def test_four_parts_with_a_malformed_date_and_impossible_ids_are_malformed(key: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        parse_counter_key(key)


# aggregation


def test_counters_become_rows_of_their_day(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    expected: Stored = {}
    for merchant in ("m1", "eu:shop:7", "Käse 🧀", "{tagged}", "a*b[c]?", "back\\slash"):
        for metric, value in (("api_calls", 7), ("größe", MAX_COUNT), ("zero", 0)):
            count(redis_client, merchant, value, metric=metric)
            expected[merchant, DAY, metric] = value
    count(redis_client, "m1", 99, day=NEXT_DAY)

    report = aggregate(settings, [DAY])

    assert stored(postgres) == expected
    assert report.as_json() == {
        "success": True,
        "date": "2025-03-14",
        "keys_found": 18,
        "records_aggregated": 18,
        "errors": [],
        "inserted": 18,
        "raised": 0,
        "unchanged": 0,
        "regressions": 0,
        "dead_letters": 0,
        "rows_stored_before": 0,
        "has_expired": False,
    }
    assert redis_client.dbsize() == 19, "counters are never deleted by us"
    assert redis_client.ttl(merchant_counter("m1", DAY, "zero")) > 0


def test_a_second_aggregation_changes_nothing(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    for number in range(30):
        count(redis_client, f"m{number}", number)
    aggregate(settings, [DAY])
    before, times = stored(postgres), updated_at(postgres)
    redis_client.incrby(merchant_counter("m3", DAY, "api_calls"), 5)

    [day] = aggregate(settings, [DAY]).days

    assert (day.inserted, day.raised, day.unchanged, day.rows_stored_before) == (0, 1, 29, 30)
    assert stored(postgres) == before | {("m3", DAY, "api_calls"): 8}
    changed = {key for key, at in updated_at(postgres).items() if at != times[key]}
    assert changed == {("m3", DAY, "api_calls")}


def test_each_day_has_a_ledger_row(settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection) -> None:
    count(redis_client, "m1", 1)
    count(redis_client, "m2", 2)
    redis_client.set(merchant_counter("m3", DAY, "x"), "no number")
    aggregate(settings, [DAY, NEXT_DAY])
    rows = postgres.execute(
        """
        select batch_id, family, keys, stored_rows, dead_letters, usage_dates, released_at is not null, is_uncertain,
               redis_server, drained_by
        from ops.sync_batches order by batch_id
        """
    ).fetchall()
    batch_ids = [row[0] for row in rows]
    assert [batch_id.rpartition("/")[2] for batch_id in batch_ids] == ["2025-03-14", "2025-03-15"]
    assert len({batch_id.partition("/")[0] for batch_id in batch_ids}) == 1
    assert claimed_ms(batch_ids[0]) > 0
    assert [row[1:8] for row in rows] == [
        ("merchant", 3, 2, 1, [DAY], True, False),
        ("merchant", 0, 0, 0, [NEXT_DAY], True, False),
    ]
    assert str(redis_client.info()["run_id"]) in rows[0][8]
    assert rows[0][9]


def test_a_range_is_aggregated_in_one_call(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    days = [DAY + timedelta(days=offset) for offset in range(4)]
    for offset, day in enumerate(days):
        for number in range(offset + 1):
            count(redis_client, f"m{number}", 10 + offset, day=day)
    report = aggregate(settings, reversed_(days[:3]))
    assert [(day.day, day.keys_found) for day in report.days] == [(days[0], 1), (days[1], 2), (days[2], 3)]
    document = report.as_json()
    assert (document["date"], document["keys_found"], document["records_aggregated"]) == ("2025-03-14/2025-03-16", 6, 6)
    assert [day["date"] for day in document["days"]] == ["2025-03-14", "2025-03-15", "2025-03-16"]
    assert {day for _, day, _ in stored(postgres)} == set(days[:3])


def reversed_(days: list[date]) -> list[date]:
    return days[::-1]


def test_counters_of_other_days_that_grew_late_are_stored_too_and_only_what_changed_is_told(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    today, early = DAY + timedelta(days=5), DAY - timedelta(days=30)
    for day in (DAY, NEXT_DAY):
        count(redis_client, "m1", 10, day=day)
    count(redis_client, "too old", 1, day=early)
    count(redis_client, "of tomorrow", 1, day=today + timedelta(days=1))
    aggregate(settings, [DAY, NEXT_DAY])
    count(redis_client, "m1", 60, day=DAY)
    count(redis_client, "m2", 7, day=today - timedelta(days=1))
    count(redis_client, "m3", 1, day=today)

    report = aggregate(settings, [today], late_from=DAY)

    assert report.is_success
    assert [day.day for day in report.days] == [today]
    assert [(day.day, day.inserted, day.raised, day.rows_stored_before) for day in report.late_days] == [
        (DAY, 0, 1, 1),
        (today - timedelta(days=1), 1, 0, 0),
    ]
    assert stored(postgres) == {
        ("m1", DAY, "api_calls"): 60,
        ("m1", NEXT_DAY, "api_calls"): 10,
        ("m2", today - timedelta(days=1), "api_calls"): 7,
        ("m3", today, "api_calls"): 1,
    }
    assert aggregate(settings, [today], late_from=DAY).late_days == ()
    ledger = postgres.execute("select batch_id from ops.sync_batches order by batch_id").fetchall()
    days_of_last = [batch_id.rpartition("/")[2] for (batch_id,) in ledger][2:]
    assert days_of_last == ["2025-03-14", "2025-03-18", "2025-03-19", "2025-03-19"]


def test_a_counter_of_another_day_that_fell_is_a_regression_too(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    count(redis_client, "m1", 10)
    aggregate(settings, [DAY])
    count(redis_client, "m1", 4)
    redis_client.set(merchant_counter("m2", DAY, "api_calls"), "many")
    report = aggregate(settings, [NEXT_DAY], late_from=DAY)
    assert (report.late_days, len(report.all_errors), report.is_success) == ((), 2, False)
    assert regressions(postgres) == [("m1", 10, 4, True)]
    assert len(letters(postgres)) == 1


def test_nothing_to_aggregate_is_an_error_and_not_an_empty_success(settings: Settings) -> None:
    with pytest.raises(ValueError, match="days: expected at least one"):
        aggregate(settings, [])


@pytest.mark.parametrize("merchant", ["a*b[c]?", "back\\slash", "eu:shop", "{t}", "Käse-^"])
def test_one_merchant_alone_is_aggregated_whatever_its_id(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, merchant: str
) -> None:
    others = ["aXbcY", "a*bc?", "a*b[c]?:more", "eu:shop:7", "eu", "backslash", "t", "m"]
    for each in [merchant, *others]:
        count(redis_client, each, 5)
    redis_client.set("usage:m:2025-99-99:x", 1)
    report = aggregate(settings, [DAY], merchant_id=merchant)
    assert stored(postgres) == {(merchant, DAY, "api_calls"): 5}
    assert report.is_success
    assert report.merchant_id == merchant
    assert day_status(settings, DAY).last_aggregation is None, "one merchant is not the whole day"


def test_an_impossible_merchant_id_is_refused(settings: Settings) -> None:
    with pytest.raises(Malformed, match="merchant_id"):
        aggregate(settings, [DAY], merchant_id="m\0")


def test_foreign_usage_keys_are_left_alone(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.set("usage:summary", "x")
    redis_client.hset("usage:cache:pages", "a", "b")
    redis_client.set("usage:report:eu:2025-03-14:daily:pdf", "binary")
    redis_client.set("usage_pipeline:x:2025-03-14:y", "x")
    [day] = aggregate(settings, [DAY]).days
    assert day.keys_found == 0
    assert not day.errors
    assert not day.has_expired
    assert day.note == "2025-03-14: Redis has no counters, and none are stored"
    assert not stored(postgres)
    assert not letters(postgres)


def test_malformed_keys_and_values_become_dead_letters_once(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    count(redis_client, "good", 3)
    redis_client.set("usage:word:2025-03-14:x", "many")
    redis_client.set("usage:float:2025-03-14:x", "1.5")
    redis_client.set("usage:empty:2025-03-14:x", "")
    redis_client.set("usage:negative:2025-03-14:x", -4)
    redis_client.set("usage:huge:2025-03-14:x", str(MAX_COUNT + 1))
    redis_client.set("usage:long:2025-03-14:x", "9" * 100_000)
    redis_client.rpush("usage:list:2025-03-14:x", 1, 2)
    redis_client.hset("usage:large:2025-03-14:x", mapping={f"f{n}": "v" * 50 for n in range(500)})
    redis_client.set(b"usage:\xff\xfe:2025-03-14:x", 1)
    redis_client.set("usage:m:2025-03-14:a\0b", 1)
    redis_client.set("usage:m:2025-13-01:x", 12)
    redis_client.set("usage:other:2025-03-15:x", "not of this day")

    report = aggregate(settings, [DAY])
    first = letters(postgres)
    again = aggregate(settings, [DAY])

    assert letters(postgres) == first
    dump = redis_client.dump("usage:list:2025-03-14:x")
    assert {key: (reason.partition(",")[0], raw, form) for key, (reason, raw, form) in first.items()} == {
        b"usage:word:2025-03-14:x": ("value: expected an integer", b"many", "string"),
        b"usage:float:2025-03-14:x": ("value: expected an integer", b"1.5", "string"),
        b"usage:empty:2025-03-14:x": ("value: expected an integer", b"", "string"),
        b"usage:negative:2025-03-14:x": ("value: expected a count of 0 or more", b"-4", "string"),
        b"usage:huge:2025-03-14:x": (
            "value: expected at most 9223372036854775807 (bigint)",
            b"9223372036854775808",
            "string",
        ),
        b"usage:long:2025-03-14:x": ("value: expected at most 9223372036854775807 (bigint)", b"9" * 4096, "string"),
        b"usage:list:2025-03-14:x": ("key: expected a Redis string", dump, "dump"),
        b"usage:large:2025-03-14:x": ("key: expected a Redis string", b"", "dump"),
        b"usage:\xff\xfe:2025-03-14:x": ("merchant_id: expected UTF-8", b"1", "string"),
        b"usage:m:2025-03-14:a\0b": ("metric_type: expected no NUL character", b"1", "string"),
        b"usage:m:2025-13-01:x": ("date: expected a day as YYYY-MM-DD", b"12", "string"),
    }
    for each in (report, again):
        assert not each.is_success
        assert each.malformed_dates == 1
        assert (each.days[0].keys_found, each.days[0].dead_letters, each.records_aggregated) == (11, 10, 1)
        assert len(each.as_json()["errors"]) == 11
        assert each.as_json()["success"] is False
    assert stored(postgres) == {("good", DAY, "api_calls"): 3}


def test_a_growing_counter_with_a_malformed_name_keeps_one_dead_letter_with_its_latest_value(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    for value in (b"5", b"6", b"7"):
        redis_client.set("usage:m:2025-13-01:x", value)
        aggregate(settings, [DAY])
        [(_, raw, _)] = letters(postgres).values()
        assert raw == value


def test_a_mended_counter_clears_its_dead_letter_and_a_relapse_opens_it_again(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    def open_letters() -> int:
        [[number]] = postgres.execute("select count(*) from ops.dead_letters where replayed_at is null").fetchall()
        return int(number)

    redis_client.set("usage:Käse:2025-03-14:x", "broken")
    redis_client.set("usage:other:2025-03-14:x", "broken")
    aggregate(settings, [DAY])
    assert open_letters() == 2
    redis_client.set("usage:Käse:2025-03-14:x", 4)
    assert aggregate(settings, [DAY]).days[0].inserted == 1
    assert open_letters() == 1
    redis_client.set("usage:Käse:2025-03-14:x", "broken")
    aggregate(settings, [DAY])
    assert open_letters() == 2
    assert len(letters(postgres)) == 2
    assert stored(postgres) == {("Käse", DAY, "x"): 4}


def test_two_open_dead_letters_of_a_key_do_not_block_the_aggregation(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """A cleared letter that is opened again meets a younger one with the same reason; the next raw value refreshes one."""
    key = "usage:m:2025-03-14:x"
    for content in ("old", None, "young", "old", "newest"):
        redis_client.delete(key)
        if content is None:
            redis_client.set(key, 1)
        else:
            redis_client.rpush(key, content)
        [day] = aggregate(settings, [DAY]).days
        assert day.dead_letters == (content is not None)
    raws = {raw for (raw,) in postgres.execute("select raw from ops.dead_letters where replayed_at is null")}
    assert len(raws) == 2
    assert redis_client.dump(key) in raws


def test_an_expired_day_leaves_its_rows_and_says_so(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    count(redis_client, "m1", 5)
    count(redis_client, "m2", 6)
    aggregate(settings, [DAY])
    redis_client.flushall()
    before, times = stored(postgres), updated_at(postgres)
    [day] = aggregate(settings, [DAY]).days
    assert (day.keys_found, day.rows_stored_before, day.has_expired) == (0, 2, True)
    assert day.note == "2025-03-14: Redis has no counters any more; the 2 stored rows stay"
    assert (stored(postgres), updated_at(postgres)) == (before, times)
    assert not regressions(postgres)


def test_more_keys_than_a_chunk_are_counted_once(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merchant_counters, "CHUNK_KEYS", 700)
    monkeypatch.setattr(merchant_counters, "_SCAN_COUNT", 300)
    redis_client.mset({merchant_counter(f"m{number}", DAY, "x"): number for number in range(3_000)})
    report = aggregate(settings, [DAY])
    assert (report.keys_found, report.days[0].inserted) == (3_000, 3_000)
    assert stored(postgres) == {(f"m{number}", DAY, "x"): number for number in range(3_000)}


def test_a_report_stays_short_when_redis_lost_everything(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    for number in range(50):
        count(redis_client, f"m{number}", 100)
    aggregate(settings, [DAY])
    for number in range(50):
        count(redis_client, f"m{number}", 1)
    [day] = aggregate(settings, [DAY]).days
    assert (day.regressions, day.records_aggregated, len(day.errors)) == (50, 0, MOST_LISTED + 1)
    assert day.errors[-1] == "… and 30 more"


# servers that are away


def test_postgres_is_asked_before_redis(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(_: Settings) -> redis.Redis:
        raise AssertionError("Redis was asked first")

    monkeypatch.setattr(merchant_counters, "client", unexpected)
    away = settings.model_copy(update={"database_url": type(settings.database_url)("postgresql://u@127.0.0.1:1/x")})
    with pytest.raises(PostgresUnavailable):
        aggregate(away, [DAY])


def test_redis_that_is_away_is_named(settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": type(settings.database_url)("redis://127.0.0.1:1/0")})
    with pytest.raises(RedisUnavailable):
        aggregate(away, [DAY])


def test_postgres_going_away_midway_is_named_and_a_second_run_completes(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    count(redis_client, "m1", 5)

    def killed_meanwhile(connection: PinnedConnection, found: list[FoundKey]) -> Reading:
        postgres.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'usage_pipeline'"
        )
        return merchant_counters.read_counters(connection, found)

    with monkeypatch.context() as patched:
        patched.setattr(merchants, "read_counters", killed_meanwhile)
        with pytest.raises(PostgresUnavailable, match="PostgreSQL does not answer any more"):
            aggregate(settings, [DAY])
    assert not stored(postgres)
    assert aggregate(settings, [DAY]).records_aggregated == 1


# counters that Redis lost


def test_a_lost_counter_never_lowers_is_recorded_folded_in_once_and_grows_on(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    count(redis_client, "m1", 100)
    count(redis_client, "m2", 50)
    aggregate(settings, [DAY])
    count(redis_client, "m1", 20)
    for seen in (20, 25):
        count(redis_client, "m1", seen)
        [day] = aggregate(settings, [DAY]).days
        assert (day.regressions, day.unchanged, day.records_aggregated, day.keys_found) == (1, 1, 1, 2)
        assert "expected at least the stored value 100" in day.errors[0]
        assert stored(postgres)["m1", DAY, "api_calls"] == 100
        assert regressions(postgres) == [("m1", 100, seen, True)]

    [accepted] = accept_resets(settings)
    assert (accepted.outcome, accepted.stored_before, accepted.stored_after, accepted.counter) == (
        "folded",
        100,
        125,
        25,
    )
    assert stored(postgres)["m1", DAY, "api_calls"] == 125
    assert accept_resets(settings) == []
    assert regressions(postgres) == [("m1", 100, 25, False)]

    times = updated_at(postgres)
    assert aggregate(settings, [DAY]).is_success
    assert updated_at(postgres) == times
    count(redis_client, "m1", 30)
    assert aggregate(settings, [DAY]).days[0].raised == 1
    assert stored(postgres) == {("m1", DAY, "api_calls"): 130, ("m2", DAY, "api_calls"): 50}

    count(redis_client, "m1", 4)
    assert aggregate(settings, [DAY]).days[0].regressions == 1
    assert regressions(postgres) == [("m1", 100, 25, False), ("m1", 130, 104, True)]
    assert accept_resets(settings)[0].stored_after == 134
    count(redis_client, "m1", 5)
    aggregate(settings, [DAY])
    assert stored(postgres)["m1", DAY, "api_calls"] == 135


@pytest.mark.parametrize("back_at", [100, 140])
@pytest.mark.parametrize(("is_seen_back", "has_expired"), [(False, False), (True, False), (True, True)])
def test_a_restored_counter_is_closed_and_not_added(
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    back_at: int,
    is_seen_back: bool,
    has_expired: bool,
) -> None:
    fall_to_20(settings, redis_client)
    count(redis_client, "m1", back_at)
    if is_seen_back:
        aggregate(settings, [DAY])
    if has_expired:
        redis_client.flushall()
    [accepted] = accept_resets(settings)
    assert accepted.outcome == "closed"
    assert [row[3] for row in regressions(postgres)] == [False]
    count(redis_client, "m1", back_at)
    assert aggregate(settings, [DAY]).is_success
    assert stored(postgres) == {("m1", DAY, "api_calls"): back_at}


def test_a_reset_counter_that_expired_is_folded_in_as_it_was_last_read(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    fall_to_20(settings, redis_client)
    redis_client.flushall()
    [accepted] = accept_resets(settings)
    assert (accepted.outcome, accepted.stored_after, accepted.counter) == ("folded", 120, None)
    count(redis_client, "m1", 20)
    assert aggregate(settings, [DAY]).days[0].unchanged == 1
    assert stored(postgres) == {("m1", DAY, "api_calls"): 120}

    count(redis_client, "m1", 3)
    aggregate(settings, [DAY])
    redis_client.flushall()
    assert [one.stored_after for one in accept_resets(settings)] == [123]


def test_filters_choose_which_resets_are_accepted(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    every = [(m, d, x) for m in ("m1", "m2") for d in (DAY, NEXT_DAY) for x in ("a", "b")]
    for value in (10, 1):
        for merchant, day, metric in every:
            count(redis_client, merchant, value, day=day, metric=metric)
        aggregate(settings, [DAY, NEXT_DAY])
    first = accept_resets(settings, Filters("m1", DAY, "b"))
    assert [one.key for one in first] == [CounterKey("m1", DAY, "b")]
    assert len(accept_resets(settings, Filters(day=NEXT_DAY))) == 4
    assert len(accept_resets(settings, Filters(merchant_id="m2"))) == 2
    assert len(accept_resets(settings, Filters(metric_type="a"))) == 1
    assert set(stored(postgres).values()) == {11}


def test_an_unreadable_counter_leaves_its_regression_open(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    fall_to_20(settings, redis_client)
    redis_client.set(merchant_counter("m1", DAY, "api_calls"), "broken")
    [accepted] = accept_resets(settings)
    assert accepted.outcome == "left_open"
    assert "expected an integer" in accepted.reason
    assert regressions(postgres) == [("m1", 100, 20, True)]
    assert stored(postgres) == {("m1", DAY, "api_calls"): 100}


def test_an_offset_cannot_carry_a_sum_over_bigint(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    count(redis_client, "m1", MAX_COUNT - 10)
    count(redis_client, "m2", 1)
    aggregate(settings, [DAY])
    count(redis_client, "m1", 4)
    aggregate(settings, [DAY])
    assert accept_resets(settings)[0].stored_after == MAX_COUNT - 6
    count(redis_client, "m1", 11)
    count(redis_client, "m2", 2)
    [day] = aggregate(settings, [DAY]).days
    assert (day.dead_letters, day.raised, day.keys_found, day.regressions) == (1, 1, 2, 0)
    assert "after adding reset_offset" in day.errors[0]
    assert stored(postgres)["m1", DAY, "api_calls"] == MAX_COUNT - 6
    count(redis_client, "m1", 10)
    aggregate(settings, [DAY])
    assert stored(postgres)["m1", DAY, "api_calls"] == MAX_COUNT


# counters that were lowered on purpose


def decision(postgres: psycopg.Connection) -> tuple[Any, ...] | None:
    return postgres.execute(
        """
        select outcome, value_before, value_after, reason, decided_by like '%@%', accepted_at is not null
        from ops.counter_regressions order by regression_id desc limit 1
        """
    ).fetchone()


def test_a_lowered_counter_is_stored_as_it_reads_and_a_reset_leaves_it_alone(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.incrby(merchant_counter("m1", DAY, "api_calls"), 100)
    aggregate(settings, [DAY])
    redis_client.decrby(merchant_counter("m1", DAY, "api_calls"), 5)
    assert not aggregate(settings, [DAY]).is_success

    [refused] = accept_resets(settings)
    assert (refused.outcome, refused.stored_after) == ("left_open", 100)
    assert "it reads 95 of 100" in refused.reason
    assert "accept-correction" in refused.reason
    assert decision(postgres) == (None, None, None, None, None, False)

    [corrected] = accept_corrections(settings, reason="order 17 was cancelled")
    assert (corrected.outcome, corrected.stored_before, corrected.stored_after) == ("corrected", 100, 95)
    assert decision(postgres) == ("corrected", 100, 95, "order 17 was cancelled", True, True)
    assert accept_corrections(settings, reason="again") == []

    assert aggregate(settings, [DAY]).is_success
    redis_client.incrby(merchant_counter("m1", DAY, "api_calls"), 3)
    aggregate(settings, [DAY])
    assert stored(postgres) == {("m1", DAY, "api_calls"): 98}


def test_a_lost_counter_is_not_taken_for_a_lowered_one_unless_somebody_is_sure(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    fall_to_20(settings, redis_client)
    [refused] = accept_corrections(settings, reason="a guess")
    assert (refused.outcome, refused.stored_after) == ("left_open", 100)
    assert "accept-reset" in refused.reason
    with pytest.raises(Malformed, match="reason: expected"):
        accept_corrections(settings, reason=" ")
    accept_corrections(settings, reason="a test shop", is_sure=True)
    assert stored(postgres) == {("m1", DAY, "api_calls"): 20}


def test_a_correction_keeps_what_was_counted_before_a_reset(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    fall_to_20(settings, redis_client)
    accept_resets(settings, reason="Redis lost its disk")
    assert decision(postgres) == ("folded", 100, 120, "Redis lost its disk", True, True)
    count(redis_client, "m1", 15)
    aggregate(settings, [DAY])
    accept_corrections(settings, reason="refund")
    assert stored(postgres) == {("m1", DAY, "api_calls"): 115}
    count(redis_client, "m1", 16)
    aggregate(settings, [DAY])
    assert stored(postgres) == {("m1", DAY, "api_calls"): 116}


# several at once


@pytest.fixture
def slow_reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The first chunk that is read stands still between reading and storing: (it has read, it may go on)."""
    has_read, may_go_on = threading.Event(), threading.Event()
    first = threading.Lock()

    def read(connection: PinnedConnection, found: list[FoundKey]) -> Reading:
        reading = merchant_counters.read_counters(connection, found)
        if first.acquire(blocking=False):
            has_read.set()
            assert may_go_on.wait(30)
        return reading

    monkeypatch.setattr(merchants, "read_counters", read)
    yield has_read, may_go_on
    may_go_on.set()


def test_an_overtaken_aggregation_neither_lowers_nor_reports_a_regression(
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    slow_reader: tuple[threading.Event, threading.Event],
) -> None:
    has_read, may_go_on = slow_reader
    count(redis_client, "m1", 5)
    with ThreadPoolExecutor(1) as pool:
        overtaken = pool.submit(aggregate, settings, [DAY])
        assert has_read.wait(30)
        count(redis_client, "m1", 8)
        assert aggregate(settings, [DAY]).days[0].inserted == 1
        may_go_on.set()
        assert overtaken.result().days[0].unchanged == 1
    assert stored(postgres) == {("m1", DAY, "api_calls"): 8}
    assert not regressions(postgres)


def test_a_reset_is_not_accepted_under_an_aggregation_that_read_before_it(
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the value read before the reset would be stored on top of the offset: 100 + 100."""
    fall_to_20(settings, redis_client)
    count(redis_client, "m1", 100)
    has_read, may_go_on, first = threading.Event(), threading.Event(), threading.Lock()

    def read(connection: PinnedConnection, found: list[FoundKey]) -> Reading:
        reading = merchant_counters.read_counters(connection, found)
        if first.acquire(blocking=False):
            has_read.set()
            assert may_go_on.wait(30)
        return reading

    waiting = "select 1 from pg_locks where not granted and relation = 'ops.counter_regressions'::regclass"
    monkeypatch.setattr(merchants, "read_counters", read)
    with ThreadPoolExecutor(2) as pool:
        aggregation = pool.submit(aggregate, settings, [DAY])
        assert has_read.wait(30)
        count(redis_client, "m1", 30)
        acceptance = pool.submit(accept_resets, settings)
        while not postgres.execute(waiting).fetchone():
            assert not acceptance.done()
        may_go_on.set()
        aggregation.result()
        acceptance.result()
    assert stored(postgres) == {("m1", DAY, "api_calls"): 130}


def test_two_resets_accepted_at_once_are_folded_in_once(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    merchants_ = [f"m{number}" for number in range(40)]
    for value in (10, 1):
        for merchant in merchants_:
            count(redis_client, merchant, value)
        aggregate(settings, [DAY])
    with ThreadPoolExecutor(4) as pool:
        accepted = [one for batch in pool.map(lambda _: accept_resets(settings), range(4)) for one in batch]
    assert sorted(one.key.merchant_id for one in accepted) == sorted(merchants_)
    assert set(stored(postgres).values()) == {11}


def test_aggregations_at_once_neither_deadlock_nor_lower(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merchant_counters, "CHUNK_KEYS", 90)
    monkeypatch.setattr(merchant_counters, "_SCAN_COUNT", 50)
    keys = [merchant_counter(f"m{number}", DAY, "x") for number in range(400)]
    redis_client.mset(dict.fromkeys(keys, 1))
    redis_client.mset({f"usage:m{number}:2025-99-99:x": "bad" for number in range(50)})
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with redis_client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.incrby(key, 1)
                pipeline.execute()

    with ThreadPoolExecutor(5) as pool:
        writer = pool.submit(write)
        try:
            for reports in [pool.map(lambda _: aggregate(settings, [DAY]), range(3)) for _ in range(4)]:
                for report in reports:
                    assert report.days[0].regressions == 0
                    assert report.keys_found >= 400
        finally:
            stop.set()
        writer.result()
    aggregate(settings, [DAY])
    final = {(f"m{number}", DAY, "x"): int(redis_client.get(key) or 0) for number, key in enumerate(keys)}
    assert stored(postgres) == final
    assert not regressions(postgres)
    assert len(letters(postgres)) == 50


# status


def test_status_says_what_is_stored_and_what_is_missing(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    empty = day_status(settings, DAY)
    assert (empty.metrics, empty.last_aggregation, empty.keys_in_redis, empty.is_complete) == ((), None, 0, True)

    count(redis_client, "m1", 5)
    count(redis_client, "m1", 7, metric="bytes")
    count(redis_client, "m2", MAX_COUNT, metric="bytes")
    count(redis_client, "m1", 1, day=NEXT_DAY)
    aggregate(settings, [DAY])
    done = day_status(settings, DAY)
    assert [(m.metric_type, m.merchants, m.total) for m in done.metrics] == [
        ("api_calls", 1, 5),
        ("bytes", 2, MAX_COUNT + 7),
    ]
    assert (done.rows, done.merchants, done.keys_in_redis, done.is_complete) == (3, 2, 3, True)
    assert done.last_aggregation is not None
    assert (done.last_aggregation.keys, done.last_aggregation.stored_rows) == (3, 3)
    assert done.last_aggregation.batch_id.endswith("/2025-03-14")

    count(redis_client, "m1", 6)
    count(redis_client, "m1", 2, metric="bytes")
    count(redis_client, "new", 9)
    redis_client.set("usage:bad:2025-03-14:x", "bad")
    redis_client.set("usage:bad:2025-99-14:x", "bad")
    behind = day_status(settings, DAY)
    assert (behind.keys_in_redis, behind.refused, behind.missing_count, behind.is_complete) == (5, 1, 2, False)
    assert behind.missing == (
        MissingCounter(CounterKey("m1", DAY, "api_calls"), 6, 5),
        MissingCounter(CounterKey("new", DAY, "api_calls"), 9, None),
    )
    assert behind.regression_count == 0
    aggregate(settings, [DAY])
    regressed = day_status(settings, DAY)
    assert regressed.missing_count == 0
    assert [(r.merchant_id, r.stored_value, r.counter_value) for r in regressed.regressions] == [("m1", 7, 2)]
    assert regressed.regression_count == 1
    accept_resets(settings)
    redis_client.delete("usage:bad:2025-03-14:x")
    assert day_status(settings, DAY).is_complete


def test_status_lists_a_bounded_number_of_missing_counters(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merchant_counters, "CHUNK_KEYS", 30)
    monkeypatch.setattr(merchant_counters, "_SCAN_COUNT", 10)
    redis_client.mset({merchant_counter(f"m{number}", DAY, "x"): 1 for number in range(100)})
    status = day_status(settings, DAY)
    assert (status.missing_count, len(status.missing)) == (100, MOST_LISTED)


# invariant


@hypothesis_settings(max_examples=20)
@given(
    history=st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 50), max_size=3), min_size=1, max_size=6)
)
def test_what_is_stored_is_the_highest_value_ever_read(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, history: list[dict[str, int]]
) -> None:
    redis_client.flushall()
    postgres.execute("truncate usage.merchant_usage, ops.counter_regressions, ops.sync_batches")
    highest: Stored = {}
    latest: dict[str, int] = {}
    for written in history:
        for merchant, value in written.items():
            count(redis_client, merchant, value)
            latest[merchant] = value
            highest[merchant, DAY, "api_calls"] = max(value, highest.get((merchant, DAY, "api_calls"), 0))
        [day] = aggregate(settings, [DAY]).days
        lower = {m for m, value in latest.items() if value < highest[m, DAY, "api_calls"]}
        assert stored(postgres) == highest
        assert day.regressions == len(lower)
        assert day.keys_found == day.records_aggregated + day.regressions == len(latest)
        assert lower <= {row[0] for row in regressions(postgres)}
    folded = {one.key.merchant_id for one in accept_resets(settings, is_sure=True) if one.outcome == "folded"}
    assert folded == {m for m, value in latest.items() if value < highest[m, DAY, "api_calls"]}
    expected = {key: value + latest[key[0]] if key[0] in folded else value for key, value in highest.items()}
    assert stored(postgres) == expected
    assert aggregate(settings, [DAY]).is_success
    assert stored(postgres) == expected


def test_a_regression_whose_row_was_erased_is_closed(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    count(redis_client, "m1", 10)
    aggregate(settings, [DAY])
    count(redis_client, "m1", 1)
    aggregate(settings, [DAY])
    postgres.execute("delete from usage.merchant_usage")
    assert [one.outcome for one in accept_resets(settings)] == ["closed"]
    assert accept_resets(settings) == []
    aggregate(settings, [DAY])
    assert stored(postgres) == {("m1", DAY, "api_calls"): 1}
