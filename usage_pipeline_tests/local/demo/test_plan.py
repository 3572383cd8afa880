"""Which days the demo's events are of, whatever day it is: two calendar months, as far back as events are taken."""

from datetime import UTC, date, datetime, timedelta

import pytest

from usage_pipeline.events.ingest.model import EventWindow
from usage_pipeline.local.demo.plan import Planned, made_up_events
from usage_pipeline.settings import Settings, load_settings

MARK = "1795271558"
SETTINGS = load_settings(database_url="postgresql://nobody@127.0.0.1:1/none")


def planned(now: datetime, settings: Settings = SETTINGS) -> Planned:
    return Planned.of(made_up_events(7, now, settings, MARK), now.date(), settings, hour_days=14)


@pytest.mark.parametrize(
    ("today", "days"),
    [
        (date(2026, 11, 29), 45),
        (date(2026, 11, 14), 45),
        (date(2026, 11, 1), 32),
        (date(2027, 1, 1), 32),
        (date(2027, 1, 31), 45),
        # February is short, and it is there as a whole.
        (date(2027, 3, 1), 29),
        (date(2028, 3, 17), 45),
    ],
)
def test_events_are_of_two_calendar_months_and_end_today(today: date, days: int) -> None:
    plan = planned(datetime(today.year, today.month, today.day, 9, tzinfo=UTC))
    assert len(plan.days) == days
    assert plan.days[-1] == today
    assert len({(day.year, day.month) for day in plan.days}) == 2


@pytest.mark.parametrize(
    "limits", [{"retention_days": 10}, {"retention_days": 1}, {"usage_start_date": date(2026, 11, 20)}], ids=str
)
def test_no_event_is_older_than_what_is_taken(limits: dict[str, object]) -> None:
    now = datetime(2026, 11, 29, 23, 59, tzinfo=UTC)
    settings = load_settings(database_url="postgresql://nobody@127.0.0.1:1/none", **limits)
    plan = planned(now, settings)
    taken = EventWindow.around(now, settings)
    assert plan.right
    assert all(taken.oldest <= one.at <= taken.newest for one in plan.right)


def test_what_is_wrong_or_late_is_right_in_the_end_and_all_others_are_sent() -> None:
    now = datetime(2026, 11, 29, 9, tzinfo=UTC)
    plan = planned(now)
    assert plan.mistake is not None
    assert plan.mistake.wrong in plan.sent
    assert plan.mistake.right.at < now - timedelta(days=4)
    assert len(plan.late) == 20
    ids = [one.event["event_id"] for one in plan.right]
    assert len(ids) == len(set(ids))
    assert set(ids) == {one.event["event_id"] for one in (*plan.sent, *plan.late)}
    assert plan.mistake.right in plan.right
    assert plan.mistake.wrong not in plan.right
