"""Rows are stored, rolled up, archived, dropped and read back in any order: the numbers are those of all that was stored."""

from pathlib import Path

import psycopg
import pytest
import redis

from usage_pipeline.settings import Settings
from usage_pipeline_tests.rollups.dropped.world import World
from usage_pipeline_tests.storage.lifecycle_rig import count_of

# Edges of chunks within days, and within hours (Kolkata); chunks that are shorter and longer than a day.
WORLDS = [
    ("UTC", 24, True),
    ("UTC", 24, False),
    ("Europe/Vienna", 24, True),
    ("Europe/Vienna", 24, False),
    ("Asia/Kolkata", 6, True),
    ("America/New_York", 48, True),
]
STEPS = 14
KEPT_IN_VAIN = """
    select kept.grain, kept.first_moment
    from ops.kept_windows as kept
    where (
        select range_agg(tstzrange(span_start, span_end)) @> tstzrange(kept.first_moment, kept.end_moment)
        from ops.dropped_spans
        where table_name = 'analytics.usage_events'
    )
    union all
    select 'hour', hour_start from analytics.usage_hourly_kept
    where hour_start not in (select first_moment from ops.kept_windows where grain = 'hour')
    union all
    select 'day', usage_date from analytics.usage_user_daily_kept
    where usage_date not in (select usage_date from ops.kept_windows where grain = 'day')
    union all
    select 'day', usage_date from analytics.usage_latency_daily_kept
    where usage_date not in (select usage_date from ops.kept_windows where grain = 'day')
"""


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("zone", "hours", "archives"), WORLDS)
def test_the_numbers_are_those_of_all_that_was_ever_stored(
    zone: str,
    hours: int,
    archives: bool,
    seed: int,
    settings: Settings,
    postgres: psycopg.Connection,
    redis_client: redis.Redis,
    tmp_path: Path,
) -> None:
    changed = {
        "usage_timezone": zone,
        "chunk_time_interval_hours": hours,
        "archive_url": str(tmp_path / "archive") if archives else None,
    }
    world = World(settings.model_copy(update=changed), postgres, redis_client, seed)
    for _ in range(STEPS):
        world.step()
    # Nothing waits for ever, and no partition is pinned: what is in files is read back for late rows, and all of it leaves.
    for _ in range(2):
        world.lifecycle(180, 30)
        world.roll_up()
    assert world.is_up_to_date(), world.said()
    world.check_equal()
    for _ in range(2):
        world.lifecycle(7, 30)
        world.check_nothing_became_less()
    for table in ("analytics.usage_events", "raw.api_key_deltas", "raw.provider_deltas", "raw.token_deltas"):
        assert count_of(postgres, table) == 0, world.said()
    world.check_equal()
    assert postgres.execute(KEPT_IN_VAIN).fetchall() == [], "what is stored of dropped events is all there is"
    world.store_events()
    world.store_deltas()
    world.roll_up()
    world.check_equal()
