"""Every number of every grain equals an independent recomputation over the real trace (all of it in end_to_end): on days of 23
and 25 hours too, after late events, and after a backfill that changes nothing.
"""

from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from usage_pipeline.rollups import calendar
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rollups.trace_rig import (
    assert_all_equal,
    assert_equal_rows,
    recomputed,
    roll,
    store,
    stored,
    trace_events,
    windows_of,
)

NOW = datetime(2025, 12, 5, 12, tzinfo=UTC)
SPANS = {
    # Over both changes of clocks, a change of month, and changes of weeks.
    "Europe/Vienna": [datetime(2025, 3, 29, 3, tzinfo=UTC), datetime(2025, 10, 25, 3, tzinfo=UTC)],
    # Hours begin at half past; its days are whole.
    "Asia/Kolkata": [datetime(2025, 6, 28, 3, tzinfo=UTC)],
    # Midnight comes twice on 2 November, and not at all on 9 March.
    "America/Havana": [datetime(2025, 3, 8, 3, tzinfo=UTC), datetime(2025, 11, 1, 3, tzinfo=UTC)],
    "UTC": [datetime(2025, 6, 28, 3, tzinfo=UTC)],
}


@pytest.mark.parametrize("time_zone", SPANS)
def test_every_number_equals_a_recomputation_also_after_late_events_and_a_backfill(
    time_zone: str, settings: Settings, postgres: psycopg.Connection
) -> None:
    settings = settings.model_copy(update={"usage_timezone": time_zone, "retention_days": 300})
    postgres.execute("update ops.calendar set time_zone = %s", (time_zone,))
    spans = [(start, timedelta(days=3, hours=12)) for start in SPANS[time_zone]]
    events = trace_events(spans, seed=7, most=4_000 if time_zone == "Europe/Vienna" else 2_000)
    late = events[::97]
    in_time = [event for event in events if event not in late]
    windows = windows_of(events, settings)

    store(postgres, in_time, settings, NOW)
    live = stored(postgres, "analytics.usage_hourly_live", "hour_start")
    assert {key: row[0] for key, row in live.items()} == {
        key: row[0] for key, row in recomputed(in_time, time_zone)["hour"].items()
    }
    roll(postgres, windows, settings, NOW)
    # Days make their weeks and months stale when they change first.
    assert_all_equal(postgres, in_time, time_zone)

    store(postgres, late, settings, NOW)
    assert_equal_rows(
        stored(postgres, "analytics.usage_hourly_live", "hour_start"), recomputed(events, time_zone)["hour"]
    )
    replaced = set()
    while stale := stale_windows(postgres, time_zone=settings.timezone, now=NOW):
        for one in stale:
            replaced.add((one.window.grain, one.window.start))
            replace_window(postgres, one.window, settings=settings, now=NOW)
    assert_all_equal(postgres, events, time_zone)
    touched = windows_of_events(late, settings)
    assert replaced == touched
    noted = postgres.execute("select table_name, window_start from ops.late_data").fetchall()
    assert len(noted) == len(touched)

    assert roll(postgres, windows, settings, NOW) == 0
    assert len(postgres.execute("select from ops.late_data").fetchall()) == len(touched)
    assert_all_equal(postgres, events, time_zone)


def windows_of_events(events: list[dict[str, object]], settings: Settings) -> set[tuple[str, datetime]]:
    """Exactly the windows that hold one of them."""
    moments = [datetime.fromisoformat(str(event["event_time"])) for event in events]
    return {
        (window.grain, window.start)
        for window in windows_of(events, settings)
        if any(window.first <= at < window.end for at in moments)
    }


def test_days_of_23_and_25_hours_have_as_many() -> None:
    vienna = Settings(usage_timezone="Europe/Vienna").timezone
    spring, autumn = (calendar.day_window(day, vienna) for day in (date(2025, 3, 30), date(2025, 10, 26)))
    assert [len(calendar.hours_of(day)) for day in (spring, autumn)] == [23, 25]
