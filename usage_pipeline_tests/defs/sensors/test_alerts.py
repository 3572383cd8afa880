"""The sensors of alerts as the daemon evaluates them, over runs and ticks in Dagster's own storage."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest

from usage_pipeline.definitions import build_definitions
from usage_pipeline.defs.sensors import alert_facts
from usage_pipeline.defs.sensors.alert_facts import orchestration_facts
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.alerts import Webhook, told_at, webhook


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """With ticks, which an instance in memory has not."""
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as running:
        yield running


@pytest.fixture
def alerting(settings: Settings, hook: Webhook) -> Settings:
    return told_at(hook, settings)


def days(is_failing: bool) -> dg.Definitions:
    """A daily asset that fails, or does not."""

    @dg.asset(partitions_def=dg.DailyPartitionsDefinition("2026-01-01"))
    def days(context: dg.AssetExecutionContext) -> None:
        if is_failing:
            raise RuntimeError("cannot read postgresql://u:hunter2@host/db")

    return dg.Definitions(assets=[days], jobs=[dg.define_asset_job("days_job", [days])])


def run(instance: dg.DagsterInstance, first: str, last: str, *, is_failing: bool) -> dg.ExecuteInProcessResult:
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    if first == last:
        tags = {"dagster/partition": first}
    return (
        days(is_failing)
        .resolve_job_def("days_job")
        .execute_in_process(tags=tags, instance=instance, raise_on_error=False)
    )


def tick(
    settings: Settings, instance: dg.DagsterInstance, name: str = "alerts", cursor: str | None = None
) -> dg.SensorResult:
    definitions = build_definitions({"settings": settings})
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, definitions=definitions, resources={"settings": settings}
    )
    return definitions.resolve_sensor_def(name)(context)  # type: ignore[no-any-return]


def told_at_once(settings: Settings, instance: dg.DagsterInstance, bad: dg.ExecuteInProcessResult) -> None:
    """As the sensor of failed runs does."""
    definitions = build_definitions({"settings": settings})
    context = dg.build_run_status_sensor_context(
        sensor_name="failed_runs",
        dagster_event=bad.get_run_failure_event(),
        dagster_instance=instance,
        dagster_run=bad.dagster_run,
        resources={"settings": settings},
    ).for_run_failure()
    definitions.resolve_sensor_def("failed_runs")(context)


def failed(instance: dg.DagsterInstance) -> list[str]:
    return [one.target for one in orchestration_facts(instance, (), (), datetime.now(UTC)).failed_runs]


def test_a_failed_run_is_told_with_its_error_and_over_when_the_days_that_failed_are_made(
    alerting: Settings, hook: Webhook, instance: dg.DagsterInstance
) -> None:
    bad = run(instance, "2026-02-01", "2026-02-02", is_failing=True)
    tick(alerting, instance)
    assert hook.titles == ["Run of days_job failed"]
    for part in (bad.run_id, "2026-02-01", "cannot read", "Re-execute"):
        assert part in hook.received[0]["message"]
    assert "hunter2" not in json.dumps(hook.received)
    for day in ("2026-02-03", "2026-02-02"):
        run(instance, day, day, is_failing=False)
        tick(alerting, instance)
        assert len(hook.titles) == 1, "another day does not mend it, nor does one of its days"
    run(instance, "2026-02-01", "2026-02-01", is_failing=False)
    tick(alerting, instance)
    assert hook.titles[1:] == ["Cleared: Run of days_job failed"]


def test_thirty_failed_runs_are_few_messages_and_none_passes_for_over_while_it_is_red(
    alerting: Settings, hook: Webhook, instance: dg.DagsterInstance, postgres: psycopg.Connection
) -> None:
    bad = [run(instance, f"2026-03-{day:02}", f"2026-03-{day:02}", is_failing=True) for day in range(1, 31)]
    for one in bad:
        told_at_once(alerting, instance, one)
    for _ in range(3):
        tick(alerting, instance)
    assert hook.titles[0] == "Run of days_job failed"
    assert [title.partition(":")[0] for title in hook.titles[1:]] == ["29 alerts of failed-run"]
    for day in range(1, 11):
        run(instance, f"2026-03-{day:02}", f"2026-03-{day:02}", is_failing=False)
    tick(alerting, instance)
    assert [title.partition(":")[0] for title in hook.titles[2:]] == ["Cleared"]
    assert "10 alerts of failed-run" in hook.titles[2]
    assert postgres.execute("select count(*) from ops.alerts where cleared_at is null").fetchone() == (20,)


def test_what_is_beyond_a_bound_is_not_over(
    alerting: Settings, hook: Webhook, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_facts, "_RUNS_AT_ONCE", 2)
    for day in range(1, 6):
        run(instance, f"2026-03-{day:02}", f"2026-03-{day:02}", is_failing=True)
    tick(alerting, instance)
    assert len(failed(instance)) == 5
    monkeypatch.setattr(alert_facts, "MOST_RUNS", 4)
    facts = orchestration_facts(instance, (), (), datetime.now(UTC))
    assert (len(facts.failed_runs), "failed-run" in facts.partly) == (4, True)
    tick(alerting, instance)
    assert not any("Cleared" in title for title in hook.titles)


def test_failures_count_once_for_a_target_and_for_a_day(instance: dg.DagsterInstance) -> None:
    for day in ("2026-02-01", "2026-02-01", "2026-02-02"):
        run(instance, day, day, is_failing=True)
    assert failed(instance) == ["2026-02-02", "2026-02-01"]
    assert len(orchestration_facts(instance, (), (), datetime.now(UTC) + timedelta(hours=25)).failed_runs) == 2
    later = datetime.now(UTC) + timedelta(days=8)
    assert orchestration_facts(instance, (), (), later).failed_runs == ()


def test_the_sensor_of_failed_runs_tells_at_once_and_the_other_one_not_again(
    alerting: Settings, hook: Webhook, instance: dg.DagsterInstance, postgres: psycopg.Connection
) -> None:
    told_at_once(alerting, instance, run(instance, "2026-02-01", "2026-02-01", is_failing=True))
    assert hook.titles == ["Run of days_job failed"]
    tick(alerting, instance)
    assert len(hook.titles) == 1
    assert postgres.execute("select count(*) from ops.alerts").fetchone() == (1,)


def test_a_webhook_that_is_away_fails_no_tick(alerting: Settings, instance: dg.DagsterInstance) -> None:
    away = alerting.model_copy(update={"alert_urls": type(alerting.database_url)("json://127.0.0.1:1/")})
    run(instance, "2026-02-01", "2026-02-01", is_failing=True)
    assert "0 sent, 1 to try again" in str(tick(away, instance).skip_reason)


def test_a_run_that_is_under_way_is_as_long_as_it_has_taken(instance: dg.DagsterInstance) -> None:
    started = dg.DagsterRunStatus.STARTED
    job = days(False).resolve_job_def("days_job")
    begun = instance.create_run_for_job(job, tags={"dagster/partition": "2026-02-01"}, status=started)
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, job.name)
    instance.report_dagster_event(event, run_id=begun.run_id)
    [slow] = orchestration_facts(instance, (), (), datetime.now(UTC) + timedelta(minutes=7)).slow_runs
    assert (slow.run_id, slow.target) == (begun.run_id, "2026-02-01")
    assert 415 < slow.seconds < 430


@pytest.mark.parametrize("name", ["drain_metrics", "late_days"])
def test_ticks_that_fail_and_drains_that_are_impossible_are_counted(
    name: str, alerting: Settings, instance: dg.DagsterInstance
) -> None:
    from dagster._core.scheduler.instigation import (
        InstigatorState,
        InstigatorStatus,
        InstigatorType,
        SensorInstigatorData,
        TickData,
        TickStatus,
    )
    from dagster._utils.error import SerializableErrorInfo

    away = alerting.model_copy(update={"redis_url": type(alerting.database_url)("redis://127.0.0.1:1")})
    cursor = None
    for _ in range(2):
        cursor = tick(away, instance, name, cursor).cursor if name == "drain_metrics" else None
    origin = _origin(name)
    selector_id = origin.get_selector().get_id()
    state = SensorInstigatorData(cursor=cursor)
    instance.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, state))
    failure = SerializableErrorInfo("cannot read redis://:hunter2@host\nand more", [], "RuntimeError")
    for at, status in enumerate((TickStatus.SKIPPED, TickStatus.FAILURE, TickStatus.FAILURE, TickStatus.STARTED)):
        error = failure if status is TickStatus.FAILURE else None
        data = TickData(
            origin.get_id(), name, InstigatorType.SENSOR, status, float(at), error=error, selector_id=selector_id
        )
        instance.create_tick(data)
    [found] = orchestration_facts(instance, {name}, {"drain_metrics"}, datetime.now(UTC)).ticks
    assert (found.name, found.failures, found.is_drain) == (name, 2 + 2 * found.is_drain, name == "drain_metrics")
    assert found.problem == "cannot read redis://…@host"
    assert orchestration_facts(instance, {"another"}, (), datetime.now(UTC)).ticks == ()
    [known] = instance.all_instigator_state()
    over = SensorInstigatorData(cursor="{}", last_tick_success_timestamp=9.0)
    instance.update_instigator_state(known.with_data(over))
    assert orchestration_facts(instance, {name}, {"drain_metrics"}, datetime.now(UTC)).ticks == ()


def _origin(name: str) -> Any:
    from dagster._core.remote_origin import (
        InProcessCodeLocationOrigin,
        RemoteInstigatorOrigin,
        RemoteRepositoryOrigin,
    )
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="usage_pipeline.definitions"))
    return RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), name)


def test_without_postgresql_drains_that_fail_are_told_once(
    alerting: Settings, hook: Webhook, instance: dg.DagsterInstance
) -> None:
    away = alerting.model_copy(update={"database_url": type(alerting.database_url)("postgresql://u@127.0.0.1:1/x")})
    run(instance, "2026-02-01", "2026-02-01", is_failing=True)
    first = tick(away, instance)
    second = tick(away, instance, cursor=first.cursor)
    assert "not noted" in str(second.skip_reason)
    tick(alerting, instance, cursor=second.cursor)
    assert hook.titles == ["Run of days_job failed"]
