"""The project's definitions with another size of range runs (BENCHMARK_PARTITIONS_PER_RUN), to find out which one is best."""

import os

import dagster as dg

from usage_pipeline.definitions import build_definitions
from usage_pipeline.defs.assets import daily

VARIABLE = "BENCHMARK_PARTITIONS_PER_RUN"


@dg.definitions
def defs() -> dg.Definitions:
    """Run workers, too, load this module."""
    daily.BACKFILL_POLICY = dg.BackfillPolicy.multi_run(max_partitions_per_run=int(os.environ[VARIABLE]))
    return build_definitions()
