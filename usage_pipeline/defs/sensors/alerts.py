"""The two sensors of alerts: `alerts` looks at everything twice a minute, `failed_runs` reports a failed run at once."""

import json
from datetime import UTC, datetime

import dagster as dg

from usage_pipeline.alerting.evaluation import RecordUnavailable, alert_now, alert_without_record, evaluate_pipeline
from usage_pipeline.alerting.facts import OrchestrationFacts
from usage_pipeline.alerting.run_rules import failed_run
from usage_pipeline.defs.sensors.alert_facts import failed_run_of, orchestration_facts
from usage_pipeline.defs.sensors.drains import DRAIN_SENSORS
from usage_pipeline.settings import Settings

# A little less than half a minute: see drains.py about the daemon's loop.
_EVALUATION_SECONDS = 29


def alert_sensors() -> list[dg.SensorDefinition]:
    """Both sensors are on by default."""
    return [_evaluation(), _failed_runs()]


def _evaluation() -> dg.SensorDefinition:
    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=_EVALUATION_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks at runs, ticks, checks, freshness, backlog, Redis, dead letters and usage, and sends alerts to "
        "ALERT_URLS (docs/alerts.md). /healthz reports the time since its last tick as last_tick_age_seconds.",
    )
    def alerts(context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]) -> dg.SensorResult:
        # What was sent while PostgreSQL was away.
        unrecorded = json.loads(context.cursor or "{}")
        facts = _orchestration_facts(context)
        try:
            found = evaluate_pipeline(settings, facts, unrecorded)
        except RecordUnavailable as problem:
            kept = alert_without_record(settings, facts, unrecorded)
            return dg.SensorResult(skip_reason=str(problem), cursor=json.dumps(kept))
        said = (
            f"Alerts: {found.open} open, {found.opened} new, {found.cleared} cleared. "
            f"Messages: {found.sent} sent, {found.failed} to try again."
        )
        return dg.SensorResult(skip_reason=said, cursor="{}")

    return alerts


def _failed_runs() -> dg.SensorDefinition:
    @dg.run_failure_sensor(
        name="failed_runs",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends an alert at once when a run failed. The sensor `alerts` sends a message when the alert clears.",
    )
    def failed_runs(context: dg.RunFailureSensorContext, settings: dg.ResourceParam[Settings]) -> None:
        run = failed_run_of(context.instance, context.dagster_run, datetime.now(UTC))
        try:
            alert_now(settings, failed_run(run, settings))
        except RecordUnavailable as problem:
            # The other sensor finds the same run, and can do without the record.
            context.log.warning(str(problem))

    return failed_runs


def _orchestration_facts(context: dg.SensorEvaluationContext) -> OrchestrationFacts:
    """About all that this code location has."""
    repository, now = context.repository_def, datetime.now(UTC)
    if repository is None:
        return orchestration_facts(context.instance, (), DRAIN_SENSORS, now)
    graph = repository.asset_graph
    return orchestration_facts(
        context.instance,
        {one.name for one in repository.sensor_defs},
        DRAIN_SENSORS,
        now,
        schedules={one.name for one in repository.schedule_defs},
        checks=graph.asset_check_keys,
        assets_with_policy={key for key in graph.get_all_asset_keys() if graph.get(key).freshness_policy is not None},
    )
