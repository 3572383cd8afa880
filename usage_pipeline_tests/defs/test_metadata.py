"""Definitions that speak: what every asset says of itself, and what every run says of the rows that it stored."""

import json
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import redis

from usage_pipeline.definitions import build_definitions
from usage_pipeline.defs.assets.redis_sources import SOURCES, source_key
from usage_pipeline.rollups.calendar import GRAINS, Grain
from usage_pipeline.rollups.lineage import COLUMN_LINEAGE
from usage_pipeline.rollups.window_tables import DAY_PARTS
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.events import event

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
NOW = datetime.now(UTC)
TODAY, YESTERDAY = NOW.date(), NOW.date() - timedelta(days=1)
WEEK_START = YESTERDAY - timedelta(days=YESTERDAY.weekday())
GRAPH = build_definitions({"settings": load_settings()}).resolve_asset_graph()
KEYS = sorted(GRAPH.get_all_asset_keys())
# Where looking beats reading: what has a course over time, and what waits.
PICTURED = {key.to_user_string() for key in KEYS if GRAPH.get(key).partitions_def is not None} | {
    source_key(family).to_user_string() for family in SOURCES
}
MOST_BYTES = 30_000
# They are files, and the picture is a page.
REPORTS = {"reports/weekly", "reports/monthly"}
MOST_BYTES_OF_A_PAGE = 100_000
DAY_PART_KEYS = {dg.AssetKey(part.table.split(".")) for part in DAY_PARTS}
VIEWS = {key for key in KEYS if key.path[0] == "reporting"}
# They come from tables of ours alone, which are no assets.
UNTRACED = {dg.AssetKey(["reporting", name]) for name in ("current_day", "late_corrections")}


def test_every_asset_has_tags_and_those_that_python_makes_say_where_in_the_code() -> None:
    for key in KEYS:
        node = GRAPH.get(key)
        assert set(node.tags) >= {"domain", "cadence", "pii"}, key
        if node.is_executable and key not in DAY_PART_KEYS:
            [reference] = node.metadata["dagster/code_references"].code_references
            assert Path(reference.file_path).is_file()
    holders = {key.to_user_string(): GRAPH.get(key).tags["pii"] for key in KEYS if GRAPH.get(key).tags["pii"] != "none"}
    # By hand: what tables have of people.
    assert holders["analytics/usage_events"] == "texts"
    assert holders["analytics/usage_user_daily"] == holders["reporting/usage_by_user"] == "user_ids"
    assert holders["redis/event_queue"] == "user_ids"
    # What else a writer sent.
    assert holders["snapshots/request_events"] == "texts"
    assert holders["app/issues"] == "user_ids"
    assert not {"usage/api_keys", "analytics/usage_daily", "reporting/usage_by_team", "redis/api_key_metrics"} & set(
        holders
    )


