"""Usage of API keys, tokens, providers, merchants and models (contracts §3): totals, days, files, and single balances."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Annotated, Any

import msgspec
import redis.asyncio
from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response
from usage_recorder import keys as recorder_keys
from usage_recorder.async_recorder import AsyncRecorder
from usage_recorder.commands import API_KEY_COUNTS

from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api import problems
from usage_pipeline.api.auth import requires
from usage_pipeline.api.places import Places
from usage_pipeline.api.problems import Problem, unavailable
from usage_pipeline.api.storing import Storing
from usage_pipeline.api.usage import openapi as read_openapi
from usage_pipeline.api.usage import queries
from usage_pipeline.api.usage.downloads import Downloads
from usage_pipeline.api.usage.pending_tokens import TooManyAnnounced, pending_token_uses
from usage_pipeline.api.usage.reading import Row, bound_query, page, rows_of
from usage_pipeline.api.usage.resources import (
    API_KEYS,
    RESOURCES,
    SUMMARY,
    TOKENS,
    UNBOUND_OF_SUMMARY,
    Balance,
    Listing,
    Resource,
)
from usage_pipeline.bindings import Binding
from usage_pipeline.explore.questions import Days
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.settings import Settings
from usage_pipeline.storage.quick_redis import AWAY, QuickRedis, RedisBusy

# A number of 64 bits has 20 characters.
_LONGEST_COUNT = 64
_STATUSES = problems.responses(401, 403, 422, 429, 500, 503)
router = APIRouter(prefix="/api/usage", tags=["usage"])
Caller = Annotated[AccessToken, Depends(requires("read"))]
BoundCaller = Annotated[AccessToken, Depends(requires("read", takes_bound=True))]
Pending = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Reads:
    """The parts of the app that the routes need. `questions` are places for what reads many rows."""

    settings: Settings
    storing: Storing
    downloads: Downloads
    recorder: AsyncRecorder
    cache: QuickRedis
    questions: Places


@router.get(
    "/summary",
    summary="Sums per day",
    responses={**_STATUSES, **read_openapi.rows_answer(SUMMARY)},
    openapi_extra={"parameters": read_openapi.day_parameters()},
)
async def summary(request: Request, caller: BoundCaller) -> Response:
    """The sums over all API keys, tokens and models for each day of the range, sorted by day. A day without usage has zeros.

    A bound token gets the sums of models that are its own, and null for all others.
    """
    reads: Reads = request.app.state.reads
    days = queries.days_of(queries.parameters_of(request, ("from", "to")), current_day(reads.settings.timezone))
    rows = await reads.storing.in_thread(partial(_all_rows, reads.storing, SUMMARY, _range(days), caller.binding))
    hidden = {} if caller.binding is None else {column.shown_name: None for column in UNBOUND_OF_SUMMARY}
    return json_response([_named(SUMMARY, row) | hidden for row in rows])


def json_response(content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer, encoded by msgspec: times and dates in ISO 8601."""
    return Response(msgspec.json.encode(content), media_type="application/json", headers=dict(headers or {}))


def _listing_route(resource: Resource, listing: Listing) -> Callable[..., Awaitable[Response]]:
    days = ("from", "to") if listing.has_days else ()
    known = (*days, *resource.filters, "limit", "after", "format")

    async def listing_of_usage(
        request: Request,
        caller: Annotated[AccessToken, Depends(requires("read", takes_bound=resource.is_by_team))],
    ) -> Response:
        reads: Reads = request.app.state.reads
        parameters = queries.parameters_of(request, known)
        chosen = queries.format_of(parameters)
        arguments: dict[str, Any] = {name: queries.text_of(parameters, name) for name in resource.filters}
        day_range = None
        if listing.has_days:
            day_range = queries.days_of(parameters, current_day(reads.settings.timezone))
            arguments |= _range(day_range)
        if chosen != "json":
            if of_pages := [name for name in ("limit", "after") if name in parameters]:
                raise queries.wrong(of_pages[0], f"it with format=json only, since {chosen} has all rows", "both")
            arguments |= queries.position_of({}, listing)
            name = f"{listing.query.replace('_', '-')}{_days_in_name(day_range)}.{chosen}"
            rows = rows_of(listing, arguments, caller.binding)
            return await reads.downloads.of(listing.columns, rows, chosen, name, caller=caller)
        limit = queries.limit_of(parameters)
        arguments |= queries.position_of(parameters, listing)

        def answer() -> Response:
            """Encoded here, too: megabytes of JSON would hold up all other requests on the event loop."""
            rows, has_more = _page(reads.storing, listing, arguments, limit, caller.binding)
            return _page_response(request, listing, rows, parameters, day_range, has_more=has_more)

        return await reads.storing.in_thread(answer)

    return listing_of_usage


