"""The rules of contracts §7 as pure functions: facts in, alerts out. docs/alerts.md lists their thresholds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from usage_recorder.keys import recorded

from usage_pipeline.alerting.abnormal_usage import UsageHour, judge
from usage_pipeline.alerting.alert import Alert
from usage_pipeline.alerting.asset_rules import broken_files, failed_checks, stale_assets
from usage_pipeline.alerting.facts import (
    Aggregation,
    BacklogAge,
    EndingToken,
    ExpiringTokenKeys,
    FallenOdometers,
    MissingUsage,
    OpenDeadLetters,
    OpenRegressions,
    PipelineFacts,
    RedisLoad,
    Unanswered,
    UncertainBatches,
    UnreadableOdometers,
)
from usage_pipeline.alerting.run_rules import (
    failed_drains,
    failed_runs,
    failed_schedules,
    failed_ticks,
    long_runs,
    stuck_runs,
)
from usage_pipeline.alerting.spending.budgets import reached_budgets
from usage_pipeline.alerting.spending.days import abnormal_days
from usage_pipeline.settings import Settings
from usage_pipeline.storage.servers.eviction import Eviction
from usage_pipeline.texts import counted

# Backlogs are looked at every half a minute: two intervals of 5 s cannot be told apart from a drain that is on its way.
LEAST_BACKLOG_SECONDS = 60.0
# Growth of a small Redis is no surge.
LEAST_SURGE_BYTES = 64 * 2**20
LEAST_SURGE_KEYS = 50_000
_FULL_SHARE = 0.9
# Merchants may well be quiet in the first hours of a day.
_HOURS_UNTIL_TODAY_COUNTS = 6.0
# One that comes back is another incident, and told as such; but what comes and goes all the time is not told each time.
RECURRENCE = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The alerts of the facts. `judged` are the rules that had all of their facts: their other open alerts are over."""

    alerts: tuple[Alert, ...]
    judged: frozenset[str]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: the part of the facts that it needs, its alerts, and how many cool-downs pass before one is sent again.

    None is sent again within `least_pause`, not even after it was over.
    """

    name: str
    part: str
    alerts: Callable[[Any, Settings], Iterator[Alert]]
    repeat_factor: int = 1
    least_pause: timedelta = timedelta(0)


def evaluate(facts: PipelineFacts, settings: Settings) -> Judgement:
    """Applies each rule whose part of the facts is known."""
    alerts: list[Alert] = []
    judged = set()
    for rule in RULES:
        part = getattr(facts, rule.part)
        if part is None:
            continue
        if facts.orchestration is None or rule.name not in facts.orchestration.partly:
            judged.add(rule.name)
        alerts += rule.alerts(part, settings)
    return Judgement(tuple(alerts), frozenset(judged))


def cool_down(rule: str, settings: Settings) -> timedelta:
    """How long an alert of that rule is not repeated."""
    usual = timedelta(minutes=settings.alert_cool_down_minutes)
    known = next((known for known in RULES if known.name == rule), None)
    return usual if known is None else max(usual * known.repeat_factor, known.least_pause)


def recurrence(rule: str, settings: Settings) -> timedelta:
    """For how long after an alert of that rule was told no other one of the same matter is told."""
    known = next((known for known in RULES if known.name == rule), None)
    return max(min(RECURRENCE, cool_down(rule, settings)), known.least_pause if known else timedelta(0))


def _old_backlogs(found: Sequence[BacklogAge], _: Settings) -> Iterator[Alert]:
    for backlog in found:
        most = max(2 * backlog.interval_seconds, LEAST_BACKLOG_SECONDS)
        if backlog.age_seconds > most:
            yield Alert(
                "backlog-age",
                f"backlog-age:{backlog.family}",
                "failure",
                f"Counters of {backlog.family} have waited for {backlog.age_seconds:.0f} s",
                f"{counted(backlog.waiting, 'key or item waits', 'keys or items wait')} in Redis, and "
                f"{counted(backlog.open_batches, 'batch is', 'batches are')} not finished. "
                f"The oldest has waited for {backlog.age_seconds:.0f} s; the limit is {most:.0f} s.",
                "Look under Automation in the UI whether the drain sensor is on and its ticks succeed, or whether "
                "`drain --watch` still runs. `usage-pipeline drain` drains at once, and says what hinders it.",
            )


def _surges(redis: RedisLoad, settings: Settings) -> Iterator[Alert]:
    growth = settings.alert_redis_growth
    findings = []
    usual_memory, usual_keys = redis.usual_memory_bytes, redis.usual_keys
    if usual_memory and redis.memory_bytes > max(growth * usual_memory, usual_memory + LEAST_SURGE_BYTES):
        findings.append(f"memory is {_mb(redis.memory_bytes)}, usually {_mb(usual_memory)}")
    if usual_keys is not None and redis.keys > max(growth * usual_keys, usual_keys + LEAST_SURGE_KEYS):
        findings.append(f"it has {counted(redis.keys, 'key')}, usually {usual_keys:,}")
    if redis.most_memory_bytes and redis.memory_bytes > _FULL_SHARE * redis.most_memory_bytes:
        findings.append(f"memory is {_mb(redis.memory_bytes)} of at most {_mb(redis.most_memory_bytes)} (maxmemory)")
    if findings:
        yield Alert(
            "redis-surge",
            "redis-surge",
            "warning",
            "Redis is much larger than usual",
            f"Redis: {'; '.join(findings)}. The usual size is the median of the last hour.",
            "If drains keep up (no other alert), find the writer that sends more. A full Redis refuses writers, and an "
            "eviction policy other than noeviction loses counters. The alert also clears when the new size lasts.",
        )


def _evicts(eviction: Eviction, _: Settings) -> Iterator[Alert]:
    if eviction.loses_keys:
        yield Alert(
            "redis-evicts",
            "redis-evicts",
            "failure",
            "Redis may delete counters",
            f"{eviction.warning}.",
            "`redis-cli config set maxmemory-policy noeviction`, and the same in its configuration (managed servers: in their "
            "parameter group). A full Redis then refuses writers, who notice; raise maxmemory for them (docs/operations.md).",
        )


def _empty_aggregations(found: Sequence[Aggregation], _: Settings) -> Iterator[Alert]:
    empty = [one for one in found if one.keys_found == 0]
    past = [one for one in empty if not one.is_of_today or one.hours_into_day >= _HOURS_UNTIL_TODAY_COUNTS]
    # Each of its days, or one that has had time enough: today alone is often empty after midnight.
    if empty and (len(empty) == len(found) or past):
        days = ", ".join(one.day.isoformat() for one in empty)
        yield Alert(
            "empty-aggregation",
            "empty-aggregation",
            "warning",
            "The aggregation of merchant counters found nothing",
            f"The last aggregation found no counter in Redis for {days}. Stored rows stay as they are.",
            "Find out whether merchants are quiet, their writers are down, or Redis lost its keys "
            "(`usage-pipeline merchants status`). If nobody counts merchants, set ENABLE_USAGE_AGGREGATION=false.",
        )


def _dead_letters(found: Sequence[OpenDeadLetters], _: Settings) -> Iterator[Alert]:
    for letters in found:
        yield Alert(
            "dead-letters",
            f"dead-letters:{letters.family}",
            "warning",
            f"Dead letters of {letters.family}: {letters.count}",
            f"Refused and not counted: {counted(letters.count, 'key or item', 'keys or items')} of {letters.family}. "
            f"The newest reason: {letters.newest_reason}",
            f"`usage-pipeline dead-letters list --family {letters.family}` says why each was refused, and `usage-pipeline "
            "dead-letters show NUMBER` what can be done with it. Correct the writer. Then replay what should count, and "
            "discard what should not: the alert clears when none is open.",
            size=letters.count,
        )


def _regressions(found: Sequence[OpenRegressions], _: Settings) -> Iterator[Alert]:
    for one in found:
        yield Alert(
            "counter-regression",
            "counter-regression",
            "warning",
            f"Merchant counters that Redis has other than they were: {one.count}",
            f"{counted(one.count, 'counter')} fell, or came back after a loss: Redis lost or brought back another state, or "
            f"somebody changed what is counted. The latest is {one.metric_type} of {one.merchant_id} on {one.day}. "
            "The stored values stay.",
            f"`usage-pipeline merchants status {one.day}` lists the counters of that day. If Redis lost them (they began at "
            "zero again), `usage-pipeline counters accept-reset` adds what was counted since then. If Redis came back with an "
            "earlier state, or with one that was lost (an old snapshot, a replica that was behind, the right file again), "
            "`usage-pipeline counters accept-restore` keeps the stored values and goes on from there. If somebody changed "
            'them (refunds, cancelled orders), `usage-pipeline counters accept-correction --reason "..."` stores what they '
            "read. Each command leaves alone what looks like another case.",
            size=one.count,
        )


def _missing_usage(found: Sequence[MissingUsage], _: Settings) -> Iterator[Alert]:
    for one in found:
        days = f"{one.first_day}" if one.days == 1 else f"{one.days} days from {one.first_day} to {one.last_day}"
        yield Alert(
            "missing-usage",
            f"missing-usage:{one.family}",
            "failure",
            f"Usage of {one.family} is missing: {one.missing:,} {one.measure}",
            f"Of {one.recorded:,} {one.measure} that our recorder wrote for {days}, {one.missing:,} cannot be found: not "
            f"stored, not in Redis and not refused. It has been so since {one.since:%Y-%m-%d %H:%M %Z}.",
            "`select * from ops.reconciliation where missing > 0` has the days. Find out what happened to Redis then: a "
            "restart from an old snapshot, a fail-over, an eviction policy, or keys that somebody deleted "
            "(docs/exactly-once.md).",
        )


def _fallen_odometers(found: Sequence[FallenOdometers], _: Settings) -> Iterator[Alert]:
    for one in found:
        yield Alert(
            "redis-went-back",
            f"redis-went-back:{one.family}",
            "failure",
            f"Redis lost data of {one.family}",
            f"At {one.fallen_at:%Y-%m-%d %H:%M %Z} Redis had forgotten {one.forgotten:,} that our recorder had counted in "
            f"{one.family}: it came back from an old file or empty, or somebody deleted keys. What was drained before is "
            "stored. What was not drained is lost, and what an old file brings back is counted twice.",
            "Keep Redis from starting with an old file (docs/operations.md, Redis lost, or an old snapshot). The next hourly "
            "reconciliation shows what is missing and what was counted twice: `select * from ops.reconciliation where "
            "forgotten > 0`. What was recorded in the half minute before the loss may be in neither number.",
            ending="A day has passed, or what was lost is back.",
        )


def _unreadable_odometers(found: Sequence[UnreadableOdometers], _: Settings) -> Iterator[Alert]:
    for one in found:
        key = recorded(one.family, one.newest_day)
        yield Alert(
            "odometer-unreadable",
            f"odometer-unreadable:{one.family}",
            "warning",
            f"The odometer of {one.family} cannot be read",
            f"What our recorder wrote of {one.family} cannot be read for {counted(one.days, 'day')}, the newest is "
            f"{one.newest_day}: `{key}`: {one.problem}. What was known before is kept; what is recorded now is not compared.",
            f"Find out who else writes `{key}` in Redis: only the recorder should. Then delete it (`redis-cli unlink {key}`): "
            "it begins again, and what was known counts on.",
        )


def _unanswered(found: Sequence[Unanswered], _: Settings) -> Iterator[Alert]:
    for one in found:
        yield Alert(
            "facts-unreadable",
            f"facts-unreadable:{one.part}",
            "failure",
            f"Alerts about {one.part.replace('_', ' ')} cannot be judged",
            f"What they need cannot be read: {one.why}. All other alerts go on; open ones about this stay as they are.",
            "Correct the value that the text names, or if the schema is old, run `usage-pipeline migrate`. If neither helps, "
            "report it as a bug.",
        )


def _uncertain_batches(found: Sequence[UncertainBatches], _: Settings) -> Iterator[Alert]:
    for one in found:
        yield Alert(
            "uncertain-batches",
            "uncertain-batches",
            "warning",
            f"Batches that may have been counted twice: {one.count}",
            f"{counted(one.count, 'batch', 'batches')} with {counted(one.keys, 'key')}, stored in the last 24 hours at "
            f"about the time of a restart or fail-over of Redis, the newest at {one.newest_at:%Y-%m-%d %H:%M:%S %Z}.",
            "If Redis came back from an old snapshot, or from a replica that was behind, compare ops.sync_batches where "
            "is_uncertain with the logs of the writers (docs/exactly-once.md). Otherwise do nothing: the alert clears a day "
            "later.",
            ending="No batch of the last day is uncertain. Those of before stay as they are.",
            size=one.count,
        )


def _expiring_tokens(found: Sequence[ExpiringTokenKeys], settings: Settings) -> Iterator[Alert]:
    for one in found:
        yield Alert(
            "expiring-token-keys",
            "expiring-token-keys",
            "warning",
            "Token keys may expire before they are drained",
            f"A drain looked at {counted(one.looked_at, 'token key')}: {one.expiring} had less than half an interval to live, "
            f"one of them {one.shortest_seconds:.0f} s. These keys were drained, but others may have expired unread.",
            "Let the writers set a time to live of 7 days, or drain tokens more often than every "
            f"{settings.api_token_sync_interval_ms // 1000} s (API_TOKEN_SYNC_INTERVAL_MS), or use the recorder.",
        )


def _ending_tokens(found: Sequence[EndingToken], _: Settings) -> Iterator[Alert]:
    for one in found:
        use = "It was used in the last two weeks." if one.is_used else "It was not used in the last two weeks."
        yield Alert(
            "token-ends-soon",
            f"token-ends-soon:{one.token_prefix}",
            "warning",
            f"API token {one.name or one.token_prefix} ends on {one.expires_at:%Y-%m-%d}",
            f"API token {one.token_prefix} ({one.name or 'without a name'}) ends at {one.expires_at:%Y-%m-%d %H:%M %Z}. From "
            f"then on its requests get a 401. {use}",
            "Make another one (`usage-pipeline tokens create`), give it to whoever uses this one, and revoke this one "
            "(`usage-pipeline tokens revoke`): then the alert is over. If nobody needs it, revoke it now.",
        )


def _abnormal_usage(found: Sequence[UsageHour], settings: Settings) -> Iterator[Alert]:
    judged = [
        (judge(hour, least_score=settings.alert_usage_score, least_uses=settings.alert_usage_floor), hour)
        for hour in found
    ]
    told = set[tuple[str, str]]()
    # Of several hours, the one that is furthest from the usual.
    for verdict, hour in sorted(judged, key=lambda one: (-one[0].score, one[1].family, one[1].id)):
        if verdict.is_abnormal and (hour.family, hour.id) not in told:
            told.add((hour.family, hour.id))
            kind = "API key" if hour.family == "api_key" else "API token"
            yield Alert(
                "abnormal-usage",
                f"abnormal-usage:{hour.family}:{hour.id}",
                "warning",
                f"{kind} {hour.id} is used far more than usual",
                f"{kind} {hour.id} had {counted(hour.uses, 'use')} in the hour from {hour.hour_start:%Y-%m-%d %H:%M %Z}. "
                f"In the last 14 days its median hour had {verdict.median:.0f}, its busy hours {verdict.busy} "
                f"(score {verdict.score:.1f}).",
                "Ask the owner of the key. Revoke it if it leaked (`usage-pipeline tokens revoke`), or set a quota. After an "
                "outage of the drain, all that was counted meanwhile arrives in one hour: then the alert means nothing.",
            )


def _mb(size: int) -> str:
    return f"{size / 2**20:.0f} MB"


RULES = (
    Rule("failed-run", "orchestration", failed_runs, 24),
    Rule("failed-drains", "orchestration", failed_drains),
    Rule("failed-ticks", "orchestration", failed_ticks),
    Rule("failed-schedule", "orchestration", failed_schedules, 24),
    Rule("long-run", "orchestration", long_runs),
    Rule("stuck-run", "orchestration", stuck_runs),
    Rule("failed-check", "orchestration", failed_checks, 24),
    Rule("stale-asset", "orchestration", stale_assets, 24),
    Rule("broken-file", "broken_files", broken_files, 24),
    Rule("backlog-age", "backlog", _old_backlogs),
    Rule("redis-surge", "redis", _surges),
    Rule("redis-evicts", "eviction", _evicts, 24),
    Rule("empty-aggregation", "aggregations", _empty_aggregations, 24),
    Rule("abnormal-usage", "usage_hours", _abnormal_usage, 24),
    Rule("dead-letters", "dead_letters", _dead_letters, 24),
    Rule("counter-regression", "regressions", _regressions, 24),
    Rule("missing-usage", "missing_usage", _missing_usage, 24),
    Rule("redis-went-back", "fallen_odometers", _fallen_odometers, 24),
    Rule("odometer-unreadable", "unreadable_odometers", _unreadable_odometers, 24),
    Rule("facts-unreadable", "unanswered", _unanswered, 24),
    Rule("uncertain-batches", "uncertain", _uncertain_batches, 24),
    Rule("expiring-token-keys", "expiring_tokens", _expiring_tokens),
    # Once: not again before it ends.
    Rule("token-ends-soon", "ending_tokens", _ending_tokens, 24 * 14),
    # Once a period, of which a month is the longest.
    Rule("budget", "budgets", reached_budgets, least_pause=timedelta(days=32)),
    # Once for each day.
    Rule("abnormal-day", "team_days", abnormal_days, least_pause=timedelta(days=32)),
)
