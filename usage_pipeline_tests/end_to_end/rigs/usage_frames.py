"""What the tables of usage events must hold, computed anew with pandas and rigs.events, from the events as sent."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from usage_pipeline_tests.rigs.events import is_error, list_cost, total_tokens

DIMENSIONS = ["team", "service", "provider", "model"]
SUMS = ["requests", "errors", "input_tokens", "output_tokens", "total_tokens"]
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
    frame["cost"] = pd.Series([list_cost(event) for event in events], dtype=object)
    windows: Windows = {}
    for key, group in frame.groupby(["window", *DIMENSIONS], sort=True):
        costs = [cost for cost in group["cost"] if cost is not None]
        windows[key] = {
            **{name: int(group[name].sum()) for name in SUMS},
            **{name: float(group["latency_ms"].quantile(share)) for name, share in PERCENTILES.items()},
            "distinct_users": int(group["user_id"].nunique()),
            "cost_usd": sum(costs, Decimal(0)) if costs else None,
            "unpriced_requests": len(group) - len(costs),
        }
    return windows
