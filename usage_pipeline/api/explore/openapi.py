"""The OpenAPI document of exploring: parameters and answers, from the terms that serve them."""

from collections.abc import Mapping
from typing import Any

from usage_pipeline.api import problems
from usage_pipeline.api.explore.parameters import DEFAULT_ROWS, MAX_DAYS, MAX_ROWS
from usage_pipeline.api.usage.downloads import MEDIA_TYPES
from usage_pipeline.api.usage.openapi import day_parameters, described_columns, parameter
from usage_pipeline.api.usage.queries import FORMATS
from usage_pipeline.api.usage.reading import MAX_EXPORT_ROWS
from usage_pipeline.explore.columns import dimension_column, metric_column
from usage_pipeline.explore.questions import COMPARISONS
from usage_pipeline.explore.sources import GRAINS
from usage_pipeline.explore.terms import DEFAULT_METRICS, DIMENSIONS, METRICS

_NAMES = ", ".join(dimension.name for dimension in DIMENSIONS)
_DATE = {"type": "string", "format": "date"}
_TIME = {"type": "string", "format": "date-time"}
_MOMENT = "2026-11-20T12:10:00Z"
Answers = dict[int | str, dict[str, Any]]
# Of the connection, before the path is known: it has no instance.
TOO_LONG: Answers = {
    414: {
        "description": "The address is too long: fewer values in filters",
        "content": {problems.MEDIA_TYPE: {"schema": {"type": "object"}}},
    }
}


def explore_operation() -> dict[str, Any]:
    """Parameters of a question."""
    text = {"type": "string"}
    return {
        "parameters": [
            *day_parameters(MAX_DAYS),
            parameter("grain", "Windows", {"type": "string", "enum": list(GRAINS), "default": "day"}, "day"),
            parameter("group_by", f"Some of {_NAMES}, tag:NAME, with commas between", text, "team,model"),
            parameter(
                "metrics",
                f"Some of {', '.join(metric.name for metric in METRICS)}. By default {', '.join(DEFAULT_METRICS)}",
                text,
                "requests,cost_usd",
            ),
            *filter_parameters(),
            parameter("order", "A metric, a grouping or period; with - before it the largest first", text, "-cost_usd"),
            compare_parameter(),
            *page_parameters(MAX_ROWS, DEFAULT_ROWS),
            parameter(
                "format",
                f"csv and parquet are files of all rows, at most {MAX_EXPORT_ROWS:,}. They do not take limit and after",
                {"type": "string", "enum": list(FORMATS), "default": "json"},
                "json",
            ),
        ]
    }


def filter_parameters() -> list[dict[str, Any]]:
    """A filter for each dimension."""

    def one_of_values(name: str, title: str) -> dict[str, Any]:
        values = {"type": "array", "items": {"type": "string", "maxLength": 200}, "examples": [[f"{title}-1"]]}
        return parameter(name, f"{title}: any of these values", values)

    return [
        *(one_of_values(f"filter.{dimension.name}", dimension.title) for dimension in DIMENSIONS),
        one_of_values("filter.tag:NAME", "Tag"),
    ]


def compare_parameter() -> dict[str, Any]:
    """`compare`."""
    text = "The days before, or the same dates of the month before; of whole months, whole months"
    return parameter("compare", text, _one_of(COMPARISONS), COMPARISONS[0])


def page_parameters(most: int, default: int) -> list[dict[str, Any]]:
    """`limit` and `after`."""
    limit = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    after = "Cursor for the next page. Do not make one: follow `next` of the page before"
    return [
        parameter("limit", "Items of a page", limit, default),
        parameter("after", after, {"type": "string"}),
    ]


def explore_answer() -> Answers:
    """A page of items, or a file."""
    metrics = described_columns([metric_column(metric) for metric in METRICS])
    groups = described_columns([dimension_column(dimension) for dimension in DIMENSIONS])
    period = {"type": "string", "description": "First day, or first moment of the hour; none for grain=total"}
    previous = {
        "type": ["object", "null"],
        "properties": metrics,
        "description": "With compare: the metrics of the other days; null where they have no such group",
    }
    item = {"type": "object", "properties": {"period": period, **groups, **metrics, "previous": previous}}
    schema = {
        "type": "object",
        "properties": {
            "asOf": {**_TIME, "description": "All that was stored before is in the answer"},
            "timezone": {"type": "string"},
            "from": _DATE,
            "to": _DATE,
            "grain": _one_of(GRAINS),
            "previous": {"type": "object", "properties": {"from": _DATE, "to": _DATE}},
            "rows": {"type": "integer", "description": "Items of all pages"},
            "items": {"type": "array", "items": item},
            "next": {"type": ["string", "null"], "description": "Path of the next page; null on the last"},
        },
        "required": ["asOf", "timezone", "from", "to", "grain", "rows", "items", "next"],
    }
    file = {"schema": {"type": "string", "format": "binary"}}
    others = {MEDIA_TYPES[name].partition(";")[0]: file for name in FORMATS if name != "json"}
    link = {"Link": {"description": 'The next page, rel="next"', "schema": {"type": "string"}}}
    head = {"asOf": _MOMENT, "timezone": "UTC", "from": "2026-11-01", "to": "2026-11-20", "grain": "day"}
    measured: dict[str, Any] = {"requests": 1_200, "costUsd": "3.51"}
    before = {"requests": 1_100, "costUsd": "3.12"}
    row: dict[str, Any] = {"period": "2026-11-01", "team": "search", "model": "gpt-4o", **measured, "previous": before}
    days_before = {"from": "2026-10-12", "to": "2026-10-31"}
    page: dict[str, Any] = {"rows": 40, "items": [row], "next": "/api/usage/explore?…&after=…"}
    example: dict[str, Any] = {**head, "previous": days_before, **page}
    content: dict[str, Any] = {**_json(schema, example), **others}
    return {200: {"description": "A page, or a file", "headers": link, "content": content}}


