"""Freshness that no old backfill turns green, and the runs for what was missed. Times are those of the instance's events."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest
import yaml

from usage_pipeline.definitions import build_definitions
from usage_pipeline.defs.checks.freshness import freshness_policies, missed, partitioned_assets
from usage_pipeline.rollups.due_windows import closed_windows
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.defs.check_results import problems
from usage_pipeline_tests.rigs.places import PROJECT

NOW = datetime.now(UTC)
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
DAILY = dg.AssetKey(["usage", "api_key_daily"])


def stop_clocks(monkeypatch: pytest.MonkeyPatch, at: datetime) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return at

    for module in ("checks.freshness", "sensors.missed"):
        monkeypatch.setattr(f"usage_pipeline.defs.{module}.datetime", Stopped)


@pytest.fixture(autouse=True)
def _the_hour_does_not_change_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    stop_clocks(monkeypatch, NOW)


class Maker:
    """Materializations of an asset, made at a time of the past."""

    def __init__(self, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        self._instance = instance
        self._patch = monkeypatch

    def make(self, key: dg.AssetKey, partition: str, at: datetime) -> None:
        with self._patch.context() as patch:
            patch.setattr("time.time", at.timestamp)
            self._instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition))


@pytest.fixture
def maker(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Maker:
    return Maker(instance, monkeypatch)


def of(key: dg.AssetKey, settings: Settings) -> Any:
    return next(one for one in partitioned_assets(settings) if one.key == key)


@pytest.mark.parametrize("grain", ["hour", "day", "week", "month"])
def test_a_partition_is_fresh_when_it_was_made_after_it_closed_whatever_else_is_made(
    instance: dg.DagsterInstance, maker: Maker, grain: str
) -> None:
    settings = load_settings(usage_start_date="2024-01-01")
    key = dg.AssetKey(["analytics", {"hour": "usage_hourly", "day": "usage_daily"}.get(grain, f"usage_{grain}ly")])
    one = of(key, settings)
    last, *older = closed_windows(one.grain, NOW - one.grace, 3, settings.timezone)
    partition = one.partition(last)
    second = timedelta(seconds=1)
    assert missed(instance, one, [last]) == {}
    maker.make(key, one.partition(older[1]), older[1].first)
    assert missed(instance, one, [last]) == {partition: "was not made"}
    maker.make(key, partition, last.end - second)
    assert "before it ended" in missed(instance, one, [last])[partition]
    for window in older:
        maker.make(key, one.partition(window), NOW)
    assert "before it ended" in missed(instance, one, [last])[partition], "a backfill of what is older changes nothing"
    maker.make(key, partition, last.end + second)
    assert missed(instance, one, [last]) == {}


def test_a_new_installation_and_days_before_the_first_one_have_missed_nothing(
    instance: dg.DagsterInstance, maker: Maker
) -> None:
    settings = load_settings(usage_start_date="2024-01-01")
    one = of(DAILY, settings)
    week = closed_windows("day", NOW - one.grace, 7, settings.timezone)
    maker.make(DAILY, week[3].day.isoformat(), NOW - timedelta(minutes=1))
    assert missed(instance, one, week) == {}
    tokens = dg.AssetKey(["usage", "token_daily"])
    later = of(tokens, load_settings(usage_start_date=str(week[1].day)))
    maker.make(tokens, week[3].day.isoformat(), week[6].first)
    assert list(missed(instance, later, week)) == [str(week[0].day), str(week[1].day)]


@pytest.mark.parametrize(
    ("cron", "hours"), [("0 3 * * *", 5), ("30 */2 * * *", 2.5), ("0 6 * * 1", 152), ("0 0 1 * *", 170)]
)
def test_statistics_are_due_after_their_schedule(cron: str, hours: float) -> None:
    settings = load_settings(stats_cron_schedule=cron)
    [one] = [one for one in partitioned_assets(settings) if one.key.path[-1] == "daily_issue_stats"]
    assert one.grace == timedelta(hours=hours)


def test_every_asset_with_partitions_has_the_check_and_every_other_that_is_made_by_the_clock_a_policy() -> None:
    definitions = build_definitions({"settings": load_settings()})
    graph = definitions.resolve_asset_graph()
    checked = {key.asset_key for key in graph.asset_check_keys if key.name == "is_fresh"}
    partitioned = {key for key in graph.materializable_asset_keys if graph.get(key).partitions_def is not None}
    # Until the first month ends, there is none to be made.
    reports = {key for key in partitioned if key.path[0] == "reports"}
    assert checked == partitioned - reports
    policies = {key for key in graph.get_all_asset_keys() if graph.get(key).freshness_policy is not None}
    # Files land when somebody has some.
    assert policies == graph.materializable_asset_keys - partitioned - {dg.AssetKey(["ops", "landed_files"])}
    assert policies == set(freshness_policies())
    with (PROJECT / "dagster.yaml").open() as file:
        assert yaml.safe_load(file).get("freshness", {"enabled": True})["enabled"], "the daemon evaluates them"


def test_the_freshness_job_tells_which_partition_is_missing(
    definitions: dg.Definitions, instance: dg.DagsterInstance, maker: Maker, settings: Settings
) -> None:
    one = of(DAILY, settings)
    [last] = closed_windows("day", NOW - one.grace, 1, settings.timezone)
    maker.make(DAILY, str(last.day), last.first)
    # Else the installation would be new.
    instance.run_storage.add_historical_run(dg.DagsterRun("of_before"), NOW - timedelta(days=2))
    result = definitions.resolve_job_def("freshness").execute_in_process(instance=instance, run_config=QUIET)
    found = {one.asset_key: one for one in result.get_asset_check_evaluations()}
    assert len(found) == len(partitioned_assets(settings))
    assert f"{last.day}: was made at" in problems(found[DAILY])[0]
    others = {tuple(problems(one)) for key, one in found.items() if key != DAILY}
    assert others == {("no partition was made yet",)}
    maker.make(DAILY, str(last.day), NOW)
    result = definitions.resolve_job_def("freshness").execute_in_process(instance=instance, run_config=QUIET)
    [fresh] = [one for one in result.get_asset_check_evaluations() if one.passed]
    assert fresh.asset_key == DAILY
    assert fresh.metadata["age_seconds"].value == pytest.approx(0, abs=1)
    assert fresh.metadata["mismatches"].value == 0


def test_in_a_new_installation_nothing_is_late(definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
    result = definitions.resolve_job_def("freshness").execute_in_process(instance=instance, run_config=QUIET)
    found = result.get_asset_check_evaluations()
    assert len(found) == len(partitioned_assets(load_settings()))
    assert all(one.passed for one in found)


def missed_tick(definitions: dg.Definitions, instance: dg.DagsterInstance) -> dict[tuple[str, str], dg.RunRequest]:
    context = dg.build_sensor_context(instance=instance, definitions=definitions)
    result = definitions.resolve_sensor_def("missed_partitions")(context)
    requests = result.run_requests if isinstance(result, dg.SensorResult) else []
    return {(request.job_name, request.partition_key): request for request in requests}


def test_days_that_a_closed_daemon_left_out_become_runs_until_they_are_made(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    maker: Maker,
    settings: Settings,
    postgres: psycopg.Connection,
) -> None:
    """As after an outage of three days, which the schedules know nothing of: Dagster catches up with the last tick only."""
    stats = dg.AssetKey(["stats", "daily_issue_stats"])
    days = closed_windows("day", NOW - of(stats, settings).grace, 7, settings.timezone)
    maker.make(stats, str(days[6].day), days[6].first)
    for window in days[3:]:
        maker.make(stats, str(window.day), window.end + timedelta(hours=3))
    requests = missed_tick(definitions, instance)
    assert list(requests) == [("issue_stats", str(window.day)) for window in (days[2], days[1], days[0])]
    again = missed_tick(definitions, instance)
    assert [one.run_key for one in again.values()] == [one.run_key for one in requests.values()], "once an hour"
    for (job, partition), request in requests.items():
        assert request.tags[".dagster/usage_pipeline_one_at_a_time"] == f"{job}/{partition}"
        assert (
            definitions.resolve_job_def(job)
            .execute_in_process(
                instance=instance, run_config=QUIET, partition_key=partition, asset_selection=request.asset_selection
            )
            .success
        )
    assert missed_tick(definitions, instance) == {}
    assert postgres.execute("select count(*) from stats.daily_issue_stats").fetchone() == (3,)


def test_what_was_asked_for_in_vain_is_asked_for_again_an_hour_later_under_another_key(
    definitions: dg.Definitions, instance: dg.DagsterInstance, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker.make(DAILY, "2026-01-01", NOW - timedelta(days=30))
    first = missed_tick(definitions, instance)
    assert len(first) == 7
    stop_clocks(monkeypatch, NOW + timedelta(hours=1))
    second = missed_tick(definitions, instance)
    keys = [{request.run_key for request in requests.values()} for requests in (first, second)]
    assert not keys[0] & keys[1]
    assert {request.asset_selection[0] for request in second.values()} == {DAILY}


def test_merchants_are_left_alone_where_their_aggregation_is_switched_off(
    instance: dg.DagsterInstance, maker: Maker
) -> None:
    maker.make(dg.AssetKey(["usage", "merchant_usage"]), "2026-01-01", NOW - timedelta(days=30))
    for is_on in (True, False):
        definitions = build_definitions({"settings": load_settings(enable_usage_aggregation=is_on)})
        assert bool(missed_tick(definitions, instance)) == is_on


def test_a_tick_asks_for_a_bounded_number_of_runs_the_oldest_first(
    definitions: dg.Definitions, instance: dg.DagsterInstance, maker: Maker
) -> None:
    for key in (["usage", "merchant_usage"], ["analytics", "usage_hourly"], ["stats", "popular_models"]):
        partition = "2026-01-01-00:00" if key[-1] == "usage_hourly" else "2026-01-01"
        maker.make(dg.AssetKey(key), partition, NOW - timedelta(days=30))
    requests = missed_tick(definitions, instance)
    partitions = [partition for _, partition in requests]
    assert len(requests) == 25
    assert partitions == sorted(partitions)
    assert {job for job, _ in requests} == {"merchant_usage", "usage_rankings", "usage_hourly"}
