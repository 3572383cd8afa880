"""Scans of all keys: bounded all together, in slices, and never in the way of announced keys."""

from contextlib import closing

import psycopg
import pytest
import redis

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.event_queue import EVENT
from usage_pipeline.drain.families import API_KEY, FAMILIES, PROVIDER, TOKEN
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.drain.sources import search
from usage_pipeline.drain.sources.node import RedisSource
from usage_pipeline.settings import Settings
from usage_pipeline_tests.drain.rig import Writer, stored

FAMILY_NAMES = ("api_key", "provider", "token", "event")
KINDS = ("api_key", "provider", "token", *(f"claim:{name}" for name in FAMILY_NAMES))


class Clock:
    """Each SCAN takes a second of it: it is read before and after."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.scans = 0

    def monotonic(self) -> float:
        self.scans += 1
        if self.scans % 2 == 0:
            self.seconds += 1
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(search, "time", clock)
    monkeypatch.setattr(search, "_SCAN_COUNT", 10)
    # Other tests do without the pauses.
    monkeypatch.setattr(search, "_SCAN_SHARE", 0.05)
    return clock


def populate(client: redis.Redis, number: int) -> None:
    client.mset({f"session:{n}": "x" for n in range(number)})


def test_all_scans_together_take_a_twentieth_of_the_time(redis_client: redis.Redis, clock: Clock) -> None:
    """Each kind waits so long after a scan that with all the others it stays below that."""
    populate(redis_client, 2_000)
    shares = dict[str, float]()
    with closing(RedisSource(redis_client, "none", scan_every=dict.fromkeys(FAMILY_NAMES, 300.0))) as source:
        for family in (*FAMILIES, EVENT):
            for kind in (family.name, f"claim:{family.name}"):
                before = clock.seconds
                if kind.startswith("claim:"):
                    assert not source.finds_claims(family)
                elif kind in KINDS:
                    assert [*source.scanned_keys(family, 100)] == []
                else:
                    continue
                spent = clock.seconds - before
                pause = redis_client.pttl(names.scan_pause(kind)) / 1000
                assert 1 <= spent <= 300 * 0.05 * 0.5, "a slice, and not all keys"
                shares[kind] = spent / (spent + pause)
    assert {*shares} == {*KINDS}
    assert 0.03 < sum(shares.values()) <= 0.05


def test_slices_add_up_to_a_scan_of_all_keys(redis_client: redis.Redis, clock: Clock) -> None:
    populate(redis_client, 300)
    writer = Writer(redis_client)
    writer.write("api_key", [str(number) for number in range(40)])
    found: set[bytes] = set()
    slices = 0
    with closing(RedisSource(redis_client, "none", scan_every=dict.fromkeys(FAMILY_NAMES, 200.0))) as source:
        while not slices or redis_client.exists(names.scan_place("api_key")):
            redis_client.delete(names.scan_pause("api_key"))
            slices += 1
            assert slices < 100
            for chunk in source.scanned_keys(API_KEY, 7):
                assert 0 < len(chunk) <= 7
                found.update(chunk)
    assert found == {f"apikey:{number}:metrics".encode() for number in range(40)}
    assert slices > 3


def test_a_drain_that_stops_between_two_chunks_finds_the_rest_again(redis_client: redis.Redis, clock: Clock) -> None:
    Writer(redis_client).write("provider", [str(number) for number in range(10)])
    with closing(RedisSource(redis_client, "none", scan_every=dict.fromkeys(FAMILY_NAMES, 200.0))) as source:
        chunks = source.scanned_keys(PROVIDER, 3)
        first = next(chunks)
        chunks.close()
        redis_client.delete(*first)
        rest = {key for chunk in source.scanned_keys(PROVIDER, 3) for key in chunk}
    assert len(first) + len(rest) == 10


def test_claims_that_a_slice_meets_are_found_as_a_whole(redis_client: redis.Redis, clock: Clock) -> None:
    populate(redis_client, 300)
    for batch in ("1735732800000-aa", "1735732800001-bb"):
        for number in range(20):
            redis_client.set(names.claim(batch, b"token_usage:%d:i" % number), "x")
    with closing(RedisSource(redis_client, "none", scan_every=dict.fromkeys(FAMILY_NAMES, 100.0))) as source:
        for _ in range(100):
            redis_client.delete(names.scan_pause("claim:token"))
            if source.finds_claims(TOKEN):
                break
        held = source.claimed_keys(TOKEN)
    assert {batch: len(keys) for batch, keys in held.items()} == {"1735732800000-aa": 20, "1735732800001-bb": 20}


def test_a_drain_without_a_budget_looks_at_all_keys_at_once(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, clock: Clock
) -> None:
    populate(redis_client, 500)
    writer = Writer(redis_client)
    writer.write("api_key", ["a", "b"])
    assert drain_once(settings, ["api_key"]).keys == 2
    assert stored(postgres, "api_key") == writer.written


def test_a_round_with_a_budget_drains_foreign_keys_slice_by_slice(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, clock: Clock
) -> None:
    populate(redis_client, 500)
    foreign, announcing = Writer(redis_client, "foreign/"), Writer(redis_client, announces=True)
    foreign.write("api_key", [str(number) for number in range(5)])
    announcing.write("api_key", ["a"])
    rounds = 0
    while stored(postgres, "api_key", prefix="foreign/") != foreign.written:
        redis_client.delete(*(names.scan_pause(kind) for kind in KINDS))
        before = clock.seconds
        drain_once(settings, ["api_key"], budget_seconds=1_000_000.0)
        # The share of five seconds is less than one SCAN takes by this clock: so it is one of each kind.
        assert clock.seconds - before <= 2, "a slice of each kind"
        assert stored(postgres, "api_key", prefix="a") == announcing.written, "announced keys do not wait for scans"
        rounds += 1
        assert rounds < 200
    assert rounds > 3
