"""The OpenAPI document of the read routes: parameters and answers with examples, from the definitions that serve them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from usage_pipeline.api.usage.downloads import MEDIA_TYPES
from usage_pipeline.api.usage.queries import DEFAULT_DAYS, DEFAULT_LIMIT, FORMATS, MAX_DAYS, MAX_LIMIT, cursor_after
from usage_pipeline.api.usage.reading import MAX_EXPORT_ROWS
from usage_pipeline.api.usage.resources import Balance, Listing, Resource
from usage_pipeline.exports.columns import Column

_TYPES: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "count": {"type": "integer", "format": "int64", "minimum": 0},
    "money": {"type": "string", "description": "A decimal number"},
    "units": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}},
    "time": {"type": "string", "format": "date-time"},
    "day": {"type": "string", "format": "date"},
    "number": {"type": "number", "minimum": 0},
}
_ID = {"type": "string", "minLength": 1, "maxLength": 200}
_DAYS = (
    (
        "from",
        f"First day. By default the range is the {DEFAULT_DAYS} days that end with `to`. At most {{most:,}} days",
        "2026-11-01",
    ),
    ("to", "Last day, included. By default today in USAGE_TIMEZONE", "2026-11-20"),
)
_FILTER_EXAMPLES = {
    "api_key_id": "key-1",
    "token_id": "9f2c41d07be84a35a1c6e5d2f0b37a18",
    "provider": "openai",
    "user_id": "user-1",
    "merchant_id": "merchant-1",
    "metric_type": "orders",
    "model": "gpt-4o",
    "team": "search",
    "service": "chat",
}


def listing_operation(resource: Resource, listing: Listing) -> dict[str, Any]:
    """Parameters of a listing."""
    parameters = [
        *(day_parameters() if listing.has_days else ()),
        *(parameter(name, text, _ID, _FILTER_EXAMPLES[name]) for name, text in resource.filters.items()),
        parameter(
            "limit",
            "Rows of a page of JSON",
            {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
            DEFAULT_LIMIT,
        ),
        parameter(
            "after", "Cursor for the next page. Do not make one: follow `next` of the page before", {"type": "string"}
        ),
        parameter(
            "format",
            f"csv and parquet are files of all rows, at most {MAX_EXPORT_ROWS:,}. They do not take limit and after",
            {"type": "string", "enum": list(FORMATS), "default": "json"},
            "json",
        ),
    ]
    return {"parameters": parameters}


def listing_answer(listing: Listing) -> dict[int | str, dict[str, Any]]:
    """A page, or a file."""
    days = {"from": {"type": "string", "format": "date"}, "to": {"type": "string", "format": "date"}}
    following = {"type": ["string", "null"], "description": "Path of the next page; null on the last"}
    properties = {**(days if listing.has_days else {}), "items": _array(listing), "next": following}
    example = {
        **({"from": "2026-11-20", "to": "2026-11-20"} if listing.has_days else {}),
        "items": [_example(listing.columns)],
        # null would be left out of the document.
        "next": f"/api/usage/…?after={cursor_after(listing, [column.example for column in listing.columns])}",
    }
    file = {"schema": {"type": "string", "format": "binary"}}
    link = {"Link": {"description": 'The next page, rel="next"', "schema": {"type": "string"}}}
    content = {"application/json": {"schema": _object(properties), "example": example}}
    others = {MEDIA_TYPES[name].partition(";")[0]: file for name in FORMATS if name != "json"}
    return {200: {"description": "A page, or a file", "headers": link, "content": {**content, **others}}}


def array_answer(schema: Mapping[str, Any], example: Sequence[Any], **headers: str) -> dict[int | str, dict[str, Any]]:
    """A JSON array. `headers` are header names (with `_` for `-`) and their descriptions."""
    described = {
        name.replace("_", "-"): {"description": text, "schema": {"type": "string"}} for name, text in headers.items()
    }
    content = {"application/json": {"schema": {"type": "array", "items": schema}, "example": example}}
    return {200: {"description": "A JSON array", "headers": described, "content": content}}


def rows_answer(listing: Listing) -> dict[int | str, dict[str, Any]]:
    """An array of rows."""
    return array_answer(_array(listing)["items"], [_example(listing.columns)])


def balance_answer(listing: Listing, balance: Balance) -> dict[int | str, dict[str, Any]]:
    """The balance of one id: stored, pending, total."""
    counts = [column for column in listing.columns if column.name in balance.counts]
    [id_column] = [column for column in listing.columns if column.name == balance.id_column]
    fields = _object(described_columns(counts))
    example = _example(counts)
    pending = {"anyOf": [fields, {"type": "null"}], "description": "Not drained yet; null when Redis does not answer"}
    total = {"anyOf": [fields, {"type": "null"}], "description": "Their sum; null when pending is"}
    time = {"type": ["string", "null"], "format": "date-time", "description": "Latest stored use"}
    schema = _object(
        {
            id_column.shown_name: _schema(id_column),
            "stored": fields,
            "pending": pending,
            "total": total,
            "lastUsedAt": time,
        }
    )
    zeros = dict.fromkeys(example, 0)
    shown = {
        id_column.shown_name: id_column.example,
        "stored": example,
        "pending": zeros,
        "total": example,
        "lastUsedAt": "2026-11-20T12:00:00Z",
    }
    content = {"application/json": {"schema": schema, "example": shown}}
    return {200: {"description": "What is stored, what waits in Redis, and their sum", "content": content}}


def day_parameters(most: int = MAX_DAYS) -> list[dict[str, Any]]:
    """The parameters `from` and `to`, of a range of at most so many days."""
    schema = {"type": "string", "format": "date"}
    return [parameter(name, text.format(most=most), schema, example) for name, text, example in _DAYS]


def id_parameter(text: str, example: str, name: str = "id") -> dict[str, Any]:
    """A required id in the query."""
    return parameter(name, text, _ID, example) | {"required": True}


def parameter(name: str, text: str, schema: Mapping[str, Any], example: object = None) -> dict[str, Any]:
    """A parameter of the query that may be left out."""
    described = {"name": name, "in": "query", "required": False, "description": text, "schema": schema}
    return described if example is None else {**described, "example": example}


def _array(listing: Listing) -> dict[str, Any]:
    return {"type": "array", "items": _object(described_columns(listing.columns))}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def described_columns(columns: Iterable[Column]) -> dict[str, Any]:
    """The schema of each column, by its name."""
    return {column.shown_name: _schema(column) for column in columns}


def _schema(column: Column) -> dict[str, Any]:
    schema = {**_TYPES[column.kind], "description": column.description, "examples": [_plain(column.example)]}
    return schema | {"type": [schema["type"], "null"]} if column.is_nullable else schema


def _example(columns: Iterable[Column]) -> dict[str, Any]:
    return {column.shown_name: _plain(column.example) for column in columns}


def _plain(example: object) -> object:
    return dict(example) if isinstance(example, Mapping) else example
