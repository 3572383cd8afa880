"""Explore (contracts §11): usage by any grouping that a roll-up has, with comparisons, as JSON or as a file."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import psycopg
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api import problems
from usage_pipeline.api.auth import requires
from usage_pipeline.api.explore import openapi
from usage_pipeline.api.explore.answers import item_of
from usage_pipeline.api.explore.parameters import USERS_SCOPE, Asked, asked_of
from usage_pipeline.api.problems import Problem
from usage_pipeline.api.usage import queries
from usage_pipeline.api.usage.reading import Rows, bound_parts
from usage_pipeline.api.usage.routes import Reads, json_response
from usage_pipeline.explore.columns import columns_of
from usage_pipeline.explore.limits import TooMuchToRead, expect_readable
from usage_pipeline.explore.questions import Question
from usage_pipeline.explore.reading import PLANNING, Answer, TookTooLong, data_time_of, read
from usage_pipeline.explore.sources import combinations
from usage_pipeline.explore.statements import statement
from usage_pipeline.explore.terms import DIMENSIONS, METRICS, TAG_PREFIX, dimension_of
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.storage.sql import composed

_STATUSES = problems.responses(401, 403, 422, 429, 500, 503)
# A client that waits longer has gone, or asks again. A file is streamed for longer.
QUESTION_SECONDS = 10
router = APIRouter(prefix="/api/usage", tags=["explore"])
BoundCaller = Annotated[AccessToken, Depends(requires("read", takes_bound=True))]


@router.get(
    "/explore",
    summary="Usage by any grouping",
    responses={**_STATUSES, **openapi.TOO_LONG, **openapi.explore_answer()},
    openapi_extra=openapi.explore_operation(),
)
async def explore(request: Request, caller: BoundCaller) -> Response:
    """Usage in windows of `grain`, apart by `group_by`. Percentiles and distinct users are exact. A window or group without
    usage has no item. Each page is read anew: usage that arrives meanwhile may move rows.

    What no roll-up has is refused with the grouping that works; `/api/usage/explore/dimensions` lists what does.
    """
    reads: Reads = request.app.state.reads
    zone = reads.settings.timezone
    asked = asked_of(request, caller, current_day(zone))
    question = asked.question
    with reads.questions.one(caller.token_id):
        if asked.format != "json":
            made = statement(question, zone, is_file=True)
            await reads.storing.in_thread(partial(_expect_readable, reads, question))
            rows = Rows(made.query, {**made.arguments, "skipped": 0}, PLANNING)
            name = f"usage-{question.days.first}-{question.days.last}.{asked.format}"
            return await reads.downloads.of(columns_of(question), rows, asked.format, name, caller=caller)

        def answer() -> Response:
            with reads.storing.pool.connection() as connection, answerable(connection, question):
                _expect_known_tags(connection, question, reads.settings.tags)
                found = read(connection, question, zone, asked.most, asked.skipped, QUESTION_SECONDS)
            return _page(request, asked, found, reads, caller)

        return await reads.storing.in_thread(answer)


@router.get(
    "/explore/dimensions",
    summary="What can be explored",
    responses={**_STATUSES, **openapi.dimensions_answer()},
)
async def dimensions(request: Request, caller: BoundCaller) -> Response:
    """What usage can be grouped by and what can be measured, as this token may, and which of these go together.

    A question is answered if one of the combinations has all its dimensions (`tag:*` is one tag), its grain and its metrics.
    """
    queries.parameters_of(request, ())
    reads: Reads = request.app.state.reads
    return await reads.storing.in_thread(partial(_dimensions, reads, caller))


def shown_data_time(as_of: datetime, caller: AccessToken) -> datetime:
    """To the hour for a bound token: the moment may be that of somebody else's event."""
    return as_of if caller.binding is None else as_of.replace(minute=0, second=0, microsecond=0)


def _page(request: Request, asked: Asked, found: Answer, reads: Reads, caller: AccessToken) -> Response:
    question = asked.question
    following = None
    if asked.skipped + len(found.rows) < found.all_rows:
        following = queries.following_path(request.url.path, asked.following)
    days = question.compared_days
    document = {
        "asOf": shown_data_time(found.as_of, caller),
        "timezone": reads.settings.timezone.key,
        "from": question.days.first,
        "to": question.days.last,
        "grain": question.grain,
        **({"previous": {"from": days.first, "to": days.last}} if days else {}),
        "rows": found.all_rows,
        "items": [item_of(question, row) for row in found.rows],
        "next": following,
    }
    return json_response(document, {"Link": f'<{following}>; rel="next"'} if following else None)


@contextmanager
def answerable(connection: psycopg.Connection, question: Question) -> Iterator[None]:
    """Raises Problem (422) for a question that would read too much, before and while it is answered."""
    try:
        expect_readable(connection, question)
        yield
    except (TooMuchToRead, TookTooLong) as error:
        raise Problem(422, "too-much-to-read", str(error)) from None


def _expect_readable(reads: Reads, question: Question) -> None:
    with reads.storing.pool.connection() as connection, answerable(connection, question):
        _expect_known_tags(connection, question, reads.settings.tags)


def _expect_known_tags(connection: psycopg.Connection, question: Question, rolled_up: Collection[str]) -> None:
    """Raises Problem (422) for a tag that is not rolled up now, and never was: no usage is known by it."""
    for dimension in (*question.group_by, *(dimension for dimension, _ in question.filters)):
        tag = dimension.name.removeprefix(TAG_PREFIX)
        if dimension.family != "tag" or tag in rolled_up:
            continue
        query = "select exists (select from analytics.usage_tag_daily where tag = %s)"
        [(is_known,)] = connection.execute(query, (tag,)).fetchall()
        if not is_known:
            raise queries.wrong(queries.shown(dimension.name), "a tag of ROLLUP_TAGS", "one that is not rolled up")


def _dimensions(reads: Reads, caller: AccessToken) -> Response:
    zone = reads.settings.timezone
    parts, arguments = bound_parts(caller.binding)
    bound = set(caller.binding.bounds.members) if caller.binding else set[str]()
    sees_all = USERS_SCOPE in caller.scopes
    with reads.storing.pool.connection() as connection:
        [(first, last)] = connection.execute(composed("explore/select_days", **parts), arguments).fetchall()
        # Tags are rolled up by team: what else a token is bound to cannot be told apart by them.
        has_tags = sees_all and bound <= {"team"}
        query = composed("explore/select_tags", **parts)
        tags = [tag for (tag,) in connection.execute(query, arguments)] if has_tags else []
        as_of = data_time_of(connection, current_day(zone), zone)
    known = [*DIMENSIONS, *filter(None, (dimension_of(f"{TAG_PREFIX}{tag}") for tag in tags))]
    document: Mapping[str, Any] = {
        "dimensions": [
            {
                "name": dimension.name,
                "member": dimension.member,
                "title": dimension.title,
                "isAllowed": sees_all or not dimension.is_private or (dimension.name == "user" and "user_id" in bound),
                "canBeNone": dimension.can_be_none,
            }
            for dimension in known
        ],
        "metrics": [
            {
                "name": metric.name,
                "member": metric.member,
                "title": metric.title,
                "unit": metric.unit,
                "description": metric.description,
            }
            for metric in METRICS
        ],
        "combinations": combinations(),
        "firstDay": first,
        "lastDay": last,
        "today": current_day(zone),
        "timezone": zone.key,
        "asOf": shown_data_time(as_of, caller),
    }
    return json_response(document)
