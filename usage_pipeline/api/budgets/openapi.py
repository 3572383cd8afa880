"""The OpenAPI document of budgets."""

from typing import Any

from usage_pipeline.budgets.budget import PERIODS, UNITS

_DATE = {"type": "string", "format": "date"}
_TIME = {"type": "string", "format": "date-time", "description": "All that was stored before is in it"}


def budgets_answer() -> dict[int | str, dict[str, Any]]:
    """All budgets that a token may see."""
    amount = {"type": ["string", "integer"], "description": "US dollars as a decimal number, or a count"}
    forecast = (
        "What will be used by the end of the period at the rate so far; null before an hour of it has passed. In two digits "
        "for a bound token"
    )
    scope = "The one member whose usage counts, such as team; empty: all usage"
    item = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "scope": {"type": "object", "additionalProperties": {"type": "string"}, "description": scope},
            "period": {"type": "string", "enum": list(PERIODS)},
            "periodStart": _DATE,
            "periodEnd": {**_DATE, "description": "Its last day"},
            "unit": {"type": "string", "enum": list(UNITS)},
            "limit": amount,
            "used": amount,
            "left": amount,
            "forecast": {"type": ["string", "integer", "null"], "description": forecast},
            "share": {"type": "number", "description": "Used of the limit; 1 is all of it"},
            "unpricedRequests": {
                "type": "integer",
                "description": "Of a budget in usd: requests without a price, which are not in it",
            },
            "alertShares": {"type": "array", "items": {"type": "integer"}, "description": "Percent of the limit"},
            "asOf": _TIME,
        },
    }
    item["required"] = list(item["properties"])
    schema = {
        "type": "object",
        "properties": {
            "asOf": _TIME,
            "timezone": {"type": "string"},
            "items": {"type": "array", "items": item},
        },
        "required": ["asOf", "timezone", "items"],
    }
    moment = "2026-11-20T12:10:00Z"
    budget = {
        "name": "search",
        "scope": {"team": "search"},
        "period": "month",
        "periodStart": "2026-11-01",
        "periodEnd": "2026-11-30",
        "unit": "usd",
        "limit": "500",
        "used": "310.25",
        "left": "189.75",
        "forecast": "465.38",
        "share": 0.6205,
        "unpricedRequests": 0,
        "alertShares": [50, 80, 100],
        "asOf": moment,
    }
    content = {"schema": schema, "example": {"asOf": moment, "timezone": "UTC", "items": [budget]}}
    return {200: {"description": "Budgets, by name", "content": {"application/json": content}}}