@pytest.mark.parametrize("key", KEYS, ids=dg.AssetKey.to_user_string)
def test_an_asset_says_whose_it_is_where_it_is_stored_and_what_each_column_means(key: dg.AssetKey) -> None:
    node = GRAPH.get(key)
    assert node.owners
    assert node.group_name != "default"
    assert node.kinds
    assert node.description
    schema = node.metadata["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    assert schema.columns
    assert [column.name for column in schema.columns if not column.description] == []
    if key.path[0] == "redis":
        assert f"`{node.metadata['redis_keys']}`" in node.description
        return
    if key.to_user_string() in REPORTS:
        assert "REPORTS_URL" in node.description
        return
    table = node.metadata["dagster/table_name"]
    assert f"`{table}`" in node.description
    assert node.metadata["table_comment"]
    has_lineage = table in COLUMN_LINEAGE or key in VIEWS - UNTRACED
    assert ("dagster/column_lineage" in node.metadata) == has_lineage


def test_lineage_leads_to_columns_of_assets_that_are_upstream() -> None:
    """Of all assets of statistics, rankings, roll-ups and views, and through no asset or column that is not there."""
    found = {key for key in KEYS if "dagster/column_lineage" in GRAPH.get(key).metadata}
    made = PICTURED - {"usage/merchant_usage"} - {source_key(family).to_user_string() for family in SOURCES}
    assert {key.to_user_string() for key in found - VIEWS - DAY_PART_KEYS} == made
    assert found >= (VIEWS - UNTRACED) | DAY_PART_KEYS
    for key in found:
        node = GRAPH.get(key)
        for sources in node.metadata["dagster/column_lineage"].deps_by_column.values():
            for source in sources:
                assert source.asset_key in node.parent_keys, (key, source)
                columns = GRAPH.get(source.asset_key).metadata["dagster/column_schema"].columns
                assert source.column_name in {column.name for column in columns}, (key, source)


def breaks_with(table: str, column: str) -> set[str]:
    """The columns of assets that come from this column, also through others: what the UI shows downstream of it."""
    found: set[str] = set()
    for key in KEYS:
        of_asset = GRAPH.get(key).metadata.get("dagster/column_lineage")
        for name, sources in of_asset.deps_by_column.items() if of_asset else ():
            if any((source.asset_key.to_user_string(), source.column_name) == (table, column) for source in sources):
                found |= {f"{key.to_user_string()}.{name}"} | breaks_with(key.to_user_string(), name)
    return found


def test_the_catalog_says_which_views_break_when_a_column_changes() -> None:
    assert breaks_with("analytics/usage_error_daily", "status_code") == {"reporting/errors_by_type.status_code"}
    reached = breaks_with("analytics/usage_events", "cost_usd")
    assert {
        "reporting/charge_back.cost_usd",
        "reporting/usage_by_user.cost_usd",
        "reporting/usage_by_hour.cost_usd",
    } <= reached
    assert breaks_with("usage/api_access_tokens", "name") == {"reporting/api_token_usage_by_day.token_name"}


def test_every_view_of_the_database_is_in_the_catalog_and_says_that_it_is_one(postgres: psycopg.Connection) -> None:
    views = postgres.execute("select viewname::text from pg_views where schemaname = 'reporting' order by 1").fetchall()
    assert [key.path[1] for key in sorted(VIEWS)] == [name for (name,) in views]
    for key in VIEWS:
        node = GRAPH.get(key)
        assert "view" in node.kinds
        assert node.group_name == "reporting"
        assert not node.is_materializable


def write_input(postgres: psycopg.Connection, client: redis.Redis, landing: Path) -> None:
    """A little of everything, of yesterday."""
    used = datetime.combine(YESTERDAY, datetime.min.time(), UTC) + timedelta(hours=9)
    at_ms = int(used.timestamp() * 1000)
    client.hset("apikey:a:metrics", mapping={"total_requests": 3, "last_used_at": at_ms})
    client.hset("provider:a:s3:metrics", mapping={"upload_count": 2, "last_used_at": at_ms})
    client.set("token_usage:t:i", json.dumps({"usageCount": 5, "lastUsedAt": used.isoformat(), "instanceId": "i"}))
    client.rpush(
        "event_queue",
        json.dumps(
            {
                "event_id": "8f0e6c0a-6f0e-4f5e-9d0e-000000000001",
                "api_key_id": "a",
                "user_id": "u",
                "provider": "s3",
                "event_type": "upload",
                "file_size": 1,
                "status": "success",
                "at": used.isoformat(),
            }
        ),
    )
    client.incrby(f"usage:m:{YESTERDAY}:orders", 7)
    lines = [
        event(event_time=(used + timedelta(minutes=n)).isoformat(), error_type=..., tags={"project": f"p{n % 2}"})
        for n in range(3)
    ]
    (landing / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    postgres.execute(
        "insert into app.issues (id, title, status, view_count, created_at) values ('1', 'One', 'OPEN', 4, %s)", (used,)
    )


def partition_of(grain: Grain) -> str:
    return {
        "hour": f"{YESTERDAY}-09:00",
        "day": f"{YESTERDAY}",
        "week": f"{WEEK_START}",
        "month": f"{YESTERDAY.replace(day=1)}",
    }[grain]


@pytest.fixture
def told(
    settings: Settings,
    postgres: psycopg.Connection,
    redis_client: redis.Redis,
    instance: dg.DagsterInstance,
    tmp_path: Path,
) -> dict[str, dict[str, Any]]:
    """What a run of each asset told, but for ops/dagster_history, which has its own tests."""
    write_input(postgres, redis_client, tmp_path)
    changes = {
        "landing_url": str(tmp_path),
        "rollup_tags": "project, customer",
        # Nobody answers there: the asset stores fallbacks.
        "external_api_base_url": "http://127.0.0.1:9",
        "external_api_max_retries": 1,
        "external_post_ids": "1",
    }
    definitions = build_definitions({"settings": settings.model_copy(update=changes)})
    landed = dg.define_asset_job("landed", dg.AssetSelection.assets(dg.AssetKey(["ops", "landed_files"])))
    definitions = dg.Definitions.merge(definitions, dg.Definitions(jobs=[landed]))
    addresses = {"ops": {"ops__landed_files": {"config": {"addresses": ["events.jsonl"]}}}}
    runs: list[tuple[str, str | None]] = [("observe_sources", None), ("observe_sources", None), ("drain_now", None)]
    runs += [("landed", None), ("external_posts", None)]
    runs += [(f"usage_{name}", partition_of(grain)) for grain, name in zip(GRAINS, _GRAIN_JOBS, strict=True)]
    runs += [(name, f"{YESTERDAY}") for name in ("daily_tables", "merchant_usage", "issue_stats", "issue_ranking")]
    last_week = WEEK_START - timedelta(days=7)
    runs += [
        ("report_of_week", f"{last_week}"),
        ("report_of_month", f"{(last_week.replace(day=1) - timedelta(days=1)).replace(day=1)}"),
    ]
    runs += [("usage_rankings", f"{YESTERDAY}"), ("storage_lifecycle", None), ("reconcile", None)]
    found: dict[str, dict[str, Any]] = {}
    for job, partition in runs:
        config = {**QUIET, **(addresses if job == "landed" else {})}
        result = definitions.resolve_job_def(job).execute_in_process(
            instance=instance, run_config=config, partition_key=partition
        )
        for one in result.get_asset_materialization_events():
            assert one.asset_key is not None
            found[one.asset_key.to_user_string()] = dict(one.materialization.metadata)
        for one in result.get_asset_observation_events():
            observation = one.asset_observation_data.asset_observation
            found[observation.asset_key.to_user_string()] = dict(observation.metadata)
    return found


# Nothing is archived; the report has a row for each family.
ROWS = {"reports/weekly": 0, "reports/monthly": 0, "ops/storage_lifecycle": 0, "ops/reconciliation": 5}
_GRAIN_JOBS = ("hourly", "daily", "weekly", "monthly")


def pictures(metadata: dict[str, Any]) -> list[bytes]:
    marker = "data:image/png;base64,"
    return [b64decode(part.partition(")")[0]) for part in str(metadata["plot"].value).split(marker)[1:]]


def test_runs_tell_rows_shares_of_nulls_and_show_pictures(told: dict[str, dict[str, Any]]) -> None:
    sources = {source_key(family).to_user_string() for family in SOURCES}
    unstored = {"analytics/usage_events", "app/comments", "app/issues", "ops/dagster_history"}
    unstored |= {key.to_user_string() for key in VIEWS | DAY_PART_KEYS}
    assert set(told) == {key.to_user_string() for key in KEYS} - unstored
    for name, metadata in told.items():
        if name in sources:
            assert "live_keys" in metadata, name
        elif name.startswith("snapshots/"):
            assert {"keys", "stored_rows", "stored_bytes", "longest_lag_seconds", "days_touched"} <= set(metadata), name
            assert (metadata["keys"].value, metadata["stored_rows"].value) == (1, 1), name
            assert 20 < metadata["stored_bytes"].value < 1_000, name
        else:
            rows = metadata.get("dagster/partition_row_count") or metadata["dagster/row_count"]
            assert rows.value == ROWS.get(name, 1), name
        assert name in sources | REPORTS or "null_shares" in metadata, name
        assert ("plot" in metadata) == (name in PICTURED), name
        for picture in pictures(metadata) if name in PICTURED else []:
            assert picture.startswith(b"\x89PNG")
            assert len(picture) < (MOST_BYTES_OF_A_PAGE if name in REPORTS else MOST_BYTES)
    assert told["usage/api_key_daily"]["null_shares"].value == {"last_used_at": 0.0}
    assert told["snapshots/api_key_deltas"]["null_shares"].value == {"last_used_at": 0.0, "extra": 1.0}
    assert told["stats/popular_issues"]["null_shares"].value == "no column may be null"
    costs = {name: one.value for name, one in told["analytics/usage_daily"].items() if name.endswith("cost_usd")}
    assert costs == {"sum_cost_usd": 0.00135, "sum_list_cost_usd": 0.00135}, "no sender reported a cost"
    of_tags = {name: one.value for name, one in told["analytics/usage_daily"].items() if name.startswith("tag_")}
    assert of_tags == {"tag_values_project": 2, "tag_other_requests_project": 0}
    # Requests, and latency percentiles.
    assert len(pictures(told["analytics/usage_daily"])) == 2


def test_a_backfill_draws_for_its_newest_day_only_and_an_event_stays_small(
    definitions: dg.Definitions, instance: dg.DagsterInstance, postgres: psycopg.Connection
) -> None:
    first, last = TODAY - timedelta(days=30), YESTERDAY
    tags = {"dagster/asset_partition_range_start": f"{first}", "dagster/asset_partition_range_end": f"{last}"}
    for day in range(40):
        postgres.execute(
            "insert into usage.merchant_usage (merchant_id, date, metric_type, metric_value) values ('m', %s, 'orders', 5)",
            (TODAY - timedelta(days=day),),
        )
    result = definitions.resolve_job_def("merchant_usage").execute_in_process(
        instance=instance, run_config=QUIET, tags=tags
    )
    events = {one.partition: one.materialization for one in result.get_asset_materialization_events()}
    assert [day for day, one in events.items() if "plot" in one.metadata] == [f"{last}"]
    without = dg.serialize_value(events[f"{first}"])
    assert len(without) < 2_000
    assert len(dg.serialize_value(events[f"{last}"])) < MOST_BYTES
