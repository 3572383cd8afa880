"""Materializes days in this process, for the demo: the jobs of the UI, on the instance that the UI shows."""

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import dagster as dg

from usage_pipeline.definitions import build_definitions
from usage_pipeline.defs.jobs import daily_tables, merchant_usage
from usage_pipeline.settings import Settings

_QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}


def materialize_days(settings: Settings, days: Sequence[date], *, home: Path, storage_url: str) -> bool:
    """Replaces these days in all daily assets; True when every run succeeded.

    `home` is a folder with dagster.yaml, whose storage reads DAGSTER_POSTGRES_URL: `storage_url`.
    """
    os.environ["DAGSTER_POSTGRES_URL"] = storage_url
    defs = build_definitions({"settings": settings})
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return all(
            defs.resolve_job_def(job.name)
            .execute_in_process(
                partition_key=day.isoformat(), instance=instance, run_config=_QUIET, raise_on_error=False
            )
            .success
            for job in (daily_tables, merchant_usage)
            for day in days
        )
