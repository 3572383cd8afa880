"""Each check is quiet when all is well, and tells what is wrong when something is."""

import uuid
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from usage_pipeline.checks import windows as window_checks
from usage_pipeline.rollups import calendar
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.windows import archive_chunk, event_at, store_events

ZONE = Settings().timezone
DAY = date(2025, 6, 11)
NOW = datetime(2025, 7, 20, 12, tzinfo=UTC)
AT = datetime(2025, 6, 11, 10, 30, tzinfo=UTC)
WINDOW = calendar.day_window(DAY, ZONE)
LONGER = [calendar.week_window(date(2025, 6, 9), ZONE), calendar.month_window(date(2025, 6, 1), ZONE)]
SPAN = (date(2025, 6, 10), date(2025, 6, 12))


@pytest.fixture
def rolled(settings: Settings, postgres: psycopg.Connection) -> None:
    for minutes in range(0, 180, 10):
        store_events(postgres, settings, NOW, event_at(AT + timedelta(minutes=minutes)))
    roll(settings, postgres)


def roll(settings: Settings, postgres: psycopg.Connection) -> None:
    hours = [calendar.hour_window(start, ZONE) for start in calendar.hours_of(WINDOW)]
    for window in [*hours, WINDOW, *LONGER]:
        replace_window(postgres, window, settings=settings, now=NOW)


@pytest.mark.usefixtures("rolled")
def test_events_registry_hours_and_day_agree_or_it_is_told(settings: Settings, postgres: psycopg.Connection) -> None:
    def faults() -> list[str]:
        return window_checks.day_count_faults(postgres, *SPAN, ZONE)

    assert faults() == []
    store_events(postgres, settings, NOW, event_at(AT))
    assert faults() == [], "a roll-up that is still to come is no fault"
    roll(settings, postgres)
    assert faults() == []
    postgres.execute("delete from analytics.usage_events where ctid = (select min(ctid) from analytics.usage_events)")
    assert faults() == ["2025-06-11: 18 events, 19 in the registry, 19 in hours, 19 in the day"]
    archive_chunk(postgres, WINDOW)
    assert faults() == [], "what an archive holds is counted in its manifest"
    postgres.execute("delete from ops.archives")
    postgres.execute(
        "delete from analytics.usage_event_ids where event_id not in (select event_id from analytics.usage_events)"
    )
    postgres.execute("delete from analytics.usage_hourly")
    assert faults() == ["2025-06-11: 18 events, 18 in the registry, 0 in hours, 19 in the day"]


@pytest.mark.usefixtures("rolled")
@pytest.mark.parametrize("window", LONGER, ids=str)
@pytest.mark.parametrize(
    "column",
    [
        *("requests", "errors", "input_tokens", "total_tokens", "cache_read_tokens", "unattributed_tokens"),
        *("cost_usd", "list_cost_usd", "reported_requests", "unpriced_requests", "unlisted_requests"),
    ],
)
def test_weeks_and_months_are_sums_of_days_or_it_is_told(
    window: calendar.Window, column: str, settings: Settings, postgres: psycopg.Connection
) -> None:
    assert window_checks.merged_window_faults(postgres, LONGER) == []
    store_events(postgres, settings, NOW, event_at(AT))
    replace_window(postgres, WINDOW, settings=settings, now=NOW)
    assert window_checks.merged_window_faults(postgres, LONGER) == [], "the merge is still to come"
    roll(settings, postgres)
    table = {"week": "usage_weekly", "month": "usage_monthly"}[window.grain]
    postgres.execute(f"update analytics.{table} set {column} = {column} + 1")
    [fault] = window_checks.merged_window_faults(postgres, LONGER)
    assert fault.startswith(f"{window}, search/chat/openai/gpt-4o: ")
    postgres.execute(f"delete from analytics.{table}")
    assert "unknown requests, its days have 19" in window_checks.merged_window_faults(postgres, LONGER)[0]


