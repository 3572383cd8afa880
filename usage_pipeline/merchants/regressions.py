"""What a person decides about merchant counters that Redis has other than they were (contracts §1.4).

There are three causes, and they look alike. Redis lost the counter, which begins at zero again (`accept_resets`). Redis brought
it back with another value, from an old file or a replica that was behind (`accept_restores`). Or somebody changed it on purpose
(`accept_corrections`). The wrong remedy bills a merchant nearly twice, or loses nearly all. So each leaves alone what looks
like another case, unless somebody is sure. Odometers say whether Redis lost or brought back anything, where there are any.
"""

from dataclasses import dataclass
from datetime import date
from typing import Literal

import psycopg

from usage_pipeline import values
from usage_pipeline.merchants.counters import CounterKey, Reader, open_servers, read_counters, split_key
from usage_pipeline.merchants.status import OpenRegression, open_regressions
from usage_pipeline.odometers.lives import Change
from usage_pipeline.odometers.look import look_at
from usage_pipeline.process import user_name
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load

# folded: what was counted since was added. restored: what was counted since it was brought back was added. corrected: what it
# reads was stored. closed: nothing is to be decided any more. left_open: not possible now, or not without being sure.
Outcome = Literal["folded", "restored", "corrected", "closed", "left_open"]
_Remedy = Literal["reset", "restore", "correction"]
_WHAT_IT_DOES: dict[_Remedy, str] = {
    "reset": "adds what was counted since it began at zero",
    "restore": "keeps what is stored and goes on from the value that Redis brought back",
    "correction": "stores what it reads",
}


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
class _Changed:
    """A regression whose row is locked. The counter is `counter` now, and was `before`: `stored` less `offset`.

    `fell_to` is the lowest that it was seen at since Redis changed. `change` is how Redis changed since the row was last
    stored, as far as an odometer shows it. `base` is what the counter had then, where an odometer can tell.
    """

    key: CounterKey
    counter: int
    stored: int
    offset: int
    fell_to: int
    change: Change | None
    base: int | None
    is_expired: bool

    @property
    def before(self) -> int:
        return self.stored - self.offset

    @property
    def likely(self) -> _Remedy | None:
        """The remedy for what probably happened; None if there is no telling."""
        if self.change in ("rewound", "returned"):
            return "restore"
        if self.counter > self.before:
            return None if self.change else "restore"
        if self.counter * 2 <= self.before:
            return "reset"
        return None if self.change else "correction"

    @property
    def why(self) -> str:
        """What `likely` is from."""
        shows = {
            "rewound": "an odometer shows that Redis came back with an earlier state",
            "returned": "an odometer shows that Redis came back with a state that was lost before",
            "emptied": "an odometer shows that Redis began empty",
            None: "no odometer shows that Redis lost anything",
        }[self.change]
        if self.counter > self.before:
            return f"it reads {self.counter} after {self.before}, and was lost before; {shows}"
        return f"it reads {self.counter} of {self.before}; {shows}"


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


def accept_resets(
    settings: Settings, filters: Filters | None = None, *, reason: str | None = None, is_sure: bool = False
) -> list[Decision]:
    """Accepts that Redis lost the counters of open regressions: the value stored at the loss becomes the counter's offset.

    What looks like another case is left open, unless `is_sure`. Each regression is a transaction, and reads its counter again.
    If the counter is as it should be, the regression is closed and nothing is added. (Too little can be corrected by hand, too
    much would be billed.) A counter that has expired counts as it was last read. A second call finds nothing to do.
    Raises PostgresUnavailable or RedisUnavailable; regressions that were accepted before stay accepted.
    """
    return _settle(settings, filters or Filters(), "reset", reason, is_sure)


def accept_restores(
    settings: Settings, filters: Filters | None = None, *, reason: str | None = None, is_sure: bool = False
) -> list[Decision]:
    """Accepts that Redis brought counters back with another value: what is stored stays, and what they counted since is added.

    That value is what the counter had when it was lost, if it is back at that; else what the odometer shows; else what it read
    when it was first seen so: then what was counted before that look is in no number. All else is as in `accept_resets`.
    """
    return _settle(settings, filters or Filters(), "restore", reason, is_sure)


def accept_corrections(
    settings: Settings, filters: Filters | None = None, *, reason: str, is_sure: bool = False
) -> list[Decision]:
    """Accepts that the counters of open regressions were changed on purpose: what they read is stored.

    All else is as in `accept_resets`. Raises Malformed without a reason, PostgresUnavailable or RedisUnavailable.
    """
    values.identifier_text("reason", reason.strip())
    return _settle(settings, filters or Filters(), "correction", reason, is_sure)


def _settle(settings: Settings, filters: Filters, remedy: _Remedy, reason: str | None, is_sure: bool) -> list[Decision]:
    with open_servers(settings) as (postgres, redis):
        regressions = open_regressions(
            postgres, merchant_id=filters.merchant_id, day=filters.day, metric_type=filters.metric_type
        )
        # So that the odometers say what they can.
        look_at(postgres, redis, {one.date for one in regressions})
        decisions = (_settle_one(postgres, redis, one, remedy, reason, is_sure) for one in regressions)
        return [one for one in decisions if one is not None]


