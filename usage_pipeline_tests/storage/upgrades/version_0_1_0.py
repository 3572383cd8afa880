"""A database as version 0.1.0 left it (schema 0010): rows in every table, which belong together, by SQL alone.

One day that ended, with API keys, providers, tokens, merchants, events and issues; and what goes wrong in a first month.
"""

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from usage_pipeline.storage.chunks.partitions import ensure_chunks, ensure_partitions
from usage_pipeline_tests.storage.old_schema import let_code_make_partitions

VERSION = "0010"
# By its rules of that time, of an event as rigs.windows.event_at makes it: as it is, and failed with an empty error type.
HASH, HASH_OF_EMPTY_ERROR = "edca7b03f60e3aeee86114242362155f", "fa8c794073b380ab21a90088b33f369b"
HASH_OF_ARCHIVE = "eebb86213cdd34fe0bebfe7274f42846"
GROUP = {"team": "search", "service": "chat", "provider": "openai", "model": "gpt-4o"}
TABLES = """
    select table_schema || '.' || table_name as name, array_agg(column_name::text order by ordinal_position) as columns
    from information_schema.columns
    join information_schema.tables using (table_schema, table_name)
    join pg_class on pg_class.oid = format('%I.%I', table_schema, table_name)::regclass
    where table_schema in ('app', 'raw', 'usage', 'analytics', 'stats', 'ops')
      and table_type = 'BASE TABLE'
      and not pg_class.relispartition
    group by table_schema, table_name
    order by table_schema, table_name
"""


def tables(connection: psycopg.Connection) -> dict[str, list[str]]:
    """Every table of ours that is no partition, and its columns."""
    return dict(connection.execute(TABLES).fetchall())


def rows(connection: psycopg.Connection, columns_of: Mapping[str, list[str]]) -> dict[str, list[dict[str, Any]]]:
    """Every row of these tables, of these columns alone."""
    found = {}
    for table, columns in columns_of.items():
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        query = sql.SQL("select to_jsonb(one) from (select {} from {}) as one order by to_jsonb(one)::text")
        found[table] = [row for (row,) in connection.execute(query.format(names, sql.Identifier(*table.split("."))))]
    return found


