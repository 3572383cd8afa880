"""Text from outside in what Dagster shows: names of every family that are Markdown, and no Markdown that has them.

Dagster's page renders Markdown with the rights of whoever looks at it, and a picture, `![x](/graphql?query=…)`, is a request.
"""

import ast
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import redis

from usage_pipeline.definitions import build_definitions
from usage_pipeline.rollups.calendar import GRAINS
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.events import archive, event
from usage_pipeline_tests.rigs.places import PROJECT

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)
USED = datetime.combine(YESTERDAY, datetime.min.time(), UTC) + timedelta(hours=9)
AT_MS = int(USED.timestamp() * 1000)
# A count of each table, which becomes wrong.
COUNTS = {
    "usage.api_keys": "total_requests",
    "usage.provider_usage": "upload_count",
    "usage.api_access_tokens": "usage_count",
    "usage.api_key_daily": "failed_requests",
    "usage.provider_daily": "upload_count",
    "usage.token_daily": "usage_count",
    "analytics.usage_hourly": "requests",
    "analytics.usage_daily": "requests",
    "analytics.usage_weekly": "requests",
    "analytics.usage_monthly": "requests",
}
# What a check names, a table of a ranking has, or a reason repeats.
SHOWN = {
    *("apikey", "storage", "merchant", "metric", "model", "provider", "service", "team", "token", "issue"),
    *("refused-key", "refused-value", "folder", "unread", "broken"),
}


def hostile(family: str) -> str:
    """A name that is a request with the operator's session, once it is Markdown. Short: reasons show 60 characters."""
    return f"![{family}](graphql?query=m)"


