"""One evaluation, from facts to messages. It takes seconds, and any number of processes may evaluate at once."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

import psycopg
import redis

from usage_pipeline.alerting import reading, record, usage_hours
from usage_pipeline.alerting.alert import Alert
from usage_pipeline.alerting.facts import BacklogAge, OrchestrationFacts, PipelineFacts, RedisLoad, Unanswered
from usage_pipeline.alerting.memory import Memory
from usage_pipeline.alerting.rules import cool_down, evaluate
from usage_pipeline.alerting.sending.couriers import Courier
from usage_pipeline.alerting.sending.dispatch import send_due
from usage_pipeline.alerting.sending.due import forget_channels
from usage_pipeline.alerting.sending.messages import Due, messages_of
from usage_pipeline.alerting.spending import reading as spending
from usage_pipeline.alerting.spending.days import TeamDay
from usage_pipeline.budgets.publishing import publish, why_not_published
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import PostgresUnavailable, connect, first_line, is_mended_by_time
from usage_pipeline.storage.redis import RedisUnavailable

# No question of an evaluation takes longer, whatever state the database is in.
_STATEMENT_TIMEOUT = "20s"
_KEPT_DAYS = 180
_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
# What was sent while PostgreSQL was away, by dedupe key: {"told_at": {channel: epoch seconds}, "alert": {…}}.
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
            told_at = {channel: datetime.fromtimestamp(at, UTC) for channel, at in one.get("told_at", {}).items()}
            record.note_sent_before(postgres, Alert(**one["alert"]), told_at, settings)
        memory = _remembered(postgres)
        facts, memory = _facts(settings, postgres, orchestration, memory, now)
        judgement = evaluate(facts, settings)
        opened, cleared = record.note_judgement(postgres, judgement, settings)
        # Before sending: a channel that stalls says nothing about the scheduler.
        record.beat(postgres, record.HEARTBEAT, memory.as_json())
        sent, failed = send_due(postgres, Courier.of(settings))
        return Evaluated(len(judgement.alerts), opened, cleared, sent, failed)


def alert_now(settings: Settings, alert: Alert) -> None:
    """Notes one alert, and sends it without waiting for the next evaluation. Raises RecordUnavailable.

    If its rule has just told another one, it waits: many that come one by one are told together.
    """
    with _record(settings) as postgres:
        record.note_alerts(postgres, [alert], settings)
        send_due(postgres, Courier.of(settings), most_lately=1)


def alert_without_record(
    settings: Settings, orchestration: OrchestrationFacts, unrecorded: Unrecorded
) -> dict[str, Any]:
    """Sends alerts about runs and ticks while PostgreSQL is away. The caller passes the result to the next call.

    The first evaluation that reaches PostgreSQL notes the alerts that were sent here, and later sends that they are over.
    """
    now = datetime.now(UTC)
    kept = {key: {**one, "told_at": {**one["told_at"]}} for key, one in unrecorded.items() if "told_at" in one}
    courier = Courier.of(settings)
    alerts = {
        alert.dedupe_key: alert for alert in evaluate(PipelineFacts(orchestration=orchestration), settings).alerts
    }
    for channel in courier.channels:
        due = [
            _due(number, alert, channel.key, now)
            for number, alert in enumerate(alerts.values())
            if not _was_told(kept.get(alert.dedupe_key), channel.key, now, cool_down(alert.rule, settings))
        ]
        for message in messages_of(due, {}):
            if courier.send({channel.key: message})[channel.key] is not None:
                break
            for number in message.alert_ids:
                alert = [*alerts.values()][number]
                one = kept.setdefault(alert.dedupe_key, {"told_at": {}, "alert": asdict(alert)})
                one["told_at"][channel.key] = now.timestamp()
    return kept


def _was_told(kept: Mapping[str, Any] | None, channel: str, now: datetime, pause: timedelta) -> bool:
    told_at = kept["told_at"].get(channel) if kept else None
    return told_at is not None and now.timestamp() - told_at < pause.total_seconds()


def _due(number: int, alert: Alert, channel: str, at: datetime) -> Due:
    """An alert that has no row in ops.alerts; its number is its place."""
    said = (alert.title, alert.text, alert.remedy, alert.link, alert.ending)
    return Due(
        channel, "raised", number, alert.rule, alert.severity, *said, first_at=at, last_at=at, count=1, was_told=False
    )


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


def _facts(
    settings: Settings, postgres: psycopg.Connection, orchestration: OrchestrationFacts, memory: Memory, now: datetime
) -> tuple[PipelineFacts, Memory]:
    asked = _Questions()
    red, memory = memory.after_checks(orchestration.failed_checks)
    orchestration = replace(orchestration, failed_checks=red)
    facts = PipelineFacts(
        orchestration=orchestration,
        aggregations=asked.answer("aggregations", lambda: reading.read_aggregations(postgres, settings, now)),
        dead_letters=asked.answer("dead_letters", lambda: reading.read_dead_letters(postgres)),
        regressions=asked.answer("regressions", lambda: reading.read_regressions(postgres)),
        missing_usage=asked.answer("missing_usage", lambda: reading.read_missing_usage(postgres)),
        uncertain=asked.answer("uncertain", lambda: reading.read_uncertain(postgres, now)),
        expiring_tokens=asked.answer("expiring_tokens", lambda: reading.read_expiring_tokens(postgres)),
        ending_tokens=asked.answer("ending_tokens", lambda: reading.read_ending_tokens(postgres, now)),
        broken_files=asked.answer("broken_files", lambda: reading.read_broken_files(postgres, now)),
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
        judged = asked.answer("usage_hours", lambda: usage_hours.judged_hours(postgres, settings, hours))
        if judged is not None:
            facts = replace(facts, usage_hours=judged)
            memory = replace(memory, judged_hour=hours[-1].isoformat())
            record.forget_alerts(postgres, now - timedelta(days=_KEPT_DAYS))
            forget_channels(postgres, now - timedelta(days=_KEPT_DAYS))
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