class Filled:
    """What was put in: the day that it is about, and the events of it."""

    def __init__(self, connection: psycopg.Connection, day: date) -> None:
        self._connection = connection
        self.day = day
        self.at = datetime.combine(day, time(10, 30), UTC)
        self.events = [str(uuid.uuid4()) for _ in range(3)]
        # Batches: the claim time in milliseconds, and random bits. No row of the last one: it is claimed in Redis only.
        names = [f"{int(self.at.timestamp() * 1000):013d}-{number:010x}" for number in range(4)]
        self.released, self.applied, self.failed_over, self.claimed = names
        self._partitions()
        self._counters()
        self._ledger()
        self._events()
        self._windows()
        self._issues_and_rankings()
        self._faults()
        self._rest()

    def put(self, table: str, **columns: Any) -> None:
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        values = sql.SQL(", ").join(map(sql.Placeholder, columns))
        query = sql.SQL("insert into {} ({}) values ({})").format(sql.Identifier(*table.split(".")), names, values)
        adapted = {name: Jsonb(one) if isinstance(one, dict) else one for name, one in columns.items()}
        self._connection.execute(query, adapted)

    def _partitions(self) -> None:
        let_code_make_partitions(self._connection)
        for family in ("api_key_deltas", "provider_deltas", "token_deltas", "request_events"):
            ensure_partitions(self._connection, f"raw.{family}", [self.day])
        for table in ("analytics.usage_events", "analytics.message_archives"):
            ensure_chunks(self._connection, table, [self.at], 24)

    def _counters(self) -> None:
        day, at = self.day, self.at
        for batch, requests in ((self.released, 5), (self.applied, 3)):
            self.put(
                "raw.api_key_deltas",
                usage_date=day,
                batch_id=batch,
                source_key="apikey:k:metrics",
                api_key_id="k",
                total_requests=requests,
                successful_requests=requests - 1,
                failed_requests=1,
                total_file_size=requests * 1_000,
                total_files_uploaded=1,
                last_used_at=at,
            )
        sums = {"total_requests": 8, "successful_requests": 6, "failed_requests": 2, "total_file_size": 8_000}
        sums["total_files_uploaded"] = 2
        self.put("usage.api_keys", api_key_id="k", last_used_at=at, **sums)
        self.put("usage.api_key_daily", usage_date=day, api_key_id="k", last_used_at=at, **sums)
        uploads = {"api_key_id": "k", "provider": "s3", "upload_count": 4, "total_file_size": 400, "last_used_at": at}
        self.put(
            "raw.provider_deltas",
            usage_date=day,
            batch_id="p-1",
            source_key="provider:k:s3:metrics",
            user_id="u",
            **uploads,
        )
        self.put("usage.provider_usage", user_id="u", **uploads)
        self.put("usage.provider_daily", usage_date=day, **uploads)
        used = {"token_id": "t", "usage_count": 6, "last_used_at": at}
        self.put(
            "raw.token_deltas",
            usage_date=day,
            batch_id="t-1",
            source_key="token_usage:t:i",
            instance_id="i",
            **used,
        )
        self.put(
            "usage.api_access_tokens",
            token_prefix="upt_abcd",
            token_hash="0" * 64,
            name="ours",
            scopes=["ingest", "read"],
            quota=1_000,
            expires_at=at + timedelta(days=300),
            **used,
        )
        self.put("usage.token_daily", usage_date=day, **used)
        request = str(uuid.uuid4())
        self.put(
            "raw.request_events",
            usage_date=day,
            batch_id="e-1",
            event_id=request,
            api_key_id="k",
            user_id="u",
            provider="s3",
            event_type="upload",
            file_size=10,
            status="success",
            at=at,
        )
        self.put("raw.request_event_ids", event_id=request, usage_date=day, payload_hash=b"\1" * 16)
        merchant = {"merchant_id": "m", "date": day, "metric_type": "orders"}
        self.put("usage.merchant_usage", metric_value=70, reset_offset=20, **merchant)
        self.put("ops.counter_regressions", **merchant, stored_value=20, counter_value=3, accepted_at=at)
        self.put("usage.merchant_usage", metric_value=50, **merchant | {"merchant_id": "lost"})
        self.put("ops.counter_regressions", **merchant | {"merchant_id": "lost"}, stored_value=50, counter_value=9)
        self.put("usage.api_key_quotas", api_key_id="k", requests_per_day=100, requests_per_minute=10)

    def _ledger(self) -> None:
        for batch, family, is_uncertain, released in (
            (self.released, "api_key", False, self.at),
            (self.applied, "api_key", False, None),
            ("p-1", "provider", False, self.at),
            ("t-1", "token", False, self.at),
            ("e-1", "event", False, self.at),
            ("m-1", "merchant", False, self.at),
            (self.failed_over, "api_key", True, self.at),
        ):
            self.put(
                "ops.sync_batches",
                batch_id=batch,
                family=family,
                claimed_at=self.at,
                applied_at=self.at,
                released_at=released,
                keys=1,
                stored_rows=int(batch != self.failed_over),
                dead_letters=0,
                duplicates=int(batch == self.failed_over),
                usage_dates=[self.day],
                instances=["i"],
                redis_server="old-run-id",
                is_uncertain=is_uncertain,
                drained_by="host:1",
            )
        for family in ("api_key", "provider", "token"):
            self.put(
                "ops.touched_days", family=family, usage_date=self.day, version=2, rolled_version=2, rolled_at=self.at
            )
        self.put("ops.usage_hours", family="api_key", id="k", hour_start=self.at.replace(minute=0), uses=8)

    def _events(self) -> None:
        at = self.at
        for number, event_id in enumerate(self.events):
            payload_hash, error = (HASH_OF_EMPTY_ERROR, "") if number == 2 else (HASH, None)
            self.put(
                "analytics.usage_event_ids", event_id=event_id, event_time=at, payload_hash=bytes.fromhex(payload_hash)
            )
            self.put(
                "analytics.usage_events",
                event_id=event_id,
                event_time=at,
                user_id="user-1",
                input_tokens=2_000,
                output_tokens=500,
                total_tokens=2_500,
                latency_ms=350,
                status_code=200,
                error_type=error,
                created_at=at,
                **GROUP,
            )
        self.put("analytics.message_archive_ids", event_id=self.events[0], payload_hash=bytes.fromhex(HASH_OF_ARCHIVE))
        self.put(
            "analytics.message_archives",
            event_id=self.events[0],
            event_time=at,
            user_id="user-1",
            service="chat",
            prompt_full="",
            response_full="A",
            stored_at=at,
        )
        prices = {"price_version": "negotiated"}
        self.put("analytics.price_versions", source="csv", checksum="00", **prices)
        model = {"provider": "openai", "model": "gpt-4o"}
        self.put("analytics.model_prices", input_usd=Decimal("2.5"), output_usd=Decimal(10), **prices, **model)
        self.put("analytics.model_lookups", priced_as="openai/gpt-4o", **prices, **model)
        midnight = datetime.combine(self.day, time(), UTC)
        self.put(
            "analytics.day_prices",
            usage_date=self.day,
            day_start=midnight,
            day_end=midnight + timedelta(days=1),
            **prices,
        )
        self.put(
            "ops.ingest_batches",
            batch_id="i-1",
            kind="events",
            source="http",
            received=4,
            inserted=3,
            duplicates=0,
            conflicts=1,
            rejected=0,
        )
        self.put(
            "ops.event_conflicts",
            kind="events",
            event_id=self.events[0],
            stored_hash=bytes.fromhex(HASH),
            batch_id="i-1",
            other_hash=b"\2" * 16,
            other_payload=b'{"event_id": "other"}',
        )
        self.put(
            "ops.landed_files",
            address="done/day.jsonl",
            fingerprint="f",
            bytes=9,
            kind="events",
            outcome="stored",
            received=3,
            inserted=0,
            duplicates=3,
            conflicts=0,
            rejected=0,
        )

    def _windows(self) -> None:
        # The event with an empty error type was an error then.
        sums = {"requests": 3, "errors": 1, "input_tokens": 6_000, "output_tokens": 1_500, "total_tokens": 7_500}
        costs = {"cost_usd": Decimal("0.03"), "unpriced_requests": 0, "updated_at": self.at}
        shape = {"latency_p50_ms": 350.0, "latency_p95_ms": 350.0, "latency_p99_ms": 350.0, "distinct_users": 1}
        week = self.day - timedelta(days=self.day.weekday())
        for grain, column, start in (
            ("hourly", "hour_start", self.at.replace(minute=0)),
            ("daily", "usage_date", self.day),
            ("weekly", "week_start", week),
            ("monthly", "month_start", self.day.replace(day=1)),
        ):
            self.put(f"analytics.usage_{grain}", **{column: start}, **GROUP, **sums, **costs, **shape)
        self.put("analytics.usage_user_daily", usage_date=self.day, user_id="user-1", **GROUP, **sums, **costs)
        self.put("analytics.usage_latency_daily", usage_date=self.day, latencies_ms=[350], requests=[3], **GROUP)
        midnight = datetime.combine(self.day, time(), UTC)
        for grain, moment in (("hour", self.at.replace(minute=0)), ("day", midnight)):
            self.put(
                "ops.rolled_windows", grain=grain, window_start=moment, rolled_at=self.at + timedelta(days=2), rows=1
            )
        self.put("ops.touched_windows", grain="week", window_start=datetime.combine(week, time(), UTC))
        self.put(
            "ops.late_data",
            table_name="usage.api_key_daily",
            usage_date=self.day,
            before={"total_requests": 5},
            after={"total_requests": 8},
        )

    def _issues_and_rankings(self) -> None:
        day, at = self.day, self.at
        self.put("app.issues", id="1", title="Open", status="OPEN", reporter="ann", view_count=7, created_at=at)
        self.put("app.issues", id="2", title="Shut", status="CLOSED", created_at=at, resolved_at=at)
        self.put("app.comments", id="c", issue_id="1", author="bob", created_at=at)
        self.put("stats.daily_issue_stats", date=day, created_count=2, resolved_count=1, comment_count=1)
        ranked = {"ranking_date": day, "rank": 1}
        self.put(
            "stats.popular_issues",
            **ranked,
            id="1",
            title="Open",
            score=10,
            view_count=7,
            comment_count=1,
            created_at=at,
        )
        self.put(
            "stats.popular_api_keys",
            **ranked,
            id="k",
            title="k",
            score=8,
            total_requests=8,
            failed_requests=2,
            total_file_size=8_000,
        )
        for what, name in (("models", "gpt-4o"), ("services", "chat")):
            for suffix, score in (("", 3), ("_by_tokens", 7_500)):
                counts = {"score": score, "requests": 3, "total_tokens": 7_500}
                self.put(f"stats.popular_{what}{suffix}", **ranked, id=name, title=name, **counts)

    def _faults(self) -> None:
        at = self.at
        letter = {"claimed_at": at, "created_at": at}
        for family, key, raw, raw_format, reason in (
            ("api_key", "apikey:bad:metrics", json.dumps(["total_requests", "x"]), "hash", "total_requests: no number"),
            ("provider", "provider:k:s3:metrics", json.dumps(["upload_count", "-1"]), "hash", "upload_count: below 0"),
            ("token", "token_usage:t:i", "{", "string", "expected JSON"),
            ("event", "event_queue", "{", "string", "item: expected a request event as JSON, came {"),
            ("merchant", f"usage:m:{self.day}:orders", "x", "string", "expected a number, came x"),
            ("usage_event", "day.jsonl", "{}", "string", "event_id: missing"),
            ("message_archive", "archives/day.jsonl", "{}", "string", "event_id: missing"),
        ):
            refused = {"family": family, "source_key": key.encode(), "raw": raw.encode(), "raw_format": raw_format}
            self.put("ops.dead_letters", reason=reason, **refused, **letter)
        # One whose cause is gone: it can be stored now.
        self.put(
            "ops.dead_letters",
            family="token",
            batch_id="t-1",
            source_key=b"token_usage:late:i",
            raw_format="string",
            raw=json.dumps({"usageCount": 9, "lastUsedAt": at.isoformat(), "instanceId": "i"}).encode(),
            reason="lastUsedAt: in the future",
            **letter,
        )
        self.put(
            "ops.dead_letters",
            family="token",
            source_key=b"token_usage:old:i",
            raw=b"{",
            raw_format="string",
            reason="expected JSON",
            replayed_at=at,
            **letter,
        )
        alert = {"severity": "warning", "title": "t", "text": "t", "remedy": "r", "first_at": at, "last_at": at}
        self.put("ops.alerts", dedupe_key="open", rule="dead-letters", delivered_at=at, delivered_to=["0"], **alert)
        self.put("ops.alerts", dedupe_key="over", rule="backlog", delivered_at=at, cleared_at=at, **alert)
        self.put(
            "ops.reconciliation",
            family="api_key",
            usage_date=self.day,
            measure="total_requests",
            recorded=9,
            stored=8,
            live=0,
            claimed=0,
            dead=0,
            duplicates=0,
            carried=0,
            difference=1,
            missing=1,
            missing_since=at,
        )
        self.put("ops.erasures", pseudonym="erased-1", finished_at=at, counts={"usage_events": 2})

    def _rest(self) -> None:
        month_ago = datetime.combine(self.day, time(), UTC) - timedelta(days=60)
        filed = {"chunk_start": month_ago, "chunk_end": month_ago + timedelta(days=1), "rows": 5, "bytes": 9}
        self.put("ops.archives", table_name="raw.token_deltas", address="raw/a.parquet", checksum="x", **filed)
        self.put("ops.archive_leftovers", address="raw/left.parquet", table_name="raw.token_deltas")
        self.put("ops.heartbeats", name="drain", beaten_at=self.at, details={"families": ["api_key"]})
        self.put("app.external_posts", id="1", user_id="1", title="a", body="b", fetched_at=self.at, is_fallback=False)