def _balance_route(resource: Resource, *, is_in_path: bool) -> Callable[..., Awaitable[Response]]:
    async def balance_in_path(
        request: Request,
        id: Annotated[str, Path(description="Its id, percent-encoded where needed", examples=["key-1"])],
        caller: Caller,
    ) -> Response:
        queries.parameters_of(request, ())
        return await _balance(request.app.state.reads, resource, queries.identifier_of("id", id))

    async def balance_in_query(request: Request, caller: Caller) -> Response:
        parameters = queries.parameters_of(request, ("id",))
        if "id" not in parameters:
            raise queries.wrong("id", "an id", "none")
        return await _balance(request.app.state.reads, resource, queries.identifier_of("id", parameters["id"]))

    return balance_in_path if is_in_path else balance_in_query


def _add_routes(resource: Resource) -> None:
    operation = resource.name.replace("-", "_")
    balance = resource.balance
    for path, listing, what in (("", resource.totals, "Totals"), ("/daily", resource.daily, "Days")):
        router.add_api_route(
            f"/{resource.name}{path}",
            _listing_route(resource, listing),
            summary=f"{what} of {resource.title}",
            description=(
                f"{what} of {resource.title}, sorted by {', '.join(column.shown_name for column in listing.key_columns)}. "
                "JSON comes in pages. CSV and Parquet are files of all rows, as they are at one moment. If sending a file "
                "fails, the connection is cut, and the client sees an error. In CSV, text that a spreadsheet would take for "
                "a formula begins with `'`."
            ),
            operation_id=f"{what.lower()}_of_{operation}",
            responses={**_STATUSES, **read_openapi.listing_answer(listing)},
            openapi_extra=read_openapi.listing_operation(resource, listing),
        )
    if balance is None:
        return
    example = next(str(column.example) for column in resource.totals.columns if column.name == balance.id_column)
    extra = {"parameters": [read_openapi.id_parameter("Any id", example)]}
    for path, is_in_path in (("one", False), ("{id:path}", True)):
        router.add_api_route(
            f"/{resource.name}/{path}",
            _balance_route(resource, is_in_path=is_in_path),
            summary=f"One of {resource.title}: stored, pending, total",
            description=(
                "What is stored, what waits in Redis for the next drain, and their sum. A batch that is being drained is in "
                "neither for some milliseconds. When Redis does not answer, pending and total are null."
                + ("" if is_in_path else " For ids that a path cannot name, such as `daily`, `one` or `..`.")
            ),
            operation_id=f"one_of_{operation}{'' if is_in_path else '_by_query'}",
            responses={
                **_STATUSES,
                **problems.responses(404),
                **read_openapi.balance_answer(resource.totals, balance),
            },
            openapi_extra=None if is_in_path else extra,
        )


for _resource in RESOURCES:
    _add_routes(_resource)


