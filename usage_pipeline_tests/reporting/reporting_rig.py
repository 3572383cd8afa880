"""A known fortnight of usage, stored through the real paths: recorder, drain, ingest, roll-ups; and the same as data frames."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd
import psycopg
from usage_recorder.recorder import Recorder

from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.rollups.calendar import GRAINS, window_at
from usage_pipeline.rollups.daily import DAILY_TABLES, replace_day
from usage_pipeline.rollups.issue_stats import replace_issue_stats
from usage_pipeline.rollups.rankings import RANKINGS, replace_ranking
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.end_to_end.rigs.usage_frames import frame_of
from usage_pipeline_tests.rigs.events import as_items, event, list_cost

# US dollars per million input and output tokens; the last model has no price anywhere.
PRICES = {
    ("openai", "gpt-4o"): (2.5, 10.0),
    ("openai", "gpt-4o-mini"): (0.15, 0.6),
    ("anthropic", "claude-sonnet-4-5"): (3.0, 15.0),
    ("house", "house-model-1"): None,
}
DAYS = 15
LATE_DAYS_AGO = 3
LATE_EVENTS = 4
ISSUE_DAYS = 50
TAG = "project"


@dataclass(frozen=True)
class Fortnight:
    """What was sent; `today` is the day on which that was."""

    today: date
    events: pd.DataFrame
    # The same events as the shared recomputation of usage wants them.
    usage: pd.DataFrame
    requests: pd.DataFrame
    merchants: pd.DataFrame
    issues: pd.DataFrame
    comments: pd.DataFrame


def store_fortnight(connection: psycopg.Connection, settings: Settings) -> Fortnight:
    """Stores it and rolls it up; a few events come after their day was closed and rolled up."""
    now = datetime.now(UTC)
    today, chance = now.date(), random.Random(7)
    in_time = [_event(chance, _moment(chance, now, ago)) for ago in range(DAYS) for _ in range(12)]
    late = [_event(chance, _moment(chance, now, LATE_DAYS_AGO)) for _ in range(LATE_EVENTS)]
    for events in (in_time, late):
        report = ingest(connection, EVENTS, as_items(*events), source="test", settings=settings, now=now)
        assert report.inserted == len(events)
        roll_up(connection, settings)
    requests, merchants = _store_counters(connection, settings, today)
    issues, comments = _store_issues(connection, chance, now)
    replace_issue_stats(connection, today - timedelta(days=ISSUE_DAYS), today - timedelta(days=1), settings=settings)
    for ranking in RANKINGS:
        replace_ranking(connection, ranking, today, settings=settings)
    frame = pd.DataFrame(in_time + late)
    frame["at"] = pd.to_datetime(frame.event_time, format="ISO8601")
    frame["day"] = frame["at"].dt.date
    frame["cost"] = [_cost(row) for row in frame.itertuples()]
    usage = frame_of(in_time + late, settings.timezone, lambda one: list_cost(one, _list_price))
    return Fortnight(today, frame, usage, requests, merchants, issues, comments)


def roll_up(connection: psycopg.Connection, settings: Settings) -> None:
    """Every window that changed, the shorter ones first."""
    for grain in GRAINS:
        starts = connection.execute(
            "select distinct window_start from ops.touched_windows where grain = %s order by 1", (grain,)
        ).fetchall()
        for (start,) in starts:
            replace_window(connection, window_at(grain, start, settings.timezone), settings=settings)


def _moment(chance: random.Random, now: datetime, days_ago: int) -> datetime:
    midnight = datetime.combine(now.date() - timedelta(days=days_ago), time(), UTC)
    length = timedelta(days=1) if days_ago else now - midnight
    return (midnight + length * chance.random()).replace(microsecond=0)


def _event(chance: random.Random, at: datetime) -> dict[str, Any]:
    provider, model = chance.choice(list(PRICES))
    has_failed = chance.random() < 0.2
    # Of its own, so that the rest stays as it is.
    more = random.Random(chance.random())
    return event(
        event_time=at.isoformat(),
        user_id=f"user-{chance.randrange(9)}",
        team=chance.choice(("search", "billing", "support")),
        service=chance.choice(("chat", "summaries")),
        provider=provider,
        model=model,
        input_tokens=chance.randrange(1, 90_000),
        output_tokens=chance.randrange(0, 9_000),
        latency_ms=chance.randrange(1, 9_000) if chance.random() < 0.9 else ...,
        status_code=more.choice((500, 429, 504)) if has_failed else 200,
        error_type=more.choice(("rate_limit", "timeout", ...)) if has_failed else ...,
        api_key_id=more.choice(("key-1", "key-2", ...)),
        tags={"project": more.choice(("alpha", "beta"))} if more.random() < 0.7 else ...,
    )


def _list_price(event: Mapping[str, Any], entered: int, left: int) -> Decimal | None:
    price = PRICES[event["provider"], event["model"]]
    if price is None:
        return None
    return (entered * Decimal(str(price[0])) + left * Decimal(str(price[1]))) / 1_000_000


def _cost(row: Any) -> float | None:
    price = PRICES[row.provider, row.model]
    return None if price is None else (row.input_tokens * price[0] + row.output_tokens * price[1]) / 1e6


# Key -> days ago on which it was used; the first two are silent now.
KEYS = {
    "key-gone": (13, 12),
    "key-left": (13, 9, 7),
    "key-new": (0,),
    "key-steady": (13, 12, 9, 8, 7, 6, 2, 1, 0),
}
MERCHANTS = {"shop-a": {2: 10, 1: 15}, "shop-b": {2: 8, 1: 6, 0: 3}, "shop-new": {1: 4}, "shop-old": {2: 5}}


def _store_counters(
    connection: psycopg.Connection, settings: Settings, today: date
) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = []
    recorder = Recorder.connect(settings.redis_dsn.get_secret_value(), timezone=settings.timezone, timeout_seconds=30)
    for ago in sorted({ago for days in KEYS.values() for ago in days}, reverse=True):
        day = today - timedelta(days=ago)
        at_ms = int(datetime.combine(day, time(), UTC).timestamp() * 1000)
        for number, key in enumerate(key for key, days in KEYS.items() if ago in days):
            for count in range(30 + 10 * number + ago):
                success = count % (number + 4) > 0
                assert recorder.record_api_key(key, success=success, file_size=100, files_uploaded=1, at_ms=at_ms)
                rows.append({"key": key, "day": day, "failed": not success})
            assert recorder.record_provider(key, "s3", user_id="user-1", file_size=100, at_ms=at_ms)
            assert recorder.record_token("token-1", "api-0", at_ms=at_ms)
        # A hash holds the sum since it was last drained, and counts for the day of its last use.
        drain_once(settings)
    for merchant, days in MERCHANTS.items():
        for ago, count in days.items():
            at_ms = int(datetime.combine(today - timedelta(days=ago), time(), UTC).timestamp() * 1000)
            assert recorder.record_merchant(merchant, "orders", value=count, at_ms=at_ms)
    recorder.close()
    assert aggregate(settings, [today - timedelta(days=ago) for ago in range(3)]).is_success
    for daily in DAILY_TABLES:
        for ago in range(DAYS):
            replace_day(connection, daily, today - timedelta(days=ago), today=today)
    merchants = [
        {"merchant": merchant, "day": today - timedelta(days=ago), "count": count}
        for merchant, days in MERCHANTS.items()
        for ago, count in days.items()
    ]
    return pd.DataFrame(rows), pd.DataFrame(merchants)


def _store_issues(
    connection: psycopg.Connection, chance: random.Random, now: datetime
) -> tuple[pd.DataFrame, pd.DataFrame]:
    issues, comments = [], []
    for number in range(60):
        created = _moment(chance, now, chance.randrange(1, ISSUE_DAYS))
        resolved = created + (now - created) * chance.random() if chance.random() < 0.6 else None
        views = chance.randrange(100)
        status = "OPEN" if resolved is None else chance.choice(("RESOLVED", "CLOSED"))
        issues.append({"id": str(number), "created": created, "resolved": resolved, "views": views})
        connection.execute(
            "insert into app.issues (id, title, status, view_count, created_at, resolved_at) values (%s, %s, %s, %s, %s, %s)",
            (str(number), f"Issue {number}", status, views, created, resolved),
        )
        for count in range(chance.randrange(4)):
            at = created + (now - created) * chance.random()
            comments.append({"issue": str(number), "created": at})
            connection.execute(
                "insert into app.comments (id, issue_id, created_at) values (%s, %s, %s)",
                (f"{number}-{count}", number, at),
            )
    return pd.DataFrame(issues), pd.DataFrame(comments)
