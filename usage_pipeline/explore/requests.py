"""Single requests behind a question, newest first: found day by day, as many days as some seconds allow."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, LiteralString
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql as compose
from psycopg.rows import dict_row

from usage_pipeline.explore.questions import Days
from usage_pipeline.explore.terms import TAG_PREFIX, Dimension
from usage_pipeline.rollups.calendar import Window, day_window
from usage_pipeline.storage.sql import composed

# A filter that nothing fits looks through all days: then a page ends, and the next one goes on.
SEARCH_SECONDS = 2.0
Outcome = Literal["ok", "error"]
Values = tuple[tuple[Dimension, tuple[str, ...]], ...]
_COLUMNS = {"api_key": "coalesce(api_key_id, '')"}
_OUTCOMES = {
    "error": "analytics.is_error(status_code, error_type)",
    "ok": "not analytics.is_error(status_code, error_type)",
}
_MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: at this moment, after the request of this digest.

    Ids stay out of it: a client can read it, and under a binding an id may be another than was sent. So digests are keyed.
    """

    newest: datetime
    after: bytes = b""


@dataclass(frozen=True, slots=True)
class Search:
    """Requests of these days with one of the values of each dimension, after a place.

    `digest_key` is of the caller, who must not know it where ids are not shown.
    """

    days: Days
    filters: Values
    within: Values
    outcome: Outcome | None
    after: Place | None
    digest_key: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """A page; `next` is where to go on. There may be more requests, and perhaps none."""

    items: Sequence[Mapping[str, Any]]
    next: Place | None


def search(
    connection: psycopg.Connection, asked: Search, zone: ZoneInfo, most: int, *, prompts_for: str | None = None
) -> Found:
    """At most `most` requests, with list_cost_usd, and `prompt` for the token with this id. Raises psycopg.Error."""
    ends = time.monotonic() + SEARCH_SECONDS
    items: list[dict[str, Any]] = []
    place = asked.after or Place(day_window(asked.days.last, zone).end)
    day = min(asked.days.last, place.newest.astimezone(zone).date())
    while day >= asked.days.first:
        window = day_window(day, zone)
        items += _of_day(connection, asked, window, place, most - len(items), prompts_for)
        if len(items) == most:
            return Found(items, Place(items[-1]["event_time"], items[-1]["digest"]))
        place = Place(window.first - _MOMENT)
        if day > asked.days.first and time.monotonic() > ends:
            return Found(items, place)
        day -= timedelta(days=1)
    return Found(items, None)


def _of_day(
    connection: psycopg.Connection,
    asked: Search,
    window: Window,
    place: Place,
    most: int,
    prompts_for: str | None,
) -> list[dict[str, Any]]:
    arguments: dict[str, Any] = {
        "first": window.first,
        "until": window.end,
        "newest": place.newest,
        "after": place.after,
        "digest_key": asked.digest_key,
        "most": most,
    }
    query = composed("explore/select_requests", kept_to=_kept_to(asked, arguments))
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(query, arguments, prepare=False).fetchall()
    if rows:
        _add(connection, "list_cost_usd", "select * from ops.request_costs(%(first)s, %(until)s, %(ids)s)", rows)
        if prompts_for is not None:
            asking = "select * from ops.request_prompts(%(caller)s, %(first)s, %(until)s, %(ids)s)"
            _add(connection, "prompt", asking, rows, caller=prompts_for)
    return rows


def _add(
    connection: psycopg.Connection, name: str, query: LiteralString, rows: list[dict[str, Any]], **arguments: str
) -> None:
    """Gives each row what a query knows of its id; between the times of these rows, which are of one day."""
    times = [row["event_time"] for row in rows]
    span = {"first": min(times), "until": max(times) + _MOMENT, "ids": [row["event_id"] for row in rows]}
    known: dict[UUID, Any] = dict(connection.execute(query, {**span, **arguments}).fetchall())
    for row in rows:
        row[name] = known.get(row["event_id"])


def _kept_to(asked: Search, arguments: dict[str, Any]) -> compose.Composable:
    found: list[compose.Composable] = [compose.SQL(_OUTCOMES[asked.outcome])] if asked.outcome else []
    for kind, kept in (("filter", asked.filters), ("within", asked.within)):
        for number, (dimension, values) in enumerate(kept):
            name = f"{kind}_{number}"
            arguments[name] = list(values)
            column: compose.Composable = compose.SQL(_COLUMNS.get(dimension.name, dimension.columns[0]))
            if dimension.family == "tag":
                arguments[f"{name}_tag"] = dimension.name.removeprefix(TAG_PREFIX)
                column = compose.SQL("tags ->> {}::text").format(compose.Placeholder(f"{name}_tag"))
            found.append(compose.SQL("{} = any({})").format(column, compose.Placeholder(name)))
            if dimension.name == "error_type":
                # Its name is that of the status where nobody said a type; a request without an error has none.
                found.append(compose.SQL(_OUTCOMES["error"]))
    return compose.SQL("").join(compose.SQL("\n  and {}").format(condition) for condition in found)
