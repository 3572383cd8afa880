"""A real trace as usage events over days of our choice, and its roll-ups recomputed in pandas, without any code of ours."""

import csv
import json
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import psycopg

from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.rollups import calendar
from usage_pipeline.rollups.calendar import Window
from usage_pipeline.rollups.window_tables import WINDOW_TABLES
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.events import is_error, list_cost, total_tokens
from usage_pipeline_tests.rigs.places import REAL_TRACE

DIMENSIONS = ["team", "service", "provider", "model"]
# By day, by start date, above a threshold of input tokens, per request, without a price for output, and unknown.
MODELS = [
    ("openai", "gpt-4o"),
    ("deepseek", "deepseek-chat"),
    ("openai", "o3"),
    ("google", "gemini-2.5-pro"),
    ("perplexity", "sonar"),
    ("openai", "text-embedding-3-small"),
    ("acme", "unheard-of"),
]
Key = tuple[Any, ...]


def trace_events(
    spans: Sequence[tuple[datetime, timedelta]], *, seed: int, most: int | None = None
) -> list[dict[str, Any]]:
    """The rows of the trace, spread evenly over these spans of time; teams, users, models and latencies by the seed."""
    if REAL_TRACE.exists():
        with REAL_TRACE.open(newline="") as file:
            rows = [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(file)]
    else:
        lengths = random.Random(1)
        rows = [(lengths.randrange(4, 7_500), lengths.randrange(1, 1_800)) for _ in range(8_819)]
    rows = rows[:most]
    chance = random.Random(seed)
    per_span = -(-len(rows) // len(spans))
    return [
        _event(chance, *rows[number], start + (length * (number % per_span)) / per_span)
        for number, (start, length) in ((n, spans[n // per_span]) for n in range(len(rows)))
    ]


def _event(chance: random.Random, input_tokens: int, output_tokens: int, at: datetime) -> dict[str, Any]:
    provider, model = chance.choice(MODELS)
    # Most clients tell both counts, some one of them, and some only their sum.
    has_input, has_output = chance.choices([(True, True), (True, False), (False, True), (False, False)], [85, 5, 5, 5])[
        0
    ]
    return {
        "event_id": str(uuid.UUID(int=chance.getrandbits(128))),
        "event_time": (at + timedelta(microseconds=chance.randrange(1_000_000))).isoformat(),
        "user_id": f"user-{chance.randrange(40)}",
        "team": f"team-{chance.randrange(2)}",
        "service": chance.choice(["chat", "search"]),
        "provider": provider,
        "model": model,
        # Long prompts, so that prices above a threshold are met.
        "input_tokens": input_tokens * chance.choice([1, 1, 100]) if has_input else None,
        "output_tokens": output_tokens * chance.choice([0, 1, 1, 1]) if has_output else None,
        "total_tokens": None
        if has_input and has_output
        else chance.choice([None, 101 * (input_tokens + output_tokens)]),
        "latency_ms": int(chance.lognormvariate(6.5, 0.8)) if chance.random() > 0.02 else None,
        "status_code": chance.choice([200] * 18 + [429, 500]),
        "error_type": chance.choices(["timeout", "", None], [1, 3, 96])[0],
    }


def store(postgres: psycopg.Connection, events: Sequence[Mapping[str, Any]], settings: Settings, now: datetime) -> None:
    """Ingests them; all are new."""
    for first in range(0, len(events), 1_000):
        items = [json.dumps(event).encode() for event in events[first : first + 1_000]]
        report = ingest(postgres, EVENTS, items, source="test", settings=settings, now=now)
        assert report.inserted == len(items), report


def windows_of(events: Sequence[Mapping[str, Any]], settings: Settings) -> list[Window]:
    """Every hour, day, week and month of the days that have events, finer ones first."""
    zone = settings.timezone
    days = sorted({datetime.fromisoformat(event["event_time"]).astimezone(zone).date() for event in events})
    whole = [calendar.day_window(day, zone) for day in days]
    hours = [calendar.hour_window(start, zone) for day in whole for start in calendar.hours_of(day)]
    weeks = [calendar.week_window(day, zone) for day in sorted({calendar.week_of(day) for day in days})]
    months = [calendar.month_window(day, zone) for day in sorted({calendar.month_of(day) for day in days})]
    return [*hours, *whole, *weeks, *months]


def roll(postgres: psycopg.Connection, windows: Sequence[Window], settings: Settings, now: datetime) -> int:
    """Replaces them all; how many rows changed."""
    return sum(replace_window(postgres, window, settings=settings, now=now).changed_rows for window in windows)


def recomputed(events: Sequence[Mapping[str, Any]], time_zone: str) -> dict[str, dict[Key, tuple[Any, ...]]]:
    """Grain -> (window, team, service, provider, model) -> what its row should say."""
    frame = pd.DataFrame(events)
    frame["at"] = pd.to_datetime(frame["event_time"], utc=True, format="ISO8601")
    frame["cost"] = pd.Series([list_cost(event) for event in events], dtype=object)
    frame["total"] = [total_tokens(event) for event in events]
    frame["is_error"] = [is_error(event) for event in events]
    local = frame["at"].dt.tz_convert(time_zone)
    into_the_hour = pd.to_timedelta(local.dt.minute * 60 + local.dt.second, unit="s")
    frame["hour"] = frame["at"].dt.floor("s") - into_the_hour
    frame["day"] = local.dt.date
    frame["week"] = [day - timedelta(days=day.weekday()) for day in frame["day"]]
    frame["month"] = [day.replace(day=1) for day in frame["day"]]
    return {grain: dict(_rows(frame, grain)) for grain in WINDOW_TABLES}


def _rows(frame: pd.DataFrame, grain: str) -> Iterator[tuple[Key, tuple[Any, ...]]]:
    for key, group in frame.groupby([grain, *DIMENSIONS]):
        latencies = group["latency_ms"].dropna()
        costs = [cost for cost in group["cost"] if cost is not None]
        percentiles = np.quantile(latencies, [0.5, 0.95, 0.99]).tolist() if len(latencies) else [None] * 3
        window = key[0].to_pydatetime() if grain == "hour" else key[0]
        yield (
            (window, *key[1:]),
            (
                len(group),
                int(group["is_error"].sum()),
                int(group["input_tokens"].sum()),
                int(group["output_tokens"].sum()),
                int(group["total"].sum()),
                group["user_id"].nunique(),
                sum(costs, Decimal(0)) if costs else None,
                len(group) - len(costs),
                *percentiles,
            ),
        )


COLUMNS = (
    "requests, errors, input_tokens, output_tokens, total_tokens, distinct_users, cost_usd, unpriced_requests, "
    "latency_p50_ms, latency_p95_ms, latency_p99_ms"
)


def stored(postgres: psycopg.Connection, table: str, column: str) -> dict[Key, tuple[Any, ...]]:
    """The same of a stored table or view."""
    rows = postgres.execute(f"select {column}, team, service, provider, model, {COLUMNS} from {table}").fetchall()
    return {row[:5]: row[5:] for row in rows}


def assert_equal_rows(found: dict[Key, tuple[Any, ...]], expected: dict[Key, tuple[Any, ...]]) -> None:
    """Counts and money to the unit, percentiles to 1e-9."""
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        assert found[key][:8] == row[:8], f"{key}: {found[key][:8]} instead of {row[:8]}"
        for one, other in zip(found[key][8:], row[8:], strict=True):
            assert (one is None) == (other is None), key
            assert one is None or abs(one - other) <= 1e-9 * max(1.0, abs(other)), key


def assert_all_equal(postgres: psycopg.Connection, events: Sequence[Mapping[str, Any]], time_zone: str) -> None:
    """Every number of every grain, and of the live view."""
    expected = recomputed(events, time_zone)
    for grain, table in WINDOW_TABLES.items():
        assert_equal_rows(stored(postgres, table.table, table.column), expected[grain])
    assert_equal_rows(stored(postgres, "analytics.usage_hourly_live", "hour_start"), expected["hour"])


def local_days(events: Sequence[Mapping[str, Any]], settings: Settings) -> set[date]:
    return {datetime.fromisoformat(event["event_time"]).astimezone(settings.timezone).date() for event in events}
