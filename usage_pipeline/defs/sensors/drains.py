"""The drain sensors, which drain inside their ticks, and the sensor of late days, which asks for runs."""

import json
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime

import dagster as dg

from usage_pipeline.defs.assets.daily import daily_key
from usage_pipeline.defs.assets.snapshots import drained_metadata, output_keys
from usage_pipeline.defs.jobs import because, daily_tables, one_at_a_time
from usage_pipeline.defs.sensors.late_stats import late_stats_sensor
from usage_pipeline.defs.sensors.late_windows import late_windows_sensor
from usage_pipeline.defs.sensors.missed import missed_partitions_sensor
from usage_pipeline.defs.sensors.rankings import current_rankings_sensor
from usage_pipeline.defs.sensors.starts import first_looks_sensor
from usage_pipeline.defs.sensors.turns import asked, take_turn
from usage_pipeline.drain.rounds import METRICS_FAMILIES, TOKEN_FAMILIES, DrainImpossible, RoundReport, drain_once
from usage_pipeline.rollups.daily import current_day, stale_days
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import PostgresUnavailable, connect
from usage_pipeline.texts import counted

# The daemon looks at sensors every 5 s. A minimum a little below a multiple of that gives a steady interval; the
# multiple itself gives one or two loops in turn.
_LESS_THAN_A_LOOP_SECONDS = 1
_REPORT_SECONDS = 60
# Also when nothing was to be drained, so that freshness says whether drains are at work and not whether there is traffic.
_QUIET_REPORT_SECONDS = 1_800
# In the cursor, so that a day is reported at once only when it is new.
_DAYS_REMEMBERED = 60
DRAIN_SENSORS = ("drain_metrics", "drain_tokens")


def sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """Two drain sensors with the intervals of contracts §5, and those of late data, missed partitions, rankings and starts."""
    return [
        _drain_sensor(
            settings,
            "drain_metrics",
            METRICS_FAMILIES,
            settings.metrics_sync_interval_ms,
            "Moves counts of API keys and providers, and request events, from Redis to PostgreSQL (METRICS_SYNC_INTERVAL_MS).",
        ),
        _drain_sensor(
            settings,
            "drain_tokens",
            TOKEN_FAMILIES,
            settings.api_token_sync_interval_ms,
            "Moves counts of API tokens from Redis to PostgreSQL (API_TOKEN_SYNC_INTERVAL_MS).",
        ),
        _late_days_sensor(),
        late_windows_sensor(settings),
        late_stats_sensor(settings),
        missed_partitions_sensor(settings),
        current_rankings_sensor(settings),
        first_looks_sensor(),
    ]


def _drain_sensor(
    settings: Settings,
    name: str,
    families: Sequence[str],
    interval_ms: int,
    description: str,
) -> dg.SensorDefinition:
    keys = [key for family in families for key in output_keys(family)]

    @dg.sensor(
        name=name,
        asset_selection=keys,
        minimum_interval_seconds=max(1, interval_ms // 1000 - _LESS_THAN_A_LOOP_SECONDS),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def drain_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        # Not by a resource: for these, each tick would open Dagster's own storage, which takes longer than an idle drain.
        cursor = json.loads(context.cursor or "{}")
        now = datetime.now(UTC)
        try:
            report = drain_once(settings, families, budget_seconds=settings.drain_budget_seconds)
        except DrainImpossible as problem:
            if cursor.get("problem") != str(problem):
                context.log.warning(str(problem))
            # Counted for the alerts: to Dagster a tick that skips is no failure.
            failures = {"problem": str(problem), "failures": cursor.get("failures", 0) + 1}
            return dg.SensorResult(skip_reason=str(problem), cursor=json.dumps({**cursor, **failures}))
        touched = sorted(day.isoformat() for drained in report.families for day in drained.usage_dates)
        is_new_day = not set(touched) <= set(cursor.get("days", []))
        since = datetime.fromtimestamp(cursor.get("reported", now.timestamp()), UTC)
        all_reported = cursor.get("all_reported", now.timestamp())
        is_due = (now - since).total_seconds() >= _REPORT_SECONDS
        if not (is_new_day or is_due):
            kept = {"reported": since.timestamp(), "all_reported": all_reported, "days": cursor.get("days", [])}
            return dg.SensorResult(skip_reason=_said(report), cursor=json.dumps(kept))
        days = sorted({*cursor.get("days", []), *touched})[-_DAYS_REMEMBERED:]
        found = drained_metadata(settings, since, list(families))
        is_quiet_report_due = now.timestamp() - all_reported >= _QUIET_REPORT_SECONDS
        events = [
            dg.AssetMaterialization(asset_key=key, metadata=metadata)
            for key, metadata in found.items()
            if metadata["batches"] or is_quiet_report_due
        ]
        all_reported = now.timestamp() if is_quiet_report_due else all_reported
        return dg.SensorResult(
            skip_reason=_said(report),
            asset_events=events,
            cursor=json.dumps({"reported": now.timestamp(), "all_reported": all_reported, "days": days}),
        )

    return drain_sensor


def _late_days_sensor() -> dg.SensorDefinition:
    @dg.sensor(
        name="late_days",
        asset_selection=[daily_key(family) for family in ("api_key", "provider", "token")],
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Makes past days again when more counts of the day were drained after it was made.",
    )
    def late_days(
        context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            with closing(connect(settings)) as connection:
                stale = stale_days(connection, today=current_day(settings.timezone))
        except PostgresUnavailable as problem:
            return dg.SkipReason(str(problem))
        # The hour is in the run key, so that a day whose run failed can be tried again.
        now = datetime.now(UTC)
        wanted = {f"{one.family}:{one.usage_date}": one for one in stale if one.usage_date >= settings.usage_start_date}
        turn = take_turn({name: str(one.version) for name, one in wanted.items()}, context.cursor, now)
        requests = [
            dg.RunRequest(
                run_key=f"{name}:{day.version}:{now:%Y%m%d%H}",
                partition_key=day.usage_date.isoformat(),
                asset_selection=[daily_key(day.family)],
                tags=one_at_a_time(f"{daily_tables.name}/{day.family}", day.usage_date.isoformat())
                | because("counts of this day were drained after it was made"),
            )
            for name, day in ((name, wanted[name]) for name in turn.ids)
        ]
        return asked(context, turn, requests, "No past day has changed.")

    return late_days


def _said(report: RoundReport) -> str:
    if report.busy:
        return f"Another process drains {', '.join(report.busy)} now."
    rest = "" if report.is_complete else " The time for one tick is used up; the next tick goes on."
    return f"Drained {counted(report.keys, 'key')} in {report.seconds:.2f} s.{rest}"
