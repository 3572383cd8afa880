"""Why did it change (contracts §11): the change of a cost between two periods, in six parts that add up."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api import problems
from usage_pipeline.api.auth import requires
from usage_pipeline.api.explore import openapi
from usage_pipeline.api.explore.parameters import (
    choice,
    days_of,
    expect_allowed,
    expect_answerable,
    filters_of,
    split_parameters,
    within,
)
from usage_pipeline.api.explore.routes import QUESTION_SECONDS, answerable, shown_data_time
from usage_pipeline.api.usage.routes import Reads, json_response, plain
from usage_pipeline.explore.changes import GROUPS, NO_CHANGE, Change, changes, changes_question
from usage_pipeline.explore.questions import COMPARISONS, Question
from usage_pipeline.explore.reading import data_time, snapshot
from usage_pipeline.explore.terms import dimension_of
from usage_pipeline.rollups.daily import current_day

_PLAIN = frozenset({"from", "to", "by", "compare"})
router = APIRouter(prefix="/api/usage", tags=["explore"])


@router.get(
    "/changes",
    summary="Why the cost changed",
    responses={**problems.responses(401, 403, 422, 429, 500, 503), **openapi.TOO_LONG, **openapi.changes_answer()},
    openapi_extra=openapi.changes_operation(GROUPS),
)
async def why_the_cost_changed(
    request: Request, caller: Annotated[AccessToken, Depends(requires("read", takes_bound=True))]
) -> Response:
    """What each group cost more or less than in the days compared with, and why: the number of its requests, the mix of models,
    tokens a request, the share from the cache, prices (list prices, tiers, what senders were charged), and requests whose cost
    became known or unknown. Parts add up. A cost is null where no cost of any request is known.
    """
    reads: Reads = request.app.state.reads
    zone = reads.settings.timezone
    single, filters = split_parameters(request, _PLAIN)
    group = dimension_of(choice(single, "by", GROUPS, GROUPS[0]))
    kept = filters_of(filters)
    expect_allowed(caller, [dimension for dimension, _ in kept])
    days = days_of(single, current_day(zone))
    compare = choice(single, "compare", COMPARISONS, COMPARISONS[0])
    question = changes_question(Question(days, "total", (), (), kept, within(caller.binding), compare=compare), group)
    expect_answerable(question, caller.binding)

    def answer() -> Response:
        with (
            reads.storing.pool.connection() as connection,
            answerable(connection, question),
            snapshot(connection, QUESTION_SECONDS),
        ):
            as_of = data_time(connection, question, zone)
            items = changes(connection, question, zone, group)
            total = changes(connection, question, zone, None)
        before = question.compared_days
        assert before is not None  # noqa: S101  # it is compared
        member = group.member if group else ""
        document = {
            "asOf": shown_data_time(as_of, caller),
            "timezone": zone.key,
            "from": days.first,
            "to": days.last,
            "previous": {"from": before.first, "to": before.last},
            "items": [{member: one.group, **_shown(one)} for one in items],
            "total": _shown(total[0] if total else NO_CHANGE),
        }
        return json_response(document)

    with reads.questions.one(caller.token_id):
        return await reads.storing.in_thread(answer)


def _shown(change: Change) -> dict[str, Any]:
    return {
        "previousCostUsd": plain(change.previous_cost_usd),
        "costUsd": plain(change.cost_usd),
        "changeUsd": plain(change.change_usd),
        "parts": {
            "volumeUsd": plain(change.volume_usd),
            "mixUsd": plain(change.mix_usd),
            "tokensPerRequestUsd": plain(change.tokens_per_request_usd),
            "cacheUsd": plain(change.cache_usd),
            "priceUsd": plain(change.price_usd),
            "coverageUsd": plain(change.coverage_usd),
        },
        "previousUnpricedRequests": change.previous_unpriced_requests,
        "unpricedRequests": change.unpriced_requests,
    }
