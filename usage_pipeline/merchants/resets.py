"""Accepts that Redis lost merchant counters (contracts §1.4, `counters accept-reset`). Only a person starts this."""

from dataclasses import dataclass
from datetime import date
from typing import Literal

import psycopg

from usage_pipeline import values
from usage_pipeline.merchants.counters import CounterKey, Reader, open_servers, read_counters, split_key
from usage_pipeline.merchants.status import OpenRegression, open_regressions
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load

# folded: added on top of what is stored. closed: no reset (any more), nothing added. left_open: not possible now.
Outcome = Literal["folded", "closed", "left_open"]


@dataclass(frozen=True, slots=True)
class AcceptedReset:
    """The outcome of one regression. `counter` is what Redis counted since the reset; None if it has no such counter."""

    key: CounterKey
    outcome: Outcome
    stored_before: int
    stored_after: int
    counter: int | None
    reason: str


def accept_resets(
    settings: Settings, *, merchant_id: str | None = None, day: date | None = None, metric_type: str | None = None
) -> list[AcceptedReset]:
    """Accepts the open regressions that match the filters: the value stored at the loss becomes the offset of the counter.

    Each regression is a transaction, and reads its counter again. If the counter is not below the stored value, it may have
    been restored: the regression is closed and nothing is added. (Too little can be corrected by hand, too much would be
    billed.) A counter that has expired counts as it was last read. A second call finds nothing to do.
    Raises PostgresUnavailable or RedisUnavailable; regressions that were accepted before stay accepted.
    """
    with open_servers(settings) as (postgres, redis):
        regressions = open_regressions(postgres, merchant_id=merchant_id, day=day, metric_type=metric_type)
        accepted = (_accept(postgres, redis, regression) for regression in regressions)
        return [one for one in accepted if one is not None]


def _accept(postgres: psycopg.Connection, redis: Reader, regression: OpenRegression) -> AcceptedReset | None:
    """The outcome, or None when another process has settled the regression meanwhile."""
    key = CounterKey(regression.merchant_id, regression.date, regression.metric_type)
    with postgres.transaction():
        # No aggregation may hold a value that it read before this reset and store it after: it would be added to the offset.
        postgres.execute("lock table ops.counter_regressions in share row exclusive mode")
        arguments = {"regression_id": regression.regression_id}
        row = postgres.execute(load("merchants/lock_merchant_regression"), arguments).fetchone()
        if row is None:
            return None
        last_read, stored, offset = row
        if stored is None:
            _close(postgres, regression, regression.stored_value, last_read)
            return AcceptedReset(key, "closed", 0, 0, None, "the row is not stored any more")
        counter, problem = _read(redis, key)
        if problem:
            return AcceptedReset(key, "left_open", stored, stored, None, problem)
        since_reset = last_read - offset if counter is None else counter
        if since_reset >= stored - offset:
            _close(postgres, regression, stored, min(offset + since_reset, values.MAX_COUNT))
            return AcceptedReset(
                key,
                "closed",
                stored,
                stored,
                counter,
                "the counter is not below its stored value any more; nothing was added",
            )
        if stored + since_reset > values.MAX_COUNT:
            reason = f"expected a sum of at most {values.MAX_COUNT} (bigint), came {stored} + {since_reset}"
            return AcceptedReset(key, "left_open", stored, stored, counter, reason)
        _fold(postgres, key, stored, since_reset)
        _close(postgres, regression, stored, offset + since_reset)
    came = f"{since_reset} since the reset" if counter is not None else f"{since_reset}, last read before it expired"
    return AcceptedReset(key, "folded", stored, stored + since_reset, counter, f"added {came}")


def _read(redis: Reader, key: CounterKey) -> tuple[int | None, str]:
    """The counter as it is now (None: no such key), or what is wrong with it."""
    found = split_key(key.redis_key)
    if found is None:
        raise ValueError(f"expected a merchant's counter, came {key}")
    reading = read_counters(redis, [found])
    if reading.refused:
        return None, reading.refused[0].letter.reason
    return reading.counters.get(key), ""


def _fold(postgres: psycopg.Connection, key: CounterKey, stored: int, since_reset: int) -> None:
    arguments = {
        "merchant_id": key.merchant_id,
        "day": key.day,
        "metric_type": key.metric_type,
        "stored_value": stored,
        "counter": since_reset,
    }
    if postgres.execute(load("merchants/fold_merchant_reset"), arguments).rowcount != 1:
        raise RuntimeError(
            f"{key}: expected the stored value {stored}, came another; another program changed usage.merchant_usage"
        )


def _close(postgres: psycopg.Connection, regression: OpenRegression, stored: int, reads: int) -> None:
    arguments = {"regression_id": regression.regression_id, "stored_value": stored, "counter_value": reads}
    postgres.execute(load("merchants/close_merchant_regression"), arguments)
