"""Whether a budget is used up, by what the pipeline published of it (contracts §12). Pure; no I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decimal import Decimal

ALL = "all"
SCOPE_KINDS = ("team", "service", "user", "model", "api_key")


@dataclass(frozen=True)
class BudgetAnswer:
    """How the budget of a scope stands; of several with that scope the one of which the largest share is used.

    `is_known` is False if Redis did not answer, or has only what was used in a period that is over. Then nothing is used up.
    Without a budget, `name` and all numbers are None, and nothing is used up. `unit` is usd, tokens or requests; `as_of` is the
    time of the newest usage that is surely counted; at `ends_at` the next period begins, with nothing used.
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


def standing(published: str | bytes | None, now: float) -> BudgetAnswer:
    """What was published of a scope, at epoch seconds `now`. Raises ValueError, TypeError, LookupError or ArithmeticError."""
    if published is None:
        return NO_BUDGET
    answers = [_answer(one) for one in json.loads(published)["budgets"]]
    current = [(share, answer) for share, answer in answers if answer.ends_at and answer.ends_at.timestamp() > now]
    if not current:
        return UNKNOWN_BUDGET
    return max(current, key=lambda one: one[0])[1]


def _answer(document: dict[str, Any]) -> tuple[Decimal, BudgetAnswer]:
    from decimal import Decimal  # who records only need not wait for it

    used, limit = Decimal(document["used"]), Decimal(document["limit"])
    answer = BudgetAnswer(
        is_used_up=used >= limit,
        is_known=True,
        name=str(document["name"]),
        unit=str(document["unit"]),
        used=used,
        limit=limit,
        left=max(limit - used, Decimal(0)),
        as_of=datetime.fromtimestamp(document["as_of"], timezone.utc),
        ends_at=datetime.fromtimestamp(document["ends_at"], timezone.utc),
    )
    return used / limit, answer
