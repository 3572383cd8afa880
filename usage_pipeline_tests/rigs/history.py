"""A Dagster instance on PostgreSQL with a history: runs that succeeded, failed, overlapped; checks; reports without a run."""

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
from pydantic import Field

from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.postgres import create_database

DAYS, PLAIN, WATCHED, REPORTED = (dg.AssetKey(["rig", name]) for name in ("days", "plain", "watched", "reported"))
PARTITIONS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-21")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class RigConfig(dg.Config):
    """What goes wrong in a run."""

    bad_days: list[str] = Field(default_factory=list)
    check_passes: bool = True


@dg.asset(key=DAYS, partitions_def=PARTITIONS, backfill_policy=dg.BackfillPolicy.single_run())
def days(context: dg.AssetExecutionContext, config: RigConfig) -> None:
    for key in context.partition_keys:
        context.add_asset_metadata({"run": context.run.run_id}, partition_key=key)
    if set(context.partition_keys) & set(config.bad_days):
        raise ValueError("a bad day")


@dg.asset(key=PLAIN, check_specs=[dg.AssetCheckSpec("is_fine", asset=PLAIN)])
def plain(config: RigConfig) -> dg.MaterializeResult:  # type: ignore[type-arg]  # dagster asks for it bare
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=config.check_passes)])


@dg.observable_source_asset(key=WATCHED)
def watched() -> dg.ObserveResult:
    return dg.ObserveResult(metadata={"waiting": 1})


def definitions() -> dg.Definitions:
    """The rig's code location."""
    selected = {"days": [DAYS], "plain": [PLAIN], "watched": [WATCHED]}
    jobs = [dg.define_asset_job(name, dg.AssetSelection.assets(*keys)) for name, keys in selected.items()]
    return dg.Definitions([days, plain, watched], jobs=jobs, executor=dg.in_process_executor)


@dataclass(frozen=True)
class History:
    """The instance, and a connection to its storage for what no API does: making things old."""

    instance: dg.DagsterInstance
    connection: psycopg.Connection
    storage_url: str

    def run(self, job: str, first: str | None = None, last: str | None = None, **config: object) -> str:
        """Executes a job for a day or a range of days; the id of the run."""
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
        ops = {} if job == "watched" else {f"rig__{job}": {"config": config}}
        result = (
            definitions()
            .resolve_job_def(job)
            .execute_in_process(
                instance=self.instance,
                run_config={**QUIET, "ops": ops},
                tags={name: value for name, value in tags.items() if value},
                raise_on_error=False,
            )
        )
        return result.run_id

    def report(self, number: int) -> None:
        """Materializations as a sensor reports them: outside of any run."""
        for each in range(number):
            event = dg.AssetMaterialization(REPORTED, metadata={"number": each}, tags={"number": str(each)})
            self.instance.report_runless_asset_event(event)

    def age(self, number_of_days: int) -> None:
        """Makes all that is there so many days older."""
        past = {"past": f"{number_of_days} days", "seconds": number_of_days * 86_400}
        for statement in (
            "update event_logs set timestamp = timestamp - %(past)s::interval",
            "update asset_check_executions set create_timestamp = create_timestamp - %(past)s::interval",
            """update runs set end_time = end_time - %(seconds)s, update_timestamp = update_timestamp - %(past)s::interval,
                create_timestamp = create_timestamp - %(past)s::interval""",
        ):
            self.connection.execute(statement, past)

    def statuses(self, *, anew: bool = False) -> Mapping[str, Any]:
        """All that the UI derives from the storage; `anew`: without what Dagster has cached of it."""
        if anew:
            self.connection.execute("update asset_keys set cached_status_data = null")
        check = dg.AssetCheckKey(PLAIN, "is_fine")
        storage, keys = self.instance.event_log_storage, PARTITIONS.get_partition_keys()
        latest = {key: self.instance.get_latest_materialization_event(key) for key in (DAYS, PLAIN, REPORTED)}
        by_partition = {
            event_type: storage.get_latest_storage_id_by_partition(DAYS, event_type)
            for event_type in (
                dg.DagsterEventType.ASSET_MATERIALIZATION,
                dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
            )
        }
        runs = {run.run_id for run in self.instance.get_runs()}
        summary = storage.get_asset_check_summary_records([check])[check]
        return {
            "partitions": self.instance.get_status_by_partition(DAYS, keys, PARTITIONS),
            "materialized": sorted(self.instance.get_materialized_partitions(DAYS)),
            "latest": latest,
            "by_partition": by_partition,
            "runs_are_there": {event.run_id in runs for event in latest.values() if event and event.run_id},
            "planned": storage.get_latest_planned_materialization_info(PLAIN),
            "observed": self.instance.fetch_observations(WATCHED, limit=1).records,
            "check": storage.get_latest_asset_check_execution_by_key([check]),
            "completed_check": summary.last_completed_check_execution_record,
            "assets": {
                record.asset_entry.asset_key: (record.asset_entry.last_run_id, record.asset_entry.last_materialization)
                for record in self.instance.get_asset_records()
            },
        }


@contextmanager
def open_history(servers: LocalServers, home: Path) -> Iterator[History]:
    """An instance in a database of its own."""
    name = f"dagster_{uuid.uuid4().hex}"
    create_database(servers.postgres, name)
    url = servers.postgres.url(name)
    home.mkdir(exist_ok=True)
    postgres = {"postgres_url": servers.postgres.url(name, driver="psycopg2")}
    (home / "dagster.yaml").write_text(json.dumps({"storage": {"postgres": postgres}, "telemetry": {"enabled": False}}))
    with dg.DagsterInstance.from_config(str(home)) as instance, psycopg.connect(url, autocommit=True) as connection:
        yield History(instance, connection, url)
