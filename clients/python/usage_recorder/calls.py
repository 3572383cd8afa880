"""The common part of both recorders: the calls of contracts §1.6, and what the answers of Redis mean. It sends nothing."""

from __future__ import annotations

import os
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import tzinfo
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

from usage_recorder import commands as record_commands
from usage_recorder.budget import UNKNOWN_BUDGET, BudgetAnswer, standing
from usage_recorder.commands import API_KEY_COUNTS, Family, Moment, Record, WrongArgumentError
from usage_recorder.delivery.courier import BUSY
from usage_recorder.delivery.outbox import MOST_KEPT, MOST_KEPT_BYTES, Outbox
from usage_recorder.delivery.spool import Spool
from usage_recorder.failures import Reason, RecordFailures, redis_reason
from usage_recorder.outage import Outage
from usage_recorder.quota import UNKNOWN, QuotaDecision, decide

if TYPE_CHECKING:
    from typing_extensions import Unpack

Outcome = TypeVar("Outcome")
EventOutcome = TypeVar("EventOutcome")
Built = TypeVar("Built")
Build = Callable[[Moment], Record]
UTC = ZoneInfo("UTC")


class Options(TypedDict, total=False):
    """Options of both recorders: USAGE_TIMEZONE (default UTC), a clock in epoch seconds, RETENTION_DAYS (default 180).

    `on_failure` is called with each failure (what, reason); what it raises is logged. `most_kept` and `most_kept_bytes` bound
    what waits while Redis does not take records. `spool` is the path of a file that has it too, in case this process is killed.
    `is_sharded`: Redis is a proxy before shards, which answers CROSSSLOT; records have one step for each slot, as in a cluster.
    """

    timezone: ZoneInfo
    clock: Callable[[], float]
    retention_days: int
    on_failure: Callable[[str, Reason], None]
    most_kept: int
    most_kept_bytes: int
    is_sharded: bool
    spool: str | os.PathLike[str]


