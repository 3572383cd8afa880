"""Days that `dev` has archived are read back, so that events can be added to them and they can be rolled up again."""

from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.local.demo.changes import read_back
from usage_pipeline.rollups.calendar import GRAINS, day_window, window_at
from usage_pipeline.rollups.daily import SourceGoneError
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.clock import days_ago, today
from usage_pipeline_tests.rigs.events import as_items, event


def store_on_that_day(connection: psycopg.Connection, settings: Settings) -> None:
    day = days_ago(20)
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    sent = event(event_time=at.isoformat(), user_id="user-01")
    assert ingest(connection, EVENTS, as_items(sent), source="test", settings=settings).inserted == 1


def test_an_archived_day_is_read_back_from_the_folder_of_dev(
    postgres: psycopg.Connection, settings: Settings, tmp_path: Path
) -> None:
    store_on_that_day(postgres, settings)
    for grain in GRAINS:
        touched = "select distinct window_start from ops.touched_windows where grain = %s"
        for (start,) in postgres.execute(touched, (grain,)).fetchall():
            replace_window(postgres, window_at(grain, start, settings.timezone), settings=settings)
    kept = settings.model_copy(update={"archive_url": str(tmp_path / "archive")})
    assert [one.table for one in run_lifecycle(kept).archived] == ["analytics.usage_events"]

    window = day_window(days_ago(20), settings.timezone)
    with pytest.raises(SourceGoneError, match="archive restore"):
        replace_window(postgres, window, settings=settings)
    # The settings of the demo name no archive: it is that of `dev`, in the same folder.
    read_back(postgres, settings, [days_ago(30), today()], tmp_path)
    store_on_that_day(postgres, settings)
    assert replace_window(postgres, window, settings=settings).sums["requests"] == 2
    # Nothing is left to read.
    read_back(postgres, settings, [days_ago(30), today()], tmp_path)
