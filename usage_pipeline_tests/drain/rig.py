"""What the tests of the drain share: foreign writers, what ought to be stored, and drainers that can be interrupted.

A `Life` is one drainer process: its connections, its name, and a count of its steps. Every Redis round trip and every
PostgreSQL statement is a step, before and after it is carried out; `at_step` says what happens at one of them.
"""

import json
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import psycopg
import redis

from usage_pipeline.drain.event_queue import QueueDrain
from usage_pipeline.drain.families import FAMILIES
from usage_pipeline.drain.protocol import DrainLimits, DrainReport, FamilyDrain
from usage_pipeline.drain.sources import node as redis_source
from usage_pipeline.drain.sources.cluster import open_sources
from usage_pipeline.drain.sources.node import RedisSource
from usage_pipeline.drain.store import UsageStore
from usage_pipeline.settings import Barrier, Settings
from usage_pipeline.storage.postgres import connect

BY_NAME = {family.name: family for family in FAMILIES}
DAY_MS = 86_400_000


class Crash(Exception):
    """The drainer's process ended here."""


class Life:
    """One drainer process from its start to its end."""

    def __init__(
        self,
        settings: Settings,
        *,
        barrier: Barrier = "auto",
        chunk_keys: int = 3,
        at_step: Callable[[int, str], None] = lambda number, label: None,
    ) -> None:
        self.name = f"host:{uuid.uuid4().hex[:8]}"
        self.limits = DrainLimits(chunk_keys=chunk_keys)
        self.steps = 0
        self.last_step = "start"
        self.at_step = at_step
        self._is_dead = False
        self._lock = threading.RLock()
        self._stack = ExitStack()
        self.postgres = self._stack.enter_context(closing(connect(settings)))
        _, self.claiming, self.releasing = self._stack.enter_context(open_sources(settings, barrier))
        for source in (self.claiming, self.releasing):
            for primary in getattr(source, "primaries", [source]):
                self._count_round_trips(primary)
        self.store = UsageStore(CountedConnection(self.postgres, self.step), usage_timezone="UTC", drained_by=self.name)

    def step(self, label: str) -> None:
        with self._lock:
            if self._is_dead:
                raise Crash
            self.steps += 1
            self.last_step, number = label, self.steps
        try:
            self.at_step(number, label)
        except Crash:
            self._is_dead = True
            raise

    def drain(self, family: str) -> DrainReport:
        if family == "event":
            return QueueDrain(self.releasing, self.store, self.limits).run()
        return self.drain_of(family).run()

    def drain_of(self, family: str) -> FamilyDrain:
        """A drain of one family of counters that has not begun."""
        return FamilyDrain(
            BY_NAME[family], claiming=self.claiming, releasing=self.releasing, store=self.store, limits=self.limits
        )

    def _count_round_trips(self, source: RedisSource) -> None:
        connection = source._connection
        send, receive = connection.send, connection.receive
        labels: deque[str] = deque()

        def counted_send(packed: bytes) -> None:
            command = b" ".join(packed[:400].split(b"\r\n")[2:5:2]).decode(errors="replace")
            label = command.partition("\n")[0]
            labels.append(label)
            self.step(f"before {label}")
            send(packed)
            self.step(f"sent {label}")

        def counted_receive(count: int) -> list[Any]:
            replies = receive(count)
            self.step(f"after {labels.popleft()}")
            return replies

        connection.send, connection.receive = counted_send, counted_receive

    def __enter__(self) -> "Life":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class CountedConnection:
    """A psycopg connection whose statements and commits are steps."""

    def __init__(self, connection: psycopg.Connection, step: Callable[[str], None]) -> None:
        self._connection, self._step = connection, step

    def execute(self, query: Any, *arguments: Any) -> Any:
        label = " ".join(str(query).split("\n")[0].split()[:6])
        self._step(f"before sql {label}")
        cursor = self._connection.execute(query, *arguments)
        self._step(f"after sql {label}")
        return cursor

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._connection.transaction():
            yield
            self._step("before commit")
        self._step("after commit")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@contextmanager
