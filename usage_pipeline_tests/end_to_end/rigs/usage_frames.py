"""What the tables of usage events must hold, computed anew with pandas, from the events as sent and what each of them costs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from usage_pipeline_tests.rigs.events import is_error, total_tokens

DIMENSIONS = ("team", "service", "provider", "model")
NAMED = (
    "cache_read_tokens",
    "cache_write_tokens",
    "output_reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "input_image_tokens",
    "output_image_tokens",
)
SUMS = ("requests", "errors", "input_tokens", "output_tokens", "total_tokens", *NAMED, "unattributed_tokens")
MONEY = ("cost_usd", "list_cost_usd", "reported_cost_usd")
WITHOUT = {
    "reported_requests": "reported_cost_usd",
    "unpriced_requests": "cost_usd",
    "unlisted_requests": "list_cost_usd",
}
PERCENTILES = {"latency_p50_ms": 0.5, "latency_p95_ms": 0.95, "latency_p99_ms": 0.99}
# Of each tag so many values stay apart in a day (docs/cost.md).
MOST_VALUES = 1_000
Event = dict[str, Any]
Rows = dict[tuple[Any, ...], dict[str, Any]]
CostOfEvent = Callable[[Mapping[str, Any]], Decimal | None]


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view: the kind and column of its window, what else identifies a row, and what it shows beside sums."""

    name: str
    window: str
    column: str
    key: tuple[str, ...] = DIMENSIONS
    has_percentiles: bool = False
    # Views show tenths of a millisecond.
    is_rounded: bool = False
    has_users: bool = False
    has_units: bool = True
    has_costs: bool = True

    @property
    def shown(self) -> list[str]:
        """The columns that are not the window and the key."""
        names = [*SUMS, "other_units"] if self.has_units else ["requests", "total_tokens"]
        names += PERCENTILES if self.has_percentiles else ()
        names += ["distinct_users"] if self.has_users else ()
        return [*names, *((*MONEY, *WITHOUT) if self.has_costs else ())]


TABLES = (
    Table("analytics.usage_hourly", "hour", "hour_start", has_percentiles=True, has_users=True),
    Table("analytics.usage_daily", "day", "usage_date", has_percentiles=True, has_users=True),
    Table("analytics.usage_weekly", "week", "week_start", has_percentiles=True, has_users=True),
    Table("analytics.usage_monthly", "month", "month_start", has_percentiles=True, has_users=True),
    Table("analytics.usage_user_daily", "day", "usage_date", (*DIMENSIONS, "user_id")),
    Table("analytics.usage_tag_daily", "day", "usage_date", ("tag", "value", "is_rest", "team", "provider", "model")),
    Table("analytics.usage_hourly_live", "hour", "hour_start", has_percentiles=True, has_users=True),
    Table("analytics.usage_api_key_daily", "day", "usage_date", (*DIMENSIONS, "api_key_id")),
    Table("reporting.usage_by_hour", "hour", "hour_start", has_percentiles=True, is_rounded=True, has_users=True),
    Table("reporting.usage_by_day", "day", "usage_date", has_percentiles=True, is_rounded=True, has_users=True),
    Table("reporting.usage_by_week", "week", "week_start", has_percentiles=True, is_rounded=True, has_users=True),
    Table("reporting.usage_by_month", "month", "month_start", has_percentiles=True, is_rounded=True, has_users=True),
    Table("reporting.usage_by_team", "day", "usage_date", ("team",), has_users=True),
    Table("reporting.usage_by_service", "day", "usage_date", ("service",), has_users=True),
    Table("reporting.usage_by_model", "day", "usage_date", ("provider", "model"), has_users=True),
    Table("reporting.usage_by_user", "day", "usage_date", (*DIMENSIONS, "user_id")),
    Table("reporting.usage_by_api_key", "day", "usage_date", (*DIMENSIONS, "api_key_id")),
    Table("reporting.usage_by_tag", "day", "usage_date", ("tag", "value", "is_rest", "team", "provider", "model")),
    Table("reporting.cost_by_team_and_month", "month", "month_start", ("team", "provider", "model"), has_units=False),
    Table("reporting.cost_by_model_and_month", "month", "month_start", ("provider", "model"), has_units=False),
)


def hour_of(at: datetime) -> datetime:
    # In UTC: the two hours of the same name when clocks are set back are not equal.
    return at.replace(minute=0, second=0, microsecond=0).astimezone(UTC)


def day_of(at: datetime) -> date:
    return at.date()


def week_of(at: datetime) -> date:
    return date.fromordinal(at.date().toordinal() - at.weekday())


def month_of(at: datetime) -> date:
    return at.date().replace(day=1)


WINDOW_OF: Mapping[str, Callable[[datetime], Any]] = {
    "hour": hour_of,
    "day": day_of,
    "week": week_of,
    "month": month_of,
}


def counted(event: Mapping[str, Any]) -> Event:
    """With what a total has beyond input and output: thoughts for Google, or else tokens of no known kind (contracts §8.1)."""
    entered, left, total = (event.get(name) for name in ("input_tokens", "output_tokens", "total_tokens"))
    rest = (total or 0) - (entered or 0) - (left or 0)
    if entered is None or left is None or rest <= 0:
        return dict(event)
    if event["provider"] != "google":
        return {**event, "unattributed_tokens": rest}
    usage = {**event.get("usage", {}), "output_reasoning_tokens": rest}
    return {**event, "output_tokens": left + rest, "usage": usage}


