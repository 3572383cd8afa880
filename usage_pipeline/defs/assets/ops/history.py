"""`ops/dagster_history`: keeps Dagster's own history small. Old runs, events and check results go, every status stays."""

from contextlib import closing
from dataclasses import asdict
from typing import Any

import dagster as dg

from usage_pipeline.defs.metadata import OWNERS, column_schema, table_metadata
from usage_pipeline.history.prune import AlreadyPruning, HistoryLimits, HistoryReport, prune_history
from usage_pipeline.history.storage import EVENT_LOGS_COLUMNS, EVENT_LOGS_COMMENT, UnknownStorage, connect_storage
from usage_pipeline.settings import Settings

HISTORY_KEY = dg.AssetKey(["ops", "dagster_history"])


@dg.asset(
    key=HISTORY_KEY,
    group_name="ops",
    owners=OWNERS,
    kinds={"postgres", "dagster"},
    description="Keeps Dagster's own storage small. It removes runs after RUN_HISTORY_DAYS. It removes the details of runs "
    "that succeeded, and reports without a run, after EVENT_HISTORY_DAYS. Table `public.event_logs` and its neighbours, in "
    "DAGSTER_POSTGRES_URL. The newest event of each kind of each partition stays, with its run: no status changes.",
    metadata={
        **table_metadata("public.event_logs"),
        "table_comment": EVENT_LOGS_COMMENT,
        **column_schema(EVENT_LOGS_COLUMNS),
    },
    # No retry policy: what one day does not come to is left for the next.
)
def dagster_history(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> None:
    limits = HistoryLimits(settings.run_history_days, settings.event_history_days)
    instance = context.instance

    def delete_logs(run_id: str) -> None:
        instance.compute_log_manager.delete_logs(prefix=[run_id])

    def delete_run(run_id: str) -> None:
        instance.delete_run(run_id)
        delete_logs(run_id)

    try:
        with closing(connect_storage(settings)) as connection:
            report = prune_history(
                connection, limits, run_id=context.run.run_id, delete_run=delete_run, delete_logs=delete_logs
            )
    except (UnknownStorage, AlreadyPruning) as problem:
        raise dg.Failure(str(problem), allow_retries=False) from None
    context.add_output_metadata(_metadata(report))


def _metadata(report: HistoryReport) -> dict[str, Any]:
    removed = report.removed
    return {
        "dagster/row_count": report.after.event_rows,
        "removed_runs": removed.runs,
        "slimmed_runs": removed.runs_slimmed,
        "removed_logs_of_kept_runs": removed.logs_of_kept_runs,
        "removed_event_rows": removed.event_rows,
        "removed_check_executions": removed.check_executions,
        "removed_bytes": removed.bytes,
        # The daemon purges them (dagster.yaml); two numbers that differ say that it did meanwhile.
        **{f"{name}_before": value for name, value in asdict(report.before).items()},
        **{f"{name}_after": value for name, value in asdict(report.after).items()},
        "is_complete": report.is_complete,
        "seconds": report.seconds,
    }
