"""Which windows closed last, across changes of clocks and years."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from usage_pipeline.rollups.calendar import Grain
from usage_pipeline.rollups.due_windows import closed_windows

VIENNA = ZoneInfo("Europe/Vienna")


@pytest.mark.parametrize(
    ("grain", "until", "expected"),
    [
        # The clock goes back at 3: two hours show 2.
        ("hour", "2026-10-25T03:00:00+01:00", ["2026-10-25T01:00Z", "2026-10-25T00:00Z", "2026-10-24T23:00Z"]),
        ("hour", "2026-03-29T03:59:59+02:00", ["2026-03-29T00:00Z", "2026-03-28T23:00Z", "2026-03-28T22:00Z"]),
        ("day", "2026-01-01T00:00:00+01:00", ["2025-12-31", "2025-12-30", "2025-12-29"]),
        ("day", "2025-12-31T23:59:59+01:00", ["2025-12-30", "2025-12-29", "2025-12-28"]),
        ("week", "2026-01-05T00:00:00+01:00", ["2025-12-29", "2025-12-22", "2025-12-15"]),
        ("week", "2026-01-04T23:00:00+01:00", ["2025-12-22", "2025-12-15", "2025-12-08"]),
        ("month", "2026-01-31T23:00:00+01:00", ["2025-12-01", "2025-11-01", "2025-10-01"]),
        ("month", "2026-02-01T00:00:00+01:00", ["2026-01-01", "2025-12-01", "2025-11-01"]),
    ],
)
def test_the_last_closed_windows_are_found_the_newest_first(grain: Grain, until: str, expected: list[str]) -> None:
    at = datetime.fromisoformat(until)
    windows = closed_windows(grain, at, 3, VIENNA)
    assert [str(window).split()[1] for window in windows] == expected
    assert windows[0].end <= at
