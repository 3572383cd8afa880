"""The drain end to end: keys as foreign writers write them, through `drain_once`, into tables."""

import json
import threading
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
import redis
from usage_recorder import keys as recorder_keys

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.families import API_KEY
from usage_pipeline.drain.readings.backlog import read_backlog
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.process import process_name
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.drain.rig import Crash, Life, Writer, assert_at_rest, stored

BIGINT = 2**63 - 1
DAY = timedelta(days=1)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


@pytest.mark.parametrize("api_key_id", ["plain", "a:b", "{tag}", "}odd{", "naïve-🔑", "metrics", "x" * 200])
def test_an_api_key_written_as_in_the_contracts_ends_in_the_tables(
    api_key_id: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    used_at = now()
    key = f"apikey:{api_key_id}:metrics"
    for field, amount in (("total_requests", 3), ("successful_requests", 2), ("failed_requests", 1)):
        redis_client.execute_command("HINCRBY", key, field, amount)
    redis_client.execute_command("HINCRBY", key, "total_file_size", 2048)
    redis_client.execute_command("HINCRBY", key, "total_files_uploaded", 4)
    redis_client.execute_command("HSET", key, "last_used_at", ms(used_at), "region", "eu")
    redis_client.execute_command("EXPIRE", key, 604800)

    report = drain_once(settings)

    assert (report.keys, report.dead_letters, report.is_complete) == (1, 0, True)
    totals = "api_key_id, total_requests, successful_requests, failed_requests, total_file_size, total_files_uploaded"
    row = (api_key_id, 3, 2, 1, 2048, 4, used_at)
    assert postgres.execute(f"select {totals}, last_used_at from usage.api_keys").fetchall() == [row]
    raw = postgres.execute(f"select {totals}, last_used_at, source_key, extra from raw.api_key_deltas").fetchall()
    assert raw == [(*row, key, {"region": "eu"})]
    touched = postgres.execute("select family, usage_date, version from ops.touched_days").fetchall()
    assert touched == [("api_key", used_at.date(), 1)]
    assert_at_rest(redis_client, postgres, "api_key")


def test_a_provider_written_as_in_the_contracts_ends_in_the_tables(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    used_at = now()
    key = "provider:a:b:s3:eu:metrics"
    redis_client.hset(key, mapping={"user_id": "ü:1", "provider": "s3:eu", "upload_count": 2, "total_file_size": 9})
    redis_client.hset(key, "last_used_at", ms(used_at))
    drain_once(settings)
    redis_client.hset(key, mapping={"provider": "s3:eu", "upload_count": 1, "last_used_at": ms(used_at - DAY)})
    drain_once(settings)
    columns = "api_key_id, provider, user_id, upload_count, total_file_size, last_used_at"
    assert postgres.execute(f"select {columns} from usage.provider_usage").fetchall() == [
        ("a:b", "s3:eu", "ü:1", 3, 9, used_at)
    ]
    assert postgres.execute("select source_key from raw.provider_deltas").fetchall() == [(key,)] * 2
    assert_at_rest(redis_client, postgres, "provider")


def test_a_token_is_summed_over_its_instances(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    used_at = now()
    for instance, count, age in (("host:80", 2, 5), ("host:81", 3, 0), ("solo", 4, 9)):
        usage = {
            "usageCount": count,
            "lastUsedAt": (used_at - timedelta(seconds=age)).isoformat(),
            "instanceId": instance,
        }
        redis_client.set(f"token_usage:t:1:{instance}", json.dumps(usage), ex=120)
    drain_once(settings)
    columns = "token_id, usage_count, last_used_at"
    assert postgres.execute(f"select {columns} from usage.api_access_tokens").fetchall() == [("t:1", 9, used_at)]
    assert postgres.execute("select instances from ops.sync_batches").fetchall() == [(["host:80", "host:81", "solo"],)]
    assert_at_rest(redis_client, postgres, "token")


def test_the_cached_copy_of_a_token_goes_after_the_commit_and_no_other(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    for number in (1, 2):
        redis_client.set(f"api_token:up_{number}", "{}", ex=300)
        postgres.execute(
            "insert into usage.api_access_tokens (token_id, token_prefix, token_hash) values (%s, %s, 'hash')",
            (f"t{number}", f"up_{number}"),
        )
    redis_client.set("token_usage:t1:i", '{"usageCount": 1, "instanceId": "i"}', ex=120)
    seen_at: list[str] = []

    def look(number: int, label: str) -> None:
        if redis_client.exists("api_token:up_1"):
            seen_at.append(label)

    with Life(settings, at_step=look) as life:
        life.drain("token")
    assert not redis_client.exists("api_token:up_1")
    assert redis_client.exists("api_token:up_2")
    assert "after commit" in seen_at


def test_a_recovery_deletes_the_cached_copy_that_a_crash_after_the_commit_left(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.set("api_token:up_1", "{}", ex=300)
    postgres.execute(
        "insert into usage.api_access_tokens (token_id, token_prefix, token_hash) values ('t1', 'up_1', 'hash')"
    )
    redis_client.set("token_usage:t1:i", '{"usageCount": 1, "instanceId": "i"}', ex=120)

    def crash(number: int, label: str) -> None:
        # Inner transactions commit before; the ledger shows when the outer one has.
        if label == "after commit" and postgres.execute("select 1 from ops.sync_batches").fetchone():
            raise Crash

    with Life(settings, at_step=crash) as life, pytest.raises(Crash):
        life.drain("token")
    assert redis_client.exists("api_token:up_1")
    drain_once(settings)
    assert not redis_client.exists("api_token:up_1")
    assert postgres.execute("select usage_count from usage.api_access_tokens").fetchall() == [(1,)]


@pytest.mark.parametrize("family", ["api_key", "provider", "token", "event"])
def test_a_second_drain_changes_nothing_and_later_counts_are_added(
    family: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    writer = Writer(redis_client)
    writer.write(family, ["a", "b", "c"], 2)
    assert drain_once(settings).keys == (6 if family == "event" else 3)
    assert stored(postgres, family) == writer.written
    assert drain_once(settings).keys == 0
    assert stored(postgres, family) == writer.written
    writer.write(family, ["b", "d"], 5)
    drain_once(settings)
    assert stored(postgres, family) == writer.written
    assert_at_rest(redis_client, postgres, family)


def test_last_used_at_keeps_the_later(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    used_at = now()
    for at in (used_at - DAY, used_at, used_at - 2 * DAY, None):
        redis_client.hset("apikey:k:metrics", "total_requests", 1)
        if at:
            redis_client.hset("apikey:k:metrics", "last_used_at", ms(at))
        drain_once(settings)
    assert postgres.execute("select total_requests, last_used_at from usage.api_keys").fetchall() == [(4, used_at)]


def test_a_claim_does_not_expire_with_its_key(settings: Settings, redis_client: redis.Redis) -> None:
    redis_client.hset("apikey:k:metrics", "total_requests", 1)
    redis_client.expire("apikey:k:metrics", 1)
    redis_client.rpush("event_queue", b"{}")
    redis_client.expire("event_queue", 1)
    with Life(settings) as life:
        life.claiming.claim(API_KEY, "1735689600000-00", [b"apikey:k:metrics"])
        life.claiming.claim_queue("1735689600000-01")
    claims = [*redis_client.scan_iter("usage_pipeline:claim:*")]
    assert [redis_client.ttl(claim) for claim in claims] == [-1, -1]


@pytest.mark.parametrize("time_zone", ["UTC", "America/Los_Angeles", "Pacific/Kiritimati"])
@pytest.mark.parametrize("offset", [-DAY, timedelta(0), timedelta(hours=23), None], ids=str)
def test_the_day_is_that_of_the_earlier_of_last_use_and_claim(
    time_zone: str,
    offset: timedelta | None,
    database_url: str,
    redis_url: str,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
) -> None:
    settings = load_settings(database_url=database_url, redis_url=redis_url, usage_timezone=time_zone)
    postgres.execute("update ops.calendar set time_zone = %s", (time_zone,))
    redis_client.hset("apikey:k:metrics", "total_requests", 1)
    if offset is not None:
        redis_client.hset("apikey:k:metrics", "last_used_at", ms(now() + offset))
    before = datetime.now(settings.timezone)
    drain_once(settings)
    after = datetime.now(settings.timezone)
    earlier = min(offset or timedelta(0), timedelta(0))
    [(day,)] = postgres.execute("select usage_date from raw.api_key_deltas").fetchall()
    assert day in {(before + earlier).date(), (after + earlier).date()}
    assert postgres.execute("select usage_dates from ops.sync_batches").fetchall() == [([day],)]


def test_a_day_without_a_partition_gets_one(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    long_ago = now() - 90 * DAY
    redis_client.hset("apikey:k:metrics", mapping={"total_requests": 1, "last_used_at": ms(long_ago)})
    drain_once(settings)
    assert postgres.execute("select usage_date from raw.api_key_deltas").fetchall() == [(long_ago.date(),)]


# finding keys


def test_announced_keys_are_found_without_a_scan_and_others_when_it_is_due(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_pipeline.drain.sources.search.process_name", lambda: "me")
    monkeypatch.setattr("usage_pipeline.drain.sources.search._SCAN_SHARE", 1e-9)
    redis_client.set(names.scan_pause("api_key"), "me")
    announcing, foreign = Writer(redis_client, announces=True), Writer(redis_client, "foreign/")
    announcing.write("api_key", ["a", "b"])
    foreign.write("api_key", ["c"])
    drain_once(settings, ["api_key"])
    assert stored(postgres, "api_key") == announcing.written
    assert redis_client.scard(recorder_keys.touched("api_key")) == 0
    redis_client.delete(names.scan_pause("api_key"))
    drain_once(settings, ["api_key"])
    assert stored(postgres, "api_key", prefix="foreign/") == foreign.written
    assert redis_client.get(names.scan_pause("api_key")) == b"me"
    assert redis_client.pttl(names.scan_pause("api_key")) > 0, "the next scan waits"


def test_announcements_of_another_type_count_as_an_empty_backlog(settings: Settings, redis_client: redis.Redis) -> None:
    """A writer can put them there again and again; whoever watches must see the other families all the same."""
    redis_client.set(recorder_keys.touched("api_key"), "x")
    redis_client.sadd(recorder_keys.touched("provider"), "a", "b")
    redis_client.set("event_queue", "x")
    waiting = {one.family: one.waiting for one in read_backlog(settings, timeout_seconds=5)}
    assert waiting == {"api_key": 0, "provider": 2, "event": 0, "token": 0}


def test_announced_keys_outlive_the_drain_that_took_them(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_pipeline.drain.sources.search.process_name", lambda: "me")
    redis_client.set(names.scan_pause("api_key"), "me")
    writer = Writer(redis_client, announces=True)
    writer.write("api_key", ["a", "b"])
    redis_client.rename(recorder_keys.touched("api_key"), names.taken("api_key"))
    writer.write("api_key", ["b", "c"])
    with Life(settings) as life:
        life.drain("api_key")
    assert stored(postgres, "api_key") == writer.written
    assert redis_client.exists(recorder_keys.touched("api_key"), names.taken("api_key")) == 0


def test_a_drain_goes_on_in_the_announced_keys_where_the_last_one_stopped(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a backlog of millions would be gone through from its beginning in each tick, until no time is left."""
    monkeypatch.setattr("usage_pipeline.drain.sources.search.process_name", lambda: "me")
    redis_client.set(names.scan_pause("api_key"), "me")
    writer = Writer(redis_client, announces=True)
    writer.write("api_key", [str(number) for number in range(1_000)])
    rounds: list[tuple[int, int]] = []
    with Life(settings) as life:
        sscans = 0
        members_page = life.claiming._connection.members_page

        def counting_page(*arguments: Any) -> Any:
            nonlocal sscans
            sscans += 1
            return members_page(*arguments)

        life.claiming._connection.members_page = counting_page
        while not rounds or rounds[-1][0]:
            before = sscans
            stop_at = life.steps + 150
            life.limits = type(life.limits)(chunk_keys=50, should_stop=lambda stop_at=stop_at: life.steps > stop_at)
            rounds.append((life.drain("api_key").keys, sscans - before))
    assert stored(postgres, "api_key") == writer.written
    assert len(rounds) > 5
    # One of each round belongs to keys that were announced since, and one may be read again.
    assert sum(scanned for _, scanned in rounds) <= 20 + 3 * len(rounds)
    assert redis_client.exists(names.taken("api_key"), names.place_in(names.taken("api_key"))) == 0


def test_a_new_drainer_scans_though_another_has_just_done_so(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.set(names.scan_pause("api_key"), "another:1")
    writer = Writer(redis_client)
    writer.write("api_key", ["a"])
    drain_once(settings, ["api_key"])
    assert stored(postgres, "api_key") == writer.written


def test_the_scan_finds_foreign_keys_among_others(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    writer = Writer(redis_client)
    writer.write("api_key", [str(number) for number in range(25)])
    redis_client.mset({f"session:{number}": "x" for number in range(3_000)})
    redis_client.zadd("apikey:a:timeline", {"event": 1})
    redis_client.set("api_token:up_1", "{}")
    with Life(settings, chunk_keys=10) as life:
        report = life.drain("api_key")
    assert (report.keys, report.batches) == (25, 3)
    assert stored(postgres, "api_key") == writer.written
    assert redis_client.dbsize() >= 3_002
    assert redis_client.exists("apikey:a:timeline", "api_token:up_1") == 2


def test_a_stranger_in_the_set_of_touched_keys_is_left_alone(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.zadd("apikey:a:timeline", {"event": 1})
    redis_client.sadd(recorder_keys.touched("api_key"), "apikey:a:timeline", "session:1", "apikey:b:metrics")
    redis_client.set("session:1", "x")
    redis_client.hset("apikey:b:metrics", "total_requests", 1)
    report = drain_once(settings)
    assert (report.keys, report.dead_letters) == (1, 0)
    assert redis_client.exists("apikey:a:timeline", "session:1") == 2


def test_a_reached_limit_leaves_the_rest_live_for_the_next_drain(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    writer = Writer(redis_client)
    writer.write("api_key", [str(number) for number in range(20)])
    with Life(settings, chunk_keys=5) as life:
        life.limits = type(life.limits)(chunk_keys=5, should_stop=lambda: life.steps > 20)
        report = life.drain("api_key")
    assert not report.is_complete
    assert 0 < report.keys < 20
    assert [*redis_client.scan_iter("usage_pipeline:claim:*")] == [], "a batch in hand is finished"
    drain_once(settings)
    assert stored(postgres, "api_key") == writer.written
    assert_at_rest(redis_client, postgres, "api_key")


# dead letters (what is malformed, and how it is refused, is in test_hostile_input.py)


@pytest.mark.parametrize("family", ["api_key", "provider", "token"])
def test_what_would_overflow_a_total_is_refused_and_the_rest_goes_in(
    family: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    writer = Writer(redis_client)
    writer.write(family, ["full", "other"])
    drain_once(settings)
    column = {"api_key": "total_requests", "provider": "upload_count", "token": "usage_count"}[family]
    key = {"api_key": "apikey:full:metrics", "provider": "provider:full:s3:metrics", "token": "token_usage:full:i"}
    if family == "token":
        redis_client.set(key[family], json.dumps({"usageCount": BIGINT, "instanceId": "i"}))
    else:
        redis_client.hset(key[family], column, BIGINT)
    writer.write(family, ["other", "new"], 2)

    report = drain_once(settings)

    assert report.dead_letters == 1
    assert stored(postgres, family) == writer.written
    [(source_key, reason, raw)] = postgres.execute("select source_key, reason, raw from ops.dead_letters").fetchall()
    assert source_key.decode() == key[family]
    assert reason == "total: expected at most 9223372036854775807 (bigint) with this key, came more"
    assert str(BIGINT).encode() in raw
    assert_at_rest(redis_client, postgres, family)


def test_two_instances_that_overflow_a_token_together_are_both_refused(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    for instance in ("i", "j"):
        redis_client.set(f"token_usage:t:{instance}", json.dumps({"usageCount": BIGINT, "instanceId": instance}))
    redis_client.set("token_usage:u:i", '{"usageCount": 1}')
    drain_once(settings)
    assert stored(postgres, "token") == {"u": {"usage_count": 1}}
    letters = postgres.execute("select source_key from ops.dead_letters order by 1").fetchall()
    assert letters == [(b"token_usage:t:i",), (b"token_usage:t:j",)]
    assert_at_rest(redis_client, postgres, "token")


def test_drains_of_many_processes_wait_for_no_one(settings: Settings, redis_client: redis.Redis) -> None:
    """The lock saves double work: who does not get it says so and goes away."""
    with Life(settings) as life, life.store.lock("api_key") as got:
        assert got
        report = drain_once(settings)
        assert report.busy == ["api_key"]
        assert {drained.family for drained in report.families} == {"provider", "event", "token"}
        waited = threading.Thread(
            target=drain_once, args=(settings, ["api_key"]), kwargs={"wait_for_lock_seconds": 0.01}
        )
        waited.start()
        waited.join(10)
        assert not waited.is_alive()
    assert drain_once(settings).busy == []


def test_the_ledger_says_who_drained_what_from_where(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    Writer(redis_client).write("api_key", ["a"])
    drain_once(settings)
    [(server, drained_by, is_uncertain, day)] = postgres.execute(
        "select redis_server, drained_by, is_uncertain, claimed_at::date from ops.sync_batches"
    ).fetchall()
    info = redis_client.info()
    assert server == f"{info['run_id']} {info['master_replid']}"
    assert drained_by == process_name()
    assert not is_uncertain
    assert abs(day - date.today()) <= DAY  # noqa: DTZ011
