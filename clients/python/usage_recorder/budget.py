"""Whether a budget is used up, by what the pipeline published of it (contracts §12). Pure; no I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decimal import Decimal

ALL = "all"
SCOPE_KINDS = ("team", "service", "user", "model", "api_key")


@dataclass(frozen=True)
class BudgetAnswer:
    """How the budget of a scope stands; of several with that scope the one of which the largest share is used.

    `is_known` is False if Redis did not answer; if it has only what was used in a period that is over (if that is so of one of
    several budgets, the numbers are those of another); or if it has neither an answer nor a sign of life of the pipeline. Then
    nothing is used up. Without a budget, `name` and all numbers are None, and nothing is used up. `unit` is usd, tokens or
    requests; `as_of` is the time of the newest usage that is surely counted; at `ends_at` the next period begins, with nothing
    used.
    """

    is_used_up: bool
    is_known: bool
    name: str | None = None
    unit: str | None = None
    used: Decimal | None = None
    limit: Decimal | None = None
    left: Decimal | None = None
    as_of: datetime | None = None
    ends_at: datetime | None = None

    @property
    def has_budget(self) -> bool:
        return self.name is not None


NO_BUDGET = BudgetAnswer(is_used_up=False, is_known=True)
UNKNOWN_BUDGET = BudgetAnswer(is_used_up=False, is_known=False)


def standing(published: str | bytes | None, is_pipeline_alive: bool, now: float) -> BudgetAnswer:
    """What was published of a scope, at epoch seconds `now`. What is no budget raises any Exception."""
    if published is None:
        # Without a sign of life it may be lost, or ended while the pipeline stood still.
        return NO_BUDGET if is_pipeline_alive else UNKNOWN_BUDGET
    answers = [_answer(one) for one in json.loads(published)["budgets"]]
    current = [(share, answer) for share, answer in answers if answer.ends_at and answer.ends_at.timestamp() > now]
    if not current:
        return UNKNOWN_BUDGET
    fullest = max(current, key=lambda one: one[0])[1]
    # Of a new period nobody knows what is used; unless another budget is used up anyway.
    return replace(fullest, is_known=fullest.is_used_up or len(current) == len(answers))


def _answer(document: dict[str, Any]) -> tuple[Decimal, BudgetAnswer]:
    from decimal import Context, Decimal  # who records only need not wait for it

    # The caller's own context may round, or raise what is no error here.
    exact = Context(prec=100, traps=[])
    used, limit = Decimal(document["used"]), Decimal(document["limit"])
    if not (used.is_finite() and limit.is_finite() and limit > 0):
        raise ValueError("expected numbers of a budget")
    answer = BudgetAnswer(
        is_used_up=used >= limit,
        is_known=True,
        name=str(document["name"]),
        unit=str(document["unit"]),
        used=used,
        limit=limit,
        left=max(exact.subtract(limit, used), Decimal(0)),
        as_of=datetime.fromtimestamp(document["as_of"], timezone.utc),
        ends_at=datetime.fromtimestamp(document["ends_at"], timezone.utc),
    )
    return exact.divide(used, limit), answer
