"""Decides whether one more request of an API key is within its quota (contracts §1.6). Pure; no I/O."""

from __future__ import annotations

from dataclasses import dataclass

# The fields of the hash that `drain/quotas.py` publishes.
LIMITS = ("requests_per_day", "requests_per_minute")


@dataclass(frozen=True)
class QuotaDecision:
    """Whether one more request is within the quota, and how many requests are left, this one included. None: no limit.

    `is_known` is False if Redis did not answer. Then the request is allowed.
    """

    allowed: bool
    remaining_today: int | None
    remaining_this_minute: int | None
    is_known: bool


UNKNOWN = QuotaDecision(allowed=True, remaining_today=None, remaining_this_minute=None, is_known=False)


def decide(per_day: int | None, per_minute: int | None, *, used_today: int, used_this_minute: int) -> QuotaDecision:
    """Allows the request if both limits have room for one more. A limit of None always has room."""
    today = None if per_day is None else max(0, per_day - used_today)
    this_minute = None if per_minute is None else max(0, per_minute - used_this_minute)
    return QuotaDecision(0 not in (today, this_minute), today, this_minute, is_known=True)