def dimensions_answer() -> Answers:
    """What can be explored."""
    names = {"type": "array", "items": {"type": "string"}}
    described = {"type": "array", "items": {"type": "object"}}
    combination = {
        "type": "object",
        "properties": {"dimensions": names, "grains": names, "metrics": names},
    }
    day = {"type": ["string", "null"], "format": "date"}
    schema = {
        "type": "object",
        "properties": {
            "dimensions": described,
            "metrics": described,
            "combinations": {"type": "array", "items": combination},
            "firstDay": day,
            "lastDay": day,
            "today": _DATE,
            "timezone": {"type": "string"},
            "asOf": _TIME,
        },
    }
    example = {
        "dimensions": [{"name": "team", "member": "team", "title": "Team", "isAllowed": True, "canBeNone": False}],
        "metrics": [
            {"name": "cost_usd", "member": "costUsd", "title": "Cost", "unit": "usd", "description": "What it cost"}
        ],
        "combinations": [{"dimensions": ["team"], "grains": ["day"], "metrics": ["cost_usd"]}],
        "firstDay": "2026-05-01",
        "lastDay": "2026-11-20",
        "today": "2026-11-20",
        "timezone": "UTC",
        "asOf": _MOMENT,
    }
    return {200: {"description": "Dimensions, metrics, and what goes together", "content": _json(schema, example)}}


def requests_operation(most: int, default: int) -> dict[str, Any]:
    """Parameters of a search for single requests."""
    outcome = parameter("filter.outcome", "Only errors, or only those without", _one_of(("ok", "error")), "error")
    return {"parameters": [*day_parameters(MAX_DAYS), *filter_parameters(), outcome, *page_parameters(most, default)]}


def requests_answer() -> Answers:
    """A page of single requests."""
    schema = {
        "type": "object",
        "properties": {
            "timezone": {"type": "string"},
            "from": _DATE,
            "to": _DATE,
            "archivedDays": {
                "type": "array",
                "items": _DATE,
                "description": "Days with usage whose requests are no longer all in the database: some or all are not found",
            },
            "items": {"type": "array", "items": {"type": "object"}},
            "next": {"type": ["string", "null"], "description": "Path of the next page; null on the last"},
        },
        "required": ["timezone", "from", "to", "archivedDays", "items", "next"],
    }
    link = {"Link": {"description": 'The next page, rel="next"', "schema": {"type": "string"}}}
    item = {"eventTime": _MOMENT, "team": "search", "model": "gpt-4o", "totalTokens": 812, "costUsd": "0.0031"}
    example = {
        "timezone": "UTC",
        "from": "2026-11-01",
        "to": "2026-11-20",
        "archivedDays": [],
        "items": [item],
        "next": "/api/usage/requests?…&after=…",
    }
    return {200: {"description": "A page", "headers": link, "content": _json(schema, example)}}


def changes_operation(groups: tuple[str, ...]) -> dict[str, Any]:
    """Parameters of a change."""
    by = parameter("by", "What the change is shown for", {**_one_of(groups), "default": groups[0]}, groups[0])
    return {"parameters": [*day_parameters(MAX_DAYS), by, *filter_parameters(), compare_parameter()]}


def changes_answer() -> Answers:
    """Changes of groups, and of all together."""
    money = {
        "type": ["string", "null"],
        "description": "US dollars, a decimal number; null where no cost of any request is known",
    }
    names = ("volumeUsd", "mixUsd", "tokensPerRequestUsd", "cacheUsd", "priceUsd", "coverageUsd")
    parts = {"type": "object", "properties": dict.fromkeys(names, money), "required": list(names)}
    change = {
        "previousCostUsd": money,
        "costUsd": money,
        "changeUsd": money,
        "parts": parts,
        "previousUnpricedRequests": {"type": "integer", "description": "Requests that are not in previousCostUsd"},
        "unpricedRequests": {"type": "integer", "description": "Requests that are not in costUsd"},
    }
    range_of_days = {"type": "object", "properties": {"from": _DATE, "to": _DATE}}
    schema = {
        "type": "object",
        "properties": {
            "asOf": _TIME,
            "timezone": {"type": "string"},
            "from": _DATE,
            "to": _DATE,
            "previous": range_of_days,
            "items": {"type": "array", "items": {"type": "object", "properties": change}},
            "total": {"type": "object", "properties": change},
        },
        "required": ["asOf", "timezone", "from", "to", "previous", "items", "total"],
    }
    shown = dict(zip(names, ("0.9", "-0.2", "0.1", "-0.3", "0", "0"), strict=True))
    example_change = {
        "previousCostUsd": "3",
        "costUsd": "3.5",
        "changeUsd": "0.5",
        "parts": shown,
        "previousUnpricedRequests": 4,
        "unpricedRequests": 4,
    }
    example = {
        "asOf": _MOMENT,
        "timezone": "UTC",
        "from": "2026-11-01",
        "to": "2026-11-20",
        "previous": {"from": "2026-10-12", "to": "2026-10-31"},
        "items": [{"team": "search", **example_change}],
        "total": example_change,
    }
    return {200: {"description": "Changes, the largest first", "content": _json(schema, example)}}


def _json(schema: Mapping[str, Any], example: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema, "example": example}}


def _one_of(names: tuple[str, ...]) -> dict[str, Any]:
    return {"type": "string", "enum": list(names)}
