"""A budget as a value: whose usage, in which period, how much of what. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Literal, TypeVar, get_args
from zoneinfo import ZoneInfo

from usage_recorder.budget import ALL, SCOPE_KINDS

from usage_pipeline.rollups.calendar import Window, month_of, week_of, window_on
from usage_pipeline.values import Malformed, identifier_text

Period = Literal["day", "week", "month"]
Unit = Literal["usd", "tokens", "requests"]
PERIODS: tuple[Period, ...] = get_args(Period)
UNITS: tuple[Unit, ...] = get_args(Unit)
DEFAULT_SHARES = (50, 80, 100)
MAX_SHARES = 10
# In percent: ten times the limit.
MAX_SHARE = 1_000
MAX_LIMIT = 10**15
Known = TypeVar("Known", bound=str)
# Less would be shown as nothing.
_LEAST_USD = Decimal("0.01")
# As many digits as costs are stored with.
_DECIMALS = 12


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose usage: that of one team, service, user, model or API key. Without a kind: everybody's."""

    kind: str | None = None
    value: str | None = None

    @classmethod
    def of(cls, text: str) -> "Scope":
        """`team=search`, or `all`. Raises Malformed."""
        if text == ALL:
            return cls()
        kind, separator, value = text.partition("=")
        if not separator or kind not in SCOPE_KINDS:
            expected = ", ".join(f"{each}=NAME" for each in SCOPE_KINDS)
            raise Malformed(f"--scope: expected one of {expected}, or {ALL}, came {text!r}")
        return cls(kind, identifier_text(f"--scope {kind}", value))

    def __str__(self) -> str:
        return ALL if self.kind is None else f"{self.kind}={self.value}"


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `limit` of the unit in each period. `alert_shares` are percent of the limit, in order.

    `changed_at` is when it was last set to something else; None: it is not stored yet.
    """

    name: str
    scope: Scope
    period: Period
    unit: Unit
    limit: Decimal
    alert_shares: tuple[int, ...] = DEFAULT_SHARES
    changed_at: datetime | None = field(default=None, compare=False)

    @property
    def identity(self) -> str:
        """What makes it another budget when it changes. It names no user: then the time of the change stands for the scope."""
        is_of_user = self.scope.kind == "user"
        whose = f"user since {self.changed_at and self.changed_at.timestamp()}" if is_of_user else str(self.scope)
        return f"{self.period}:{self.limit.normalize():f} {self.unit}:{whose}"

    def window(self, now: datetime, zone: ZoneInfo) -> Window:
        """The period that `now` is in."""
        today = now.astimezone(zone).date()
        return window_on(self.period, _first_day(self.period, today), zone)

    def said(self, amount: Decimal) -> str:
        """`500.00 USD`, or `12,000 tokens`."""
        return f"{amount:,.2f} USD" if self.unit == "usd" else f"{amount:,.0f} {self.unit}"


def budget_of(name: str, scope: str, period: str, limit: str, unit: str, alert: str | None) -> Budget:
    """That of the options of a command. Raises Malformed."""
    _expect_readable(identifier_text("NAME", name))
    found = Scope.of(scope)
    chosen_period = _choice("--period", period, PERIODS)
    chosen_unit = _choice("--unit", unit, UNITS)
    shares = DEFAULT_SHARES if alert is None else _shares(alert)
    return Budget(name, found, chosen_period, chosen_unit, _limit(limit, chosen_unit), shares)


def _expect_readable(name: str) -> None:
    """A name that cannot be seen, or breaks the line that it stands in, is a slip of whoever typed it."""
    if not name.isprintable() or name != name.strip():
        expected = "characters that can be seen, in one line and without spaces around them"
        raise Malformed(f"NAME: expected {expected}, came {name!r}")


def _first_day(period: Period, day: date) -> date:
    return {"day": day, "week": week_of(day), "month": month_of(day)}[period]


def _choice(option: str, given: str, known: Sequence[Known]) -> Known:
    for choice in known:
        if given == choice:
            return choice
    raise Malformed(f"{option}: expected one of {', '.join(known)}, came {given!r}")


def _limit(text: str, unit: Unit) -> Decimal:
    expected = f"--limit: expected a number above 0 and at most {MAX_LIMIT:,}"
    try:
        limit = Decimal(text)
    except InvalidOperation:
        limit = Decimal(0)
    if not limit.is_finite() or not 0 < limit <= MAX_LIMIT:
        raise Malformed(f"{expected}, came {text!r}")
    if unit == "usd" and limit < _LEAST_USD:
        raise Malformed(f"--limit: expected at least {_LEAST_USD} usd, came {text!r}")
    most = _DECIMALS if unit == "usd" else 0
    if limit != round(limit, most):
        raise Malformed(f"--limit: expected at most {most} decimals of {unit}, came {text!r}")
    return limit


def _shares(text: str) -> tuple[int, ...]:
    words = [word.strip().removesuffix("%") for word in text.split(",")]
    are_known = all(re.fullmatch("[0-9]{1,4}", word) and 1 <= int(word) <= MAX_SHARE for word in words)
    if not are_known or len(words) > MAX_SHARES:
        expected = f"at most {MAX_SHARES} whole percents from 1 to {MAX_SHARE:,} with commas between, such as 50,80,100"
        raise Malformed(f"--alert: expected {expected}, came {text!r}")
    return tuple(sorted({int(word) for word in words}))
