"""Exactly once in spite of crashes at every step, overtaken drainers, late keys and lost servers."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import redis
from psycopg.pq import TransactionStatus
from redis.crc import key_slot
from usage_recorder import keys as recorder_keys

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.batch import Origin, new_batch_id, parse_batch
from usage_pipeline.drain.event_queue import page_of, whole_page
from usage_pipeline.drain.families import API_KEY
from usage_pipeline.drain.protocol import BarrierFellShort
from usage_pipeline.drain.sources import scripts as redis_scripts
from usage_pipeline.drain.sources.node import RedisSource
from usage_pipeline.settings import Settings
from usage_pipeline.storage.redis import RedisUnavailable
from usage_pipeline.values import PossibleTimes
from usage_pipeline_tests.drain.rig import (
    Crash,
    Life,
    Writer,
    assert_at_rest,
    crash_at,
    drain_quietly,
    event_item,
    lives,
    run_until_crash,
    stored,
    two_drainers,
)

NAMES = ["a", "b:c", "{d}e", "f}", "g"]


@pytest.fixture(autouse=True)
def _short_lives(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with lives(monkeypatch):
        yield


@pytest.fixture
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A family, by its name alone or with ` in a small room`: for one or two keys in a batch, or items in a part of a page."""
    name, _, room = request.param.partition(" in ")
    if room:
        monkeypatch.setattr("usage_pipeline.drain.room.LARGEST_BATCH_BYTES", 500)
    return str(name)


# A token's key is stored in parts as an API key's is.
_FAMILIES_AND_ROOMS = pytest.mark.parametrize(
    "family", ["api_key", "token", "event", "api_key in a small room", "event in a small room"], indirect=True
)


@_FAMILIES_AND_ROOMS
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    family: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    step, did_crash = 0, True
    while did_crash:
        step += 1
        writer = Writer(redis_client, f"{step}/", announces=step % 2 == 0)
        writer.write(family, NAMES, 2)
        with Life(settings, at_step=crash_at(step)) as crashed:
            did_crash = run_until_crash(crashed, family)
        writer.write(family, NAMES[:2], 3)
        drain_quietly(settings, family, 2)
        assert stored(postgres, family, prefix=f"{step}/") == writer.written, f"crash {step}: {crashed.last_step}"
        assert_at_rest(redis_client, postgres, family)
    assert step > 40, "the crashes must reach into every part of the drain"


class Overtake:
    """Does something before the n-th round trip to Redis.

    Not before statements, nor while PostgreSQL's transaction is open: the other drainer would wait for it, as it should.
    """

    def __init__(self, round_trip: int, do: Callable[[], None]) -> None:
        self._left, self._do, self.is_done = round_trip, do, False
        self.life: Life | None = None

    def __call__(self, number: int, label: str) -> None:
        if self.life is None or self.life.postgres.info.transaction_status != TransactionStatus.IDLE:
            return
        if label.startswith("before") and "sql" not in label and "commit" not in label:
            self._left -= 1
            if self._left == 0:
                self.is_done = True
                self._do()


def _drain_and_write(life: Life, family: str, writer: Writer) -> None:
    life.drain(family)
    writer.write(family, NAMES[:3], 5)