def write_input(postgres: psycopg.Connection, client: redis.Redis, landing: Path) -> None:
    """A little of everything, each under a hostile name."""
    key, provider = hostile("apikey"), hostile("storage")
    client.hset(f"apikey:{key}:metrics", mapping={"total_requests": 3, "last_used_at": AT_MS})
    client.hset(f"provider:{key}:{provider}:metrics", mapping={"upload_count": 2, "last_used_at": AT_MS})
    used = {"usageCount": 5, "lastUsedAt": USED.isoformat(), "instanceId": "i"}
    client.set(f"token_usage:{hostile('token')}:i", json.dumps(used))
    client.incrby(f"usage:{hostile('merchant')}:{YESTERDAY}:{hostile('metric')}", 7)
    client.hset(f"apikey:{hostile('refused-key')}:metrics", "total_requests", hostile("refused-value"))
    client.rpush("event_queue", hostile("queued"))
    names = {name: hostile(name) for name in ("model", "provider", "service", "team")}
    events = [
        event(event_time=(USED + timedelta(minutes=n)).isoformat(), user_id=hostile("user"), status_code=500, **names)
        for n in range(30)
    ]
    lines = [*events, event(event_time=hostile("refused-event"))]
    (landing / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (landing / f"{hostile('broken')}.json").write_text("{")
    (landing / f"{hostile('unread')}.txt").write_text("no")
    (landing / "archives").mkdir()
    (landing / "archives" / "a.jsonl").write_text(json.dumps(archive(events[0]["event_id"])) + "\n")
    (landing / hostile("folder")).mkdir()
    (landing / hostile("folder") / "a.txt").write_text("{}")
    postgres.execute(
        "insert into app.issues (id, title, status, view_count, created_at) values (%s, %s, 'OPEN', 4, %s)",
        (hostile("issue-id"), hostile("issue"), USED),
    )


def spoil(postgres: psycopg.Connection, client: redis.Redis) -> None:
    """What is stored becomes wrong everywhere, so that every check names whose it is."""
    for table, count in COUNTS.items():
        checks = "select conname from pg_constraint where conrelid = %s::regclass and contype = 'c'"
        for (name,) in postgres.execute(checks, (table,)).fetchall():
            postgres.execute(f'alter table {table} drop constraint "{name}"')
        postgres.execute(f"update {table} set {count} = -5")
    client.set(f"usage:{hostile('merchant')}:{YESTERDAY}:{hostile('metric')}", 2)
    postgres.execute("update stats.popular_issues set rank = 7")


def all_text(value: object) -> str:
    return json.dumps(value, default=repr, ensure_ascii=False)


@pytest.fixture
def told(
    settings: Settings,
    postgres: psycopg.Connection,
    redis_client: redis.Redis,
    instance: dg.DagsterInstance,
    tmp_path: Path,
) -> list[tuple[str, Mapping[str, Any], str]]:
    """Where, metadata and description of each event that runs and checks of all assets left in the event log."""
    write_input(postgres, redis_client, tmp_path)
    changes = {
        "landing_url": str(tmp_path),
        "external_api_base_url": "http://127.0.0.1:9",
        "external_api_max_retries": 1,
    }
    definitions = build_definitions({"settings": settings.model_copy(update={**changes, "external_post_ids": "1"})})
    chosen = {
        "landed": dg.AssetSelection.assets(dg.AssetKey(["ops", "landed_files"])),
        # Two assets check themselves, in their own runs.
        "every_check": dg.AssetSelection.all_asset_checks()
        - dg.AssetSelection.checks_for_assets(
            dg.AssetKey(["ops", "reconciliation"]), dg.AssetKey(["external", "posts"])
        ),
    }
    more = [dg.define_asset_job(name, selection) for name, selection in chosen.items()]
    definitions = dg.Definitions.merge(definitions, dg.Definitions(jobs=more))
    addresses = {"addresses": ["events.jsonl", f"{hostile('broken')}.json", "archives/a.jsonl"]}
    week = YESTERDAY - timedelta(days=YESTERDAY.weekday())
    windows = [f"{YESTERDAY}-09:00", f"{YESTERDAY}", f"{week}", f"{YESTERDAY.replace(day=1)}"]
    jobs: list[tuple[str, str | None]] = [("drain_now", None), ("landed", None), ("external_posts", None)]
    jobs += [
        (f"usage_{name}", key) for name, key in zip(("hourly", "daily", "weekly", "monthly"), windows, strict=True)
    ]
    jobs += [(name, f"{YESTERDAY}") for name in ("daily_tables", "merchant_usage", "issue_stats", "issue_ranking")]
    jobs += [("usage_rankings", f"{YESTERDAY}"), ("storage_lifecycle", None), ("reconcile", None)]
    jobs += [("spoil", None), ("observe_sources", None), ("merchant_usage", f"{YESTERDAY}"), ("every_check", None)]
    # A constraint whose message repeats the row: the asset fails, and tells why.
    jobs += [("refuse", None), ("daily_tables", f"{YESTERDAY}")]
    assert len(GRAINS) == len(windows)
    found: list[tuple[str, Mapping[str, Any], str]] = []
    for job, partition in jobs:
        if job == "spoil":
            spoil(postgres, redis_client)
            continue
        if job == "refuse":
            postgres.execute("delete from usage.api_key_daily")
            postgres.execute("alter table usage.api_key_daily add check (api_key_id not like '!%')")
            continue
        landing = {"ops": {"ops__landed_files": {"config": addresses}}} if job == "landed" else {}
        result = definitions.resolve_job_def(job).execute_in_process(
            instance=instance, run_config={**QUIET, **landing}, partition_key=partition, raise_on_error=False
        )
        found += [(f"{job}: {where}", metadata, said) for where, metadata, said in _events(result)]
        found.append((f"{job}: tags", {}, all_text(dict(result.dagster_run.tags))))
    return found


def _events(result: dg.ExecuteInProcessResult) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    for materialized in result.get_asset_materialization_events():
        one = materialized.materialization
        yield one.asset_key.to_user_string(), one.metadata, one.description or ""
    for observed in result.get_asset_observation_events():
        seen = observed.asset_observation_data.asset_observation
        yield seen.asset_key.to_user_string(), seen.metadata, seen.description or ""
    for check in result.get_asset_check_evaluations():
        where = f"{check.asset_key.to_user_string()}.{check.check_name}"
        yield where, check.metadata, check.description or ""
    for event_of in result.get_step_failure_events():
        failure = event_of.step_failure_data.user_failure_data
        if failure:
            yield f"{event_of.step_key} failed", failure.metadata, ""


def test_no_markdown_has_a_name_from_outside_and_every_name_is_shown(
    told: list[tuple[str, Mapping[str, Any], str]],
) -> None:
    shown = set()
    for where, metadata, description in told:
        assert "](graphql" not in description, f"{where} describes itself by foreign text: {description}"
        for name, value in metadata.items():
            is_table = isinstance(value, dg.TableMetadataValue)
            text = all_text([record.data for record in value.records] if is_table else value.value)
            if isinstance(value, dg.MarkdownMetadataValue):
                assert "](graphql" not in text, f"{where}: {name} is Markdown: {text[:2_000]}"
            shown |= {family for family in SHOWN if hostile(family) in text}
    # Otherwise they would have been lost on the way, and this test would say nothing.
    assert shown == SHOWN


def test_markdown_is_made_in_one_place_only() -> None:
    makers = set()
    for path in sorted((PROJECT / "usage_pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                {node.attr} if isinstance(node, ast.Attribute) else {node.id} if isinstance(node, ast.Name) else set()
            )
            if isinstance(node, ast.ImportFrom):
                names = {alias.name for alias in node.names}
            if names & {"md", "MarkdownMetadataValue"}:
                makers.add(str(path.relative_to(PROJECT)))
    assert makers == {"usage_pipeline/defs/metadata.py"}, "pictures; foreign text is a table, JSON or plain text"