def lives(monkeypatch: Any) -> Iterator[None]:
    """Small sends, and no grace for batches that were begun and never filled: no test waits for a minute."""
    with monkeypatch.context() as patch:
        patch.setattr(redis_source, "_KEYS_PER_SEND", 2)
        for module in ("protocol", "event_queue"):
            patch.setattr(f"usage_pipeline.drain.{module}.FORGET_EMPTY_BATCH_MS", -1)
        patch.setattr("usage_pipeline.drain.event_queue.PAGE_ITEMS", 3)
        patch.setattr("usage_pipeline.drain.sources.search.process_name", lambda: f"host:{uuid.uuid4().hex[:8]}")
        yield


def crash_at(step: int) -> Callable[[int, str], None]:
    def at_step(number: int, label: str) -> None:
        if number == step:
            raise Crash(label)

    return at_step


def run_until_crash(life: Life, family: str) -> bool:
    """Whether the drain crashed before its end."""
    with suppress(Crash):
        life.drain(family)
        return False
    return True


def drain_quietly(settings: Settings, family: str, times: int = 1, *, barrier: Barrier = "auto") -> None:
    """By a new process that nothing disturbs.

    Twice is enough for what a crash left in the set of touched keys, or too young in the list of batches.
    """
    with Life(settings, barrier=barrier) as quiet:
        for _ in range(times):
            quiet.drain(family)


@contextmanager
def two_drainers(settings: Settings, family: str, *, chunk_keys: int) -> Iterator[None]:
    """Two processes that drain round after round until the end of the block. Neither may fail."""
    is_over, failures = threading.Event(), list[BaseException]()

    def drain() -> None:
        try:
            with Life(settings, chunk_keys=chunk_keys) as life:
                while not is_over.is_set():
                    life.drain(family)
        except BaseException as error:
            failures.append(error)
            raise

    drainers = [threading.Thread(target=drain) for _ in range(2)]
    for thread in drainers:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in drainers:
            thread.join(60)
    assert failures == [], failures


class Writer:
    """A foreign writer (plain Redis commands, contracts §1.1–1.5), which remembers what it wrote."""

    def __init__(self, client: redis.Redis, prefix: str = "", *, announces: bool = False) -> None:
        self._redis, self._prefix, self._announces = client, prefix, announces
        self.written: dict[str, dict[str, int]] = {}

    def write(self, family: str, names: Iterator[str] | list[str], amount: int = 1) -> None:
        for name in names:
            getattr(self, family)(f"{self._prefix}{name}", amount)

    def api_key(self, name: str, amount: int = 1) -> None:
        key = f"apikey:{name}:metrics"
        pipe = self._redis.pipeline(transaction=False)
        pipe.hincrby(key, "total_requests", amount)
        pipe.hincrby(key, "total_file_size", amount * 1_000)
        pipe.expire(key, 7 * 86_400)
        if self._announces:
            pipe.sadd("usage_pipeline:touched:api_key", key)
        pipe.execute()
        self._remember(name, total_requests=amount, total_file_size=amount * 1_000)

    def provider(self, name: str, amount: int = 1) -> None:
        key = f"provider:{name}:s3:metrics"
        pipe = self._redis.pipeline(transaction=False)
        pipe.hincrby(key, "upload_count", amount)
        pipe.hincrby(key, "total_file_size", amount * 1_000)
        if self._announces:
            pipe.sadd("usage_pipeline:touched:provider", key)
        pipe.execute()
        self._remember(name, upload_count=amount, total_file_size=amount * 1_000)

    def token(self, name: str, amount: int = 1) -> None:
        """Each write is an instance of its own, so that nothing is overwritten."""
        instance = uuid.uuid4().hex[:8]
        usage = {"usageCount": amount, "lastUsedAt": datetime.now(UTC).isoformat(), "instanceId": instance}
        self._redis.set(f"token_usage:{name}:{instance}", json.dumps(usage), ex=120)
        if self._announces:
            self._redis.sadd("usage_pipeline:touched:token", f"token_usage:{name}:{instance}")
        self._remember(name, usage_count=amount)

    def event(self, name: str, amount: int = 1) -> None:
        for _ in range(amount):
            self._redis.rpush("event_queue", event_item(api_key_id=name))
        self._remember(name, events=amount)

    def _remember(self, name: str, **amounts: int) -> None:
        known = self.written.setdefault(name, {})
        for field, amount in amounts.items():
            known[field] = known.get(field, 0) + amount


