"""The recorder of API servers (contracts §1.6): each call is one round trip and never raises. async_recorder.py is its sibling.

The calls themselves are in calls.py, their Redis commands in commands.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Optional

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from usage_recorder import cluster as record_cluster
from usage_recorder import commands as record_commands
from usage_recorder.calls import Build, Options, Recording
from usage_recorder.commands import Command, Family
from usage_recorder.quota import QuotaDecision

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

TIMEOUT_SECONDS = 0.25
MAX_CONNECTIONS = 50
EXPECTED_A_URL = (
    # redis-py's own error shows what it took for the port: a part of the password.
    "expected a redis://, rediss:// or unix:// URL, came one that cannot be read; write / ? # @ [ ] in the password as "
    "%2F %3F %23 %40 %5B %5D"
)
# RedisClusterException is no RedisError. It means that a whole cluster does not answer, or that nobody owns a slot.
REDIS_ERRORS = (redis.RedisError, redis.exceptions.RedisClusterException, OSError)


class Recorder(Recording[bool, Optional[str]]):
    """Records usage in Redis. Threads may share it.

    Make it with `Recorder.connect`, or give it a client of your own. Such a client should not retry: if an answer is lost and
    the command is sent again, it counts twice. With a RedisCluster, each key of a record is written in one step, but the record
    as a whole is not. While a node is away, the counter may be written without its announcement, its odometer or its quota, or
    one of these without the counter. The next scan finds a counter without an announcement, within five minutes.
    """

    def __init__(self, client: redis.Redis | redis.RedisCluster, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self._client = client

    @classmethod
    def connect(cls, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS, **options: Unpack[Options]) -> Self:
        """A recorder with its own pool of MAX_CONNECTIONS connections. It sends nothing yet.

        While Redis does not answer, a call takes `timeout_seconds`. At worst it takes three times as long: the wait for a
        connection of the pool, and connecting, may each take that time too. Not included are the resolution of names, and a
        login each of whose steps is answered just in time. When ten calls in a row, during at least a second, had no answer,
        other calls return at once, and one call in 0.1 s tries whether Redis is back. Nothing is retried: it could count twice.
        A connection that was closed while idle is replaced before it is used. Options in the URL override these. Raises
        ValueError if the URL is not one of Redis.
        """
        retry = Retry(NoBackoff(), 0)
        pool = None
        with suppress(ValueError):
            pool = redis.BlockingConnectionPool.from_url(url, **bounded(timeout_seconds), retry=retry)
        if pool is None:
            raise ValueError(EXPECTED_A_URL)
        return cls(redis.Redis.from_pool(pool), **options)

    def check_quota(self, api_key_id: str) -> QuotaDecision:
        """Whether this API key may make one more request now (§1.6). It asks only Redis, in one round trip.

        It counts what `record_api_key` recorded today, and what `record_event` recorded in the last 60 s. If Redis does not
        answer, the request is allowed, and `is_known` is False.
        """
        commands = self._built("quota", lambda: record_commands.quota_question(self._moment(), api_key_id))
        return self._decision(commands and self._send("quota", commands, is_atomic=False))

    def pending(self, api_key_id: str) -> dict[str, int] | None:
        """The five counts of §1.1 that are not drained yet, by field. Zeros if there are none, None if Redis failed.

        Add them to the stored totals to get all usage. For some milliseconds a batch is in neither: from its claim until its
        commit.
        """
        commands = self._built("pending", lambda: record_commands.pending_question(api_key_id))
        return self._pending_counts(commands and self._send("pending", commands, is_atomic=False))

    def close(self) -> None:
        """Closes the pool's connections. Raises nothing."""
        with suppress(*REDIS_ERRORS):
            self._client.close()

    def _record(self, family: Family, at_ms: int | None, build: Build) -> bool:
        record = self._built(family, lambda: build(self._moment(at_ms)))
        if record is None or (answers := self._send(family, record.commands())) is None:
            return False
        correction = self._settle(record, answers)
        if bookkeeping := correction or record.names_life(answers):
            self._send(family, bookkeeping, is_bookkeeping=True)
        return correction is None

    def _event_outcome(self, event_id: str, recorded: bool) -> str | None:
        return event_id if recorded else None

    def _send(
        self, what: str, commands: Iterable[Command], *, is_atomic: bool = True, is_bookkeeping: bool = False
    ) -> list[Any] | None:
        if (began_at := self._begin(what, is_bookkeeping)) is None:
            return None
        try:
            if isinstance(self._client, redis.RedisCluster):
                answers = record_cluster.send(self._client, commands)
            else:
                pipeline = self._client.pipeline(transaction=is_atomic)
                for command in commands:
                    pipeline.execute_command(*command)
                answers = pipeline.execute(raise_on_error=False)
        except REDIS_ERRORS as error:
            self._no_answers(what, error, began_at, is_bookkeeping)
            return None
        self._outage.answered()
        return answers


def bounded(timeout_seconds: float) -> dict[str, Any]:
    """Options of a pool whose callers wait for a free connection. Other pools refuse a caller when all are in use."""
    return {
        "max_connections": MAX_CONNECTIONS,
        "timeout": timeout_seconds,
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        # Protocol 2 sends no HELLO. That saves a round trip, which an old server would answer with an error.
        "protocol": 2,
    }
