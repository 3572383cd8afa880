"""`reports/*` through Dagster: which partitions there are, what a run says, and when somebody is told."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest

from usage_pipeline.definitions import build_definitions
from usage_pipeline.rollups.calendar import day_window, week_of
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.alerts import Webhook, told_at, webhook
from usage_pipeline_tests.rigs.windows import event_at, store_events

NOW = datetime.now(UTC)
THIS_WEEK = week_of(NOW.date())
LAST_WEEK, WEEK_BEFORE = (THIS_WEEK - timedelta(days=7 * ago) for ago in (1, 2))
QUIET: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as running:
        yield running


@pytest.fixture
def used(settings: Settings, postgres: psycopg.Connection) -> Settings:
    """One request in each of the last two weeks, rolled up."""
    for day in (LAST_WEEK, WEEK_BEFORE):
        at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
        store_events(postgres, settings, NOW, event_at(at))
        replace_window(postgres, day_window(day, settings.timezone), settings=settings)
    return settings.model_copy(update={"usage_start_date": WEEK_BEFORE})


def run(
    settings: Settings, instance: dg.DagsterInstance, week: Any, **config: Any
) -> tuple[dg.ExecuteInProcessResult, Any]:
    job = build_definitions({"settings": settings}).resolve_job_def("report_of_week")
    ops = {"ops": {"reports__weekly": {"config": config}}} if config else {}
    result = job.execute_in_process(
        instance=instance, partition_key=str(week), run_config=QUIET | ops, raise_on_error=False
    )
    made = result.get_asset_materialization_events()
    return result, made[0].materialization.metadata if made else {}


def test_a_run_shows_the_page_and_says_what_the_week_cost(
    used: Settings, instance: dg.DagsterInstance, tmp_path: Any
) -> None:
    result, metadata = run(used, instance, LAST_WEEK)
    assert result.success
    assert metadata["cost_usd"].value == pytest.approx(0.01)
    assert metadata["requests"].value == 1
    assert metadata["files"].value == "not kept: REPORTS_URL is not set"
    assert "data:image/png;base64," in metadata["plot"].value
    kept = used.model_copy(update={"reports_url": str(tmp_path)})
    _, metadata = run(kept, instance, LAST_WEEK)
    names = [f"usage-week-{LAST_WEEK}.{kind}" for kind in ("csv", "parquet", "png")]
    assert metadata["files"].value == ", ".join(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_only_the_newest_report_is_sent_and_only_once_unless_a_run_says_so(
    used: Settings, instance: dg.DagsterInstance, hook: Webhook
) -> None:
    urls = told_at(hook, used).alert_urls
    quiet = used.model_copy(update={"alert_urls": urls})
    telling = quiet.model_copy(update={"send_reports": True})
    for settings, week, config, titles in (
        (quiet, LAST_WEEK, {}, 0),
        (telling, WEEK_BEFORE, {}, 0),
        (telling, LAST_WEEK, {"send": False}, 0),
        (telling, LAST_WEEK, {}, 1),
        (telling, LAST_WEEK, {}, 1),
        (telling, LAST_WEEK, {"send": True}, 2),
        (quiet, WEEK_BEFORE, {"send": True}, 3),
    ):
        result, _ = run(settings, instance, week, **config)
        assert result.success
        assert len(hook.received) == titles, (week, config)
    assert hook.titles == [f"LLM usage, week of {week}" for week in (LAST_WEEK, LAST_WEEK, WEEK_BEFORE)]


def test_to_send_without_an_address_fails_with_what_is_missing(used: Settings, instance: dg.DagsterInstance) -> None:
    result, _ = run(used, instance, LAST_WEEK, send=True)
    assert not result.success
    [failure] = [event for event in result.all_events if event.is_step_failure]
    assert "ALERT_URLS: expected an address to send reports to" in str(failure.step_failure_data.error)


def test_a_week_with_usage_that_waits_fails_and_nobody_is_told(
    used: Settings, instance: dg.DagsterInstance, postgres: psycopg.Connection, hook: Webhook
) -> None:
    settings = used.model_copy(update={"alert_urls": told_at(hook, used).alert_urls, "send_reports": True})
    start = day_window(LAST_WEEK, used.timezone).start
    postgres.execute("insert into ops.touched_windows values ('day', %s, %s)", (start, start + timedelta(days=1)))
    result, _ = run(settings, instance, LAST_WEEK)
    assert not result.success
    assert hook.received == []


@pytest.mark.parametrize(
    ("grain", "at", "partition"),
    [
        ("week", "2026-11-30T06:00", "2026-11-23"),
        ("month", "2026-11-01T06:10", "2026-10-01"),
        # The first whole ones are those around USAGE_START_DATE.
        ("week", "2026-10-05T06:00", "2026-09-28"),
        ("week", "2026-09-28T06:00", None),
        ("month", "2026-09-01T06:10", None),
    ],
)
def test_a_schedule_asks_for_the_week_or_month_that_ended(
    settings: Settings, grain: str, at: str, partition: str | None
) -> None:
    settings = settings.model_copy(update={"usage_timezone": "Europe/Berlin", "usage_start_date": date(2026, 10, 1)})
    definitions = build_definitions({"settings": settings})
    schedule = definitions.resolve_schedule_def(f"report_of_{grain}")
    moment = datetime.fromisoformat(at).replace(tzinfo=settings.timezone)
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=moment,
            repository_def=definitions.get_repository_def(),
        ) as context,
    ):
        requests = schedule.evaluate_tick(context).run_requests or []
    assert [request.partition_key for request in requests] == ([] if partition is None else [partition])
