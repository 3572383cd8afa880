"""One evaluation, from facts to messages. It takes seconds, and any number of processes may evaluate at once."""

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

import psycopg
import redis

from usage_pipeline.alerting import reading, record, usage_hours
from usage_pipeline.alerting.abnormal_usage import UsageHour, is_abnormal
from usage_pipeline.alerting.alert import Alert
from usage_pipeline.alerting.delivery import Courier
from usage_pipeline.alerting.facts import BacklogAge, OrchestrationFacts, PipelineFacts, RedisLoad, Unanswered
from usage_pipeline.alerting.memory import Memory
from usage_pipeline.alerting.rules import cool_down, evaluate
from usage_pipeline.alerting.spending import reading as spending
from usage_pipeline.alerting.spending.days import TeamDay
from usage_pipeline.budgets.publishing import publish, why_not_published
from usage_pipeline.process import process_name
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import PostgresUnavailable, connect, first_line, is_mended_by_time
from usage_pipeline.storage.redis import RedisUnavailable

# A tick of a sensor has a minute in all.
_SENDING_SECONDS = 25.0
_MESSAGES_AT_ONCE = 20
# No question of an evaluation takes longer, whatever state the database is in.
_STATEMENT_TIMEOUT = "20s"
_KEPT_DAYS = 180
_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
# What was sent while PostgreSQL was away, by dedupe key: {"sent_at": epoch seconds, "alert": {…}}.
Unrecorded = Mapping[str, Mapping[str, Any]]


class RecordUnavailable(Exception):
    """PostgreSQL does not answer; it has the record of alerts and most facts. The message is one line without secrets."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What an evaluation found and did."""

    open: int
    opened: int
    cleared: int
    sent: int
    failed: int


def evaluate_pipeline(settings: Settings, orchestration: OrchestrationFacts, unrecorded: Unrecorded) -> Evaluated:
    """Reads the facts, notes and sends alerts, and writes the scheduler's sign of life.

    Raises RecordUnavailable; the caller then calls `alert_without_record`.
    """
    now = datetime.now(UTC)
    with _record(settings) as postgres:
        for one in unrecorded.values():
            sent_at = datetime.fromtimestamp(one["sent_at"], UTC)
            record.note_sent_before(postgres, Alert(**one["alert"]), sent_at)
        memory = _remembered(postgres)
        facts, memory = _facts(settings, postgres, orchestration, memory, now)
        judgement = evaluate(facts, settings)
        opened, cleared = record.note_judgement(postgres, judgement, settings)
        # Before sending: a channel that stalls says nothing about the scheduler.
        record.beat(postgres, record.HEARTBEAT, memory.as_json())
        sent, failed = _send_due(settings, postgres)
        return Evaluated(len(judgement.alerts), opened, cleared, sent, failed)


def alert_now(settings: Settings, alert: Alert) -> None:
    """Notes and sends one alert without waiting for the next evaluation. Raises RecordUnavailable."""
    with _record(settings) as postgres:
        record.note_alerts(postgres, [alert], settings)
        _send_due(settings, postgres)


def alert_without_record(
    settings: Settings, orchestration: OrchestrationFacts, unrecorded: Unrecorded
) -> dict[str, Any]:
    """Sends alerts about runs and ticks while PostgreSQL is away. The caller passes the result to the next call.

    The first evaluation that reaches PostgreSQL notes the alerts that were sent here, and later sends that they are over.
    """
    now = time.time()
    kept = {key: dict(one) for key, one in unrecorded.items()}
    courier = Courier.of(settings)
    for alert in evaluate(PipelineFacts(orchestration=orchestration), settings).alerts:
        before = kept.get(alert.dedupe_key)
        if before and now - before["sent_at"] < cool_down(alert.rule, settings).total_seconds():
            continue
        if courier.send(_message(alert, datetime.fromtimestamp(now, UTC))).accepted:
            kept[alert.dedupe_key] = {"sent_at": now, "alert": asdict(alert)}
    return kept


