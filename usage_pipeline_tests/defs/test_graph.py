"""The asset graph: what feeds what, and that every asset says what it is. Loading it gives no warning."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from usage_pipeline.definitions import build_definitions
from usage_pipeline.defs.switched_off import SAID
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.settings import Settings, SettingsError, load_settings
from usage_pipeline_tests.rigs.places import PROJECT

# Made together with the day, of which the last two are sums of two others.
_PARTS = ("api_key", "error", "latency", "tag", "user")
_IN_REPORTS = ["analytics/usage_daily", "analytics/usage_latency_dimension_daily", "analytics/usage_user_team_daily"]
EDGES = {
    **{f"analytics/usage_{name}_daily": ["analytics/usage_daily", "analytics/usage_events"] for name in _PARTS},
    "analytics/usage_latency_dimension_daily": ["analytics/usage_daily", "analytics/usage_latency_daily"],
    "analytics/usage_user_team_daily": ["analytics/usage_daily", "analytics/usage_user_daily"],
    "analytics/usage_daily": ["analytics/usage_events"],
    "analytics/usage_events": ["ops/landed_files"],
    "analytics/usage_hourly": ["analytics/usage_events"],
    "analytics/usage_monthly": ["analytics/usage_daily"],
    "analytics/usage_weekly": ["analytics/usage_daily"],
    "external/posts": [],
    "app/comments": [],
    "app/issues": [],
    "ops/dagster_history": [],
    "ops/landed_files": [],
    "ops/reconciliation": [
        "redis/api_key_metrics",
        "redis/event_queue",
        "redis/merchant_counters",
        "redis/provider_metrics",
        "redis/token_usage",
        "snapshots/api_key_deltas",
        "snapshots/provider_deltas",
        "snapshots/request_events",
        "snapshots/token_deltas",
        "usage/merchant_usage",
    ],
    "ops/storage_lifecycle": [
        "analytics/usage_daily",
        "analytics/usage_hourly",
        "snapshots/request_events",
        "usage/api_key_daily",
        "usage/provider_daily",
        "usage/token_daily",
    ],
    "redis/api_key_metrics": [],
    "redis/event_queue": [],
    "redis/merchant_counters": [],
    "redis/provider_metrics": [],
    "redis/token_usage": [],
    **{f"reports/{name}": _IN_REPORTS for name in ("weekly", "monthly")},
    "reporting/api_key_activity": ["reporting/current_day", "usage/api_key_daily", "usage/api_keys"],
    "reporting/api_key_usage_by_day": ["usage/api_key_daily"],
    "reporting/api_token_usage_by_day": ["usage/api_access_tokens", "usage/token_daily"],
    "reporting/charge_back": ["analytics/usage_daily", "reporting/current_day"],
    "reporting/cost_by_model_and_month": ["analytics/usage_daily"],
    "reporting/cost_by_team_and_month": ["analytics/usage_daily"],
    "reporting/cost_changes": ["analytics/usage_daily"],
    "reporting/current_day": [],
    "reporting/current_rankings": ["reporting/rankings"],
    "reporting/data_freshness": ["reporting/current_day", "reporting/rankings", "stats/daily_issue_stats"],
    "reporting/error_rate_by_provider": ["analytics/usage_daily"],
    "reporting/error_rate_by_service": ["analytics/usage_daily"],
    "reporting/errors_by_type": ["analytics/usage_daily", "analytics/usage_error_daily"],
    "reporting/issue_flow": ["app/issues", "reporting/current_day", "stats/daily_issue_stats"],
    "reporting/late_corrections": [],
    "reporting/latency_by_model": ["analytics/usage_latency_daily"],
    "reporting/latency_by_service": ["analytics/usage_latency_daily"],
    "reporting/latency_by_service_and_week": ["analytics/usage_latency_daily"],
    "reporting/merchant_usage_by_day": ["usage/merchant_usage"],
    "reporting/rankings": [
        "stats/popular_api_keys",
        "stats/popular_issues",
        "stats/popular_models",
        "stats/popular_models_by_tokens",
        "stats/popular_services",
        "stats/popular_services_by_tokens",
    ],
    "reporting/storage_provider_usage_by_day": ["usage/provider_daily"],
    "reporting/time_to_resolve_by_week": ["app/issues", "reporting/current_day"],
    "reporting/usage_by_api_key": ["analytics/usage_api_key_daily"],
    "reporting/usage_by_day": ["analytics/usage_daily"],
    "reporting/usage_by_hour": ["analytics/usage_hourly"],
    "reporting/usage_by_model": ["analytics/usage_daily", "analytics/usage_user_daily"],
    "reporting/usage_by_month": ["analytics/usage_monthly"],
    "reporting/usage_by_service": ["analytics/usage_daily", "analytics/usage_user_daily"],
    "reporting/usage_by_tag": ["analytics/usage_tag_daily"],
    "reporting/usage_by_team": ["analytics/usage_daily", "analytics/usage_user_daily"],
    "reporting/usage_by_user": ["analytics/usage_user_daily"],
    "reporting/usage_by_week": ["analytics/usage_weekly"],
    "snapshots/api_key_deltas": ["redis/api_key_metrics"],
    "snapshots/provider_deltas": ["redis/provider_metrics"],
    "snapshots/request_events": ["redis/event_queue"],
    "snapshots/token_deltas": ["redis/token_usage"],
    "stats/daily_issue_stats": ["app/comments", "app/issues"],
    "stats/popular_api_keys": ["usage/api_key_daily"],
    "stats/popular_issues": ["app/comments", "app/issues"],
    "stats/popular_models": ["analytics/usage_daily"],
    "stats/popular_models_by_tokens": ["analytics/usage_daily"],
    "stats/popular_services": ["analytics/usage_daily"],
    "stats/popular_services_by_tokens": ["analytics/usage_daily"],
    "usage/api_access_tokens": ["snapshots/token_deltas"],
    "usage/api_key_daily": ["snapshots/api_key_deltas"],
    "usage/api_keys": ["snapshots/api_key_deltas"],
    "usage/merchant_usage": ["redis/merchant_counters"],
    "usage/provider_daily": ["snapshots/provider_deltas"],
    "usage/provider_usage": ["snapshots/provider_deltas"],
    "usage/token_daily": ["snapshots/token_deltas"],
}
PARTITIONED = {
    "reports/monthly",
    "reports/weekly",
    "analytics/usage_daily",
    "analytics/usage_hourly",
    "analytics/usage_monthly",
    "analytics/usage_weekly",
    "stats/daily_issue_stats",
    "stats/popular_api_keys",
    "stats/popular_issues",
    "stats/popular_models",
    "stats/popular_models_by_tokens",
    "stats/popular_services",
    "stats/popular_services_by_tokens",
    "usage/api_key_daily",
    "usage/merchant_usage",
    "usage/provider_daily",
    "usage/token_daily",
}


@pytest.fixture
def graph() -> Any:
    return build_definitions({"settings": load_settings()}).resolve_asset_graph()


def test_data_flows_from_redis_through_snapshots_to_totals_and_days(graph: Any) -> None:
    found = {
        key.to_user_string(): sorted(parent.to_user_string() for parent in graph.get(key).parent_keys)
        for key in graph.get_all_asset_keys()
    }
    assert found == EDGES


@pytest.mark.parametrize("name", sorted(EDGES))
def test_every_asset_says_what_it_is_and_whose(graph: Any, name: str) -> None:
    node = graph.get(dg.AssetKey(name.split("/")))
    assert node.description
    assert node.owners
    assert node.kinds
    # Files come before the events: in the group of their table the groups would form a circle.
    assert node.group_name == ("analytics" if name == "ops/landed_files" else name.split("/")[0])
    if node.is_materializable and node.group_name != "reports":
        table = node.metadata["dagster/table_name"]
        assert f"`{table}`" in node.description
    assert (node.partitions_def is not None) == (name in PARTITIONED)


def test_days_begin_and_end_in_the_configured_time_zone() -> None:
    definitions = build_definitions({"settings": load_settings(usage_timezone="Europe/Vienna")})
    partitions = definitions.resolve_asset_graph().get(dg.AssetKey(["usage", "token_daily"])).partitions_def
    assert isinstance(partitions, dg.DailyPartitionsDefinition)
    assert partitions.timezone == "Europe/Vienna"


def test_a_wrong_setting_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAIN_BARRIER", "maybe")
    with pytest.raises(SettingsError, match=r"^DRAIN_BARRIER: ") as raised:
        build_definitions()
    assert "\n" not in str(raised.value)


def test_another_object_than_settings_is_refused() -> None:
    with pytest.raises(TypeError, match="expected resource `settings` to be Settings"):
        build_definitions({"settings": "nothing"})


@pytest.mark.parametrize("is_enabled", [True, False])
def test_schedules_and_sensors_run_on_their_own_unless_switched_off(is_enabled: bool) -> None:
    settings = load_settings(enable_job_scheduler=is_enabled, landing_url="landing")
    repository = build_definitions({"settings": settings}).get_repository_def()
    found = {sensor.default_status.value for sensor in repository.sensor_defs}
    found |= {schedule.default_status.value for schedule in repository.schedule_defs}
    assert found == {"RUNNING" if is_enabled else "STOPPED"}


def test_what_is_switched_off_stays_so_whoever_turns_it_on_and_says_why(instance: dg.DagsterInstance) -> None:
    """To turn one on in the UI only means that the daemon evaluates its ticks."""
    on, off = (
        build_definitions({"settings": load_settings(enable_job_scheduler=is_enabled)}).get_repository_def()
        for is_enabled in (True, False)
    )
    assert [one.name for one in off.sensor_defs] == [one.name for one in on.sensor_defs]
    assert [(one.name, one.cron_schedule) for one in off.schedule_defs] == [
        (one.name, one.cron_schedule) for one in on.schedule_defs
    ]
    with (
        dg.build_sensor_context(instance=instance, repository_def=off) as of_sensor,
        dg.build_schedule_context(instance=instance, scheduled_execution_time=datetime.now(UTC)) as of_schedule,
    ):
        ticks = [one.evaluate_tick(of_sensor) for one in off.sensor_defs]
        ticks += [one.evaluate_tick(of_schedule) for one in off.schedule_defs]
    assert {tick.skip_message for tick in ticks} == {SAID}
    assert not any(tick.run_requests for tick in ticks)


def test_merchant_aggregation_has_a_switch_of_its_own() -> None:
    repository = build_definitions(
        {"settings": load_settings(enable_usage_aggregation=False, usage_aggregation_interval=1_800_000)}
    ).get_repository_def()
    schedules = {schedule.name: schedule for schedule in repository.schedule_defs}
    assert schedules["merchant_usage_hourly"].default_status is dg.DefaultScheduleStatus.STOPPED
    assert schedules["daily_tables_hourly"].default_status is dg.DefaultScheduleStatus.RUNNING
    assert schedules["daily_tables_hourly"].cron_schedule == "*/30 * * * *"


def test_loading_the_location_gives_no_warning() -> None:
    loading = "from usage_pipeline.definitions import build_definitions; build_definitions().get_repository_def()"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", loading], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_dagster_validates_the_definitions_with_the_projects_own_instance_and_workspace(servers: LocalServers) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate"],
        cwd=PROJECT,
        env={**os.environ, "DAGSTER_POSTGRES_URL": servers.dagster_postgres_url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Validation successful for code location usage_pipeline" in done.stdout + done.stderr
    assert "BetaWarning" not in done.stderr


def test_no_secret_is_in_the_definitions(settings: Settings) -> None:
    secret = load_settings(database_url="postgresql://u:hunter2@127.0.0.1/db", redis_url="redis://:hunter2@127.0.0.1")
    repository = build_definitions({"settings": secret}).get_repository_def()
    assert "hunter2" not in repr(repository.get_top_level_resources())
    assert "hunter2" not in repr(secret)