async def _balance(reads: Reads, resource: Resource, known_id: str) -> Response:
    assert resource.balance is not None  # noqa: S101  # only those have the route
    listing, balance = resource.totals, resource.balance
    arguments = {balance.id_column: known_id, **queries.position_of({}, listing)}
    # In this order: what is drained between the two questions is in neither, and never in both.
    rows, _ = await reads.storing.in_thread(partial(_page, reads.storing, listing, arguments, 1, None))
    pending = await _PENDING[resource.name](reads, known_id)
    if not rows and pending is None:
        raise unavailable("it is not stored, and Redis does not answer: whether it waits there is not known; ask again")
    if not rows and not any((pending or {}).values()):
        raise Problem(404, "not-found", f"expected the id of one of the {resource.title}, came one without any usage")
    stored = _counts(listing, balance, rows[0] if rows else None)
    id_name, *names = (listing.columns[listing.place(name)].shown_name for name in (balance.id_column, *balance.counts))
    total = None if pending is None else {name: stored[name] + pending[name] for name in balance.counts}
    shown = dict(zip(balance.counts, names, strict=True))
    return json_response(
        {
            id_name: known_id,
            "stored": _renamed(stored, shown),
            "pending": pending and _renamed(pending, shown),
            "total": total and _renamed(total, shown),
            "lastUsedAt": rows[0][listing.place("last_used_at")] if rows else None,
        }
    )


async def _pending_of_key(reads: Reads, api_key_id: str) -> Pending | None:
    """None also where a writer has put something without end in the place of a count: it would keep Redis from others."""
    key = recorder_keys.api_key_metrics(api_key_id)

    async def lengths(client: redis.asyncio.Redis) -> list[Any]:
        async with client.pipeline(transaction=False) as pipe:
            for field in API_KEY_COUNTS:
                pipe.hstrlen(key, field)
            return list(await pipe.execute(raise_on_error=False))

    try:
        found = await reads.cache.ask(lengths)
    except RedisBusy:
        return None
    if found is AWAY or any(length > _LONGEST_COUNT for length in found if isinstance(length, int)):
        return None
    return await reads.recorder.pending(api_key_id)


async def _pending_of_token(reads: Reads, token_id: str) -> Pending | None:
    window = reads.settings.possible_times.window(int(time.time() * 1000))
    try:
        uses = await reads.cache.ask(lambda client: pending_token_uses(client, token_id, window))
    except (TooManyAnnounced, RedisBusy):
        return None
    return None if uses is AWAY else {"usage_count": uses}


_PENDING: Mapping[str, Callable[[Reads, str], Awaitable[Pending | None]]] = {
    API_KEYS.name: _pending_of_key,
    TOKENS.name: _pending_of_token,
}


def _page(
    storing: Storing, listing: Listing, arguments: Mapping[str, Any], limit: int, binding: Binding | None
) -> tuple[list[Row], bool]:
    with storing.pool.connection() as connection:
        return page(connection, listing, arguments, limit, binding)


def _all_rows(storing: Storing, listing: Listing, arguments: Mapping[str, Any], binding: Binding | None) -> list[Row]:
    with storing.pool.connection() as connection:
        return connection.execute(*bound_query(listing, arguments, binding)).fetchall()


def _page_response(
    request: Request,
    listing: Listing,
    rows: list[Row],
    parameters: Mapping[str, str],
    days: Days | None,
    *,
    has_more: bool,
) -> Response:
    range_of_days = {"from": str(days.first), "to": str(days.last)} if days else {}
    following = None
    if has_more:
        # With the days as they were taken: "today" may be another on the next page.
        asked = {**parameters, **range_of_days, "after": queries.cursor_after(listing, rows[-1])}
        following = queries.following_path(request.url.path, asked.items())
    body = {**range_of_days, "items": [_named(listing, row) for row in rows], "next": following}
    return json_response(body, {"Link": f'<{following}>; rel="next"'} if following else None)


def _range(days: Days) -> dict[str, Any]:
    return {"first": days.first, "until": days.until}


def _days_in_name(days: Days | None) -> str:
    return f"-{days.first}-{days.last}" if days else ""


def _named(listing: Listing, row: Row) -> dict[str, Any]:
    return {column.shown_name: plain(value) for column, value in zip(listing.columns, row, strict=True)}


def plain(value: Any) -> Any:
    """Decimals as digits: 0.0000005, where str() would say 5E-7."""
    return format(value, "f") if isinstance(value, Decimal) else value


def _counts(listing: Listing, balance: Balance, row: Row | None) -> dict[str, int]:
    return {name: row[listing.place(name)] if row else 0 for name in balance.counts}


def _renamed(counts: Mapping[str, int], names: Mapping[str, str]) -> dict[str, int]:
    return {names[name]: count for name, count in counts.items()}
