"""Query parameters of the read routes. Each is checked; a wrong one gets 422 with what was expected and what came."""

import base64
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import urlencode

import msgspec
from fastapi import Request

from usage_pipeline.api.problems import Problem
from usage_pipeline.api.usage.resources import Listing
from usage_pipeline.explore.questions import Days
from usage_pipeline.exports.columns import Column
from usage_pipeline.values import Malformed, identifier_text

Format = Literal["json", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
MAX_DAYS = 366
DEFAULT_DAYS = 30
MAX_LIMIT = 1_000
DEFAULT_LIMIT = 100
_FIRST_DAY, _LAST_DAY = date(1970, 1, 1), date(2999, 12, 31)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MAX_CURSOR_CHARACTERS = 4_000
_SHOWN_CHARACTERS = 60
Place = TypeVar("Place")


def parameters_of(request: Request, known: Collection[str]) -> dict[str, str]:
    """The parameters of the query, each given once. Raises Problem (422) for an unknown or repeated parameter."""
    return each_once(request.query_params.multi_items(), known)


def each_once(given: Iterable[tuple[str, str]], known: Collection[str], others: str = "") -> dict[str, str]:
    """These parameters by name. `others` says which there are beside the known ones. Raises Problem (422)."""
    found: dict[str, str] = {}
    for name, value in given:
        if name not in known:
            expected = f"one of {', '.join(sorted(known))}" if known else "none"
            raise wrong("parameter", f"{expected}{others}", shown(name))
        if name in found:
            raise wrong(name, "it once", "it twice or more")
        found[name] = value
    return found


def format_of(parameters: dict[str, str]) -> Format:
    """The value of `format`, json by default."""
    given = parameters.get("format", "json")
    for known in FORMATS:
        if given == known:
            return known
    raise wrong("format", f"one of {', '.join(FORMATS)}", shown(given))


def limit_of(parameters: Mapping[str, str], *, most: int = MAX_LIMIT, default: int = DEFAULT_LIMIT) -> int:
    """The value of `limit`, the rows of a page."""
    given = parameters.get("limit")
    if given is None:
        return default
    if given.isascii() and given.isdigit() and len(given) <= len(str(most)) and 1 <= int(given) <= most:
        return int(given)
    raise wrong("limit", f"1 to {most}", shown(given))


def days_of(parameters: dict[str, str], today: date, *, most: int = MAX_DAYS) -> Days:
    """`from` and `to`: at most `most` days; by default the DEFAULT_DAYS days that end with `to`, and `to` is today."""
    last = _day("to", parameters["to"]) if "to" in parameters else today
    if "from" in parameters:
        first = _day("from", parameters["from"])
    else:
        first = max(_FIRST_DAY, last - timedelta(days=DEFAULT_DAYS - 1))
    if first > last:
        raise wrong("from", f"a day not after to ({last})", str(first))
    if (count := (last - first).days + 1) > most:
        raise wrong("from and to", f"at most {most} days, both ends included", str(count))
    return Days(first, last)


def text_of(parameters: dict[str, str], name: str) -> str | None:
    """A filter's value: an id, or None when it is not given."""
    return None if name not in parameters else identifier_of(name, parameters[name])


def identifier_of(name: str, given: str) -> str:
    """An id (contracts §2). Raises Problem (422) for a text that cannot be an id."""
    try:
        return identifier_text(name, given)
    except Malformed as error:
        raise Problem(422, "invalid-parameter", str(error)) from None


def cursor_after(listing: Listing, row: Sequence[Any]) -> str:
    """An opaque text for `after`: the key of the last row of a page. It is not secret, and is checked when it comes back."""
    key = [row[listing.place(name)] for name in listing.key]
    return encoded_cursor([listing.query, *key])


def position_of(parameters: dict[str, str], listing: Listing) -> dict[str, str | date | None]:
    """`after` as parameters of the listing's query: the key of the last row before the page. None for the first page."""
    given = parameters.get("after")
    names = [f"after_{name}" for name in listing.key]
    if given is None:
        return dict.fromkeys(names)
    try:
        query, *key = decoded_cursor(given, list[str])
        if query != listing.query or len(key) != len(names):
            raise ValueError("the cursor of another listing")
        values = [_key_value(column, text) for column, text in zip(listing.key_columns, key, strict=True)]
    except (ValueError, Malformed, Problem):
        raise wrong("after", "the cursor that a page of this route gave", shown(given)) from None
    return dict(zip(names, values, strict=True))


def encoded_cursor(place: Any) -> str:
    """Where a page ends, as an opaque text. It is not secret."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def decoded_cursor(given: str, kind: type[Place]) -> Place:
    """The place of this kind that a cursor stands for. Raises ValueError."""
    if len(given) > _MAX_CURSOR_CHARACTERS:
        raise ValueError("too long")
    padded = given.encode("ascii") + b"=" * (-len(given) % 4)
    # The errors of base64 and of msgspec are ValueErrors.
    return msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=kind)


def following_path(path: str, parameters: Iterable[tuple[str, str]]) -> str:
    """The path of the next page. What need not be escaped is not, so that it is hardly longer than the path that was asked."""
    return f"{path}?{urlencode([*parameters], safe=':/@,')}"


def wrong(name: str, expected: str, came: str) -> Problem:
    """A 422 for a parameter."""
    return Problem(422, "invalid-parameter", f"{name}: expected {expected}, came {came}")


def _key_value(column: Column, text: str) -> str | date:
    return _day("after", text) if column.kind == "day" else identifier_text(column.name, text)


def _day(name: str, given: str) -> date:
    if _DATE.fullmatch(given):
        try:
            day = date.fromisoformat(given)
        except ValueError:
            day = date.min
        if _FIRST_DAY <= day <= _LAST_DAY:
            return day
    raise wrong(name, f"a date YYYY-MM-DD of the years {_FIRST_DAY:%Y} to {_LAST_DAY:%Y}", shown(given))


def shown(given: str) -> str:
    """What came, cut where it is long."""
    return (
        repr(given) if len(given) <= _SHOWN_CHARACTERS else f"{given[:_SHOWN_CHARACTERS]!r}… ({len(given)} characters)"
    )
