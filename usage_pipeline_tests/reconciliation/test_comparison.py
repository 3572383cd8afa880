"""Reconciliation of Redis with what is stored, on real servers: at rest, while writers write, and when something is lost."""

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis
from usage_recorder import keys as recorder_keys
from usage_recorder.recorder import Recorder

from usage_pipeline import redis_keys as keys
from usage_pipeline.alerting.evaluation import evaluate_pipeline
from usage_pipeline.alerting.facts import OrchestrationFacts
from usage_pipeline.alerting.reading import read_fallen_odometers
from usage_pipeline.drain.batch import new_batch_id
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.odometers.lives import MEASURES
from usage_pipeline.reconciliation import comparison as reconciliation
from usage_pipeline.reconciliation.balance import DayBalance
from usage_pipeline.reconciliation.comparison import ReconciliationReport, reconcile
from usage_pipeline.reconciliation.odometers import note_odometers
from usage_pipeline.rollups.daily import DAILY_TABLES, replace_day
from usage_pipeline.settings import Settings
from usage_pipeline.storage.redis import RedisUnavailable
from usage_pipeline_tests.rigs.clock import days_ago, today


@pytest.fixture
def recorder(redis_url: str) -> Iterator[Recorder]:
    recorder = Recorder.connect(redis_url, timeout_seconds=5)
    yield recorder
    recorder.close()


def no_pause(_: float) -> None:
    pass


def at_ms(age_days: int) -> int:
    return int((datetime.now(UTC) - timedelta(days=age_days)).timestamp() * 1000)


def record_all(recorder: Recorder, times: int = 1) -> None:
    for number in range(times):
        assert recorder.record_api_key(f"a{number}", requests=2)
        assert recorder.record_provider(f"a{number}", "s3", user_id="u", uploads=3)
        assert recorder.record_token(f"t{number}", "host:1", count=4)
        assert recorder.record_merchant(f"m{number}", "orders", value=5)
        assert recorder.record_event(f"a{number}", user_id="u", provider="s3", event_type="upload")


def of_today(report: ReconciliationReport) -> dict[str, DayBalance]:
    return {row.family: row for row in report.rows if row.usage_date == today()}


def test_what_waits_is_live_and_what_is_drained_is_stored(
    settings: Settings, recorder: Recorder, postgres: psycopg.Connection
) -> None:
    record_all(recorder, 3)
    expected = {"api_key": 6, "provider": 9, "token": 12, "event": 3, "merchant": 15}
    rows = of_today(reconcile(settings, sleep=no_pause))
    assert {family: (row.recorded, row.live, row.stored) for family, row in rows.items()} == {
        family: (amount, amount, 0) for family, amount in expected.items()
    }
    drain_once(settings)
    aggregate(settings, [today()])
    report = reconcile(settings, sleep=no_pause)
    rows = of_today(report)
    assert {family: (row.recorded, row.live, row.stored) for family, row in rows.items()} == {
        family: (amount, 0, amount) for family, amount in expected.items()
    }
    assert (report.missing, report.looks) == ([], 1)
    columns = "family, usage_date, measure, recorded, stored, difference, missing, missing_since"
    assert postgres.execute(f"select {columns} from ops.reconciliation order by family").fetchall() == [
        (family, today(), MEASURES[family], expected[family], expected[family], 0, 0, None)
        for family in sorted(expected)
    ]


def copy_of(client: redis.Redis) -> dict[bytes, bytes]:
    """All that Redis holds, as a snapshot would have it."""
    return {key: client.dump(key) for key in client.scan_iter()}


def start_from(client: redis.Redis, copy: dict[bytes, bytes]) -> None:
    """What a restart from that snapshot leaves."""
    client.flushall()
    for key, dumped in copy.items():
        client.restore(key, 0, dumped)


LOSSES: dict[str, Callable[[redis.Redis], object]] = {
    "api_key": lambda client: client.delete("apikey:a0:metrics"),
    "provider": lambda client: client.delete("provider:a0:s3:metrics"),
    "token": lambda client: client.delete("token_usage:t0:host:1"),
    "event": lambda client: client.lpop("event_queue"),
    "merchant": lambda client: client.delete(f"usage:m0:{today()}:orders"),
}


