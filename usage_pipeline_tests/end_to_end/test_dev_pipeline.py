"""The whole of it: `usage-pipeline dev`, counters written to Redis, rows without a click, a backfill as the UI starts it."""

import json
import signal
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis

from usage_pipeline.issues.load import load_issues
from usage_pipeline.local.servers.ports import free_port
from usage_pipeline.local.servers.redis import last_url
from usage_pipeline_tests.end_to_end.rigs.dagster_system import wait_until
from usage_pipeline_tests.rigs.clock import days_ago
from usage_pipeline_tests.rigs.events import event
from usage_pipeline_tests.rigs.issues import (
    REAL_ISSUES,
    made_up_file,
    recomputed_days,
    recomputed_rankings,
    stored_days,
    stored_rankings,
)

DEV = """
import sys
from pathlib import Path
from usage_pipeline.local.dev import run_dev
sys.exit(run_dev(folder=Path({folder!r}), port={port}, api_port={api_port}))
"""
LAUNCH = """mutation ($parameters: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $parameters) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILL = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
    status error { message } assetBackfillData { assetBackfillStatuses { ... on AssetPartitionsStatusCounts {
        numPartitionsTargeted numPartitionsMaterialized } } } } } }"""
MATERIALIZATIONS = """{ assetsOrError { ... on AssetConnection { nodes { key { path }
    assetMaterializations(limit: 1) { timestamp } } } } }"""
TIMEOUT_SECONDS = 150
# Two events a partition and asset: 7,308 of them, whatever else the machine does.
BACKFILL_TIMEOUT_SECONDS = 600


class Ui:
    """The web server's GraphQL, as the UI calls it."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)

    def ask(self, query: str, **variables: object) -> Any:
        answer = self._client.post("/graphql", json={"query": query, "variables": variables}).raise_for_status().json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]


@pytest.fixture
def dev(folder: Path, launch: Callable[..., Any]) -> Iterator[tuple[Ui, redis.Redis, psycopg.Connection]]:
    port = free_port()
    launcher = launch(DEV.format(folder=str(folder), port=port, api_port=free_port()))
    launcher.wait_for("Dagster is at", TIMEOUT_SECONDS)
    with (
        redis.Redis.from_url(last_url(folder / "redis")) as client,
        psycopg.connect(f"postgresql://postgres:@/usage?host={folder / 'postgres'}", autocommit=True) as postgres,
    ):
        yield Ui(port), client, postgres
    launcher.process.send_signal(signal.SIGINT)
    assert launcher.wait() == 0


def backfilled(ui: Ui, assets: list[list[str]], days: list[date]) -> list[int]:
    """Launches a backfill as the UI does and follows it to its end; how many partitions of each asset it materialized."""
    parameters = {
        "assetSelection": [{"path": path} for path in assets],
        "partitionNames": [day.isoformat() for day in days],
    }
    launched = ui.ask(LAUNCH, parameters=parameters)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def finished() -> Any:
        found = ui.ask(BACKFILL, id=launched["backfillId"])["partitionBackfillOrError"]
        return found if found["status"] not in ("REQUESTED", "COMPLETING") else None

    backfill = wait_until(finished, "the backfill", timeout_seconds=BACKFILL_TIMEOUT_SECONDS)
    assert backfill["status"] == "COMPLETED_SUCCESS", backfill["error"]
    counts = backfill["assetBackfillData"]["assetBackfillStatuses"]
    assert {one["numPartitionsTargeted"] for one in counts} == {len(days)}
    return [one["numPartitionsMaterialized"] for one in counts]


def assert_five_years_of_issues_equal_a_recomputation(ui: Ui, postgres: psycopg.Connection, folder: Path) -> None:
    """The real issues, or made-up ones where their file is not beside the checkout."""
    first = date(2019, 3, 18)
    days = [first + timedelta(days=offset) for offset in range(5 * 365 + 2)]
    path = REAL_ISSUES if REAL_ISSUES.exists() else made_up_file(folder / "issues.csv", first, len(days))
    assert load_issues(postgres, path).is_success
    assert backfilled(ui, [["stats", "daily_issue_stats"], ["stats", "popular_issues"]], days) == [len(days)] * 2
    # Schedules may have made other days meanwhile: yesterday's statistics, today's ranking.
    statistics, rankings = stored_days(postgres), stored_rankings(postgres)
    assert {day: statistics.get(day) for day in days} == recomputed_days(path, days[0], days[-1], "UTC")
    assert {day: rankings.get(day, []) for day in days} == recomputed_rankings(path, days, "UTC")


def test_counters_become_rows_without_a_click_and_a_backfill_of_five_years_equals_a_recomputation(
    dev: tuple[Ui, redis.Redis, psycopg.Connection], tmp_path: Path
) -> None:
    ui, client, postgres = dev

    def stored(key: str) -> Any:
        return postgres.execute("select total_requests from usage.api_keys where api_key_id = %s", (key,)).fetchone()

    for number in range(2):
        client.hset(f"apikey:fresh-{number}:metrics", "total_requests", 3)
        assert wait_until(
            lambda number=number: stored(f"fresh-{number}"), "a stored counter", timeout_seconds=TIMEOUT_SECONDS
        ) == (3,)

    nodes = ui.ask(MATERIALIZATIONS)["assetsOrError"]["nodes"]
    reported = {"/".join(node["key"]["path"]) for node in nodes if node["assetMaterializations"]}
    assert {"snapshots/api_key_deltas", "usage/api_keys"} <= reported

    assert_five_years_of_issues_equal_a_recomputation(ui, postgres, tmp_path)


def test_a_landed_file_of_late_events_becomes_windows_without_a_click(
    dev: tuple[Ui, redis.Redis, psycopg.Connection], folder: Path
) -> None:
    _, _, postgres = dev
    day = days_ago(2)
    events = [event(event_time=f"{day}T10:{minute:02d}:00Z") for minute in range(20)]
    (folder / "landing" / "late.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))

    def requests(table: str) -> list[tuple[Any, ...]]:
        return postgres.execute(f"select sum(requests)::int from analytics.{table} having sum(requests) > 0").fetchall()

    for table in ("usage_hourly", "usage_daily"):
        assert wait_until(
            lambda table=table: requests(table), f"a row of {table}", timeout_seconds=TIMEOUT_SECONDS
        ) == [(20,)]
    assert wait_until(
        lambda: [path.name for path in folder.glob("landing/done/*")],
        "the file in done/",
        timeout_seconds=TIMEOUT_SECONDS,
    ) == ["late.jsonl"]