@pytest.mark.usefixtures("rolled")
def test_hours_without_requests_and_hours_that_nobody_rolled_up_are_told(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    def faults(now: datetime) -> list[str]:
        return window_checks.hour_gap_faults(postgres, DAY, DAY, ZONE, now)

    before_five = datetime(2025, 6, 11, 16, 59, tzinfo=UTC)
    assert faults(before_five) == []
    gap = "hour 2025-06-11T14:00Z: no requests"
    assert faults(before_five + timedelta(minutes=1)) == [gap]
    store_events(postgres, settings, NOW, event_at(AT + timedelta(hours=5)))
    assert faults(before_five + timedelta(hours=1)) == [gap]
    assert faults(before_five + timedelta(hours=1, minutes=1)) == [
        gap,
        "hour 2025-06-11T15:00Z: not rolled up since its events changed",
    ]
    assert window_checks.hour_gap_faults(postgres, date(2025, 6, 1), date(2025, 6, 2), ZONE, NOW) == []


@pytest.mark.usefixtures("rolled")
def test_services_with_many_errors_are_told(settings: Settings, postgres: psycopg.Connection) -> None:
    failed = [event_at(AT, status_code=500) for _ in range(4)]
    store_events(postgres, settings, NOW, *failed)
    roll(settings, postgres)
    assert window_checks.error_share_faults(postgres, *SPAN) == []
    store_events(
        postgres, settings, NOW, event_at(AT, error_type="timeout"), event_at(AT, service="rare", status_code=500)
    )
    roll(settings, postgres)
    assert window_checks.error_share_faults(postgres, *SPAN) == ["chat: 5 of 23 requests failed (22%)"]


@pytest.mark.usefixtures("rolled")
def test_the_share_of_unknown_teams_and_services_is_told(settings: Settings, postgres: psycopg.Connection) -> None:
    assert window_checks.unknown_share_faults(postgres, *SPAN) == []
    unknown = [event_at(AT, team="unknown"), event_at(AT, team="unknown"), event_at(AT, service="unknown")]
    store_events(postgres, settings, NOW, *unknown, event_at(AT, service="rare"))
    roll(settings, postgres)
    [(chat,)] = postgres.execute("select count(*) from analytics.usage_events where service = 'chat'").fetchall()
    assert window_checks.unknown_share_faults(postgres, *SPAN) == [
        f"chat: 2 of {chat} requests have the team or the service unknown ({2 / chat:.0%})",
        "unknown: 1 of 1 requests have the team or the service unknown (100%)",
    ]
    assert window_checks.unknown_share_faults(postgres, date(2025, 6, 12), date(2025, 6, 12)) == []


@pytest.mark.usefixtures("rolled")
def test_models_without_a_price_are_told_with_the_reason(settings: Settings, postgres: psycopg.Connection) -> None:
    assert window_checks.unpriced_faults(postgres, *SPAN) == []
    unheard = [event_at(AT, model="unheard-of") for _ in range(2)]
    store_events(postgres, settings, NOW, *unheard, event_at(AT, input_tokens=None, output_tokens=None, total_tokens=9))
    roll(settings, postgres)
    assert window_checks.unpriced_faults(postgres, *SPAN) == [
        "openai/unheard-of: 2 requests, unknown model; give it prices or a priced_as: usage-pipeline prices import",
        "openai/gpt-4o: 1 request, a count is not known, or no price holds for it",
    ]


@pytest.mark.usefixtures("rolled")
def test_a_model_without_a_price_of_which_all_costs_are_reported_is_told(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    store_events(postgres, settings, NOW, *[event_at(AT, model="unheard-of") for _ in range(3)])
    postgres.execute("update analytics.usage_events set cost_usd = 1 where model = 'unheard-of'")
    roll(settings, postgres)
    assert window_checks.unpriced_faults(postgres, *SPAN) == [
        "openai/unheard-of: 3 requests, 3 of them with the cost that their senders report, unknown model; give it prices or a "
        "priced_as: usage-pipeline prices import",
    ]


def test_conflicts_are_told(settings: Settings, postgres: psycopg.Connection) -> None:
    since = datetime.now(UTC) - timedelta(minutes=1)
    assert window_checks.conflict_faults(postgres, since) == []
    event_id = uuid.uuid4()
    postgres.execute(
        "insert into ops.event_conflicts (kind, event_id, stored_hash, other_hash, other_payload, batch_id, times) "
        "values ('events', %s, 'a', 'b', '{}', 'x', 3)",
        (event_id,),
    )
    [fault] = window_checks.conflict_faults(postgres, since)
    assert fault.startswith(f"events {event_id}: came 3 times with other content")
    assert window_checks.conflict_faults(postgres, datetime.now(UTC) + timedelta(minutes=1)) == []