def _settle_one(
    postgres: psycopg.Connection,
    redis: Reader,
    regression: OpenRegression,
    remedy: _Remedy,
    reason: str | None,
    is_sure: bool,
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
        last_read, fell_to, stored, offset, stored_at = row
        if stored is None:
            _close(postgres, regression, _Stored("closed", 0, ""), regression.stored_value, last_read, reason)
            return Decision(key, "closed", 0, 0, None, "the row is not stored any more")
        counter, problem = _read(redis, key)
        if problem:
            return Decision(key, "left_open", stored, stored, None, problem)
        # A counter that is gone counts as it was last read.
        now = last_read - offset if counter is None else counter
        known = {"day": key.day, "stored_value": stored, "since": stored_at}
        change, base = postgres.execute(load("merchants/select_redis_change"), known).fetchone() or (None, None)
        lowest = now if fell_to is None else min(now, max(0, fell_to - offset))
        changed = _Changed(key, now, stored, offset, lowest, change, base, counter is None)
        if now == changed.before or (now > changed.before and last_read <= stored):
            found: _Stored | _Refused = _Stored("closed", stored, "the counter is as it should be; nothing was added")
        elif remedy != changed.likely and not is_sure:
            found = _Refused(_advice(changed))
        else:
            found = _applied(postgres, changed, remedy)
        if isinstance(found, _Refused):
            return Decision(key, "left_open", stored, stored, counter, found.reason)
        before = None if found.outcome in ("corrected", "closed") else changed.before
        _close(postgres, regression, found, stored, min(offset + now, values.MAX_COUNT), reason, before)
    return Decision(key, found.outcome, stored, found.value, counter, found.reason)


def _advice(changed: _Changed) -> str:
    if changed.likely is None:
        return f"{changed.why}, so there is no telling what happened: find out, and name the counter with --sure"
    return f"{changed.why}: `usage-pipeline counters accept-{changed.likely}` {_WHAT_IT_DOES[changed.likely]}"


def _applied(postgres: psycopg.Connection, changed: _Changed, remedy: _Remedy) -> _Stored | _Refused:
    came = f"{changed.counter}{', last read before it expired' if changed.is_expired else ', what the counter reads'}"
    if remedy == "correction":
        _change(postgres, changed, "merchants/correct_merchant_usage")
        return _Stored("corrected", changed.offset + changed.counter, f"set to {came}")
    start = 0 if remedy == "reset" else _brought_back(postgres, changed)
    if start > changed.stored:
        # It was lowered on purpose since.
        return _Refused(f"expected at most the stored value {changed.stored}, came {start} that Redis brought back")
    total = changed.stored - start + changed.counter
    if total > values.MAX_COUNT:
        return _Refused(f"expected a sum of at most {values.MAX_COUNT} (bigint), came {total}")
    _change(postgres, changed, "merchants/rebase_merchant_usage", from_value=start)
    if remedy == "reset":
        return _Stored("folded", total, f"added {came}")
    return _Stored("restored", total, f"added what it counted from {start} to {came}")


def _brought_back(postgres: psycopg.Connection, changed: _Changed) -> int:
    """The value with which Redis brought the counter back, all of which is stored; rather too high than too low.

    A state that returned as it was lost has at least what was aggregated of it. An earlier one is known by its first look.
    """
    start = changed.fell_to
    if changed.counter > changed.before and changed.change is None:
        # Nothing tells whether what it fell to before was of this state.
        start = changed.counter
    if changed.counter > changed.before and changed.change != "rewound":
        arguments = {**_identity(changed.key), "last_counter": changed.before, "counter": start}
        [(known,)] = postgres.execute(load("merchants/select_counter_before"), arguments).fetchall()
        start = start if known is None else int(known)
    return start if changed.base is None else min(changed.base, start)


def _read(redis: Reader, key: CounterKey) -> tuple[int | None, str]:
    """The counter as it is now (None: no such key), or what is wrong with it."""
    found = split_key(key.redis_key)
    if found is None:
        raise ValueError(f"expected a merchant's counter, came {key}")
    reading = read_counters(redis, [found])
    if reading.refused:
        return None, reading.refused[0].letter.reason
    return reading.counters.get(key), ""


def _identity(key: CounterKey) -> dict[str, object]:
    return {"merchant_id": key.merchant_id, "day": key.day, "metric_type": key.metric_type}


def _change(postgres: psycopg.Connection, changed: _Changed, query: str, **more: int) -> None:
    arguments = {
        **_identity(changed.key),
        "stored_value": changed.stored,
        "counter": changed.counter,
        **more,
    }
    if postgres.execute(load(query), arguments).rowcount != 1:
        raise RuntimeError(
            f"{changed.key}: expected the stored value {changed.stored}, came another; another program changed "
            "usage.merchant_usage"
        )


def _close(
    postgres: psycopg.Connection,
    regression: OpenRegression,
    found: _Stored,
    stored: int,
    reads: int,
    reason: str | None,
    counter_before: int | None = None,
) -> None:
    arguments = {
        "regression_id": regression.regression_id,
        "stored_value": stored,
        "counter_value": reads,
        "outcome": found.outcome,
        "counter_before": counter_before,
        "value_after": found.value,
        "decided_by": user_name(),
        "reason": reason,
    }
    postgres.execute(load("merchants/close_merchant_regression"), arguments)
