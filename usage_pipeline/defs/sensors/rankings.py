"""The sensor of rankings: it keeps those of today, and their copies in Redis, up to date inside its ticks."""

from contextlib import closing

import dagster as dg

from usage_pipeline.rollups.ranking_cache import refresh_current
from usage_pipeline.rollups.rankings import RANKINGS
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import PostgresUnavailable, connect
from usage_pipeline.texts import counted

# A little below five minutes, as long as the copies in Redis live: the daemon looks every five seconds.
_INTERVAL_SECONDS = 296
# A ranking takes milliseconds. A tick has 60 seconds for all of them.
_STATEMENT_SECONDS = 8.0


def current_rankings_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor `current_rankings`. A run for it would be a process of seconds for a query of milliseconds."""

    @dg.sensor(
        name="current_rankings",
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Ranks today so far and writes the rankings to Redis, without runs. Hourly runs materialize them.",
    )
    def current_rankings(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        # `settings` is no resource here, see drains.py.
        try:
            with closing(connect(settings, statement_seconds=_STATEMENT_SECONDS)) as connection:
                refused = refresh_current(connection, settings=settings)
        except PostgresUnavailable as problem:
            return dg.SkipReason(str(problem))
        if refused:
            context.log.warning("; ".join(f"Redis did not take {key}: {problem}" for key, problem in refused.items()))
        rest = f" Redis did not take {len(refused)}; readers get them from PostgreSQL." if refused else ""
        return dg.SkipReason(f"Ranked today in {counted(len(RANKINGS), 'ranking')}.{rest}")

    return current_rankings
