"""Live writers, which know afterwards exactly what Redis kept of their writes.

Each write is one MULTI/EXEC to all four families together with the writer's own number of that write. So after a lost
connection, a restart or a fail-over the number that Redis holds tells which writes are part of its history: there is no
write whose outcome stays unknown. A write that Redis acknowledged and then forgot is counted apart (`forgotten`).
"""

import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection
from redis.retry import Retry
from usage_recorder import commands as record_commands
from usage_recorder.commands import Moment
from usage_recorder.delivery.sends import new_send
from usage_recorder.script import RECORD

from usage_pipeline.local.servers.ports import LOOPBACK
from usage_pipeline_tests.rigs.waiting import wait_until

# (family, id, name of the count) -> count
Counts = Counter[tuple[str, str, str]]

_NAMES = 40
_RETRY_SECONDS = 0.02
_AWAY = (redis.ConnectionError, redis.TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How the writers write. The clock of each is `clock_offsets_ms` ahead of this host's; rates in writes a second."""

    writers: int = 4
    writes_per_second: float = 100.0
    ttl_seconds: int = 7 * 86_400
    clock_offsets_ms: Sequence[int] = (0,)


@dataclass(slots=True)
class Write:
    """One numbered write: what it adds, the stamp that it carries, and whether Redis said that it was done."""

    number: int
    counts: dict[tuple[str, str, str], int]
    at_ms: int
    is_acknowledged: bool = False


@dataclass(slots=True)
class Writer:
    """One API server. Even ones write as our recorder does (and announce), odd ones as foreign writers do."""

    number: int
    port: int
    plan: LoadPlan
    random: random.Random
    writes: list[Write] = field(default_factory=list)
    acknowledged: int = 0
    forgotten: int = 0
    lost_connections: int = 0
    _connection: Connection | None = None
    _last_number: int = 0

    def write(self) -> None:
        """One write. On a new connection it first finds out what became of those before."""
        connection = self._connected()
        self._last_number += 1
        name, amount = f"{self.number}-{self.random.randrange(_NAMES)}", self.random.randint(1, 9)
        offset_ms = self.plan.clock_offsets_ms[self.number % len(self.plan.clock_offsets_ms)]
        write = Write(self._last_number, {}, int(time.time() * 1000) + offset_ms)
        commands = (self._recorded if self.number % 2 == 0 else self._foreign)(write, name, amount)
        self.writes.append(write)
        try:
            _exchange(connection, [("MULTI",), *commands, ("SET", self._marker, write.number), ("EXEC",)])
        except _AWAY:
            self.disconnect()
            raise
        write.is_acknowledged = True
        self.acknowledged += 1

    def look_back(self) -> None:
        """Takes from the writes those that the history of the server that answers now does not have."""
        self.disconnect()
        self._connected()

    def disconnect(self) -> None:
        if self._connection is not None:
            self.lost_connections += 1
            self._connection.disconnect()
            self._connection = None

    @property
    def _marker(self) -> str:
        return f"torture:writer:{self.number}"

    def _connected(self) -> Connection:
        """A bare connection: a pool would replace a lost one without a word, and nobody would look back."""
        if self._connection is None:
            connection = Connection(LOOPBACK, self.port, socket_timeout=30, retry=Retry(NoBackoff(), 0), protocol=2)
            try:
                connection.connect()
                [marker] = _exchange(connection, [("GET", self._marker)])
            except BaseException:
                connection.disconnect()
                raise
            while self.writes and self.writes[-1].number > int(marker or 0):
                self.forgotten += self.writes.pop().is_acknowledged
            self._connection = connection
        return self._connection

    def _recorded(self, write: Write, name: str, amount: int) -> list[record_commands.Command]:
        at = Moment(write.at_ms, datetime.fromtimestamp(write.at_ms / 1000, UTC).date())
        event_id = str(uuid.UUID(int=self.random.getrandbits(128), version=4))
        token = f"{name}-token"
        records = (
            record_commands.api_key(
                at, name, success=True, requests=amount, failed=None, file_size=10 * amount, files_uploaded=1
            ),
            record_commands.provider(at, name, "s3", user_id="u", uploads=1, file_size=amount),
            record_commands.token(at, token, f"api-{self.number}:8080", count=amount),
            record_commands.event(
                at,
                event_id,
                name,
                now_ms=write.at_ms,
                user_id="u",
                provider="s3",
                event_type="upload",
                file_size=amount,
                success=True,
            ),
        )
        write.counts = {
            ("api_key", name, "total_requests"): amount,
            ("api_key", name, "successful_requests"): amount,
            ("api_key", name, "total_file_size"): 10 * amount,
            ("api_key", name, "total_files_uploaded"): 1,
            ("provider", name, "upload_count"): 1,
            ("provider", name, "total_file_size"): amount,
            ("token", token, "usage_count"): amount,
            ("event", name, "events"): 1,
            ("event", name, "file_size"): amount,
        }
        sends = (
            new_send(
                record.commands(), f"torture-{self.number}", lane, write.number, began_ms=write.at_ms, is_cluster=False
            )
            for lane, record in enumerate(records)
        )
        return [("EVAL", RECORD, *part.words) for send in sends for part in send.parts]

    def _foreign(self, write: Write, name: str, amount: int) -> list[record_commands.Command]:
        """Plain commands, nothing announced. A token's JSON is a new key each time: foreign writers overwrite theirs."""
        at = datetime.fromtimestamp(write.at_ms / 1000, UTC).isoformat()
        instance, ttl = f"api-{self.number}:{write.number}", self.plan.ttl_seconds
        api_key, provider = f"apikey:{name}:metrics", f"provider:{name}:s3:metrics"
        event = {
            "event_id": str(uuid.UUID(int=self.random.getrandbits(128), version=4)),
            "api_key_id": name,
            "user_id": "u",
            "provider": "s3",
            "event_type": "upload",
            "file_size": amount,
            "status": "success",
            "at": at,
        }
        token = {"usageCount": amount, "lastUsedAt": at, "instanceId": instance}
        write.counts = {
            ("api_key", name, "total_requests"): amount,
            ("api_key", name, "failed_requests"): amount,
            ("api_key", name, "total_file_size"): 10 * amount,
            ("provider", name, "upload_count"): amount,
            ("token", name, "usage_count"): amount,
            ("event", name, "events"): 1,
            ("event", name, "file_size"): amount,
        }
        return [
            ("HINCRBY", api_key, "total_requests", amount),
            ("HINCRBY", api_key, "failed_requests", amount),
            ("HINCRBY", api_key, "total_file_size", 10 * amount),
            ("HSET", api_key, "last_used_at", write.at_ms),
            ("EXPIRE", api_key, ttl),
            ("HINCRBY", provider, "upload_count", amount),
            ("HSET", provider, "last_used_at", write.at_ms),
            ("EXPIRE", provider, ttl),
            ("SET", f"token_usage:{name}:{instance}", json.dumps(token), "EX", ttl),
            ("RPUSH", "event_queue", json.dumps(event)),
            ("EXPIRE", "event_queue", ttl),
        ]


class Load:
    """Writers in threads, from `start` to `stop`. They ride out servers that are away."""

    def __init__(self, port: int, seed: int, plan: LoadPlan | None = None) -> None:
        plan = plan or LoadPlan()
        self.writers = [Writer(number, port, plan, random.Random(f"{seed} {number}")) for number in range(plan.writers)]
        self._pause_seconds = 1 / plan.writes_per_second
        self._should_stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []

    @property
    def attempts(self) -> int:
        return sum(len(writer.writes) for writer in self.writers)

    @property
    def forgotten(self) -> int:
        """Writes that Redis acknowledged and does not have any more."""
        return sum(writer.forgotten for writer in self.writers)

    def start(self) -> None:
        self._should_stop.clear()
        self._threads = [threading.Thread(target=self._write, args=(writer,)) for writer in self.writers]
        for thread in self._threads:
            thread.start()

    def wait_for_writes(self) -> None:
        """Until each running writer has had a write acknowledged since. Raises what a writer did not expect."""
        if self._threads:
            before = [writer.acknowledged for writer in self.writers]
            wait_until(lambda: self._have_written_since(before), "every writer has a write acknowledged")

    def stop(self) -> None:
        """Raises what a writer did not expect."""
        self._should_stop.set()
        for thread in self._threads:
            thread.join(60)
        self._threads = []
        if self._failures:
            raise self._failures[0]

    def burst(self, writes: int) -> None:
        """So many writes of each writer, from this thread; the servers must be there."""
        for writer in self.writers:
            for _ in range(writes):
                writer.write()

    def look_back(self) -> None:
        """Every writer finds out which of its writes are part of the present server's history; they must have stopped."""
        for writer in self.writers:
            writer.look_back()
            writer.disconnect()

    def written(self) -> Counts:
        """What the writes that are part of Redis's history add up to, as of the last look back."""
        counts: Counts = Counter()
        for writer in self.writers:
            for write in writer.writes:
                counts.update(write.counts)
        return counts

    def _have_written_since(self, before: Sequence[int]) -> bool:
        if self._failures:
            raise self._failures[0]
        return all(writer.acknowledged > count for writer, count in zip(self.writers, before, strict=True))

    def _write(self, writer: Writer) -> None:
        try:
            while not self._should_stop.is_set():
                try:
                    writer.write()
                except _AWAY:
                    self._should_stop.wait(_RETRY_SECONDS)
                self._should_stop.wait(self._pause_seconds)
        except BaseException as error:
            self._failures.append(error)
            raise
        finally:
            writer.disconnect()


def _exchange(connection: Connection, commands: Sequence[record_commands.Command]) -> list[Any]:
    """Sends the commands in one piece and returns their replies. Raises the first error among them."""
    connection.send_packed_command(connection.pack_commands(commands))
    replies = [connection.read_response() for _ in commands]
    for reply in (*replies, *(replies[-1] if isinstance(replies[-1], list) else ())):
        if isinstance(reply, redis.ResponseError):
            raise reply
    return replies