def frame_of(events: Sequence[Mapping[str, Any]], time_zone: ZoneInfo, cost_of: CostOfEvent) -> pd.DataFrame:
    """A row for each event, with its windows and costs. Events are unique; `cost_of` is given what `counted` makes of them."""
    each = [counted(event) for event in events]
    frame = pd.DataFrame({name: [event.get(name) for event in each] for name in (*DIMENSIONS, "user_id", "latency_ms")})
    # What nobody said is told apart from other values, and not from itself.
    frame["api_key_id"] = [event.get("api_key_id") or "" for event in each]
    frame["error_type"] = [event.get("error_type") or "" for event in each]
    frame["status_code"] = [event.get("status_code") or 0 for event in each]
    local = [datetime.fromisoformat(event["event_time"]).astimezone(time_zone) for event in each]
    for name, window_of in WINDOW_OF.items():
        frame[name] = pd.Series([window_of(at) for at in local], dtype=object)
    frame["requests"] = 1
    frame["errors"] = [int(is_error(event)) for event in each]
    frame["total_tokens"] = [total_tokens(event) for event in each]
    for name in ("input_tokens", "output_tokens", "unattributed_tokens"):
        frame[name] = [event.get(name) or 0 for event in each]
    usages = [event.get("usage", {}) for event in each]
    for name in NAMED:
        frame[name] = [usage.get(name, 0) for usage in usages]
    others = [{name: count for name, count in usage.items() if name not in NAMED} for usage in usages]
    listed = [cost_of(event) for event in each]
    reported = [Decimal(event["cost_usd"]) if "cost_usd" in event else None for event in each]
    frame["other_units"] = pd.Series(others, dtype=object)
    frame["list_cost_usd"] = pd.Series(listed, dtype=object)
    frame["reported_cost_usd"] = pd.Series(reported, dtype=object)
    charged = [one if told is None else told for told, one in zip(reported, listed, strict=True)]
    frame["cost_usd"] = pd.Series(charged, dtype=object)
    frame["tags"] = pd.Series([event.get("tags", {}) for event in each], dtype=object)
    return frame


def tagged(frame: pd.DataFrame, tags: Sequence[str]) -> pd.DataFrame:
    """A row for each event and tag of these that it has; values beyond those with the most requests of a day are the rest."""
    parts = []
    for tag in tags:
        # An empty value is the same as none.
        values = pd.Series([one.get(tag) or None for one in frame["tags"]], dtype=object, index=frame.index)
        part = frame[values.notna()].assign(tag=tag, value=values[values.notna()], is_rest=False)
        requests = part.groupby(["day", "value"], as_index=False)["requests"].sum()
        ranked = requests.sort_values(["requests", "value"], ascending=[False, True])
        place = ranked.assign(place=ranked.groupby("day").cumcount())
        few = {(row.day, row.value) for row in place.itertuples() if row.place < MOST_VALUES}
        is_rest = [(day, value) not in few for day, value in zip(part["day"], part["value"], strict=True)]
        part["is_rest"] = is_rest
        part["value"] = ["other" if rest else value for rest, value in zip(is_rest, part["value"], strict=True)]
        parts.append(part)
    return pd.concat(parts)


def expected_rows(frame: pd.DataFrame, table: Table) -> Rows:
    """(window, *key) -> the columns of its row."""
    by = [table.window, *table.key]
    grouped = frame.groupby(by, sort=False)
    sums = grouped[list(SUMS)].sum()
    if table.has_percentiles:
        for name, share in PERCENTILES.items():
            sums[name] = grouped["latency_ms"].quantile(share)
            if table.is_rounded:
                sums[name] = [tenths(one) for one in sums[name]]
    if table.has_users:
        sums["distinct_users"] = grouped["user_id"].nunique()
    names = list(sums.columns)
    rows: Rows = {_key(row[0]): dict(zip(names, row[1:], strict=True)) for row in sums.itertuples(name=None)}
    for row in rows.values():
        # No request of the group came with a latency.
        row |= {name: None for name in PERCENTILES if name in row and math.isnan(row[name])}
        row |= dict.fromkeys(MONEY) | dict.fromkeys(WITHOUT, 0)
        row["other_units"] = {}
    more = zip(*(frame[name] for name in (*by, *MONEY, "other_units")), strict=True)
    for values in more:
        row = rows[_key(values[: len(by)])]
        _add(row, dict(zip((*MONEY, "other_units"), values[len(by) :], strict=True)))
    return {key: {name: row[name] for name in table.shown} for key, row in rows.items()}


def tenths(number: float) -> float:
    """Rounded half up, as PostgreSQL does, from the 15 digits that it takes a float for."""
    return number if math.isnan(number) else float(Decimal(f"{number:.15g}").quantize(Decimal("0.1"), ROUND_HALF_UP))


def _add(row: dict[str, Any], event: Mapping[str, Any]) -> None:
    for name in MONEY:
        if event[name] is not None:
            row[name] = (row[name] or Decimal(0)) + event[name]
    row["reported_requests"] += event["reported_cost_usd"] is not None
    row["unpriced_requests"] += event["cost_usd"] is None
    row["unlisted_requests"] += event["list_cost_usd"] is None
    for name, count in event["other_units"].items():
        row["other_units"][name] = row["other_units"].get(name, 0) + count


def _key(index: Any) -> tuple[Any, ...]:
    # pandas makes timestamps of its own of times.
    return tuple(one.to_pydatetime() if isinstance(one, pd.Timestamp) else one for one in index)


def expected_latencies(frame: pd.DataFrame) -> dict[tuple[Any, ...], dict[int, int]]:
    """(day, team, service, provider, model) -> how many requests took how many milliseconds."""
    counts = frame.groupby(["day", *DIMENSIONS, "latency_ms"], sort=False)["requests"].sum()
    found: dict[tuple[Any, ...], dict[int, int]] = {}
    for index, requests in counts.items():
        key = _key(index)
        found.setdefault(key[:-1], {})[int(key[-1])] = int(requests)
    return found