@pytest.mark.parametrize("family", LOSSES)
def test_what_is_lost_is_missing_by_family_and_day_until_it_is_found(
    settings: Settings, recorder: Recorder, redis_client: redis.Redis, postgres: psycopg.Connection, family: str
) -> None:
    record_all(recorder, 2)
    copy = copy_of(redis_client)
    LOSSES[family](redis_client)
    report = reconcile(settings, sleep=no_pause)
    lost = {"api_key": 2, "provider": 3, "token": 4, "event": 1, "merchant": 5}[family]
    assert [(row.family, row.usage_date, row.missing) for row in report.missing] == [(family, today(), lost)]
    assert report.looks == 2
    since = postgres.execute("select missing_since from ops.reconciliation where missing > 0").fetchall()
    reconcile(settings, sleep=no_pause)
    assert postgres.execute("select missing_since from ops.reconciliation where missing > 0").fetchall() == since
    start_from(redis_client, copy)
    assert reconcile(settings, sleep=no_pause).missing == []
    assert postgres.execute("select 1 from ops.reconciliation where missing_since is not null").fetchall() == []


def fallen(settings: Settings, postgres: psycopg.Connection) -> list[tuple[str, int]]:
    return [
        (one.family, int(one.forgotten))
        for one in read_fallen_odometers(postgres, datetime.now(UTC) + timedelta(seconds=1))
    ]


