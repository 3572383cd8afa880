"""The facts that the rules need, as values. No I/O here: other modules read them from PostgreSQL, Redis and Dagster.

A part that could not be read is None. Rules about such a part neither raise nor clear alerts.
"""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from usage_pipeline.alerting.abnormal_usage import UsageHour
from usage_pipeline.alerting.spending.days import TeamDay
from usage_pipeline.budgets.standing import Standing
from usage_pipeline.storage.servers.eviction import Eviction


@dataclass(frozen=True, slots=True)
class FailedRun:
    """A run that failed, of a job or (without one) of assets. What it was to make was not made since."""

    run_id: str
    job: str
    target: str
    failed_at: datetime
    error: str
    assets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SlowRun:
    """A run that has not ended, and the time that it has taken so far."""

    run_id: str
    job: str
    target: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StuckRun:
    """A run that has not begun, how long it has waited, and its status in Dagster."""

    run_id: str
    job: str
    target: str
    status: str
    seconds: float


@dataclass(frozen=True, slots=True)
class FailedTick:
    """A schedule whose newest tick failed: what it should have started was not started."""

    name: str
    failed_at: datetime
    problem: str


@dataclass(frozen=True, slots=True)
class FailedCheck:
    """An asset check whose newest result is red, and what it found. `since`: when it was first seen red, of late."""

    asset: str
    check: str
    is_error: bool
    found: str
    partition: str | None
    since: datetime


@dataclass(frozen=True, slots=True)
class StaleAsset:
    """An asset without partitions that is older than its freshness policy allows, and since when."""

    asset: str
    since: datetime


@dataclass(frozen=True, slots=True)
class FailingTicks:
    """A sensor and how often in a row it has failed. An impossible drain counts as a failure of its sensor."""

    name: str
    failures: int
    problem: str
    is_drain: bool


@dataclass(frozen=True, slots=True)
class OrchestrationFacts:
    """What Dagster knows. Of the rules `partly` not all was looked at: what they do not find is not over."""

    failed_runs: tuple[FailedRun, ...] = ()
    slow_runs: tuple[SlowRun, ...] = ()
    ticks: tuple[FailingTicks, ...] = ()
    stuck_runs: tuple[StuckRun, ...] = ()
    failed_ticks: tuple[FailedTick, ...] = ()
    failed_checks: tuple[FailedCheck, ...] = ()
    stale_assets: tuple[StaleAsset, ...] = ()
    partly: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class BacklogAge:
    """How long a family has waited while nothing of it was stored, and the interval of its drain."""

    family: str
    waiting: int
    open_batches: int
    age_seconds: float
    interval_seconds: float


@dataclass(frozen=True, slots=True)
class RedisLoad:
    """Memory and keys of Redis now, and as usual: the median of the last hour's looks (None: too few of them)."""

    memory_bytes: int
    most_memory_bytes: int
    keys: int
    usual_memory_bytes: int | None
    usual_keys: int | None


@dataclass(frozen=True, slots=True)
class Aggregation:
    """The last aggregation of merchant counters for a day."""

    day: date
    applied_at: datetime
    keys_found: int
    is_of_today: bool
    hours_into_day: float


@dataclass(frozen=True, slots=True)
class OpenDeadLetters:
    """Refused input of a family that no replay has counted; `newest_reason` says what was expected and what came."""

    family: str
    count: int
    newest_reason: str


@dataclass(frozen=True, slots=True)
class OpenRegressions:
    """Merchant counters that read lower than what is stored."""

    count: int
    merchant_id: str
    metric_type: str
    day: date


@dataclass(frozen=True, slots=True)
class MissingUsage:
    """What the newest reconciliation did not find of a family: on `days` days, `missing` of the `recorded` amount."""

    family: str
    measure: str
    missing: Decimal
    recorded: Decimal
    days: int
    first_day: date
    last_day: date
    since: datetime


@dataclass(frozen=True, slots=True)
class FallenOdometers:
    """Odometers of a family that read less than before: Redis forgot `forgotten` that our recorder wrote, on `days` days."""

    family: str
    forgotten: Decimal
    days: int
    first_day: date
    last_day: date
    fallen_at: datetime


@dataclass(frozen=True, slots=True)
class UnreadableOdometers:
    """Odometers of a family whose value in Redis is no count. `problem` is that of the newest of them, `newest_day`."""

    family: str
    days: int
    newest_day: date
    problem: str


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A part of the facts that could not be read, because of a value in Redis or in a table, and why."""

    part: str
    why: str


@dataclass(frozen=True, slots=True)
class UncertainBatches:
    """Batches of the last day that were stored at about the time of a restart or fail-over of Redis."""

    count: int
    keys: int
    newest_at: datetime


@dataclass(frozen=True, slots=True)
class ExpiringTokenKeys:
    """Token keys with little time to live: of `looked_at` keys that a drain's scan found, `expiring` were so."""

    looked_at: int
    expiring: int
    shortest_seconds: float
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class EndingToken:
    """An API token that ends soon. `is_used`: somebody used it in the last two weeks."""

    token_prefix: str
    name: str | None
    expires_at: datetime
    is_used: bool | None


@dataclass(frozen=True, slots=True)
class BrokenFile:
    """A landed file that was read in part or not at all; no file of its name was read since."""

    address: str
    broken_at: datetime


@dataclass(frozen=True, slots=True)
class PipelineFacts:
    """All that one evaluation knows."""

    orchestration: OrchestrationFacts | None = None
    backlog: tuple[BacklogAge, ...] | None = None
    redis: RedisLoad | None = None
    eviction: Eviction | None = None
    aggregations: tuple[Aggregation, ...] | None = None
    dead_letters: tuple[OpenDeadLetters, ...] | None = None
    regressions: tuple[OpenRegressions, ...] | None = None
    missing_usage: tuple[MissingUsage, ...] | None = None
    fallen_odometers: tuple[FallenOdometers, ...] | None = None
    unreadable_odometers: tuple[UnreadableOdometers, ...] | None = None
    uncertain: tuple[UncertainBatches, ...] | None = None
    expiring_tokens: tuple[ExpiringTokenKeys, ...] | None = None
    ending_tokens: tuple[EndingToken, ...] | None = None
    broken_files: tuple[BrokenFile, ...] | None = None
    usage_hours: tuple[UsageHour, ...] | None = None
    budgets: tuple[Standing, ...] | None = None
    team_days: tuple[TeamDay, ...] | None = None
    unanswered: tuple[Unanswered, ...] | None = None
