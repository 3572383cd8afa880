"""What a person decides about merchant counters that read lower than what is stored (contracts §1.4).

There are two causes, and they look alike: Redis lost the counter, which begins at zero again (`accept_resets` adds what it
counted since), or somebody lowered it on purpose (`accept_corrections` stores the lower value). The wrong remedy bills a
merchant nearly twice, or loses nearly all. So each leaves alone what looks like the other case, unless somebody is sure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Literal

import psycopg

from usage_pipeline import values
from usage_pipeline.merchants.counters import CounterKey, Reader, open_servers, read_counters, split_key
from usage_pipeline.merchants.status import OpenRegression, open_regressions
from usage_pipeline.process import user_name
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load

# folded: what was counted since was added. corrected: the lower value was stored. closed: nothing is to be decided any more.
# left_open: not possible now, or not without being sure.
Outcome = Literal["folded", "corrected", "closed", "left_open"]


@dataclass(frozen=True, slots=True)
class Filters:
    """Which open regressions are meant. None matches all."""

    merchant_id: str | None = None
    day: date | None = None
    metric_type: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of one regression. `counter` is what Redis reads now; None if it has no such counter."""

    key: CounterKey
    outcome: Outcome
    stored_before: int
    stored_after: int
    counter: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class _Fallen:
    """A regression whose row is locked: the counter is `counter` now, below `stored` = `offset` + an earlier counter."""

    key: CounterKey
    counter: int
    stored: int
    offset: int
    is_expired: bool

    @property
    def is_near(self) -> bool:
        """Whether the counter still reads more than half of what it read: a lost one begins at zero."""
        return self.counter * 2 > self.stored - self.offset