@contextmanager
def _record(settings: Settings) -> Iterator[psycopg.Connection]:
    try:
        with closing(connect(settings)) as postgres:
            postgres.execute("select set_config('statement_timeout', %s, false)", (_STATEMENT_TIMEOUT,))
            yield postgres
    except PostgresUnavailable as error:
        raise RecordUnavailable(f"{error}; alerts are not noted, and only runs and ticks are watched") from None
    except psycopg.Error as error:
        raise RecordUnavailable(
            f"alerts are not noted: {first_line(error)}; if the schema is old, run: usage-pipeline migrate"
        ) from None


def _message(alert: Alert, at: datetime) -> record.Message:
    """The message of an alert that has no row in ops.alerts, and so no number."""
    said = (alert.title, alert.text, alert.remedy)
    return record.Message(
        0, "raised", alert.rule, alert.severity, *said, first_at=at, last_at=at, count=1, delivered_to=()
    )


def _send_due(settings: Settings, postgres: psycopg.Connection) -> tuple[int, int]:
    """Sends the messages that are due, within _SENDING_SECONDS. Returns how many all channels got, and how many not."""
    courier, deadline = Courier.of(settings), time.monotonic() + _SENDING_SECONDS
    # Two sensors of one process are two senders.
    name = f"{process_name()}:{secrets.token_hex(4)}"
    sent = failed = 0
    for message in record.claim_messages(postgres, name, most=_MESSAGES_AT_ONCE):
        if time.monotonic() > deadline:
            record.note_delivery(postgres, message, name, (), "the evaluation had no time left to send it")
            failed += 1
            continue
        outcome = courier.send(message)
        record.note_delivery(postgres, message, name, outcome.accepted, outcome.error)
        sent, failed = (sent + 1, failed) if outcome.error is None else (sent, failed + 1)
    return sent, failed


def _facts(
    settings: Settings, postgres: psycopg.Connection, orchestration: OrchestrationFacts, memory: Memory, now: datetime
) -> tuple[PipelineFacts, Memory]:
    asked = _Questions()
    facts = PipelineFacts(
        orchestration=orchestration,
        aggregations=asked.answer("aggregations", lambda: reading.read_aggregations(postgres, settings, now)),
        dead_letters=asked.answer("dead_letters", lambda: reading.read_dead_letters(postgres)),
        regressions=asked.answer("regressions", lambda: reading.read_regressions(postgres)),
        missing_usage=asked.answer("missing_usage", lambda: reading.read_missing_usage(postgres)),
        uncertain=asked.answer("uncertain", lambda: reading.read_uncertain(postgres, now)),
        expiring_tokens=asked.answer("expiring_tokens", lambda: reading.read_expiring_tokens(postgres)),
        ending_tokens=asked.answer("ending_tokens", lambda: reading.read_ending_tokens(postgres, now)),
    )
    found = asked.answer("redis", lambda: _unless_redis_is_away(lambda: _redis_facts(settings, postgres, memory, now)))
    if found is not None:
        backlog, load, memory = found
        facts = replace(facts, backlog=backlog, redis=load)
        # The more often we see the odometers, the less can be lost unseen.
        asked.answer("odometers", lambda: _unless_redis_is_away(lambda: reading.see_odometers(settings)))
        eviction = asked.answer("eviction", lambda: _unless_redis_is_away(lambda: reading.read_eviction(settings)))
        facts = replace(facts, eviction=eviction)
    fallen = asked.answer("fallen_odometers", lambda: reading.read_fallen_odometers(postgres, now))
    unreadable = asked.answer("unreadable_odometers", lambda: reading.read_unreadable_odometers(postgres, now))
    facts = replace(facts, fallen_odometers=fallen, unreadable_odometers=unreadable)
    budgets = asked.answer("budgets", lambda: spending.read_standings(postgres, settings, now))
    if budgets is not None:
        _unless_redis_is_away(lambda: publish(settings, budgets))
        facts = replace(facts, budgets=budgets)
    found_days = asked.answer("team_days", lambda: _judged_days(settings, postgres, memory, now))
    if found_days is not None:
        days, memory = found_days
        facts = replace(facts, team_days=days)
    hours = usage_hours.due_hours(memory.judged_hour, now)
    if hours:
        judged = asked.answer("usage_hours", lambda: _judged_hours(settings, postgres, hours))
        if judged is not None:
            facts = replace(facts, usage_hours=judged)
            memory = replace(memory, judged_hour=hours[-1].isoformat())
            record.forget_alerts(postgres, now - timedelta(days=_KEPT_DAYS))
    return replace(facts, unanswered=tuple(asked.unanswered)), memory


