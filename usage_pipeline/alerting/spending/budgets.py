"""The rule `budget`: each share of a limit is told once a period."""

from collections.abc import Iterator, Sequence

from usage_pipeline.alerting.alert import Alert
from usage_pipeline.budgets.standing import Standing
from usage_pipeline.settings import Settings


def reached_budgets(found: Sequence[Standing], _: Settings) -> Iterator[Alert]:
    """An alert for each share that is reached.

    The period and what the budget allows are in the key: the next period, and a budget that was changed, have alerts of their
    own. Who follows the advice and raises the limit hears when the new one is used up. Only the highest share is told: one
    message says it all when several are reached at once.
    """
    for standing in found:
        budget, window = standing.budget, standing.window
        reached = standing.reached_shares
        for share in reached:
            yield Alert(
                "budget",
                f"budget:{budget.name}:{window.day}:{budget.identity}:{share}",
                "failure" if share >= 100 else "warning",
                f"Budget {budget.name} is used up" if share == 100 else f"Budget {budget.name}: {share} % are used",
                _text(standing),
                "`usage-pipeline budgets list` shows how all budgets stand, and `GET /api/usage/explore` who used it. Talk "
                "to them, or raise the limit with `usage-pipeline budgets set` if it should be higher. Nobody is blocked "
                "unless your gateway asks `check_budget` (docs/budgets.md).",
                is_told=share == reached[-1],
            )


def _text(standing: Standing) -> str:
    budget, forecast = standing.budget, standing.forecast
    # An alert is kept longer than a user may be: it never names one.
    whose = "a user" if budget.scope.kind == "user" else str(budget.scope)
    sentences = [
        f"{budget.said(standing.used)} of {budget.said(budget.limit)} are used ({whose}) in the {budget.period} from "
        f"{standing.window.day} to {standing.last_day}, as of {standing.as_of:%Y-%m-%d %H:%M %Z}"
    ]
    if forecast is not None:
        sentences.append(f"At the present rate it will be {budget.said(forecast)} by its end")
    if standing.unpriced_note:
        sentences.append(standing.unpriced_note)
    return ". ".join(sentences) + "."