class Recording(ABC, Generic[Outcome, EventOutcome]):
    """The calls. A subclass sends what they record. `Outcome` is bool, or an awaitable of it.

    Every `record_*` returns True if the record is written, or kept until Redis takes it. It returns False if it was dropped: an
    argument was wrong, Redis refused it for good, or there was no room for it. What is sent again has the number of its first
    send, and Redis writes each number once. Ids have 1–200 characters. Counts are 0 to 2**63 - 1. `at_ms` is epoch
    milliseconds, by default the time of the clock, and at most `retention_days` old.
    """

    def __init__(self, is_cluster: bool, **options: Unpack[Options]) -> None:
        is_cluster = is_cluster or options.get("is_sharded", False)
        self._timezone = options.get("timezone", UTC)
        if not isinstance(self._timezone, tzinfo):
            # Later it would end in the caller's requests.
            came = type(self._timezone).__name__
            raise ValueError(f'timezone: expected a time zone such as ZoneInfo("Europe/Vienna"), came {came}')
        self._clock = options.get("clock", time.time)
        self._retention_days = options.get("retention_days", 180)
        self._failures = RecordFailures(options.get("on_failure"))
        self._outage = Outage()
        spool = options.get("spool")
        self._outbox = Outbox(
            self._failures,
            is_cluster=is_cluster,
            clock=self._clock,
            most_kept=options.get("most_kept", MOST_KEPT),
            most_kept_bytes=options.get("most_kept_bytes", MOST_KEPT_BYTES),
            spool=None if spool is None else Spool(spool, is_cluster=is_cluster),
        )
        _RECORDINGS.add(self)

    @property
    def dropped(self) -> Mapping[Family, int]:
        """Records dropped so far, per family; all five families are present."""
        with self._outbox.call():
            return self._failures.dropped

    @property
    def failures(self) -> Mapping[tuple[str, Reason], int]:
        """All failures so far per (what, reason), those of the reads included. RecordFailures explains the names."""
        with self._outbox.call():
            return self._failures.by_reason

    @property
    def kept(self) -> int:
        """How many records wait until Redis takes them."""
        return self._outbox.kept

    def record_api_key(
        self,
        api_key_id: str,
        *,
        success: bool = True,
        requests: int = 1,
        failed: int | None = None,
        file_size: int = 0,
        files_uploaded: int = 0,
        at_ms: int | None = None,
    ) -> Outcome:
        """Adds requests of an API key (§1.1), and counts them against its daily quota.

        For one request, `success` is enough. For a batch, give `requests` and how many of them `failed`. `file_size` is the
        sum in bytes.
        """
        build = partial(
            record_commands.api_key,
            api_key_id=api_key_id,
            success=success,
            requests=requests,
            failed=failed,
            file_size=file_size,
            files_uploaded=files_uploaded,
        )
        return self._record("api_key", at_ms, build)

    def record_provider(
        self,
        api_key_id: str,
        provider: str,
        *,
        user_id: str,
        uploads: int = 1,
        file_size: int = 0,
        at_ms: int | None = None,
    ) -> Outcome:
        """Adds uploads of an API key to a provider (§1.2); `file_size` is their sum in bytes."""
        build = partial(
            record_commands.provider,
            api_key_id=api_key_id,
            provider=provider,
            user_id=user_id,
            uploads=uploads,
            file_size=file_size,
        )
        return self._record("provider", at_ms, build)

    def record_token(self, token_id: str, instance_id: str, *, count: int = 1, at_ms: int | None = None) -> Outcome:
        """Adds uses of a token on a server instance such as `host:port` (§1.3): fewer than 2**53 between two drains."""
        build = partial(record_commands.token, token_id=token_id, instance_id=instance_id, count=count)
        return self._record("token", at_ms, build)

    def record_merchant(
        self, merchant_id: str, metric_type: str, *, value: int = 1, at_ms: int | None = None
    ) -> Outcome:
        """Adds to a counter of a merchant, for the day of the record (§1.4). `metric_type` must not contain a colon."""
        build = partial(record_commands.merchant, merchant_id=merchant_id, metric_type=metric_type, value=value)
        return self._record("merchant", at_ms, build)

    def record_event(
        self,
        api_key_id: str,
        *,
        user_id: str,
        provider: str,
        event_type: str,
        file_size: int = 0,
        success: bool = True,
        event_id: UUID | str | None = None,
        at_ms: int | None = None,
    ) -> EventOutcome:
        """Queues a request event (§1.5), and adds it to the timeline of the API key, which the limit per minute counts.

        Returns the id of the event (a new one if none is given), or None if it was dropped. `file_size` is in bytes.
        """
        known_id = str(uuid4() if event_id is None else event_id)
        build = partial(
            record_commands.event,
            event_id=known_id,
            api_key_id=api_key_id,
            now_ms=self._now_ms(),
            user_id=user_id,
            provider=provider,
            event_type=event_type,
            file_size=file_size,
            success=success,
        )
        return self._event_outcome(known_id, self._record("event", at_ms, build))

    @abstractmethod
    def _record(self, family: Family, at_ms: int | None, build: Build) -> Outcome: ...

    @abstractmethod
    def _event_outcome(self, event_id: str, recorded: Outcome) -> EventOutcome: ...

    @abstractmethod
    def _forget_parent(self) -> None:
        """In a forked child: what waits is the parent's."""
        self._failures.begin_anew()
        self._outage = Outage()
        self._outbox.forget_parent()

    def _built(self, what: str, build: Callable[[], Built]) -> Built | None:
        """The result of `build`. If an argument is wrong, counts that and returns None."""
        try:
            return build()
        except WrongArgumentError as error:
            self._failures.count(what, "wrong argument", str(error))
            return None

    def _begin_read(self, what: str) -> float | None:
        """The time at which a read begins. If it must not be tried now, counts that and returns None."""
        began_at = self._outage.begin()
        if began_at is None:
            self._failures.count(what, "not tried", "Redis does not answer")
        return began_at

    def _no_answers(self, what: str, error: Exception, began_at: float) -> None:
        reason = redis_reason(error)
        if reason == "unreachable":
            self._outage.failed(began_at)
        else:
            self._outage.answered()
        self._failures.count(what, reason, type(error).__name__)

    def _decision(self, answers: list[Any] | None) -> QuotaDecision:
        if answers is None or self._has_no_answer("quota", answers):
            return UNKNOWN
        try:
            (per_day, per_minute), used_today, used_this_minute = answers
            return decide(
                None if per_day is None else int(per_day),
                None if per_minute is None else int(per_minute),
                used_today=int(used_today or 0),
                used_this_minute=int(used_this_minute),
            )
        except (TypeError, ValueError):
            self._failures.count("quota", "refused", "Redis answered something else than numbers")
            return UNKNOWN

    def _budget_answer(self, answers: list[Any] | None) -> BudgetAnswer:
        if answers is None:
            return UNKNOWN_BUDGET
        published, sign_of_life = answers
        # The sign decides only where there are no answers.
        if self._has_no_answer("budget", [published] if published is not None else answers):
            return UNKNOWN_BUDGET
        try:
            return standing(published, sign_of_life is not None, self._now_ms() / 1000)
        except Exception:
            # Who writes to Redis decides what is raised: a RecursionError, for example, by 100,000 brackets.
            self._failures.count("budget", "refused", "Redis answered something else than a budget")
            return UNKNOWN_BUDGET

    def _pending_counts(self, answers: list[Any] | None) -> dict[str, int] | None:
        if answers is None or self._has_no_answer("pending", answers):
            return None
        try:
            return {name: int(count or 0) for name, count in zip(API_KEY_COUNTS, answers[0])}
        except (TypeError, ValueError):
            self._failures.count("pending", "refused", "Redis answered something else than numbers")
            return None

    def _has_no_answer(self, what: str, answers: list[Any]) -> bool:
        error = next(filter(_is_error, answers), None)
        if error is not None:
            self._failures.count(what, redis_reason(error), type(error).__name__)
        return error is not None

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _moment(self, at_ms: int | None = None) -> Moment:
        return record_commands.moment(
            at_ms, now_ms=self._now_ms(), zone=self._timezone, retention_days=self._retention_days
        )


def _is_error(answer: object) -> bool:
    return isinstance(answer, Exception)


_RECORDINGS: weakref.WeakSet[Recording[Any, Any]] = weakref.WeakSet()


def _forget_parents() -> None:
    for courier in list(BUSY):
        # Its recorder may be gone.
        courier.outbox.forget_parent()
        courier.forget_parent()
    for recording in list(_RECORDINGS):
        recording._forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)
