"""Events for questions, as they are sent, and the same in DuckDB with what the contract says of each: nothing here is ours."""

import random
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pandas as pd

from usage_pipeline_tests.rigs.events import is_error
from usage_pipeline_tests.rollups.costs.priced_rig import package_cost

MODELS = (
    ("openai", "gpt-4o"),
    ("openai", "gpt-4o-mini"),
    ("anthropic", "claude-sonnet-4-5"),
    ("google", "gemini-2.5-flash"),
    ("acme", "unheard-of"),
)
COUNTS = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "input_image_tokens",
    "output_image_tokens",
    "unattributed_tokens",
)
# What each name of contracts §11 is, in the words of DuckDB.
GROUPS = {
    "team": "team",
    "service": "service",
    "user": "user_id",
    "provider": "provider",
    "model": "model",
    "api_key": "api_key_id",
    "error_type": "coalesce(error_type, 'HTTP ' || status_code)",
    "tag:project": "project",
}
METRICS = {
    "requests": "count(*)",
    "errors": "count(*) filter (where is_error)",
    "error_rate": "count(*) filter (where is_error) / count(*)",
    **{name: f"coalesce(sum({name}), 0)" for name in COUNTS},
    "cache_read_share": "coalesce(sum(cache_read_tokens), 0) / nullif(sum(input_tokens), 0)",
    "cost_usd": "sum(coalesce(reported, listed))",
    "list_cost_usd": "sum(listed)",
    "reported_cost_usd": "sum(reported)",
    "cost_per_request_usd": "avg(coalesce(reported, listed)::double)",
    "reported_requests": "count(reported)",
    "unpriced_requests": "count(*) filter (where coalesce(reported, listed) is null)",
    "unlisted_requests": "count(*) filter (where listed is null)",
    "distinct_users": "count(distinct user_id)",
    "latency_p50_ms": "quantile_cont(latency_ms, 0.5)",
    "latency_p95_ms": "quantile_cont(latency_ms, 0.95)",
    "latency_p99_ms": "quantile_cont(latency_ms, 0.99)",
}
PERIODS = {
    "hour": "hour",
    "day": "day",
    "week": "date_trunc('week', day)::date",
    "month": "date_trunc('month', day)::date",
}


def random_events(first: datetime, days: int, count: int, seed: int) -> list[dict[str, Any]]:
    """As clients send them: `usage`, tags, keys, errors, reported costs; with some of each left out."""
    chance = random.Random(seed)
    return [_event(chance, first + timedelta(seconds=chance.uniform(0, days * 86_400))) for _ in range(count)]


def _event(chance: random.Random, at: datetime) -> dict[str, Any]:
    provider, model = chance.choice(MODELS)
    entered, left = chance.randrange(10, 5_000), chance.randrange(1, 900)
    usage = {"input_tokens": entered, "output_tokens": left}
    if chance.random() < 0.4:
        usage["cache_read_tokens"] = chance.randrange(entered)
    if chance.random() < 0.2:
        usage["output_reasoning_tokens"] = chance.randrange(left)
    event: dict[str, Any] = {
        "event_id": str(uuid.UUID(int=chance.getrandbits(128))),
        "event_time": at.isoformat(),
        "user_id": f"user-{int(25 * chance.random() ** 2)}",
        "team": f"team-{chance.randrange(3)}",
        "service": chance.choice(["chat", "search", "Ölmühle"]),
        "provider": provider,
        "model": model,
        "usage": usage,
    }
    if chance.random() < 0.95:
        event["latency_ms"] = int(chance.lognormvariate(6.5, 0.8))
    if chance.random() < 0.7:
        event["api_key_id"] = f"key-{chance.randrange(5)}"
    if chance.random() < 0.1:
        event["status_code"] = chance.choice([429, 500, 503])
        if chance.random() < 0.6:
            event["error_type"] = chance.choice(["rate_limit", "timeout"])
    if chance.random() < 0.3:
        event["cost_usd"] = str(Decimal(chance.randrange(1, 10**6)).scaleb(-7))
    if chance.random() < 0.6:
        event["tags"] = {"project": chance.choice(["a", "b", "it's"]), "other": "x"}
    return event


def in_duckdb(events: Sequence[Mapping[str, Any]], zone: ZoneInfo) -> duckdb.DuckDBPyConnection:
    """A table `events` with a row for each."""
    rows = []
    for event in events:
        at = datetime.fromisoformat(event["event_time"])
        local = at.astimezone(zone)
        usage = event["usage"]
        listed = None
        if event["provider"] != "acme":
            listed = package_cost(event["provider"], event["model"], at, usage)
        rows.append(
            {
                **{name: event.get(name) for name in ("user_id", "team", "service", "provider", "model", "api_key_id")},
                **{name: event.get(name) for name in ("error_type", "status_code", "latency_ms")},
                "project": event.get("tags", {}).get("project"),
                **{name: usage.get(name, 0) for name in COUNTS},
                "total_tokens": usage["input_tokens"] + usage["output_tokens"],
                "reasoning_tokens": usage.get("output_reasoning_tokens", 0),
                "reported": event.get("cost_usd"),
                "listed": None if listed is None else f"{listed:f}",
                "is_error": is_error(event),
                "day": local.date(),
                "hour": local.replace(minute=0, second=0, microsecond=0).astimezone(UTC).replace(tzinfo=None),
            }
        )
    # Numbers that are sometimes left out would be floats.
    frame = pd.DataFrame(rows).astype({"status_code": "Int64", "latency_ms": "Int64"})
    connection = duckdb.connect()
    connection.register("frame", frame)
    connection.execute(
        "create table events as select * replace (reported::decimal(38, 18) as reported, listed::decimal(38, 18) as listed) "
        "from frame"
    )
    connection.execute("update events set error_type = null where error_type = ''")
    return connection
