"""Reads facts about checks and freshness from Dagster's own storage, for the alerts: two queries, whatever there is."""

from collections.abc import Collection
from datetime import UTC, datetime

import dagster as dg
from dagster import AssetCheckSeverity

from usage_pipeline.alerting.facts import FailedCheck, StaleAsset
from usage_pipeline.defs.checks.freshness import IS_FRESH

_SHOWN = 3


def failed_checks(instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey]) -> tuple[FailedCheck, ...]:
    """Checks whose newest result is red. One that is being made now has the result before."""
    if not checks:
        return ()
    found = []
    for key, summary in instance.event_log_storage.get_asset_check_summary_records([*checks]).items():
        record = summary.last_completed_check_execution_record
        evaluation = record.evaluation if record else None
        if record is None or evaluation is None or evaluation.passed:
            continue
        found.append(
            FailedCheck(
                key.asset_key.to_user_string(),
                key.name,
                evaluation.severity is AssetCheckSeverity.ERROR,
                _found(key, evaluation),
                evaluation.partition,
                datetime.fromtimestamp(record.create_timestamp, UTC),
            )
        )
    return tuple(sorted(found, key=lambda one: (one.asset, one.check)))


def stale_assets(instance: dg.DagsterInstance, assets: Collection[dg.AssetKey]) -> tuple[StaleAsset, ...]:
    """Assets that the freshness daemon says to be older than their policy allows."""
    if not assets:
        return ()
    states = instance.get_freshness_state_records([*assets])
    return tuple(
        StaleAsset(key.to_user_string(), state.updated_at)
        for key, state in sorted(states.items(), key=lambda one: one[0].to_user_string())
        if state.freshness_state.value == "FAIL"
    )


def _found(key: dg.AssetCheckKey, evaluation: dg.AssetCheckEvaluation) -> str:
    """What it says. Only of freshness what it found: other checks may name users, and alerts and channels keep copies."""
    table = evaluation.metadata.get("found")
    if key.name != IS_FRESH or not isinstance(table, dg.TableMetadataValue):
        return evaluation.description or "it says no more"
    problems = [str(record.data.get("problem")) for record in table.records]
    return "; ".join(problems[:_SHOWN]) + (f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else "")