def event_item(**changes: Any) -> bytes:
    event = {
        "event_id": str(uuid.uuid4()),
        "api_key_id": "k",
        "user_id": "u",
        "provider": "s3",
        "event_type": "upload",
        "file_size": 10,
        "status": "success",
        "at": datetime.now(UTC).isoformat(),
    }
    return json.dumps(event | changes).encode()


TOTALS = {
    "api_key": "select api_key_id, jsonb_build_object('total_requests', total_requests, 'total_file_size', "
    "total_file_size) from usage.api_keys",
    "provider": "select api_key_id, jsonb_build_object('upload_count', upload_count, 'total_file_size', "
    "total_file_size) from usage.provider_usage",
    "token": "select token_id, jsonb_build_object('usage_count', usage_count) from usage.api_access_tokens",
    "event": "select api_key_id, jsonb_build_object('events', count(*)) from raw.request_events group by 1",
}
RAW = {
    "api_key": "select api_key_id, jsonb_build_object('total_requests', sum(total_requests), 'total_file_size', "
    "sum(total_file_size)) from raw.api_key_deltas group by 1",
    "provider": "select api_key_id, jsonb_build_object('upload_count', sum(upload_count), 'total_file_size', "
    "sum(total_file_size)) from raw.provider_deltas group by 1",
    "token": "select token_id, jsonb_build_object('usage_count', sum(usage_count)) from raw.token_deltas group by 1",
}


def stored(postgres: psycopg.Connection, family: str, *, prefix: str = "") -> dict[str, dict[str, int]]:
    """Running totals per id and field (events: how many are stored), after a look that raw says the same."""
    totals = dict(postgres.execute(TOTALS[family]).fetchall())
    if family in RAW:
        assert dict(postgres.execute(RAW[family]).fetchall()) == totals
    return {name: fields for name, fields in totals.items() if name.startswith(prefix)}


def assert_at_rest(client: redis.Redis, postgres: psycopg.Connection, family: str) -> None:
    """Nothing is claimed, open, live or unreleased; the ledger adds up to what is stored."""
    patterns = ("usage_pipeline:claim:*", "apikey:*:metrics", "provider:*", "token_usage:*", "event_queue")
    assert [key for pattern in patterns for key in client.scan_iter(pattern)] == []
    assert client.hgetall(f"usage_pipeline:open:{family}") == {}
    assert postgres.execute("select batch_id from ops.sync_batches where released_at is null").fetchall() == []
    table = {
        "api_key": "raw.api_key_deltas",
        "provider": "raw.provider_deltas",
        "token": "raw.token_deltas",
        "event": "raw.request_events",
    }[family]
    per_batch = f"select batch_id, count(*) from {table} group by 1"
    ledger = "select batch_id, stored_rows from ops.sync_batches where family = %s and stored_rows > 0"
    assert dict(postgres.execute(per_batch).fetchall()) == dict(postgres.execute(ledger, (family,)).fetchall())
    [(difference,)] = postgres.execute(
        "select coalesce(sum(keys - stored_rows - dead_letters + refused_members - duplicates), 0) from ops.sync_batches"
    ).fetchall()
    assert difference == 0