@dataclass(frozen=True, slots=True)
class _Refused:
    """Why a regression stays open."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Stored:
    """What was stored for a regression."""

    outcome: Outcome
    value: int
    reason: str


_Remedy = Callable[[psycopg.Connection, _Fallen], _Stored | _Refused]


def accept_resets(
    settings: Settings, filters: Filters | None = None, *, reason: str | None = None, is_sure: bool = False
) -> list[Decision]:
    """Accepts that Redis lost the counters of open regressions: the value stored at the loss becomes the counter's offset.

    A counter that still reads more than half of its stored value was probably lowered on purpose: it is left open, unless
    `is_sure`. Each regression is a transaction, and reads its counter again. If the counter is not below the stored value, it
    may have been restored: the regression is closed and nothing is added. (Too little can be corrected by hand, too much would
    be billed.) A counter that has expired counts as it was last read. A second call finds nothing to do.
    Raises PostgresUnavailable or RedisUnavailable; regressions that were accepted before stay accepted.
    """

    def remedy(postgres: psycopg.Connection, fallen: _Fallen) -> _Stored | _Refused:
        if fallen.is_near and not is_sure:
            return _Refused(
                f"it reads {fallen.counter} of {fallen.stored - fallen.offset}, so it was probably lowered on purpose: "
                "`usage-pipeline counters accept-correction` stores the lower value"
            )
        return _fold(postgres, fallen)

    return _settle(settings, filters or Filters(), remedy, reason)


def accept_corrections(
    settings: Settings, filters: Filters | None = None, *, reason: str, is_sure: bool = False
) -> list[Decision]:
    """Accepts that the counters of open regressions were lowered on purpose: what they read is stored.

    A counter that reads half of its stored value or less was probably lost by Redis: it is left open, unless `is_sure`.
    All else is as in `accept_resets`. Raises Malformed without a reason, PostgresUnavailable or RedisUnavailable.
    """
    values.identifier_text("reason", reason.strip())

    def remedy(postgres: psycopg.Connection, fallen: _Fallen) -> _Stored | _Refused:
        if not fallen.is_near and not is_sure:
            return _Refused(
                f"it reads {fallen.counter} of {fallen.stored - fallen.offset}, so Redis probably lost it: "
                "`usage-pipeline counters accept-reset` adds what was counted since"
            )
        _change(postgres, fallen, "merchants/correct_merchant_usage")
        return _Stored("corrected", fallen.offset + fallen.counter, f"lowered to {_came(fallen)}")

    return _settle(settings, filters or Filters(), remedy, reason)


def _settle(settings: Settings, filters: Filters, remedy: _Remedy, reason: str | None) -> list[Decision]:
    with open_servers(settings) as (postgres, redis):
        regressions = open_regressions(
            postgres, merchant_id=filters.merchant_id, day=filters.day, metric_type=filters.metric_type
        )
        decisions = (_settle_one(postgres, redis, regression, remedy, reason) for regression in regressions)
        return [one for one in decisions if one is not None]


def _settle_one(
    postgres: psycopg.Connection, redis: Reader, regression: OpenRegression, remedy: _Remedy, reason: str | None
) -> Decision | None:
    """The outcome, or None when another process has settled the regression meanwhile."""
    key = CounterKey(regression.merchant_id, regression.date, regression.metric_type)
    with postgres.transaction():
        # No aggregation may hold a value that it read before this decision and store it after: it would be added to the offset.
        postgres.execute("lock table ops.counter_regressions in share row exclusive mode")
        arguments = {"regression_id": regression.regression_id}
        row = postgres.execute(load("merchants/lock_merchant_regression"), arguments).fetchone()
        if row is None:
            return None
        last_read, stored, offset = row
        if stored is None:
            _close(postgres, regression, _Stored("closed", 0, ""), regression.stored_value, last_read, reason)
            return Decision(key, "closed", 0, 0, None, "the row is not stored any more")
        counter, problem = _read(redis, key)
        if problem:
            return Decision(key, "left_open", stored, stored, None, problem)
        # A counter that is gone counts as it was last read.
        fallen = _Fallen(key, last_read - offset if counter is None else counter, stored, offset, counter is None)
        if fallen.counter >= stored - offset:
            found: _Stored | _Refused = _Stored(
                "closed", stored, "the counter is not below its stored value any more; nothing was added"
            )
        else:
            found = remedy(postgres, fallen)
        if isinstance(found, _Refused):
            return Decision(key, "left_open", stored, stored, counter, found.reason)
        _close(postgres, regression, found, stored, min(offset + fallen.counter, values.MAX_COUNT), reason)
    return Decision(key, found.outcome, stored, found.value, counter, found.reason)


def _fold(postgres: psycopg.Connection, fallen: _Fallen) -> _Stored | _Refused:
    total = fallen.stored + fallen.counter
    if total > values.MAX_COUNT:
        return _Refused(
            f"expected a sum of at most {values.MAX_COUNT} (bigint), came {fallen.stored} + {fallen.counter}"
        )
    _change(postgres, fallen, "merchants/fold_merchant_reset")
    return _Stored("folded", total, f"added {_came(fallen)}")


def _came(fallen: _Fallen) -> str:
    return f"{fallen.counter}{', last read before it expired' if fallen.is_expired else ', what the counter reads'}"


def _read(redis: Reader, key: CounterKey) -> tuple[int | None, str]:
    """The counter as it is now (None: no such key), or what is wrong with it."""
    found = split_key(key.redis_key)
    if found is None:
        raise ValueError(f"expected a merchant's counter, came {key}")
    reading = read_counters(redis, [found])
    if reading.refused:
        return None, reading.refused[0].letter.reason
    return reading.counters.get(key), ""


def _change(postgres: psycopg.Connection, fallen: _Fallen, query: str) -> None:
    arguments = {
        "merchant_id": fallen.key.merchant_id,
        "day": fallen.key.day,
        "metric_type": fallen.key.metric_type,
        "stored_value": fallen.stored,
        "counter": fallen.counter,
    }
    if postgres.execute(load(query), arguments).rowcount != 1:
        raise RuntimeError(
            f"{fallen.key}: expected the stored value {fallen.stored}, came another; another program changed "
            "usage.merchant_usage"
        )


def _close(
    postgres: psycopg.Connection,
    regression: OpenRegression,
    found: _Stored,
    stored: int,
    reads: int,
    reason: str | None,
) -> None:
    arguments = {
        "regression_id": regression.regression_id,
        "stored_value": stored,
        "counter_value": reads,
        "outcome": found.outcome,
        "value_after": found.value,
        "decided_by": user_name(),
        "reason": reason,
    }
    postgres.execute(load("merchants/close_merchant_regression"), arguments)
