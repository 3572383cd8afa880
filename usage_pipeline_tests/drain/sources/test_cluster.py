"""A real Redis Cluster: claims, recovery and release over three primaries, while slots move and servers crash."""

import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from usage_recorder import keys as recorder_keys
from usage_recorder.async_recorder import AsyncRecorder
from usage_recorder.budget import NO_BUDGET, UNKNOWN_BUDGET
from usage_recorder.quota import QuotaDecision
from usage_recorder.recorder import Recorder

from usage_pipeline import redis_keys as names
from usage_pipeline.budgets.budget import budget_of
from usage_pipeline.budgets.publishing import publish
from usage_pipeline.budgets.standing import Standing
from usage_pipeline.drain.families import Family
from usage_pipeline.drain.protocol import BarrierFellShort
from usage_pipeline.drain.readings.ledger import read_sources
from usage_pipeline.drain.rounds import RoundReport, drain_once, watch
from usage_pipeline.drain.sources.cluster import ClusterSource
from usage_pipeline.drain.sources.node import RedisSource
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.merchants.status import day_status
from usage_pipeline.reconciliation.comparison import reconcile
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
    two_drainers,
)
from usage_pipeline_tests.drain.sources.cluster_rig import Cluster, Node, losing_answers, slot_of
from usage_pipeline_tests.rigs.commands import run_command
from usage_pipeline_tests.rigs.waiting import wait_until

# Hash tags, a `}` before a `{`, empty tags, nested ones, and no ASCII: together on all three primaries.
NAMES = ["plain", "a:b", "{tag}", "x{tag}y", "a}b{c", "a}b{c}d", "{}", "{}{x}", "{{x}}", "open{", "closed}", "ü–日本"]
FAMILIES = ["api_key", "provider", "token", "event"]


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="usage-pipeline-cluster-") as folder:
        cluster = Cluster(Path(folder))
        try:
            yield cluster
        finally:
            cluster.close()


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    running.empty()
    yield running
    running.move_back()


@pytest.fixture
def settings(database_url: str, cluster: Cluster) -> Settings:
    return load_settings(database_url=database_url, redis_url=cluster.url)