@_FAMILIES_AND_ROOMS
def test_a_drainer_that_is_overtaken_at_any_round_trip_loses_and_doubles_nothing(
    family: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """Another drainer, which does not ask for the lock, does a whole drain while this one stands still."""
    step, was_overtaken = 0, True
    while was_overtaken:
        step += 1
        writer = Writer(redis_client, f"{step}/")
        writer.write(family, NAMES, 2)
        with Life(settings) as other:
            overtake = Overtake(step, lambda other=other, writer=writer: _drain_and_write(other, family, writer))
            with Life(settings, at_step=overtake) as slow:
                overtake.life = slow
                slow.drain(family)
            was_overtaken = overtake.is_done
            other.drain(family)
            other.drain(family)
        assert stored(postgres, family, prefix=f"{step}/") == writer.written, f"overtaken at round trip {step}"
        assert_at_rest(redis_client, postgres, family)
    assert step > 12


@_FAMILIES_AND_ROOMS
def test_two_drains_at_once_with_live_writers_store_each_thing_once(
    family: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    writers = [Writer(redis_client, announces=number == 0) for number in range(2)]

    def write(writer: Writer) -> None:
        for amount in range(1, 40):
            writer.write(family, NAMES, 1 + amount % 3)

    writing = [threading.Thread(target=write, args=(writer,)) for writer in writers]
    with two_drainers(settings, family, chunk_keys=2):
        for thread in writing:
            thread.start()
        for thread in writing:
            thread.join(60)
    drain_quietly(settings, family, 2)
    written = {
        name: {field: sum(w.written[name][field] for w in writers) for field in fields}
        for name, fields in writers[0].written.items()
    }
    assert stored(postgres, family) == written
    assert_at_rest(redis_client, postgres, family)


def claimed(life: Life, keys: list[bytes]) -> str:
    """The id of a batch that was opened, and into which these keys were claimed."""
    batch_id = new_batch_id(life.claiming.now_ms())
    life.claiming.open_batch("api_key", batch_id)
    life.claiming.claim(API_KEY, batch_id, keys)
    return batch_id


def apply(life: Life, batch_id: str, keys: list[bytes]) -> None:
    claims = life.releasing.read(API_KEY, batch_id, keys).keys
    batch = parse_batch(API_KEY, Origin.of_claim(batch_id, "", is_uncertain=False), claims, times=PossibleTimes(180))
    assert life.store.apply(API_KEY, batch).is_ours


def test_keys_renamed_after_their_batch_was_applied_get_a_batch_of_their_own(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    writer = Writer(redis_client)
    writer.write("api_key", ["early", "late"])
    with Life(settings) as slow, Life(settings) as other:
        batch_id = claimed(slow, [b"apikey:early:metrics"])
        other.drain_of("api_key").recover()
        slow.claiming.claim(API_KEY, batch_id, [b"apikey:late:metrics"])
    drain_quietly(settings, "api_key")
    assert stored(postgres, "api_key") == writer.written
    assert_at_rest(redis_client, postgres, "api_key")
    [(batches,)] = postgres.execute("select count(*) from ops.sync_batches").fetchall()
    assert batches == 2


def test_a_recovery_that_comes_second_deletes_nothing(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """The first one read the batch before its last key was claimed."""
    writer = Writer(redis_client)
    writer.write("api_key", ["early", "late"])
    early = b"apikey:early:metrics"
    with Life(settings) as first:
        batch_id = claimed(first, [early, b"apikey:late:metrics"])

        def come_first(number: int, label: str) -> None:
            if label.startswith("before sql -- The ledger row") and stored(postgres, "api_key") == {}:
                apply(first, batch_id, [early])

        with Life(settings, at_step=come_first) as second:
            second.drain_of("api_key").recover()
    drain_quietly(settings, "api_key")
    assert stored(postgres, "api_key") == writer.written
    assert_at_rest(redis_client, postgres, "api_key")


def test_a_recovery_deletes_all_that_a_batch_applied_even_what_its_scan_did_not_show(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """Its scan is older than the last rename of the batch; if it marked the batch released, that key would count again."""
    writer = Writer(redis_client)
    writer.write("api_key", ["shown", "claimed after the scan"])
    keys = [b"apikey:shown:metrics", b"apikey:claimed after the scan:metrics"]
    with Life(settings) as owner:
        batch_id = claimed(owner, keys[:1])

        scans = list[str]()

        def apply_all(number: int, label: str) -> None:
            if label.startswith("after EVAL local words") and not scans:
                scans.append(label)
                owner.claiming.claim(API_KEY, batch_id, keys[1:])
                apply(owner, batch_id, keys)

        with Life(settings, at_step=apply_all) as recovering:
            recovering.drain_of("api_key").recover()
        assert scans
        # The owner ends here, before it has deleted anything.
    drain_quietly(settings, "api_key")
    assert stored(postgres, "api_key") == writer.written
    assert_at_rest(redis_client, postgres, "api_key")


def test_late_keys_that_another_drainer_has_moved_leave_no_open_batch(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    Writer(redis_client).write("api_key", ["a"])
    with Life(settings) as life:
        life.drain("api_key")
        [(batch_id,)] = postgres.execute("select batch_id from ops.sync_batches").fetchall()
        # A scan that saw the claim just before its release.
        life.releasing.claimed_keys = lambda family: {batch_id: [b"apikey:a:metrics"]}
        life.releasing.finds_claims = lambda family: True
        life.drain("api_key")
    assert_at_rest(redis_client, postgres, "api_key")


@pytest.mark.parametrize("family", ["api_key", "token"])
def test_a_claim_that_a_scan_shows_twice_counts_once(
    family: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """SCAN promises each key at least once; while the keyspace shrinks it may show one again."""
    writer = Writer(redis_client)
    writer.write(family, NAMES, 2)
    with Life(settings, at_step=_crash_before_apply) as crashed:
        assert run_until_crash(crashed, family)
    with Life(settings) as quiet:
        scan = quiet.releasing._scan
        quiet.releasing._scan = lambda *arguments, **options: (
            chunk * 2 for chunk in [*scan(*arguments, **options)] * 2
        )
        quiet.drain(family)
    assert stored(postgres, family) == writer.written


def _crash_before_apply(number: int, label: str) -> None:
    if label.startswith("before sql -- The ledger row"):
        raise Crash(label)


def test_names_that_only_look_like_claims_stop_nothing(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    for name in (b"usage_pipeline:claim:mine:{apikey:x:metrics}", b"usage_pipeline:claim:\xff:{apikey:y:metrics}"):
        redis_client.hset(name, "total_requests", 1)
    writer = Writer(redis_client)
    writer.write("api_key", ["a"])
    with Life(settings) as life:
        life.drain("api_key")
    assert stored(postgres, "api_key") == writer.written
    assert len([*redis_client.scan_iter("usage_pipeline:claim:*")]) == 2


def test_a_claim_outlives_the_open_list_since_a_new_drainer_scans(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    writer = Writer(redis_client)
    writer.write("api_key", ["a"])
    with Life(settings, at_step=_crash_before_apply) as crashed:
        assert run_until_crash(crashed, "api_key")
    redis_client.delete(names.open_batches("api_key"))
    drain_quietly(settings, "api_key")
    assert stored(postgres, "api_key") == writer.written
    [(is_uncertain,)] = postgres.execute("select is_uncertain from ops.sync_batches").fetchall()
    assert is_uncertain, "which server it was claimed from is not known"


@pytest.mark.parametrize("family", ["api_key", "event"])
@pytest.mark.parametrize("changes", [True, False])
def test_a_batch_that_spans_a_change_of_redis_is_flagged(
    family: str, changes: bool, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    Writer(redis_client).write(family, ["a"])
    with Life(settings, at_step=_crash_before_apply) as crashed:
        assert run_until_crash(crashed, family)
    if changes:
        for batch_id in redis_client.hkeys(names.open_batches(family)):
            redis_client.hset(names.open_batches(family), batch_id, "another run and replication id")
    drain_quietly(settings, family)
    assert postgres.execute("select is_uncertain from ops.sync_batches").fetchall() == [(changes,)]


@pytest.mark.parametrize("family", ["api_key", "token", "event"])
def test_a_connection_that_postgresql_ends_in_mid_apply_is_recovered_from(
    family: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    writer = Writer(redis_client)
    writer.write(family, NAMES, 2)
    life: Life

    def terminate(number: int, label: str) -> None:
        if label == "before commit":
            postgres.execute("select pg_terminate_backend(%s, 5000)", (life.postgres.info.backend_pid,))

    with Life(settings, at_step=terminate) as life, pytest.raises(psycopg.OperationalError):
        life.drain(family)
    assert stored(postgres, family) == {}
    assert [*redis_client.scan_iter("usage_pipeline:claim:*")] != []
    drain_quietly(settings, family)
    assert stored(postgres, family) == writer.written
    assert_at_rest(redis_client, postgres, family)


@pytest.mark.parametrize("family", ["api_key", "token", "event"])
def test_a_barrier_that_falls_short_keeps_the_claim_for_later(
    family: str,
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("usage_pipeline.drain.sources.barrier._TIMEOUT_MS", 5)
    writer = Writer(redis_client)
    writer.write(family, ["a"])
    with Life(settings, barrier="wait") as life:
        for _ in range(2):
            with pytest.raises(BarrierFellShort):
                life.drain(family)
    assert stored(postgres, family) == {}
    drain_quietly(settings, family, barrier="none")
    assert stored(postgres, family) == writer.written
    assert_at_rest(redis_client, postgres, family)


@pytest.mark.parametrize("family", ["api_key", "event"])
def test_a_release_that_is_not_confirmed_leaves_the_batch_open_until_it_is(
    family: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    writer = Writer(redis_client)
    writer.write(family, ["a"])
    with Life(settings) as life:
        release = life.releasing.release
        life.releasing.release = lambda batch_id, held: release(batch_id, held) and False
        life.drain(family)
    assert stored(postgres, family) == writer.written
    assert postgres.execute("select count(*) from ops.sync_batches where released_at is null").fetchall() == [(1,)]
    drain_quietly(settings, family)
    assert stored(postgres, family) == writer.written
    assert_at_rest(redis_client, postgres, family)


class Clock:
    """Redis's clock, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_ms = 0
        now_ms = RedisSource.now_ms
        monkeypatch.setattr(RedisSource, "now_ms", lambda source: now_ms(source) + self.ahead_ms)


@pytest.mark.parametrize("family", ["api_key", "token", "event"])
def test_the_barrier_by_age_applies_a_claim_one_round_later(
    family: str,
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, writer = Clock(monkeypatch), Writer(redis_client)
    writer.write(family, ["a"])
    with Life(settings, barrier="age") as life:
        assert life.drain(family).left_claimed == 1
        assert life.drain(family).left_claimed == 1
        assert stored(postgres, family) == {}
        clock.ahead_ms = 3_001
        assert life.drain(family).left_claimed == 0
    assert stored(postgres, family) == writer.written


@pytest.mark.parametrize("family", ["api_key", "token", "event"])
def test_the_barrier_by_age_holds_for_the_release_too(
    family: str,
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A crash of Redis within its second of grace brings a deleted claim back; it must not be counted again."""
    clock, writer = Clock(monkeypatch), Writer(redis_client)
    writer.write(family, ["a"])
    with Life(settings, barrier="age") as life:
        life.drain(family)
        [claimed] = redis_client.scan_iter("usage_pipeline:claim:*")
        dumped = redis_client.dump(claimed)
        opened = redis_client.hgetall(names.open_batches(family))
        clock.ahead_ms = 3_001
        life.drain(family)
        assert not redis_client.exists(claimed)
        redis_client.restore(claimed, 0, dumped)
        redis_client.delete(*redis_client.scan_iter("usage_pipeline:unlinked:*"))
        redis_client.hset(names.open_batches(family), mapping=opened)
        life.drain(family)
        life.drain(family)
    assert stored(postgres, family) == writer.written
    redis_client.delete(*redis_client.scan_iter("usage_pipeline:unlinked:*"))
    with Life(settings, barrier="age") as later:
        later.drain(family)
    assert stored(postgres, family) == writer.written
    assert_at_rest(redis_client, postgres, family)


def test_an_expiring_key_that_vanished_before_its_claim_is_left_out(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.sadd(recorder_keys.touched("api_key"), "apikey:gone:metrics")
    with Life(settings) as life:
        life.drain("api_key")
    assert stored(postgres, "api_key") == {}
    assert_at_rest(redis_client, postgres, "api_key")
    assert postgres.execute("select count(*) from ops.sync_batches").fetchall() == [(0,)]


def test_an_empty_batch_of_a_live_drainer_is_not_forgotten_at_once(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_pipeline.drain.protocol.FORGET_EMPTY_BATCH_MS", 60_000)
    clock = Clock(monkeypatch)
    with Life(settings) as life:
        life.claiming.open_batch("api_key", new_batch_id(life.claiming.now_ms()))
        life.drain("api_key")
        assert redis_client.hlen(names.open_batches("api_key")) == 1
        clock.ahead_ms = 60_001
        life.drain("api_key")
        assert redis_client.hlen(names.open_batches("api_key")) == 0


def test_a_claim_is_never_overwritten(settings: Settings, redis_client: redis.Redis) -> None:
    with Life(settings) as life:
        batch_id = new_batch_id(life.claiming.now_ms())
        redis_client.hset("apikey:a:metrics", "total_requests", 1)
        first = life.claiming.claim(API_KEY, batch_id, [b"apikey:a:metrics"])
        redis_client.hset("apikey:a:metrics", "total_requests", 2)
        assert life.claiming.claim(API_KEY, batch_id, [b"apikey:a:metrics"]) == ([], [])
        assert life.claiming.read(API_KEY, batch_id, [b"apikey:a:metrics"]) == first
        assert first == ([(b"apikey:a:metrics", [b"total_requests", b"1"])], [])
        assert redis_client.hget("apikey:a:metrics", "total_requests") == b"2"


def test_events_of_a_crashed_page_keep_their_order_and_conflicts(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    items = [event_item(file_size=number) for number in range(8)]
    items[5] = items[1]
    redis_client.rpush("event_queue", *items, b"not json")
    pages = 0

    def crash_between_pages(number: int, label: str) -> None:
        nonlocal pages
        pages += label.startswith("before LRANGE")
        if pages == 2:
            raise Crash

    with Life(settings, at_step=crash_between_pages) as crashed:
        assert run_until_crash(crashed, "event")
    redis_client.rpush("event_queue", items[0])
    drain_quietly(settings, "event")
    sizes = [
        size for (size,) in postgres.execute("select file_size from raw.request_events order by batch_id, file_size")
    ]
    assert sizes == [0, 1, 2, 3, 4, 6, 7]
    assert postgres.execute("select sum(duplicates), sum(dead_letters) from ops.sync_batches").fetchall() == [(2, 1)]
    assert postgres.execute("select position, raw from ops.dead_letters").fetchall() == [(8, b"not json")]
    assert_at_rest(redis_client, postgres, "event")


@pytest.mark.parametrize("stored_pages", [0, 1])
def test_a_queue_that_is_claimed_just_after_a_recovery_looked_for_it_is_not_deleted(
    stored_pages: int, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """The recovery knows of its batch, finds no list yet, and thinks that it is done with or was never begun."""
    writer = Writer(redis_client)
    writer.write("event", ["a", "b", "c", "d"])
    with Life(settings) as owner:
        source = owner.releasing
        batch_id = new_batch_id(source.now_ms())
        source.open_batch("event", batch_id)
        was_claimed = False

        def claim(number: int, label: str) -> None:
            nonlocal was_claimed
            if label.startswith("after LLEN") and not was_claimed:
                was_claimed = True
                assert source.claim_queue(batch_id)
                queue = Origin.of_claim(batch_id, "", is_uncertain=False)
                for number in range(stored_pages):
                    items = source.read_items(batch_id, 0, 3)
                    page = whole_page(page_of(queue, number), 0, items, times=PossibleTimes(180))
                    assert owner.store.apply_events(page).stored_rows == 3

        with Life(settings, at_step=claim) as recovering:
            recovering.drain("event")
        # The owner ends here.
    drain_quietly(settings, "event")
    assert stored(postgres, "event") == writer.written
    assert_at_rest(redis_client, postgres, "event")


@pytest.mark.parametrize("family", ["api_key", "token", "event"])
def test_a_crashed_batch_is_found_without_a_scan(
    family: str,
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the list of open batches, which is written before the first rename: a scan is due every few minutes only."""
    monkeypatch.setattr("usage_pipeline.drain.sources.node.RedisSource._is_scan_due", lambda source, what: False)
    writer = Writer(redis_client, announces=True)
    writer.write(family, ["a", "b"])
    with Life(settings, at_step=_crash_after_claim) as crashed:
        assert run_until_crash(crashed, family)
    drain_quietly(settings, family)
    assert stored(postgres, family) == writer.written
    assert_at_rest(redis_client, postgres, family)


def _crash_after_claim(number: int, label: str) -> None:
    if label.startswith(("after EVAL local renamed", "after RENAMENX")):
        raise Crash(label)


@pytest.mark.parametrize("family", ["api_key", "provider"])
def test_keys_that_were_claimed_too_late_are_found_without_a_scan(
    family: str,
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever learns that another has stored and settled its batch notes the batch again."""
    monkeypatch.setattr("usage_pipeline.drain.sources.node.RedisSource._is_scan_due", lambda source, what: False)
    writer = Writer(redis_client, announces=True)
    writer.write(family, NAMES, 2)
    was_overtaken = False

    def be_overtaken(number: int, label: str) -> None:
        nonlocal was_overtaken
        if label.startswith("sent EVAL local renamed") and not was_overtaken:
            was_overtaken = True
            other.drain(family)
            assert redis_client.hgetall(names.open_batches(family)) == {}
            writer.write(family, NAMES, 3)

    with Life(settings) as other, Life(settings, at_step=be_overtaken) as slow:
        slow.drain(family)
        assert redis_client.hlen(names.open_batches(family)) == 1
        other.drain(family)
    assert stored(postgres, family) == writer.written
    assert_at_rest(redis_client, postgres, family)


@pytest.mark.parametrize("family", ["api_key", "token"])
def test_in_a_cluster_no_command_names_keys_of_two_slots(
    family: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    writer = Writer(redis_client)
    writer.write(family, NAMES, 2)
    with Life(settings) as life:
        life.claiming.facts = dataclasses.replace(life.claiming.facts, is_cluster=True)
        send = life.claiming._connection.send
        slots: list[set[int]] = []

        def look_and_send(packed: bytes) -> None:
            for script in packed.split(b"EVAL\r\n")[1:]:
                if b"RENAMENX" not in script:
                    continue
                keys = [word for word in script.split(b"\r\n") if word.startswith((b"apikey:", b"token_", b"usage_"))]
                slots.append({key_slot(key) for key in keys[:2]})
            send(packed)

        life.claiming._connection.send = look_and_send
        life.drain(family)
    assert len(slots) == len(NAMES)
    assert {len(some) for some in slots} == {1}
    assert stored(postgres, family) == writer.written


@pytest.mark.parametrize("family", ["api_key", "token", "event"])
def test_a_full_redis_is_drained_all_the_same(
    family: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """It refuses every write that needs memory, and nothing but a drain will make room."""
    writer = Writer(redis_client, announces=True)
    writer.write(family, NAMES, 2)
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.OutOfMemoryError):
            redis_client.set("x", 1)
        with Life(settings) as life:
            life.drain(family)
    finally:
        redis_client.config_set("maxmemory", 0)
    assert stored(postgres, family) == writer.written
    assert_at_rest(redis_client, postgres, family)


def test_keys_of_another_type_among_others_are_told_apart(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """The next keys are under way while these are read: an answer must not be taken for another's."""
    writer = Writer(redis_client)
    writer.write("api_key", [f"{number}" for number in range(9)], 2)
    for number in range(4):
        redis_client.set(f"apikey:bad{number}:metrics", f"text {number}")
        redis_client.sadd(recorder_keys.touched("api_key"), f"apikey:bad{number}:metrics", f"apikey:{number}:metrics")
    with Life(settings, chunk_keys=100) as life:
        report = life.drain("api_key")
    assert (report.keys, report.dead_letters) == (13, 4)
    assert stored(postgres, "api_key") == writer.written
    for key, raw in postgres.execute("select source_key, raw from ops.dead_letters"):
        redis_client.restore(b"again", 0, raw, replace=True)
        assert key == b"apikey:bad%s:metrics" % redis_client.get("again").removeprefix(b"text ")
    assert_at_rest(redis_client, postgres, "api_key")


def test_a_refused_rename_ends_the_connection_and_keeps_what_is_claimed(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(redis_client)
    writer.write("api_key", NAMES, 2)
    with Life(settings, chunk_keys=100) as life, monkeypatch.context() as patch:
        # The second send is refused, as by a server that has become a replica.
        scripts = iter([redis_scripts.RENAME, b"return redis.error_reply('READONLY no')", redis_scripts.RENAME])
        make = life.claiming._rename_commands

        def make_with_next_script(*arguments: Any) -> bytes:
            redis_scripts.RENAME = next(scripts)
            return make(*arguments)

        patch.setattr(redis_scripts, "RENAME", redis_scripts.RENAME)

        patch.setattr(life.claiming, "_rename_commands", make_with_next_script)
        with pytest.raises(redis.ResponseError):
            life.drain("api_key")
        with pytest.raises(RedisUnavailable):
            life.claiming.now_ms()
    assert stored(postgres, "api_key") == {}
    drain_quietly(settings, "api_key")
    assert stored(postgres, "api_key") == writer.written
    assert_at_rest(redis_client, postgres, "api_key")
