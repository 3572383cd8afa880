"""What the tables of usage events must hold, computed anew with pandas and rigs.events, from the events as sent."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from usage_pipeline_tests.rigs.events import is_error, list_cost, total_tokens

DIMENSIONS = ["team", "service", "provider", "model"]
PARTS = ["cache_read_tokens", "cache_write_tokens", "output_reasoning_tokens", "input_audio_tokens"]
SUMS = ["requests", "errors", "input_tokens", "output_tokens", "total_tokens", *PARTS]
PERCENTILES = {"latency_p50_ms": 0.5, "latency_p95_ms": 0.95, "latency_p99_ms": 0.99}
Windows = dict[tuple[Any, ...], dict[str, Any]]


def hour_of(at: datetime) -> datetime:
    # In UTC: the two hours of the same name when clocks are set back are not equal.
    return at.replace(minute=0, second=0, microsecond=0).astimezone(UTC)


def day_of(at: datetime) -> date:
    return at.date()


def week_of(at: datetime) -> date:
    return date.fromordinal(at.date().toordinal() - at.weekday())


def month_of(at: datetime) -> date:
    return at.date().replace(day=1)


def expected_windows(
    events: Sequence[dict[str, Any]], window_of: Callable[[datetime], Any], time_zone: ZoneInfo
) -> Windows:
    """(window, team, service, provider, model) -> the columns of its roll-up. Events are unique."""
    frame = pd.DataFrame(events)
    local = [datetime.fromisoformat(text).astimezone(time_zone) for text in frame["event_time"]]
    frame["window"] = pd.Series([window_of(at) for at in local], dtype=object)
    frame["requests"] = 1
    frame["errors"] = [int(is_error(event)) for event in events]
    frame["total_tokens"] = [total_tokens(event) for event in events]
    usages = [event.get("usage", {}) for event in events]
    for part in [*PARTS, "web_searches"]:
        frame[part] = [usage.get(part, 0) for usage in usages]
    frame["list"] = pd.Series([list_cost(event) for event in events], dtype=object)
    reported = [None if "cost_usd" not in event else Decimal(str(event["cost_usd"])) for event in events]
    frame["reported"] = pd.Series(reported, dtype=object)
    frame["effective"] = frame["reported"].where(frame["reported"].notna(), frame["list"])
    windows: Windows = {}
    for key, group in frame.groupby(["window", *DIMENSIONS], sort=True):
        searches = int(group["web_searches"].sum())
        windows[key] = {
            **{name: int(group[name].sum()) for name in SUMS},
            **{name: float(group["latency_ms"].quantile(share)) for name, share in PERCENTILES.items()},
            "distinct_users": int(group["user_id"].nunique()),
            "other_units": {"web_searches": searches} if searches else None,
            "cost_usd": _sum(group["effective"]),
            "list_cost_usd": _sum(group["list"]),
            "reported_cost_usd": _sum(group["reported"]),
            "reported_requests": int(group["reported"].count()),
            "unpriced_requests": len(group) - int(group["effective"].count()),
            "unlisted_requests": len(group) - int(group["list"].count()),
        }
    return windows


def _sum(costs: pd.Series) -> Decimal | None:
    known = costs.dropna()
    return sum(known, Decimal(0)) if len(known) else None