@pytest.fixture(autouse=True)
def _short_lives(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with lives(monkeypatch):
        yield


def crash_before(label: str, *, times: int = 1) -> Callable[[int, str], None]:
    """At the n-th step whose label begins so, whichever primary's thread makes it; no thread gets further than that."""
    left, lock = times, threading.Lock()

    def at_step(number: int, came: str) -> None:
        nonlocal left
        with lock:
            left -= came.startswith(label)
            if left <= 0:
                raise Crash(came)

    return at_step


AFTER_CLAIM = "before sql -- The ledger row"
AFTER_COMMIT = "before UNLINK usage_pipeline:claim"


def claims_on(node: Node) -> list[bytes]:
    return [key for key in node.client.scan_iter("usage_pipeline:claim:*") if slot_of(key) in node.slots()]


@pytest.mark.parametrize("announces", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_keys_of_every_shape_are_claimed_in_their_slot_recovered_and_released(
    family: str, announces: bool, settings: Settings, cluster: Cluster, postgres: psycopg.Connection
) -> None:
    writer = Writer(cluster.client, announces=announces)
    writer.write(family, NAMES, 2)
    live = {key for node in cluster.nodes for key in node.client.scan_iter() if not key.startswith(b"usage_pipeline:")}
    with Life(settings, chunk_keys=100, at_step=crash_before(AFTER_CLAIM)) as crashed:
        assert isinstance(crashed.claiming, ClusterSource)
        assert run_until_crash(crashed, family)
    claimed = {claim: names.parse_claim(claim)[1] for node in cluster.nodes for claim in claims_on(node)}
    assert claimed
    assert set(claimed.values()) <= live
    if announces or family == "event":
        assert set(claimed.values()) == live, "an announced batch holds keys of several primaries"
    for claim, key in claimed.items():
        asked = [cluster.nodes[0].ask("CLUSTER", "KEYSLOT", name) for name in (claim, key)]
        assert asked[0] == asked[1], key
    writer.write(family, NAMES[:5], 3)
    drain_quietly(settings, family, 2)
    assert stored(postgres, family) == writer.written
    assert_at_rest(cluster.client, postgres, family)
    assert postgres.execute("select bool_or(is_uncertain) from ops.sync_batches").fetchall() == [(False,)]


def test_a_cluster_drained_by_any_of_its_nodes_has_one_name_in_the_ledger(
    settings: Settings, cluster: Cluster, postgres: psycopg.Connection
) -> None:
    writer = Writer(cluster.client)
    for number, node in enumerate(cluster.nodes):
        writer.write("api_key", [f"{number}/{name}" for name in NAMES])
        report = drain_once(
            settings.model_copy(update=load_settings(redis_url=node.url).model_dump(include={"redis_url"}))
        )
        assert report.is_complete
    assert stored(postgres, "api_key") == writer.written
    [(server,)] = postgres.execute("select distinct redis_server from ops.sync_batches").fetchall()
    assert re.fullmatch("cluster [0-9a-f]{32}", server)
    assert_at_rest(cluster.client, postgres, "api_key")


# A crash after the first primary has claimed or released its part, and around the commit.
CRASHES = [
    ("after EVAL local renamed", 1),
    ("after EVAL local renamed", 2),
    (AFTER_CLAIM, 2),
    ("before commit", 1),
    (AFTER_COMMIT, 1),
    ("after UNLINK usage_pipeline:claim", 1),
    ("after UNLINK usage_pipeline:claim", 2),
    ("before HDEL", 1),
]


@pytest.mark.parametrize("family", ["api_key", "token", "event"])
def test_a_crash_between_two_primaries_loses_and_doubles_nothing(
    family: str, settings: Settings, cluster: Cluster, postgres: psycopg.Connection
) -> None:
    crashes = 0
    for number, (label, times) in enumerate(CRASHES):
        writer = Writer(cluster.client, f"{number}/", announces=number % 2 == 0)
        writer.write(family, NAMES, 2)
        with Life(settings, chunk_keys=6, at_step=crash_before(label, times=times)) as crashed:
            crashes += run_until_crash(crashed, family)
        writer.write(family, NAMES[:3], 3)
        drain_quietly(settings, family, 2)
        assert stored(postgres, family, prefix=f"{number}/") == writer.written, f"crash {crashed.last_step}"
        assert_at_rest(cluster.client, postgres, family)
    # The one queue is claimed and released by one command each.
    assert crashes == (6 if family == "event" else len(CRASHES))


@pytest.mark.parametrize("family", ["api_key", "event"])
def test_two_drains_at_once_with_live_writers_store_each_thing_once(
    family: str, settings: Settings, cluster: Cluster, postgres: psycopg.Connection
) -> None:
    writer = Writer(cluster.client, announces=True)
    with two_drainers(settings, family, chunk_keys=4):
        for amount in range(1, 15):
            writer.write(family, NAMES, 1 + amount % 3)
    drain_quietly(settings, family, 2)
    assert stored(postgres, family) == writer.written
    assert_at_rest(cluster.client, postgres, family)


# slots that move


def moved_name(cluster: Cluster, family: str = "api_key") -> tuple[str, int, Node, Node]:
    """A name, its key's slot, the slot's owner and another primary."""
    name = NAMES[0]
    slot = slot_of("event_queue" if family == "event" else f"apikey:{name}:metrics")
    source = cluster.owner(slot)
    return name, slot, source, next(node for node in cluster.nodes if node is not source)


@pytest.mark.parametrize("label", [AFTER_CLAIM, AFTER_COMMIT])
@pytest.mark.parametrize("family", ["api_key", "event"])
def test_claims_whose_slot_has_moved_since_are_recovered_from_its_new_owner(
    family: str, label: str, settings: Settings, cluster: Cluster, postgres: psycopg.Connection
) -> None:
    writer = Writer(cluster.client, announces=True)
    writer.write(family, NAMES, 2)
    with Life(settings, chunk_keys=100, at_step=crash_before(label)) as crashed:
        assert run_until_crash(crashed, family)
    name, slot, _, target = moved_name(cluster, family)
    cluster.move(slot, target)
    assert [key for key in claims_on(target) if slot_of(key) == slot] != []
    writer.write(family, [name], 3)
    drain_quietly(settings, family, 2)
    assert stored(postgres, family) == writer.written
    assert_at_rest(cluster.client, postgres, family)


@pytest.mark.parametrize("label", [AFTER_CLAIM, AFTER_COMMIT])
def test_claims_in_the_middle_of_a_move_are_left_to_a_later_round_and_stop_no_others(
    label: str, settings: Settings, cluster: Cluster, postgres: psycopg.Connection
) -> None:
    """Of the slot the claim is on the new primary already, the live key still on the old one, which owns both."""
    writer = Writer(cluster.client, announces=True)
    writer.write("api_key", NAMES, 2)
    with Life(settings, chunk_keys=100, at_step=crash_before(label)) as crashed:
        assert run_until_crash(crashed, "api_key")
    name, slot, _, target = moved_name(cluster)
    writer.write("api_key", [*NAMES, "new"], 3)
    cluster.begin_move(slot, target)
    assert cluster.move_keys(slot, target, only=lambda key: key.startswith(names.CLAIMS)) == 1
    with Life(settings, chunk_keys=100) as meanwhile:
        meanwhile.drain("api_key")
        meanwhile.drain("api_key")
    in_the_middle = stored(postgres, "api_key")
    assert {other: total for other, total in in_the_middle.items() if other != name} == {
        other: total for other, total in writer.written.items() if other != name
    }
    assert in_the_middle.get(name, {}).get("total_requests") == (2 if label == AFTER_COMMIT else None)
    writer.write("api_key", [name], 5)
    cluster.end_move(slot, target)
    drain_quietly(settings, "api_key", 2)
    assert stored(postgres, "api_key") == writer.written
    assert_at_rest(cluster.client, postgres, "api_key")


def test_an_applied_claim_that_moves_past_the_scan_is_not_counted_again(
    settings: Settings, cluster: Cluster, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan has passed the new owner when the slot moves there from a primary that is scanned later."""
    writer = Writer(cluster.client, announces=True)
    writer.write("api_key", NAMES, 2)
    with Life(settings, chunk_keys=100, at_step=crash_before(AFTER_COMMIT)) as crashed:
        assert run_until_crash(crashed, "api_key")
    _, slot, source, target = moved_name(cluster)
    claims = [key for key in claims_on(source) if slot_of(key) == slot]
    assert len(claims) == 1
    target_is_scanned, seen, scan = threading.Event(), list[bytes](), RedisSource.claimed_keys

    def claimed_keys(primary: RedisSource, family: Family) -> dict[str, list[bytes]]:
        port = primary._connection._connection.port
        if port == source.port:
            assert target_is_scanned.wait(30)
            cluster.move(slot, target)
        found = scan(primary, family)
        if port == target.port:
            target_is_scanned.set()
        seen.extend(key for held in found.values() for key in held)
        return found

    with monkeypatch.context() as patch, Life(settings) as recovering:
        patch.setattr(RedisSource, "claimed_keys", claimed_keys)
        recovering.drain("api_key")
    assert len(seen) == len(NAMES) - 1
    assert names.parse_claim(claims[0])[1] not in seen
    assert slot in target.slots()
    drain_quietly(settings, "api_key", 2)
    assert stored(postgres, "api_key") == writer.written
    assert_at_rest(cluster.client, postgres, "api_key")


def test_a_slot_that_moves_between_claim_and_release_leaves_the_batch_open_until_it_is_deleted(
    settings: Settings, cluster: Cluster, postgres: psycopg.Connection
) -> None:
    writer = Writer(cluster.client, announces=True)
    writer.write("api_key", NAMES, 2)
    _, slot, _, target = moved_name(cluster)

    def move(number: int, label: str) -> None:
        if label == "after commit" and slot not in target.slots() and stored(postgres, "api_key"):
            cluster.move(slot, target)

    with Life(settings, chunk_keys=100, at_step=move) as life:
        life.drain("api_key")
    assert len(claims_on(target)) == 1
    assert postgres.execute("select count(*) from ops.sync_batches where released_at is null").fetchall() == [(1,)]
    drain_quietly(settings, "api_key", 2)
    assert stored(postgres, "api_key") == writer.written
    assert_at_rest(cluster.client, postgres, "api_key")


def test_announced_keys_whose_slot_is_on_the_move_stay_live_and_announced(
    settings: Settings, cluster: Cluster, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(cluster.client, announces=True)
    name, slot, _, target = moved_name(cluster)
    # Before anything is announced: a slot of bookkeeping must not be the one that moves.
    assert slot not in {slot_of(recorder_keys.touched("api_key")), slot_of(names.open_batches("api_key"))}
    writer.write("api_key", NAMES, 2)
    cluster.begin_move(slot, target)
    monkeypatch.setattr(RedisSource, "_is_scan_due", lambda source, what: False)
    with Life(settings, chunk_keys=100) as life:
        life.drain("api_key")
        assert stored(postgres, "api_key") == {n: total for n, total in writer.written.items() if n != name}
        assert cluster.client.smembers(recorder_keys.touched("api_key")) == {f"apikey:{name}:metrics".encode()}
    writer.write("api_key", [name], 3)
    cluster.end_move(slot, target)
    with Life(settings) as life:
        life.drain("api_key")
    assert stored(postgres, "api_key") == writer.written
    assert_at_rest(cluster.client, postgres, "api_key")


@contextmanager
def watching(settings: Settings, families: list[str]) -> Iterator[list[RoundReport]]:
    rounds, should_stop = list[RoundReport](), threading.Event()
    thread = threading.Thread(
        target=watch, args=(settings, families), kwargs={"should_stop": should_stop, "on_round": rounds.append}
    )
    thread.start()
    try:
        yield rounds
    finally:
        should_stop.set()
        thread.join(60)
    assert not thread.is_alive()


def test_a_worker_goes_on_while_a_primary_is_added_and_takes_over_slots(
    settings: Settings, cluster: Cluster, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_pipeline.drain.rounds._RETRY_SECONDS", 0.02)
    fast = settings.model_copy(update={"metrics_sync_interval_ms": 10, "api_token_sync_interval_ms": 10})
    families = ["api_key", "token", "event"]
    writers = {family: Writer(cluster.client, announces=family == "api_key") for family in families}
    is_rebalanced, failures = threading.Event(), list[BaseException]()

    def write() -> None:
        number = 0
        try:
            while not is_rebalanced.is_set() or number < 10:
                number += 1
                for family, writer in writers.items():
                    writer.write(family, NAMES, 1 + number % 3)
        except BaseException as error:
            failures.append(error)
            raise

    slots = {slot_of(f"apikey:{name}:metrics") for name in NAMES}
    slots |= {
        slot_of(recorder_keys.EVENT_QUEUE),
        slot_of(names.open_batches("token")),
        slot_of(recorder_keys.touched("api_key")),
    }
    writing = threading.Thread(target=write)
    added = cluster.fourth_primary()
    with watching(fast, families) as rounds:
        wait_for_rounds(rounds, 1)
        # redis-py, which the foreign writer uses, cannot follow a move to a primary that it has never heard of.
        cluster.move(16_000, added)
        cluster.client.nodes_manager.initialize()
        writing.start()
        for slot in sorted(slots):
            cluster.move(slot, added)
        before = len(rounds)
        is_rebalanced.set()
        writing.join(60)
        assert not writing.is_alive()
        assert failures == []
        wait_for_rounds(rounds, before + 3)
    assert sum(report.keys for report in rounds) > 0
    for family, writer in writers.items():
        drain_quietly(settings, family, 2)
        assert stored(postgres, family) == writer.written
        assert_at_rest(cluster.client, postgres, family)
    assert slots <= added.slots()


def wait_for_rounds(rounds: list[RoundReport], many: int) -> None:
    wait_until(lambda: len(rounds) >= many, f"the worker has done {many} rounds", 30)


# durability


@pytest.mark.parametrize("family", ["api_key", "event"])
def test_a_primary_that_is_killed_between_claim_and_apply_is_waited_for(
    family: str, settings: Settings, cluster: Cluster, postgres: psycopg.Connection
) -> None:
    writer = Writer(cluster.client, announces=True)
    writer.write(family, NAMES, 2)
    with Life(settings, chunk_keys=100, at_step=crash_before(AFTER_CLAIM)) as crashed:
        assert run_until_crash(crashed, family)
    killed = next(node for node in cluster.nodes if claims_on(node) and node.url != cluster.url)
    killed.kill()
    with pytest.raises(RedisUnavailable), Life(settings) as early:
        early.drain(family)
    assert stored(postgres, family) == {}, "recovery decides over all primaries at once"
    killed.start()
    cluster.wait_until_ok()
    drain_quietly(settings, family, 2)
    assert stored(postgres, family) == writer.written
    assert_at_rest(cluster.client, postgres, family)


def test_each_primary_confirms_its_own_part_of_a_batch(
    settings: Settings, cluster: Cluster, postgres: psycopg.Connection
) -> None:
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "appendfsync", "everysec")
    writer = Writer(cluster.client, announces=True)
    writer.write("api_key", NAMES, 2)
    with Life(settings, chunk_keys=100) as life:
        assert life.claiming.plan.local_fsyncs == 1
        life.drain("api_key")
    for node in filter(Node.slots, cluster.nodes):
        written = list(node.client.scan_iter("usage_pipeline:barrier*"))
        assert len(written) == 1
        assert slot_of(written[0]) in node.slots()
    assert stored(postgres, "api_key") == writer.written
    assert_at_rest(cluster.client, postgres, "api_key")


def test_one_primary_that_does_not_confirm_keeps_the_whole_batch_claimed(
    settings: Settings, cluster: Cluster, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_pipeline.drain.sources.barrier._TIMEOUT_MS", 5)
    writer = Writer(cluster.client, announces=True)
    writer.write("api_key", NAMES, 2)
    with Life(settings, chunk_keys=100) as life:
        # One of them waits for a replica that it does not have.
        life.claiming.primaries[1].plan = life.releasing.primaries[1].plan = type(life.claiming.plan)(replicas=1)
        for _ in range(2):
            with pytest.raises(BarrierFellShort):
                life.drain("api_key")
    assert stored(postgres, "api_key") == {}
    drain_quietly(settings, "api_key", 2)
    assert stored(postgres, "api_key") == writer.written
    assert_at_rest(cluster.client, postgres, "api_key")


@pytest.mark.parametrize("family", ["api_key", "event"])
def test_the_barrier_by_age_holds_on_each_primary(
    family: str,
    settings: Settings,
    cluster: Cluster,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer, ahead_ms, now_ms = Writer(cluster.client, announces=True), 0, RedisSource.now_ms
    monkeypatch.setattr(RedisSource, "now_ms", lambda source: now_ms(source) + ahead_ms)
    writer.write(family, NAMES, 2)
    with Life(settings, barrier="age", chunk_keys=100) as life:
        life.drain(family)
        assert stored(postgres, family) == {}
        ahead_ms = 3_001
        life.drain(family)
        assert stored(postgres, family) == writer.written
        assert postgres.execute("select count(*) from ops.sync_batches where released_at is null").fetchall() != [(0,)]
    for node in cluster.nodes:
        for key in node.client.scan_iter("usage_pipeline:unlinked:*"):
            node.client.delete(key)
    with Life(settings, barrier="age") as later:
        later.drain(family)
    assert stored(postgres, family) == writer.written
    assert_at_rest(cluster.client, postgres, family)


def test_keys_of_another_type_become_dead_letters_on_every_primary(
    settings: Settings, cluster: Cluster, postgres: psycopg.Connection
) -> None:
    writer = Writer(cluster.client, announces=True)
    writer.write("api_key", NAMES, 2)
    for name in NAMES:
        cluster.client.set(f"apikey:bad {name}:metrics", f"text {name}")
    with Life(settings) as life:
        report = life.drain("api_key")
    assert (report.keys, report.dead_letters) == (2 * len(NAMES), len(NAMES))
    assert stored(postgres, "api_key") == writer.written
    letters = [key.decode() for (key,) in postgres.execute("select source_key from ops.dead_letters")]
    assert sorted(letters) == sorted(f"apikey:bad {name}:metrics" for name in NAMES)
    assert_at_rest(cluster.client, postgres, "api_key")


# what else reads and writes a cluster


def test_token_caches_are_deleted_wherever_they_are(
    settings: Settings, cluster: Cluster, postgres: psycopg.Connection
) -> None:
    for number in range(9):
        postgres.execute(
            "insert into usage.api_access_tokens (token_id, token_prefix, token_hash) values (%s, %s, %s)",
            (f"t{number}", f"up_{number}", f"hash {number}".encode()),
        )
        cluster.client.set(names.token_cache(f"up_{number}"), "{}")
    Writer(cluster.client).write("token", [f"t{number}" for number in range(9)])
    drain_once(settings)
    assert [*cluster.client.scan_iter("api_token:*")] == []


def merchant_key(merchant: str) -> str:
    return recorder_keys.merchant_counter(merchant, datetime.now(UTC).date(), "orders")


def test_merchant_counters_of_all_primaries_are_aggregated_and_compared(
    settings: Settings, cluster: Cluster, postgres: psycopg.Connection
) -> None:
    today = datetime.now(UTC).date()
    for number, name in enumerate(NAMES):
        cluster.client.set(merchant_key(name), number)
        cluster.client.sadd(merchant_key(f"set {name}"), "x")
        cluster.client.set(merchant_key(f"empty {name}"), b"")
    report = aggregate(settings, [today])
    assert (report.days[0].inserted, report.days[0].dead_letters) == (len(NAMES), 2 * len(NAMES))
    rows = postgres.execute("select merchant_id, metric_value from usage.merchant_usage").fetchall()
    assert dict(rows) == {name: number for number, name in enumerate(NAMES)}
    [(server,)] = postgres.execute("select redis_server from ops.sync_batches").fetchall()
    assert server.startswith("cluster ")
    for name in NAMES:
        cluster.client.incr(merchant_key(name))
        cluster.client.delete(merchant_key(f"set {name}"), merchant_key(f"empty {name}"))
    status = day_status(settings, today)
    assert (status.keys_in_redis, status.missing_count) == (len(NAMES), len(NAMES))
    [(one_of_them)] = aggregate(settings, [today], merchant_id="{{x}}").days
    assert (one_of_them.keys_found, one_of_them.raised) == (1, 1)
    aggregate(settings, [today])
    assert day_status(settings, today).is_complete


def test_merchant_counters_are_read_while_their_slot_moves(
    settings: Settings, cluster: Cluster, postgres: psycopg.Connection
) -> None:
    for number, name in enumerate(NAMES):
        cluster.client.set(merchant_key(name), number)
    slot = slot_of(merchant_key(NAMES[0]))
    target = next(node for node in cluster.nodes if node.slots() and node is not cluster.owner(slot))
    cluster.begin_move(slot, target)
    assert cluster.move_keys(slot, target) == 1
    report = aggregate(settings, [datetime.now(UTC).date()])
    cluster.end_move(slot, target)
    assert report.days[0].inserted == len(NAMES)


def test_what_waits_is_counted_over_all_primaries(settings: Settings, cluster: Cluster) -> None:
    writer = Writer(cluster.client)
    for family in FAMILIES:
        writer.write(family, NAMES)
    with Life(settings, chunk_keys=100, at_step=crash_before(AFTER_CLAIM)) as crashed:
        assert run_until_crash(crashed, "event")
    cluster.client.rpush(recorder_keys.EVENT_QUEUE, event_item(), event_item())
    cluster.client.set(merchant_key("m"), 1)
    readings = {reading.family: reading for reading in read_sources(settings)}
    live = {family: reading.live_keys for family, reading in readings.items()}
    assert live == {"api_key": 12, "provider": 12, "token": 12, "event": 2, "merchant": 1}
    assert (readings["event"].claimed_keys, readings["event"].open_batches) == (1, 1)
    memory = [node.client.info("memory")["used_memory"] for node in cluster.nodes]
    assert readings["api_key"].redis_memory_bytes > max(memory)


def test_the_commands_work_with_the_address_of_one_node(settings: Settings, cluster: Cluster) -> None:
    writer = Writer(cluster.client)
    writer.write("api_key", NAMES)
    cluster.client.set(merchant_key("m"), 5)
    today = datetime.now(UTC).date().isoformat()

    def answer(*arguments: str) -> dict[str, Any]:
        done = run_command(settings, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    assert sum(family["keys"] for family in answer("drain", "--once")["families"]) == len(NAMES)
    assert answer("status", today)["missing_count"] == 1


# the recorder

EVENT = {"user_id": "u", "provider": "s3", "event_type": "upload"}
UNRETRIED = {"protocol": 2, "socket_timeout": 30}


def record_calls(recorder: Recorder | AsyncRecorder) -> Iterable[object]:
    for name in NAMES:
        yield recorder.record_api_key(name, file_size=5)
        yield recorder.record_provider(name, "a:b", user_id="u", file_size=5)
        yield recorder.record_token(name, "host:80", count=2)
        yield recorder.record_merchant(name, "orders", value=3)
        yield recorder.record_event(name, **EVENT)


AMOUNTS = {"api_key": 1, "provider": 1, "token": 2, "merchant": 3, "event": 1}


def reconciled(settings: Settings, column: str) -> dict[str, int]:
    """Where everything is by family, when nothing is missing and nothing is anywhere else."""
    rows = reconcile(settings).rows
    assert {row.difference for row in rows} == {0}
    return {row.family: getattr(row, column) for row in rows}


def assert_all_is_recorded(cluster: Cluster, settings: Settings, postgres: psycopg.Connection) -> None:
    """Announced, with a time to live, in the odometer; and drained."""
    for family in ("api_key", "provider", "token"):
        assert cluster.client.scard(recorder_keys.touched(family)) == len(NAMES)
    for pattern in ("apikey:*:metrics", "provider:*", "token_usage:*", "usage:*"):
        keys = [*cluster.client.scan_iter(pattern)]
        assert len(keys) == len(NAMES)
        assert all(cluster.client.ttl(key) > 600_000 for key in keys)
    odometers = {
        key.split(b":")[2].decode(): cluster.client.hgetall(key)
        for key in cluster.client.scan_iter("usage_pipeline:recorded:*")
    }
    assert {family: counts[b"records"] for family, counts in odometers.items()} == dict.fromkeys(
        ("api_key", "provider", "token", "merchant", "event"), b"%d" % len(NAMES)
    )
    assert odometers["token"][b"usage_count"] == b"%d" % (2 * len(NAMES))
    assert reconciled(settings, "live") == {family: len(NAMES) * amount for family, amount in AMOUNTS.items()}
    drain_once(settings)
    aggregate(settings, [datetime.now(UTC).date()])
    assert reconciled(settings, "stored") == {family: len(NAMES) * amount for family, amount in AMOUNTS.items()}
    assert stored(postgres, "api_key") == {name: {"total_requests": 1, "total_file_size": 5} for name in NAMES}
    assert stored(postgres, "provider") == {name: {"upload_count": 1, "total_file_size": 5} for name in NAMES}
    assert stored(postgres, "token") == {name: {"usage_count": 2} for name in NAMES}
    assert stored(postgres, "event") == {name: {"events": 1} for name in NAMES}
    assert postgres.execute("select count(*) from ops.dead_letters").fetchall() == [(0,)]


def test_the_recorder_writes_to_a_cluster(settings: Settings, cluster: Cluster, postgres: psycopg.Connection) -> None:
    postgres.execute("insert into usage.api_key_quotas values ('plain', 10, 5), ('{}{x}', null, 1), ('a}b{c', 3, null)")
    drain_once(settings)
    with redis.RedisCluster.from_url(cluster.url, retry=Retry(NoBackoff(), 0), **UNRETRIED) as client:
        recorder = Recorder(client)
        assert all(record_calls(recorder))
        assert recorder.check_quota("plain") == QuotaDecision(True, 9, 4, True)
        assert recorder.check_quota("{}{x}") == QuotaDecision(False, None, 0, True)
        assert recorder.check_quota("a}b{c") == QuotaDecision(True, 2, None, True)
        assert (recorder.pending("{}{x}") or {})["total_file_size"] == 5
        assert recorder.failures == {}
    assert_all_is_recorded(cluster, settings, postgres)
    postgres.execute("delete from usage.api_key_quotas")
    cluster.client.delete(names.scan_pause("quotas"))
    drain_once(settings)
    assert [*cluster.client.scan_iter("usage_pipeline:quota:*")] == []
    assert cluster.client.exists("usage_pipeline:quota_ids") == 0


async def test_budgets_are_published_to_a_cluster_and_checked_there(settings: Settings, cluster: Cluster) -> None:
    now = datetime.now(UTC)
    some = [
        Standing(one, one.window(now, settings.timezone), Decimal(3), 0, now)
        for one in (budget_of(scope, scope, "day", "3", "requests", None) for scope in ("all", "team={a}", "user=}b{"))
    ]
    with redis.RedisCluster.from_url(cluster.url, retry=Retry(NoBackoff(), 0), **UNRETRIED) as client:
        recorder = Recorder(client)
        assert recorder.check_budget("all") == UNKNOWN_BUDGET
        publish(settings, some)
        assert all(recorder.check_budget(one.budget.name).is_used_up for one in some)
        assert recorder.check_budget("team=other") == NO_BUDGET
        publish(settings, some[1:])
        assert recorder.check_budget("all") == NO_BUDGET
        assert recorder.failures == {}
    async with redis.asyncio.RedisCluster.from_url(
        cluster.url, retry=AsyncRetry(NoBackoff(), 0), **UNRETRIED
    ) as client:
        asking = AsyncRecorder(client)
        assert (await asking.check_budget("team={a}")).is_used_up
        assert await asking.check_budget("all") == NO_BUDGET
        cluster.client.delete(recorder_keys.budgets_as_of())
        assert await asking.check_budget("all") == UNKNOWN_BUDGET


async def test_the_async_recorder_writes_to_a_cluster(
    settings: Settings, cluster: Cluster, postgres: psycopg.Connection
) -> None:
    async with redis.asyncio.RedisCluster.from_url(
        cluster.url, retry=AsyncRetry(NoBackoff(), 0), **UNRETRIED
    ) as client:
        recorder = AsyncRecorder(client)
        assert all([await call for call in record_calls(recorder)])
        assert (await recorder.check_quota("plain")).is_known
        assert (await recorder.pending("ü–日本") or {})["total_requests"] == 1
        assert recorder.failures == {}
    assert_all_is_recorded(cluster, settings, postgres)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_records_follow_a_slot_even_to_a_primary_that_had_none(kind: str, cluster: Cluster) -> None:
    target = cluster.fourth_primary()
    name, slot, _, _ = moved_name(cluster)

    async def record(recorder: Recorder | AsyncRecorder) -> None:
        for step in (cluster.begin_move, cluster.move_keys, cluster.end_move):
            step(slot, target)
            recorded = recorder.record_api_key(name)
            assert (recorded if isinstance(recorded, bool) else await recorded) is True
        # While a slot is on its way, no step with two keys can be made there.
        flushed = recorder.flush(30)
        assert (flushed if isinstance(flushed, bool) else await flushed) is True
        assert recorder.failures == {}

    if kind == "sync":
        with redis.RedisCluster.from_url(cluster.url, retry=Retry(NoBackoff(), 0), **UNRETRIED) as client:
            assert Recorder(client).record_api_key(name)
            await record(Recorder(client))
    else:
        async with redis.asyncio.RedisCluster.from_url(
            cluster.url, retry=AsyncRetry(NoBackoff(), 0), **UNRETRIED
        ) as async_client:
            assert await AsyncRecorder(async_client).record_api_key(name)
            await record(AsyncRecorder(async_client))
    assert target.client.hget(recorder_keys.api_key_metrics(name), "total_requests") == b"4"


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_record_whose_answer_is_lost_again_and_again_counts_once(kind: str, cluster: Cluster) -> None:
    name, _, source, _ = moved_name(cluster)
    url = next(node for node in cluster.nodes if node is not source).url
    with losing_answers(source, b"total_requests") as port:
        options = {
            "protocol": 2,
            "socket_timeout": 0.5,
            "address_remap": lambda address: (address[0], port if address[1] == source.port else address[1]),
        }
        if kind == "sync":
            with redis.RedisCluster.from_url(url, retry=Retry(NoBackoff(), 0), **options) as client:
                recorder: Recorder | AsyncRecorder = Recorder(client)
                assert recorder.record_api_key(name) is True
                assert recorder.flush(2) is False
                recorder.close(timeout_seconds=0)
        else:
            async with redis.asyncio.RedisCluster.from_url(
                url, retry=AsyncRetry(NoBackoff(), 0), **options
            ) as async_client:
                recorder = AsyncRecorder(async_client)
                assert await recorder.record_api_key(name) is True
                assert await recorder.flush(2) is False
                await recorder.close(timeout_seconds=0)
    assert recorder.kept + recorder.dropped["api_key"] == 1
    assert source.client.hget(recorder_keys.api_key_metrics(name), "total_requests") == b"1"


def test_a_cluster_that_is_gone_raises_nothing_into_a_request() -> None:
    with tempfile.TemporaryDirectory(prefix="usage-pipeline-cluster-") as folder:
        own = Node(Path(folder) / "node")
        try:
            own.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
            while b"cluster_state:ok" not in own.ask("CLUSTER", "INFO"):
                pass
            with redis.RedisCluster.from_url(own.url, retry=Retry(NoBackoff(), 0), **UNRETRIED) as client:
                recorder = Recorder(client)
                assert recorder.record_api_key("k")
                own.kill()
                for _ in range(3):
                    assert recorder.record_api_key("k") is True
                assert recorder.kept == 3
                assert recorder.failures == {}
                assert recorder.check_quota("k").is_known is False
                recorder.close(timeout_seconds=0)
        finally:
            own.kill()
            own.client.close()
