"""Red checks, assets that are too old, runs that do not begin and schedules that fail raise alerts, which end by themselves."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest

from usage_pipeline.alerting.evaluation import evaluate_pipeline
from usage_pipeline.alerting.facts import OrchestrationFacts, SlowRun
from usage_pipeline.definitions import build_definitions
from usage_pipeline.defs.checks.freshness import freshness_check_keys, freshness_policies
from usage_pipeline.defs.sensors.alert_facts import STUCK_AFTER, orchestration_facts
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.alerts import Webhook, told_at, webhook

UI = "https://dagster.example.com/x"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as running:
        yield running


@pytest.fixture
def alerting(settings: Settings, hook: Webhook) -> Settings:
    return told_at(hook, settings).model_copy(update={"dagster_ui_url": UI})


def tick(settings: Settings, instance: dg.DagsterInstance) -> None:
    definitions = build_definitions({"settings": settings})
    context = dg.build_sensor_context(instance=instance, definitions=definitions, resources={"settings": settings})
    definitions.resolve_sensor_def("alerts")(context)


def test_red_checks_of_freshness_are_one_message_and_over_when_they_are_green(
    alerting: Settings, hook: Webhook, instance: dg.DagsterInstance
) -> None:
    """All of an empty instance, as the schedule looks at them."""
    # Else the installation would be new, and nothing late.
    instance.run_storage.add_historical_run(dg.DagsterRun("of_before"), datetime.now(UTC) - timedelta(days=2))
    definitions = build_definitions({"settings": alerting})
    result = definitions.resolve_job_def("freshness").execute_in_process(
        instance=instance, resources={"settings": alerting}
    )
    assert result.success, "a red check fails no run, and so no alert of runs tells of it"
    tick(alerting, instance)
    red = len(freshness_check_keys())
    [told] = [one for one in hook.received if "failed-check" in one["title"]]
    assert told["title"].startswith(f"[usage_pipeline] {red} alerts of failed-check: Check is_fresh of ")
    assert "no partition was made yet" in told["message"]
    assert f"\n{UI}/assets/" in told["message"]
    for key in freshness_check_keys():
        report(instance, key, passed=True)
    tick(alerting, instance)
    assert f"Cleared: {red} alerts of failed-check" in hook.titles[-1]


def report(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey, *, passed: bool, severity: str = "ERROR", **options: Any
) -> None:
    evaluation = dg.AssetCheckEvaluation(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=passed,
        metadata={},
        severity=dg.AssetCheckSeverity(severity),
        **options,
    )
    instance.report_runless_asset_event(evaluation)


def test_a_check_that_only_warns_is_told_when_it_was_red_for_a_day(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection, instance: dg.DagsterInstance
) -> None:
    key = freshness_check_keys()[0]
    name = f"{key.asset_key.to_user_string()}:{key.name}"
    for passed in (False, False):
        report(instance, key, passed=passed, severity="WARN", description="2 days are missing")
        tick(alerting, instance)
    assert not any("Check" in title for title in hook.titles)
    yesterday = datetime.now(UTC) - timedelta(hours=25)
    postgres.execute(
        "update ops.heartbeats set details = jsonb_set(details, array['red_since', %s], to_jsonb(%s::float8))"
        " where name = 'scheduler'",
        (name, yesterday.timestamp()),
    )
    tick(alerting, instance)
    [told] = [one for one in hook.received if "Check" in one["title"]]
    assert told["type"] == "warning"
    assert "2 days are missing" in told["message"]
    assert f"{yesterday:%Y-%m-%d %H:%M}" in told["message"]


def test_what_a_check_finds_of_others_is_not_kept_in_alerts(instance: dg.DagsterInstance) -> None:
    """It may name a user, who may be erased."""
    key = dg.AssetCheckKey(dg.AssetKey("a"), "no_faults")
    found = dg.MetadataValue.table([dg.TableRecord({"problem": "user-1"})])
    evaluation = dg.AssetCheckEvaluation(
        asset_key=key.asset_key, check_name=key.name, passed=False, metadata={"found": found}, description="Problems: 1"
    )
    instance.report_runless_asset_event(evaluation)
    [red] = orchestration_facts(instance, (), (), datetime.now(UTC), checks=[key]).failed_checks
    assert red.found == "Problems: 1"


def test_an_asset_that_is_older_than_its_policy_allows_is_told(
    alerting: Settings, hook: Webhook, instance: dg.DagsterInstance
) -> None:
    from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange

    [key, *_] = sorted(freshness_policies())
    for state, told in ((FreshnessState.WARN, 0), (FreshnessState.FAIL, 1), (FreshnessState.PASS, 2)):
        change = FreshnessStateChange(
            key=key,
            previous_state=FreshnessState.UNKNOWN,
            new_state=state,
            state_change_timestamp=datetime.now(UTC).timestamp(),
        )
        instance._report_runless_asset_event(change)
        tick(alerting, instance)
        assert len([title for title in hook.titles if "is not fresh" in title]) == told
    assert hook.titles[-1].startswith("Cleared: ")
    message = next(one["message"] for one in hook.received if "is not fresh" in one["title"])
    assert f"{UI}/assets/{key.to_user_string()}" in message


def job(name: str) -> dg.JobDefinition:
    @dg.op
    def nothing() -> None: ...

    @dg.job(name=name)
    def one() -> None:
        nothing()

    return one


def waiting_run(
    instance: dg.DagsterInstance, name: str, status: dg.DagsterRunStatus = dg.DagsterRunStatus.QUEUED
) -> dg.DagsterRun:
    from dagster._core.remote_origin import RemoteJobOrigin

    from usage_pipeline_tests.defs.sensors.test_alerts import _origin

    # A queued run must be one that the daemon can load.
    origin = RemoteJobOrigin(_origin(name).repository_origin, name)
    return instance.add_run(dg.DagsterRun(job_name=name, status=status, remote_job_origin=origin))


@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.NOT_STARTED]
)
def test_a_run_that_does_not_begin_is_told_after_a_quarter_of_an_hour(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, settings: Settings
) -> None:
    waiting = waiting_run(instance, "waits", status)
    now = datetime.now(UTC)
    assert orchestration_facts(instance, (), (), now + timedelta(minutes=14)).stuck_runs == ()
    [stuck] = orchestration_facts(instance, (), (), now + timedelta(minutes=17)).stuck_runs
    assert (stuck.run_id, stuck.job, stuck.status) == (waiting.run_id, "waits", status.value)
    instance.report_run_canceled(waiting)
    assert orchestration_facts(instance, (), (), now + timedelta(minutes=17)).stuck_runs == ()


def test_a_queue_that_moves_is_not_stuck(instance: dg.DagsterInstance) -> None:
    for _ in range(3):
        waiting_run(instance, "backfill")
    going = instance.create_run_for_job(job("backfill"), status=dg.DagsterRunStatus.STARTED)
    instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "backfill"), run_id=going.run_id)
    waiting_run(instance, "other")
    later = datetime.now(UTC) + STUCK_AFTER + timedelta(minutes=5)
    assert [one.job for one in orchestration_facts(instance, (), (), later).stuck_runs] == ["other"]


def test_a_schedule_whose_newest_tick_failed_is_told_until_one_succeeds(instance: dg.DagsterInstance) -> None:
    from dagster._core.scheduler.instigation import (
        InstigatorState,
        InstigatorStatus,
        InstigatorType,
        ScheduleInstigatorData,
        TickData,
        TickStatus,
    )
    from dagster._utils.error import SerializableErrorInfo

    from usage_pipeline_tests.defs.sensors.test_alerts import _origin

    origin = _origin("daily")
    selector_id = origin.get_selector().get_id()
    data = ScheduleInstigatorData("0 3 * * *")
    instance.add_instigator_state(InstigatorState(origin, InstigatorType.SCHEDULE, InstigatorStatus.RUNNING, data))

    def add(status: TickStatus, at: float) -> None:
        error = SerializableErrorInfo("no such partition", [], "Error") if status is TickStatus.FAILURE else None
        instance.create_tick(
            TickData(
                origin.get_id(), "daily", InstigatorType.SCHEDULE, status, at, [], error=error, selector_id=selector_id
            )
        )

    def found() -> list[str]:
        facts = orchestration_facts(instance, (), (), datetime.now(UTC), schedules={"daily"})
        return [one.problem for one in facts.failed_ticks]

    add(TickStatus.SUCCESS, 1.0)
    assert found() == []
    add(TickStatus.FAILURE, 2.0)
    add(TickStatus.STARTED, 3.0)
    assert found() == ["no such partition"]
    add(TickStatus.SKIPPED, 4.0)
    assert found() == []


def test_a_landed_file_that_is_broken_is_told_until_one_of_its_name_is_read(
    alerting: Settings, hook: Webhook, postgres: psycopg.Connection
) -> None:
    row = (
        "insert into ops.landed_files (address, fingerprint, bytes, kind, outcome, reason, received, inserted, duplicates,"
        " conflicts, rejected) values ('team/a.csv', %s, 1, 'events', %s, %s, 0, 0, 0, 0, 0)"
    )
    postgres.execute(row, ("1", "broken", "user-1 is odd"))
    for _ in range(2):
        evaluate_pipeline(alerting, OrchestrationFacts(), {})
    assert hook.titles == ["The landed file team/a.csv is broken"]
    assert "user-1" not in hook.received[0]["message"]
    postgres.execute(row, ("2", "stored", None))
    evaluate_pipeline(alerting, OrchestrationFacts(), {})
    assert hook.titles[1:] == ["Cleared: The landed file team/a.csv is broken"]


def test_no_alert_names_a_job_that_dagster_made_up(instance: dg.DagsterInstance) -> None:
    @dg.asset(partitions_def=dg.DailyPartitionsDefinition("2026-01-01"), key=["usage", "days"])
    def days() -> None:
        raise RuntimeError("broken")

    defs = dg.Definitions(assets=[days])
    run = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, partition_key="2026-02-01", raise_on_error=False, asset_selection=[days.key]
    )
    [found] = orchestration_facts(instance, (), (), datetime.now(UTC)).failed_runs
    assert (found.run_id, found.job, found.target) == (run.run_id, "usage/days", "2026-02-01")
    assert found.assets == ("usage/days",)


@pytest.mark.parametrize("url", [None, UI])
def test_links_are_those_of_the_setting_or_none(alerting: Settings, hook: Webhook, url: str | None) -> None:
    here = alerting.model_copy(update={"dagster_ui_url": url})
    evaluate_pipeline(here, OrchestrationFacts(slow_runs=(SlowRun("r/1", "days", "all", 900.0),)), {})
    [told] = hook.received
    assert ("//" in told["message"]) == (url is not None)
    assert (f"{UI}/runs/r%2F1" in told["message"]) == (url is not None)
