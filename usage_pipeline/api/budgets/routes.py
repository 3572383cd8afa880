"""`GET /api/budgets`: what is used of each budget, what is left, and what will be used at the present rate."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api import problems
from usage_pipeline.api.auth import requires
from usage_pipeline.api.budgets import openapi
from usage_pipeline.api.explore.parameters import USERS_SCOPE, within
from usage_pipeline.api.explore.routes import shown_data_time
from usage_pipeline.api.usage.queries import parameters_of
from usage_pipeline.api.usage.routes import Reads, json_response, plain
from usage_pipeline.budgets.budget import Budget, Scope
from usage_pipeline.budgets.standing import Standing, standings
from usage_pipeline.budgets.store import budgets
from usage_pipeline.explore.terms import dimension_of

router = APIRouter(prefix="/api/budgets", tags=["budgets"])


@router.get(
    "",
    summary="Budgets",
    responses={**problems.responses(401, 403, 422, 429, 500, 503), **openapi.budgets_answer()},
)
async def list_budgets(
    request: Request, caller: Annotated[AccessToken, Depends(requires("read", takes_bound=True))]
) -> Response:
    """How each budget stands in its current period, by name. What is used equals `/api/usage/explore` of the same days.

    A bound token sees the budgets of its own teams, services or users. Budgets of users need the scope `users`, unless the
    token is bound to them.
    """
    parameters_of(request, ())
    reads: Reads = request.app.state.reads
    zone = reads.settings.timezone

    def answer() -> Response:
        now = datetime.now(UTC)
        with reads.storing.pool.connection() as connection:
            seen = [budget for budget in budgets(connection) if _may_see(caller, budget)]
            found = standings(connection, seen, zone, now)
        as_of = shown_data_time(min((one.as_of for one in found), default=now), caller)
        return json_response({"asOf": as_of, "timezone": zone.key, "items": [_item(one, caller) for one in found]})

    with reads.questions.one(caller.token_id):
        return await reads.storing.in_thread(answer)


def _may_see(caller: AccessToken, budget: Budget) -> bool:
    scope = budget.scope
    if caller.binding is None:
        return scope.kind != "user" or USERS_SCOPE in caller.scopes
    # Who is bound to a team and a service sees a part of that team: neither budget is theirs alone.
    bounds = within(caller.binding)
    return len(bounds) == 1 and scope.kind == bounds[0][0].name and scope.value in bounds[0][1]


def _item(standing: Standing, caller: AccessToken) -> dict[str, Any]:
    budget = standing.budget
    amounts = {
        "limit": budget.limit,
        "used": standing.used,
        "left": standing.left,
        "forecast": _shown_forecast(standing, caller),
    }
    return {
        "name": budget.name,
        "scope": _scope(budget.scope),
        "period": budget.period,
        "periodStart": standing.window.day,
        "periodEnd": standing.last_day,
        "unit": budget.unit,
        **{name: _amount(budget, value) for name, value in amounts.items()},
        "share": standing.share,
        "unpricedRequests": standing.unpriced_requests,
        "alertShares": budget.alert_shares,
        "asOf": shown_data_time(standing.as_of, caller),
    }


def _shown_forecast(standing: Standing, caller: AccessToken) -> Decimal | None:
    """In two digits for a bound token: an exact one tells the moment that `shown_data_time` hides. It is by the exact time."""
    forecast = standing.forecast
    if forecast is None or caller.binding is None:
        return forecast
    return max(Decimal(f"{forecast:.1e}"), standing.used)


def _scope(scope: Scope) -> dict[str, str | None]:
    dimension = None if scope.kind is None else dimension_of(scope.kind)
    return {} if dimension is None else {dimension.member: scope.value}


def _amount(budget: Budget, value: Decimal | None) -> Any:
    """Money as decimal text, counts as numbers, as everywhere."""
    return plain(value) if value is None or budget.unit == "usd" else int(value)
