"""A Redis primary is killed and its replica promoted, at the worst moment: what the replica had not received is forgotten.

Nothing is left to chance: the link between the two holds back, from a chosen step on, all that the primary sends.
"""

from collections.abc import Callable, Iterator

import psycopg
import pytest
import redis

from usage_pipeline import redis_keys as names
from usage_pipeline.drain import store as usage_store
from usage_pipeline.drain.protocol import BarrierFellShort
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.redis import RedisUnavailable
from usage_pipeline_tests.drain.rig import (
    Crash,
    Life,
    Writer,
    assert_at_rest,
    drain_quietly,
    event_item,
    lives,
    run_until_crash,
    stored,
)
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture.faults.failover import Pair
from usage_pipeline_tests.torture.servers import NO_PERSISTENCE, Stage

FAMILIES = ["api_key", "token", "event"]
NAMES = ["a", "b:c", "{d}e", "f}", "g"]


@pytest.fixture(autouse=True)
def _short_lives(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with lives(monkeypatch):
        yield


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A folder for Redis servers; its PostgreSQL is not started, since the session has one."""
    return Stage(tmp_path_factory.mktemp("failover"))


@pytest.fixture
def pair(stage: Stage) -> Iterator[Pair]:
    with Pair(stage, NO_PERSISTENCE) as pair:
        yield pair


@pytest.fixture
def settings(database_url: str, pair: Pair) -> Settings:
    return load_settings(database_url=database_url, redis_url=pair.front.url)


@pytest.fixture
def redis_client(pair: Pair) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(pair.front.url) as client:
        yield client


def write_replicated(client: redis.Redis, family: str) -> Writer:
    writer = Writer(client)
    writer.write(family, NAMES, 2)
    # On one connection: what the writers' had sent before is before this in the primary's stream, too.
    with client.client() as pinned:
        pinned.set("written", 1)
        assert pinned.wait(1, 5_000) == 1
    return writer


def before(step: str, do: Callable[[], None]) -> Callable[[int, str], None]:
    """Does something once, at the first step whose label begins so."""
    is_done = False

    def at_step(number: int, label: str) -> None:
        nonlocal is_done
        if not is_done and label.startswith(step):
            is_done = True
            do()

    return at_step


RENAME = "before EVAL local renamed"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_claim_that_the_fail_over_forgets_was_not_applied(
    family: str,
    pair: Pair,
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("usage_pipeline.drain.sources.barrier._TIMEOUT_MS", 100)
    writer = write_replicated(redis_client, family)
    with Life(settings, at_step=before(RENAME, pair.link.hold)) as life:
        with pytest.raises(BarrierFellShort):
            life.drain(family)
        assert stored(postgres, family) == {}
    pair.fail_over()
    drain_quietly(settings, family, 2)
    assert stored(postgres, family) == writer.written
    assert_at_rest(redis_client, postgres, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_barrier_never_speaks_for_renames_of_a_connection_that_was_lost(
    family: str, pair: Pair, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """The promoted server has a replica of its own, which confirms at once whatever a new connection asks."""
    writer = write_replicated(redis_client, family)
    pair.attach_second_replica()

    def fail_over() -> None:
        pair.fail_over()
        wait_until(pair.has_second_replica, "the promoted server has its replica")

    def at_step(number: int, label: str) -> None:
        hold(number, label)
        change(number, label)

    hold, change = before(RENAME, pair.link.hold), before("before SET usage_pipeline:barrier", fail_over)
    with Life(settings, barrier="wait", at_step=at_step) as life, pytest.raises(RedisUnavailable):
        life.drain(family)
    assert stored(postgres, family) == {}
    drain_quietly(settings, family, 2, barrier="wait")
    assert stored(postgres, family) == writer.written
    assert_at_rest(redis_client, postgres, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_deletion_that_the_fail_over_forgets_is_not_counted_again(
    family: str, pair: Pair, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """The claims come back with the replica; that their batch was applied must still be known then."""
    writer = write_replicated(redis_client, family)
    with Life(settings, chunk_keys=100, at_step=before("before UNLINK usage_pipeline:claim", pair.link.hold)) as life:
        life.drain(family)
    assert stored(postgres, family) == writer.written
    assert [*redis_client.scan_iter("usage_pipeline:claim:*")] == []
    pair.fail_over()
    assert [*redis_client.scan_iter("usage_pipeline:claim:*")] != []
    drain_quietly(settings, family, 2)
    assert stored(postgres, family) == writer.written
    assert_at_rest(redis_client, postgres, family)


def test_a_claim_outlives_the_ttl_of_its_counter(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    writers = {family: Writer(redis_client) for family in FAMILIES}
    for family, writer in writers.items():
        writer.write(family, NAMES, 2)
    ttl_ms = 2_500
    for pattern in ("apikey:*", "token_usage:*", "event_queue"):
        for key in redis_client.scan_iter(pattern):
            redis_client.pexpire(key, ttl_ms)
    # Over after all of theirs.
    redis_client.set("deadline", 1, px=ttl_ms)

    def crash(number: int, label: str) -> None:
        if label.startswith("before sql -- The ledger row"):
            raise Crash(label)

    for family in FAMILIES:
        with Life(settings, chunk_keys=100, barrier="none", at_step=crash) as crashed:
            assert run_until_crash(crashed, family)
    wait_until(lambda: not redis_client.exists("deadline"), "the counters' TTL is over")
    for family, writer in writers.items():
        drain_quietly(settings, family, barrier="none")
        assert stored(postgres, family) == writer.written
    for family in FAMILIES:
        assert_at_rest(redis_client, postgres, family)


def uncertain(postgres: psycopg.Connection) -> dict[str, bool]:
    return dict(postgres.execute("select batch_id, is_uncertain from ops.sync_batches order by batch_id").fetchall())


@pytest.mark.parametrize("family", ["api_key", "event"])
def test_without_a_barrier_what_a_fail_over_brings_back_is_flagged_on_both_sides(
    family: str, pair: Pair, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    unsafe = settings.model_copy(update={"drain_barrier": "none"})
    early = Writer(redis_client, "early-")
    early.write(family, ["a"])
    drain_once(unsafe, [family])
    age = f"{usage_store.FORGETFUL_SECONDS + 1} seconds"
    postgres.execute("update ops.sync_batches set applied_at = applied_at - %s::interval", (age,))
    [old] = uncertain(postgres)
    writer = write_replicated(redis_client, family)
    pair.link.hold()
    drain_once(unsafe, [family])
    assert not any(uncertain(postgres).values())
    pair.fail_over()
    drain_once(unsafe, [family])
    flags = uncertain(postgres)
    assert len(flags) >= 3
    assert not flags.pop(old), "stored long before: its deletion had been replicated"
    assert all(flags.values())
    if family == "api_key":
        doubled = {
            name: {field: 2 * count for field, count in counts.items()} for name, counts in writer.written.items()
        }
        assert stored(postgres, family) == early.written | doubled, "or there was nothing to flag"
    else:
        assert stored(postgres, family) == early.written | writer.written, "an event's id counts once"
    writer.write(family, ["later"])
    drain_once(unsafe, [family])
    assert list(uncertain(postgres).values())[-1] is False, "the server is the same as in the drain before"


def test_a_batch_that_the_former_servers_drainer_commits_late_is_flagged_too(
    pair: Pair, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """It was not there yet when the first drain from the new server looked."""
    write_replicated(redis_client, "api_key")
    redis_client.rpush("event_queue", event_item())
    drain_once(settings, ["api_key"])
    [(early,)] = postgres.execute("select batch_id from ops.sync_batches where keys > 0 limit 1").fetchall()
    pair.fail_over()
    Writer(redis_client).write("api_key", ["a"])
    drain_once(settings, ["api_key"])
    # As if that row had been committed just now: then nobody had settled it.
    redis_client.delete(names.settled_batches("api_key"))
    postgres.execute("update ops.sync_batches set is_uncertain = false where batch_id = %s", (early,))
    drain_once(settings, ["api_key"])
    assert uncertain(postgres)[early]


def test_drains_of_one_server_flag_nothing(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """Nor do replayed dead letters, whose rows name no server, or another family's server."""
    for _ in range(2):
        Writer(redis_client).write("api_key", ["a"])
        drain_once(settings, ["api_key", "event"])
        postgres.execute(
            "insert into ops.sync_batches (batch_id, family, claimed_at, keys, redis_server, is_uncertain, drained_by)"
            " select '9-replay-' || count(*), 'api_key', now(), 0, 'replay', false, '' from ops.sync_batches"
        )
        postgres.execute(
            "insert into ops.sync_batches (batch_id, family, claimed_at, keys, redis_server, is_uncertain, drained_by)"
            " select 'm' || count(*), 'merchant', now(), 0, 'another', false, '' from ops.sync_batches"
        )
    assert list(uncertain(postgres).values()) == [False] * 6


def test_a_commit_is_durable_before_redis_forgets_even_where_the_database_says_otherwise(
    database_url: str, settings: Settings, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    apply = usage_store.UsageStore.apply

    def look_and_apply(store: usage_store.UsageStore, *arguments: object) -> usage_store.Applied:
        seen.extend(store._connection.execute("show synchronous_commit").fetchone())
        return apply(store, *arguments)

    monkeypatch.setattr(usage_store.UsageStore, "apply", look_and_apply)
    for chosen, expected in (("off", "on"), ("remote_apply", "remote_apply"), ("local", "local")):
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(f"alter database {connection.info.dbname} set synchronous_commit = {chosen}")
        with redis.Redis.from_url(settings.redis_dsn.get_secret_value()) as client:
            Writer(client).write("api_key", [chosen])
        drain_once(settings, ["api_key"])
        assert seen.pop() == expected