def test_a_restart_from_a_snapshot_a_deletion_and_a_flush_are_all_seen(
    settings: Settings, recorder: Recorder, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """The script of a review, to the letter; the odometers are looked at twice a minute, so after the 70, too."""
    recorder.record_api_key("rk", requests=100)
    drain_once(settings)
    copy = copy_of(redis_client)
    recorder.record_api_key("rk", requests=50)
    drain_once(settings)
    recorder.record_api_key("rk", requests=70)
    evaluate_pipeline(settings, OrchestrationFacts(), {})
    assert fallen(settings, postgres) == []

    start_from(redis_client, copy)
    row = of_today(reconcile(settings, sleep=no_pause))["api_key"]
    assert (row.recorded, row.stored, row.missing, row.forgotten, row.counted_twice) == (220, 150, 70, 120, 0)
    assert fallen(settings, postgres) == [("api_key", 120)]

    recorder.record_api_key("rk", requests=40)
    redis_client.delete("apikey:rk:metrics")
    row = of_today(reconcile(settings, sleep=no_pause))["api_key"]
    assert (row.recorded, row.stored, row.missing) == (260, 150, 110)

    redis_client.flushdb()
    row = of_today(reconcile(settings, sleep=no_pause))["api_key"]
    assert (row.recorded, row.stored, row.missing, row.forgotten) == (260, 150, 110, 260)
    assert fallen(settings, postgres) == [("api_key", 260)]
    evaluate_pipeline(settings, OrchestrationFacts(), {})
    told = postgres.execute("select rule, title from ops.alerts where rule in ('redis-went-back', 'missing-usage')")
    assert {rule for rule, _ in told} == {"redis-went-back", "missing-usage"}


def test_what_an_old_snapshot_brings_back_is_counted_twice_and_other_writers_before_are_not(
    settings: Settings, recorder: Recorder, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.hincrby("apikey:foreign:metrics", "total_requests", 9)
    recorder.record_api_key("rk", requests=30)
    copy = copy_of(redis_client)
    drain_once(settings)
    recorder.record_api_key("rk", requests=5)
    drain_once(settings)
    row = of_today(reconcile(settings, sleep=no_pause))["api_key"]
    assert (row.recorded, row.stored, row.difference, row.counted_twice) == (35, 44, -9, 0)
    start_from(redis_client, copy)
    reconcile(settings, sleep=no_pause)
    drain_once(settings)
    row = of_today(reconcile(settings, sleep=no_pause))["api_key"]
    assert (row.recorded, row.stored, row.missing, row.forgotten, row.counted_twice) == (35, 83, 0, 5, 39)


def amounts(row: DayBalance) -> dict[str, int]:
    return {
        "recorded": row.recorded,
        "stored": row.stored,
        "missing": row.missing,
        "forgotten": row.forgotten,
        "counted_twice": row.counted_twice,
    }


@pytest.mark.parametrize("is_marked", [True, False], ids=["names are written", "Redis takes no names"])
def test_a_redis_that_was_up_with_a_wrong_folder_and_is_right_again_has_forgotten_nothing(
    settings: Settings,
    recorder: Recorder,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    is_marked: bool,
) -> None:
    """Once empty, once with an old file; then the right file is put back."""
    if not is_marked:
        rights = ("reset", "on", ">without-names", "~*", "&*", "+@all", "-hset")
        redis_client.execute_command("ACL", "SETUSER", "pipeline", *rights)
        url = settings.redis_dsn.get_secret_value()
        url = f"redis://pipeline:without-names@{url.rpartition('@')[2]}"
        settings = settings.model_copy(update={"redis_url": type(settings.database_url)(url)})
    try:
        recorder.record_merchant("m", "orders", value=60)
        recorder.record_event("a", user_id="u", provider="s3", event_type="upload")
        note_odometers(settings)
        old = copy_of(redis_client)
        recorder.record_merchant("m", "orders", value=10)
        aggregate(settings, [today()])
        note_odometers(settings)
        right = copy_of(redis_client)
        for wrong in ({}, old):
            start_from(redis_client, wrong)
            note_odometers(settings)
        assert {family for family, _ in fallen(settings, postgres)} >= {"merchant"}
        start_from(redis_client, right)
        report = reconcile(settings, sleep=no_pause)
    finally:
        redis_client.execute_command("ACL", "DELUSER", "pipeline")
    if is_marked:
        expected = {"recorded": 70, "stored": 70, "missing": 0, "forgotten": 0, "counted_twice": 0}
        assert amounts(of_today(report)["merchant"]) == expected
        assert fallen(settings, postgres) == []
    else:
        # As documented: without names, a return looks like new records.
        assert of_today(report)["merchant"].missing > 0


def test_what_is_recorded_between_a_flush_and_the_next_look_is_neither_lost_nor_counted_twice(
    settings: Settings, recorder: Recorder, redis_client: redis.Redis
) -> None:
    recorder.record_api_key("k", requests=100)
    drain_once(settings)
    reconcile(settings, sleep=no_pause)
    redis_client.flushdb()
    recorder.record_api_key("k", requests=40)
    row = of_today(reconcile(settings, sleep=no_pause))["api_key"]
    assert (row.recorded, row.live, row.missing, row.counted_twice) == (140, 40, 0, 0)
    redis_client.flushdb()
    recorder.record_api_key("k", requests=7)
    drain_once(settings)
    row = of_today(reconcile(settings, sleep=no_pause))["api_key"]
    assert amounts(row) == {"recorded": 147, "stored": 107, "missing": 40, "forgotten": 140, "counted_twice": 0}
    # Even an odometer that is past its old count before anybody looks.
    redis_client.flushdb()
    recorder.record_api_key("k", requests=500)
    assert of_today(reconcile(settings, sleep=no_pause))["api_key"].recorded == 647


@pytest.mark.parametrize("value", ["-5", "abc", "1.5", "9" * 20, "", "\0", "1_000"])
def test_one_odometer_that_is_no_count_is_told_and_all_others_go_on(
    settings: Settings, recorder: Recorder, redis_client: redis.Redis, postgres: psycopg.Connection, value: str
) -> None:
    record_all(recorder, 2)
    note_odometers(settings)
    redis_client.hset(recorder_keys.recorded("api_key", today()), "total_requests", value)
    redis_client.delete(recorder_keys.recorded("token", today()))
    redis_client.set(recorder_keys.recorded("token", today()), "no hash")
    recorder.record_merchant("m0", "orders", value=5)
    rows = of_today(reconcile(settings, sleep=no_pause))
    assert {family: row.recorded for family, row in rows.items()} == {
        "api_key": 4,
        "provider": 6,
        "token": 8,
        "event": 2,
        "merchant": 15,
    }
    evaluate_pipeline(settings, OrchestrationFacts(), {})
    told = postgres.execute("select dedupe_key, text from ops.alerts where rule = 'odometer-unreadable'").fetchall()
    assert sorted(key for key, _ in told) == ["odometer-unreadable:api_key", "odometer-unreadable:token"]
    assert all(str(today()) in text for _, text in told)
    for family in ("api_key", "token"):
        redis_client.delete(recorder_keys.recorded(family, today()))
    recorder.record_api_key("a0", requests=3)
    assert of_today(reconcile(settings, sleep=no_pause))["api_key"].recorded == 7
    evaluate_pipeline(settings, OrchestrationFacts(), {})
    open_ones = "select count(*) from ops.alerts where rule = 'odometer-unreadable' and cleared_at is null"
    assert postgres.execute(open_ones).fetchall() == [(0,)]


def test_an_odometer_that_is_read_by_many_at_once_falls_for_nobody(
    settings: Settings, recorder: Recorder, postgres: psycopg.Connection
) -> None:
    with ThreadPoolExecutor(4) as pool:
        looks = [pool.submit(note_odometers, settings) for _ in range(12)]
        for _ in range(200):
            recorder.record_api_key("rk", requests=1)
        for look in looks:
            look.result()
    assert note_odometers(settings).recorded["api_key", today()] == 200
    assert fallen(settings, postgres) == []


@pytest.mark.parametrize("command", ["-hmget", "-@hash"])
def test_a_redis_that_refuses_to_read_is_no_odometer_of_zero(
    settings: Settings, recorder: Recorder, redis_client: redis.Redis, postgres: psycopg.Connection, command: str
) -> None:
    record_all(recorder)
    note_odometers(settings)
    redis_client.execute_command("ACL", "SETUSER", "default", command)
    try:
        with pytest.raises(RedisUnavailable, match="Redis refused"):
            note_odometers(settings)
    finally:
        redis_client.execute_command("ACL", "SETUSER", "default", "+@all")
    note_odometers(settings)
    assert fallen(settings, postgres) == []


def test_what_the_second_look_finds_is_not_missing(
    settings: Settings, recorder: Recorder, redis_client: redis.Redis
) -> None:
    record_all(recorder)
    redis_client.rename("apikey:a0:metrics", "hidden")
    report = reconcile(settings, sleep=lambda _: redis_client.rename("hidden", "apikey:a0:metrics"))
    assert (report.missing, report.looks) == ([], 2)
    assert of_today(report)["api_key"].difference == 0


def test_other_writers_make_more_stored_than_recorded_and_nothing_is_missing(
    settings: Settings, recorder: Recorder, redis_client: redis.Redis
) -> None:
    record_all(recorder)
    redis_client.hincrby("apikey:foreign:metrics", "total_requests", 7)
    drain_once(settings)
    row = of_today(reconcile(settings, sleep=no_pause))["api_key"]
    assert (row.recorded, row.stored, row.difference, row.missing) == (2, 9, -7, 0)


def test_claimed_keys_count_until_their_batch_is_stored_and_then_once(
    settings: Settings, recorder: Recorder, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    record_all(recorder)
    batch, *_ = batches = [new_batch_id(int(datetime.now(UTC).timestamp() * 1000)) for _ in range(3)]
    copies = {}
    for batch_id, name in zip(batches, (b"apikey:a0:metrics", b"token_usage:t0:host:1", b"event_queue"), strict=True):
        claim = keys.claim(batch_id, name)
        redis_client.rename(name, claim)
        copies[claim] = redis_client.dump(claim)
    rows = of_today(reconcile(settings, sleep=no_pause))
    assert [(rows[family].live, rows[family].claimed) for family in ("api_key", "token", "event")] == [
        (0, 2),
        (0, 4),
        (0, 1),
    ]
    drain_once(settings)
    # As if a drainer had died between its commit and the deletion, and then another one had renamed a key late.
    postgres.execute("update ops.sync_batches set released_at = null")
    for claim, dump in copies.items():
        redis_client.restore(claim, 0, dump)
    redis_client.hset(keys.claim(batch, b"apikey:late:metrics"), "total_requests", 9)
    rows = of_today(reconcile(settings, sleep=no_pause))
    assert [(rows[family].stored, rows[family].claimed) for family in ("api_key", "token", "event")] == [
        (2, 9),
        (4, 0),
        (1, 0),
    ]


def test_dead_letters_hold_what_they_hold_until_they_are_replayed(
    settings: Settings, recorder: Recorder, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    record_all(recorder)
    # A total that would pass bigint refuses the whole key.
    postgres.execute("insert into usage.api_keys (api_key_id, total_requests) values ('a0', 9223372036854775806)")
    redis_client.rpush("event_queue", "junk")
    drain_once(settings)
    rows = of_today(reconcile(settings, sleep=no_pause))
    assert (rows["api_key"].dead, rows["api_key"].difference) == (2, 0)
    assert (rows["event"].dead, rows["event"].difference) == (1, -1)
    postgres.execute("update ops.dead_letters set replayed_at = now()")
    assert of_today(reconcile(settings, sleep=no_pause))["api_key"].missing == 2


def test_an_event_that_was_recorded_twice_is_a_duplicate(settings: Settings, recorder: Recorder) -> None:
    event_id = uuid.uuid4()
    for _ in range(2):
        assert recorder.record_event("a", user_id="u", provider="s3", event_type="upload", event_id=event_id)
    drain_once(settings)
    row = of_today(reconcile(settings, sleep=no_pause))["event"]
    assert (row.recorded, row.stored, row.duplicates, row.difference) == (2, 1, 1, 0)


def test_a_delta_of_two_days_is_carried_and_a_rolled_day_is_known_without_its_raw_rows(
    settings: Settings, recorder: Recorder, postgres: psycopg.Connection
) -> None:
    assert recorder.record_api_key("a", requests=3)
    assert recorder.record_api_key("a", requests=4, at_ms=at_ms(1))
    assert recorder.record_api_key("b", requests=5, at_ms=at_ms(1))
    drain_once(settings)

    def carried() -> dict[object, tuple[int, int]]:
        return {row.usage_date: (row.carried, row.difference) for row in reconcile(settings, sleep=no_pause).rows}

    # `a` was last used today, also when an older use was recorded after that: yesterday's counts went with it.
    assert carried() == {days_ago(1): (4, 0), today(): (-4, 0)}
    replace_day(postgres, DAILY_TABLES[0], days_ago(1), today=today())
    postgres.execute("delete from raw.api_key_deltas where usage_date = %s", (days_ago(1),))
    assert carried() == {days_ago(1): (4, 0), today(): (-4, 0)}


def test_nothing_is_missing_while_writers_write_and_drains_drain(
    settings: Settings, recorder: Recorder, postgres: psycopg.Connection
) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            record_all(recorder, 5)

    def drain() -> None:
        while not stop.is_set():
            drain_once(settings)
            aggregate(settings, [today()])

    threads = [threading.Thread(target=work) for work in (write, drain)]
    for thread in threads:
        thread.start()
    try:
        reports = [reconcile(settings, sleep=no_pause) for _ in range(15)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [row for report in reports for row in report.missing] == []
    drain_once(settings)
    aggregate(settings, [today()])
    last = reconcile(settings, sleep=no_pause)
    assert sum(row.recorded for row in last.rows) > 100
    assert {row.difference for row in last.rows} == {0}


@pytest.mark.parametrize("step", ["read_odometers", "read_live", "read_claimed", "_stored"])
@pytest.mark.parametrize("move", ["claim", "store"])
def test_what_moves_on_after_any_step_of_a_look_is_found_by_the_first_look(
    settings: Settings,
    recorder: Recorder,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    move: str,
) -> None:
    record_all(recorder)
    real = getattr(reconciliation, step)

    def moving(*arguments: object, **options: object) -> object:
        seen = real(*arguments, **options)
        if move == "store":
            drain_once(settings)
        elif redis_client.exists("apikey:a0:metrics"):
            claim = keys.claim(new_batch_id(int(datetime.now(UTC).timestamp() * 1000)), b"apikey:a0:metrics")
            redis_client.rename("apikey:a0:metrics", claim)
        return seen

    monkeypatch.setattr(reconciliation, step, moving)
    report = reconcile(settings, sleep=no_pause)
    assert (report.missing, report.looks) == ([], 1)