def _remembered(postgres: psycopg.Connection) -> Memory:
    """The memory of the last evaluation. One that cannot be read is none: this evaluation writes another."""
    try:
        return Memory.of_json(record.remembered(postgres, record.HEARTBEAT))
    except (ValueError, TypeError, AttributeError) as error:
        _log.warning("alerts: ops.heartbeats has no readable memory: %s", first_line(error))
        return Memory()


def _redis_facts(
    settings: Settings, postgres: psycopg.Connection, memory: Memory, now: datetime
) -> tuple[tuple[BacklogAge, ...], RedisLoad, Memory]:
    found = reading.read_redis(settings, postgres, now)
    memory = memory.after_waiting(found.waiting, now.timestamp())
    load = memory.load(found.sample, found.most_memory_bytes)
    return memory.ages(found.waiting, now.timestamp()), load, memory.after_sample(found.sample)


def _judged_hours(settings: Settings, postgres: psycopg.Connection, hours: Sequence[datetime]) -> tuple[UsageHour, ...]:
    """The last hour; and of those that were missed, what is abnormal in them."""
    usage_hours.store_hours(postgres, hours, time_zone=settings.usage_timezone)
    missed = hours[-usage_hours.MOST_JUDGED_HOURS : -1]
    return (
        *(
            one
            for hour in missed
            for one in usage_hours.read_hour(postgres, settings, hour)
            if is_abnormal(one, settings)
        ),
        *usage_hours.read_hour(postgres, settings, hours[-1]),
    )


def _judged_days(
    settings: Settings, postgres: psycopg.Connection, memory: Memory, now: datetime
) -> tuple[tuple[TeamDay, ...] | None, Memory]:
    """The days that are due and rolled up; the others wait, and keep none waiting."""
    due = spending.due_days(memory.judged_day, memory.waiting_days, now, settings)
    ready = {day for day in due if spending.is_rolled_up(postgres, settings, day)}
    if not ready:
        return None, memory
    newest = max(memory.judged_day, max(ready).isoformat())
    days = spending.read_days(postgres, settings, ready, date.fromisoformat(newest))
    waiting = tuple(day.isoformat() for day in due if day not in ready and day.isoformat() < newest)
    return days, replace(memory, judged_day=newest, waiting_days=waiting)


class _Questions:
    """The questions of one evaluation. One that cannot be answered is told by an alert, and does not stop the others."""

    def __init__(self) -> None:
        self.unanswered: list[Unanswered] = []
        self._has_time = True

    def answer(self, part: str, question: Callable[[], Answer]) -> Answer | None:
        """The answer, or None if something in Redis or in a table makes it fail, today and tomorrow.

        Raises what time mends, such as a lost connection: that is about all questions.
        """
        try:
            return question()
        except psycopg.Error as error:
            is_slow = isinstance(error, psycopg.errors.QueryCanceled) and self._has_time
            if is_mended_by_time(error) and not is_slow:
                raise
            # A second slow question would take the time of the tick.
            self._has_time = self._has_time and not is_slow
            why = first_line(error)
        except (PostgresUnavailable, RedisUnavailable, redis.RedisError, OSError):
            raise
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:
            why = f"{type(error).__name__}: {first_line(error)}"
        _log.error("alerts: %s cannot be read: %s", part, why)
        self.unanswered.append(Unanswered(part, why))
        return None


def _unless_redis_is_away(question: Callable[[], Answer]) -> Answer | None:
    """The answer, or None while Redis is away. Drains fail then, which is another alert."""
    try:
        return question()
    except (redis.RedisError, RedisUnavailable, OSError) as error:
        _log.warning("alerts: %s", why_not_published(error))
        return None
