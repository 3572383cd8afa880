"""The recorder of API servers (contracts §1.6): each call is one round trip and never raises. async_recorder.py is its sibling.

The calls themselves are in calls.py, their Redis commands in commands.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Optional

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from usage_recorder import commands as record_commands
from usage_recorder import sentinel
from usage_recorder.budget import UNKNOWN_BUDGET, BudgetAnswer
from usage_recorder.calls import Build, Options, Recording
from usage_recorder.commands import Command, Family, WrongArgumentError
from usage_recorder.delivery.courier import Courier
from usage_recorder.delivery.sends import Send
from usage_recorder.delivery.wire import REDIS_ERRORS, exchange
from usage_recorder.quota import UNKNOWN, QuotaDecision
from usage_recorder.slot_owners import KeyCommand, send_to_owners

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

TIMEOUT_SECONDS = 0.25
MAX_CONNECTIONS = 50
FLUSH_SECONDS = 2.0
EXPECTED_A_URL = (
    # redis-py's own error shows what it took for the port: a part of the password.
    "expected a redis://, rediss://, unix:// or redis+sentinel:// URL, came one that cannot be read; write / ? # @ [ ] in "
    "the password as %2F %3F %23 %40 %5B %5D"
)


class Recorder(Recording[bool, Optional[str]]):
    """Records usage in Redis. Threads may share it.

    A signal handler or `on_failure` may record in the middle of another call; that takes it in at its end. There, reads know
    nothing, `flush` returns False, and `close` does nothing.

    Make it with `Recorder.connect`, or give it a client of your own, also of a Redis Cluster. Such a client may retry. What a
    `spool` file has from before is sent from now on. Make it after a fork: a child sends nothing of what the parent kept.
    """

    def __init__(self, client: redis.Redis | redis.RedisCluster, **options: Unpack[Options]) -> None:
        super().__init__(isinstance(client, redis.RedisCluster), **options)
        self._client = client
        self._courier = Courier(self._outbox, lambda sends: exchange(client, sends))
        if self._outbox.has_left():
            self._courier.ensure()

    @classmethod
    def connect(cls, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS, **options: Unpack[Options]) -> Self:
        """A recorder with its own pool of MAX_CONNECTIONS connections. It sends nothing yet, but what is in a `spool` file.

        When Redis stops answering, a call takes `timeout_seconds`. At worst it takes four times as long: the wait for a
        connection of the pool, connecting, and sending the script, may each take that time too. Not included are the resolution
        of names, and a login each of whose steps is answered just in time. After one call without an answer the others keep
        their records and return at once, and a thread sends what is kept, until Redis takes it. A connection that was closed
        while idle is replaced before it is used. Options in the URL override these. Raises ValueError if the URL is not one of
        Redis, or the spool file cannot be used.
        """
        return cls(sync_client(url, timeout_seconds), **options)

    def check_quota(self, api_key_id: str) -> QuotaDecision:
        """Whether this API key may make one more request now (§1.6). It asks only Redis, in one round trip.

        It counts what `record_api_key` recorded today, and what `record_event` recorded in the last 60 s. If Redis does not
        answer, the request is allowed, and `is_known` is False.
        """
        with self._outbox.call() as is_outermost:
            if not is_outermost:
                return UNKNOWN
            commands = self._built("quota", lambda: record_commands.quota_question(self._moment(), api_key_id))
            return self._decision(commands and self._read("quota", commands))

    def check_budget(self, scope: str) -> BudgetAnswer:
        """How the budget of this scope stands (§12): `team=search`, `service=…`, `user=…`, `model=…`, `api_key=…` or `all`.

        It asks only Redis, in one round trip, for what the pipeline last published. Whether to refuse a request of a scope that
        `is_used_up` is the caller's choice. If Redis does not answer, nothing is used up, and `is_known` is False.
        """
        with self._outbox.call() as is_outermost:
            if not is_outermost:
                return UNKNOWN_BUDGET
            commands = self._built("budget", lambda: record_commands.budget_question(scope))
            return self._budget_answer(commands and self._read("budget", commands))

    def pending(self, api_key_id: str) -> dict[str, int] | None:
        """The five counts of §1.1 that are not drained yet, by field. Zeros if there are none, None if Redis failed.

        Add them to the stored totals to get all usage. For some milliseconds a batch is in neither: from its claim until its
        commit.
        """
        with self._outbox.call() as is_outermost:
            if not is_outermost:
                return None
            commands = self._built("pending", lambda: record_commands.pending_question(api_key_id))
            return self._pending_counts(commands and self._read("pending", commands))

    def flush(self, timeout_seconds: float = FLUSH_SECONDS) -> bool:
        """Tries at once to send what is kept. Returns whether nothing is left, within the time."""
        with self._outbox.call() as is_outermost:
            return is_outermost and self._courier.flush(timeout_seconds)

    def close(self, timeout_seconds: float = FLUSH_SECONDS) -> None:
        """Flushes, and closes the connections. Raises nothing. What is left is lost and counted, unless a spool file has it."""
        ends_at = time.monotonic() + timeout_seconds
        with self._outbox.call() as is_outermost:
            if not is_outermost:
                return
            self._courier.flush(timeout_seconds)
            self._courier.stop(max(ends_at - time.monotonic(), 0))
            self._outbox.close()
            with suppress(*REDIS_ERRORS):
                self._client.close()

    def _record(self, family: Family, at_ms: int | None, build: Build) -> bool:
        with self._outbox.call() as is_outermost:
            if is_outermost:
                return self._send_or_keep(family, at_ms, build)
            try:
                return self._outbox.later(family, build(self._moment(at_ms)))
            except WrongArgumentError as error:
                return self._outbox.later(family, str(error))

    def _send_or_keep(self, family: Family, at_ms: int | None, build: Build) -> bool:
        record = self._built(family, lambda: build(self._moment(at_ms)))
        if record is None:
            return False
        send = self._outbox.begin(record)
        if isinstance(send, Send):
            try:
                [answers] = exchange(self._client, [send])
            except Exception as error:
                # Nothing that redis-py documents. The courier tries again, and logs it.
                is_recorded = self._outbox.doubt(send, error)
            except BaseException as interruption:
                # Such as KeyboardInterrupt. It may be written.
                self._outbox.doubt(send, interruption)
                self._courier.ensure()
                raise
            else:
                is_recorded = self._outbox.take(send, answers)
        else:
            is_recorded = send
        if self._outbox.has_work:
            self._courier.ensure()
        return is_recorded

    def _event_outcome(self, event_id: str, recorded: bool) -> str | None:
        return event_id if recorded else None

    def _forget_parent(self) -> None:
        super()._forget_parent()
        self._courier.forget_parent()

    def _read(self, what: str, commands: Sequence[Command]) -> list[Any] | None:
        if (began_at := self._begin_read(what)) is None:
            return None
        try:
            if isinstance(self._client, redis.RedisCluster):
                answers = send_to_owners(self._client, [KeyCommand(str(one[1]), one) for one in commands])
            else:
                pipeline = self._client.pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command)
                answers = pipeline.execute(raise_on_error=False)
        except REDIS_ERRORS as error:
            self._no_answers(what, error, began_at)
            return None
        self._outage.answered()
        return answers


def sync_client(url: str, timeout_seconds: float) -> redis.Redis:
    """A client with its own pool of MAX_CONNECTIONS connections, which does not retry. Raises ValueError."""
    retry = Retry(NoBackoff(), 0)
    pool = None
    with suppress(ValueError):
        pool = sentinel.pool(url, is_blocking=True, **bounded(timeout_seconds), retry=retry)
    if pool is None:
        raise ValueError(EXPECTED_A_URL)
    return redis.Redis.from_pool(pool)


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
