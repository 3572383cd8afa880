"""Single requests behind a question (contracts §11), a bounded page at a time. Users, tags and prompts need a scope each."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from typing import Annotated, Any, get_args
from zoneinfo import ZoneInfo

import psycopg
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api import problems
from usage_pipeline.api.auth import requires
from usage_pipeline.api.explore import openapi
from usage_pipeline.api.explore.parameters import (
    FILTER,
    USERS_SCOPE,
    Values,
    days_of,
    expect_allowed,
    filters_of,
    split_parameters,
    within,
)
from usage_pipeline.api.usage import queries
from usage_pipeline.api.usage.reading import bound_parts
from usage_pipeline.api.usage.routes import Reads, json_response, plain
from usage_pipeline.explore.questions import Days
from usage_pipeline.explore.requests import Outcome, Place, Search, search
from usage_pipeline.explore.statements import moments
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.storage.sql import composed

PROMPTS_SCOPE = "prompts"
MAX_REQUESTS = 1_000
DEFAULT_REQUESTS = 100
_OUTCOME = "outcome"
_PLAIN = frozenset({"from", "to", "limit", "after"})
router = APIRouter(prefix="/api/usage", tags=["explore"])


@router.get(
    "/requests",
    summary="Single requests",
    responses={**problems.responses(401, 403, 422, 429, 500, 503), **openapi.TOO_LONG, **openapi.requests_answer()},
    openapi_extra=openapi.requests_operation(MAX_REQUESTS, DEFAULT_REQUESTS),
)
async def requests(
    request: Request, caller: Annotated[AccessToken, Depends(requires("read", takes_bound=True))]
) -> Response:
    """The requests of some days as they are stored now, newest first. A page ends after two seconds of looking: it may have
    fewer than `limit` items, and go on. `user` and `tags` are there for a token with the scope `users`, `prompt` (its first
    10,000 characters) for one with `prompts`.
    """
    reads: Reads = request.app.state.reads
    zone = reads.settings.timezone
    single, filters = split_parameters(request, _PLAIN)
    days = days_of(single, current_day(zone))
    kept = filters_of({name: values for name, values in filters.items() if name != _OUTCOME})
    expect_allowed(caller, [dimension for dimension, _ in kept])
    # Who is not bound sees the ids: nothing is hidden from it.
    digest_key = caller.binding.binding_id.bytes if caller.binding else b""
    place = _after(single, *moments(days, zone))
    asked = Search(days, kept, within(caller.binding), _outcome_of(filters), place, digest_key)
    most = queries.limit_of(single, most=MAX_REQUESTS, default=DEFAULT_REQUESTS)
    prompts_for = caller.token_id if PROMPTS_SCOPE in caller.scopes else None

    def answer() -> Response:
        with reads.storing.pool.connection() as connection:
            found = search(connection, asked, zone, most, prompts_for=prompts_for)
            archived = _archived_days(connection, days, zone, caller)
        following = None
        if found.next is not None:
            fixed = {
                **single,
                "from": str(days.first),
                "to": str(days.last),
                "after": queries.encoded_cursor((found.next.newest, found.next.after)),
            }
            named = [(f"{FILTER}{name}", value) for name, values in filters.items() for value in values]
            following = queries.following_path(request.url.path, [*fixed.items(), *named])
        document = {
            "timezone": zone.key,
            "from": days.first,
            "to": days.last,
            "archivedDays": archived,
            "items": [_item(row, caller) for row in found.items],
            "next": following,
        }
        return json_response(document, {"Link": f'<{following}>; rel="next"'} if following else None)

    with reads.questions.one(caller.token_id):
        return await reads.storing.in_thread(partial(answer))


def _archived_days(connection: psycopg.Connection, days: Days, zone: ZoneInfo, caller: AccessToken) -> Sequence[date]:
    """The days whose events are no longer all there: that none is found of them does not say that there was none."""
    parts, arguments = bound_parts(caller.binding)
    windows = [day_window(days.first + timedelta(days=number), zone) for number in range(days.count)]
    asked = {
        "days": [window.day for window in windows],
        "firsts": [window.first for window in windows],
        "ends": [window.end for window in windows],
    }
    query = composed("explore/select_archived_days", **parts)
    return [day for (day,) in connection.execute(query, {**arguments, **asked})]


def _item(row: Mapping[str, Any], caller: AccessToken) -> dict[str, Any]:
    listed, reported = row["list_cost_usd"], row["cost_usd"]
    # Under a binding an id may be another than was sent, since the sent one is somebody else's: nobody shall see that.
    item = {} if caller.binding else {"eventId": row["event_id"]}
    item |= {
        "externalId": row["external_id"],
        "source": row["source"],
        "eventTime": row["event_time"],
        "team": row["team"],
        "service": row["service"],
        "provider": row["provider"],
        "model": row["model"],
        "apiKey": row["api_key_id"],
        "serviceTier": row["service_tier"],
        "inputTokens": row["input_tokens"],
        "outputTokens": row["output_tokens"],
        "totalTokens": row["total_tokens"],
        "cacheReadTokens": row["cache_read_tokens"],
        "cacheWriteTokens": row["cache_write_tokens"],
        "reasoningTokens": row["output_reasoning_tokens"],
        "inputAudioTokens": row["input_audio_tokens"],
        "outputAudioTokens": row["output_audio_tokens"],
        "inputImageTokens": row["input_image_tokens"],
        "outputImageTokens": row["output_image_tokens"],
        "latencyMs": row["latency_ms"],
        "statusCode": row["status_code"],
        "errorType": row["error_type"],
        "costUsd": plain(listed if reported is None else reported),
        "listCostUsd": plain(listed),
        "reportedCostUsd": plain(reported),
    }
    if USERS_SCOPE in caller.scopes:
        item |= {"user": row["user_id"], "tags": row["tags"]}
    elif caller.binding is not None and caller.binding.bounds.users:
        item["user"] = row["user_id"]
    if "prompt" in row:
        item["prompt"] = row["prompt"]
    return item


def _outcome_of(filters: Values) -> Outcome | None:
    given = filters.get(_OUTCOME)
    if given is None:
        return None
    for known in get_args(Outcome):
        if given == [known]:
            return known  # type: ignore[no-any-return]
    raise queries.wrong(f"{FILTER}{_OUTCOME}", f"one of {', '.join(get_args(Outcome))}", queries.shown(",".join(given)))


def _after(parameters: Mapping[str, str], first: datetime, end: datetime) -> Place | None:
    """The place of the cursor, which is within the days. Raises Problem (422)."""
    if (cursor := parameters.get("after")) is None:
        return None
    try:
        moment, digest = queries.decoded_cursor(cursor, tuple[datetime, bytes])
        if moment.tzinfo is None or not first <= moment <= end:
            raise ValueError("no cursor of ours")
    except ValueError:
        raise queries.wrong("after", "the cursor that a page of this route gave", queries.shown(cursor)) from None
    return Place(moment, digest)
