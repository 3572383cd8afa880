"""What is used of a budget equals what exploring says, in any time zone; a forecast is by the time that has passed."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg import sql

from usage_pipeline.budgets.budget import Budget, budget_of
from usage_pipeline.budgets.standing import Standing, standings
from usage_pipeline.rollups.calendar import day_window, month_window
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.windows import event_at, store_events

VIENNA = "Europe/Vienna"
# A Thursday.
NOW = datetime(2025, 6, 12, 15, tzinfo=UTC)


def budget(scope: str = "all", period: str = "day", limit: str = "10", unit: str = "usd", name: str = "b") -> Budget:
    return budget_of(name, scope, period, limit, unit, None)


def in_zone(postgres: psycopg.Connection, settings: Settings, zone: str) -> Settings:
    postgres.execute("update ops.calendar set time_zone = %s", (zone,))
    return load_settings(
        database_url=settings.database_url.get_secret_value(),
        redis_url=settings.redis_dsn.get_secret_value(),
        usage_timezone=zone,
        retention_days=3_000,
    )


def store(postgres: psycopg.Connection, settings: Settings, *events: dict[str, Any]) -> None:
    """Stored, and each day rolled up."""
    store_events(postgres, settings, NOW, *events)
    days = {datetime.fromisoformat(one["event_time"]).astimezone(settings.timezone).date() for one in events}
    for day in sorted(days):
        replace_window(postgres, day_window(day, settings.timezone), settings=settings, now=NOW)


def standing(postgres: psycopg.Connection, settings: Settings, one: Budget, now: datetime = NOW) -> Standing:
    [found] = standings(postgres, [one], settings.timezone, now)
    return found


@pytest.mark.parametrize(
    ("scope", "unit", "expected"),
    [
        ("all", "requests", 4),
        ("all", "tokens", 10_000),
        ("team=search", "requests", 3),
        ("service=chat", "requests", 3),
        ("user=omar", "requests", 2),
        ("user=omar", "usd", "0.02"),
        ("model=gpt-4o", "requests", 3),
        ("api_key=key-1", "requests", 1),
        ("api_key=key-1", "usd", "0.01"),
        ("team=nobody", "usd", 0),
        ("team=search", "usd", "0.02"),
    ],
)
def test_only_the_usage_of_the_scope_counts(
    postgres: psycopg.Connection, settings: Settings, scope: str, unit: str, expected: Any
) -> None:
    settings = in_zone(postgres, settings, "UTC")
    at = NOW - timedelta(hours=1)
    store(
        postgres,
        settings,
        event_at(at, api_key_id="key-1"),
        event_at(at, user_id="omar"),
        event_at(at, user_id="omar", team="ads"),
        event_at(at, model="unheard-of", service="other"),
    )
    found = standing(postgres, settings, budget(scope, unit=unit))
    assert found.used == Decimal(expected)
    # A request whose price is unknown is told where money is counted, and only there.
    assert found.unpriced_requests == (1 if unit == "usd" and scope in ("all", "team=search") else 0)
    assert (found.unpriced_note == "1 request without a price is not in it") == bool(found.unpriced_requests)


@pytest.mark.parametrize("zone", ["UTC", VIENNA, "America/Los_Angeles", "Asia/Kathmandu"])
@pytest.mark.parametrize("period", ["day", "week", "month"])
def test_a_period_begins_and_ends_at_midnight_of_the_time_zone(
    postgres: psycopg.Connection, settings: Settings, zone: str, period: str
) -> None:
    settings = in_zone(postgres, settings, zone)
    today = NOW.astimezone(settings.timezone).date()
    first = {"day": today, "week": today - timedelta(days=today.weekday()), "month": today.replace(day=1)}[period]
    begins = day_window(first, settings.timezone).first
    store(
        postgres,
        settings,
        event_at(begins - timedelta(seconds=1)),
        event_at(begins),
        event_at(begins + timedelta(minutes=30)),
    )
    found = standing(postgres, settings, budget(period=period, unit="requests"))
    assert (found.used, found.window.day, found.window.first) == (2, first, begins)
    [(counted,)] = postgres.execute(
        "select sum(requests) from analytics.usage_daily where usage_date between %s and %s", (first, found.last_day)
    ).fetchall()
    assert found.used == counted


@pytest.mark.parametrize(
    ("now", "period", "first", "last"),
    [
        (datetime(2025, 6, 15, 21, 59, tzinfo=UTC), "week", date(2025, 6, 9), date(2025, 6, 15)),
        (datetime(2025, 6, 15, 22, 0, tzinfo=UTC), "week", date(2025, 6, 16), date(2025, 6, 22)),
        (datetime(2025, 6, 30, 21, 59, tzinfo=UTC), "month", date(2025, 6, 1), date(2025, 6, 30)),
        (datetime(2025, 6, 30, 22, 0, tzinfo=UTC), "month", date(2025, 7, 1), date(2025, 7, 31)),
        (datetime(2024, 2, 29, 22, 59, tzinfo=UTC), "day", date(2024, 2, 29), date(2024, 2, 29)),
        (datetime(2024, 2, 29, 23, 0, tzinfo=UTC), "day", date(2024, 3, 1), date(2024, 3, 1)),
    ],
)
def test_the_current_period_is_that_of_the_local_day(now: datetime, period: str, first: date, last: date) -> None:
    window = budget(period=period).window(now, ZoneInfo(VIENNA))
    assert (window.day, window.next_day - timedelta(days=1)) == (first, last)


def at_rate(zone: str, day: date, as_of: datetime, used: str = "6", unit: str = "usd", period: str = "day") -> Any:
    window = (day_window if period == "day" else month_window)(day, ZoneInfo(zone))
    return Standing(budget(unit=unit, period=period, limit="100"), window, Decimal(used), 0, as_of).forecast


@pytest.mark.parametrize(
    ("zone", "day", "hours", "expected"),
    [
        ("UTC", date(2025, 6, 12), 6, "24"),
        # Clocks go forward: the day has 23 hours; and back: 25.
        (VIENNA, date(2025, 3, 30), 6, "23"),
        (VIENNA, date(2025, 10, 26), 6, "25"),
        ("UTC", date(2025, 6, 12), 0.99, None),
        ("UTC", date(2025, 6, 12), 1, "144"),
        ("UTC", date(2025, 6, 12), -3, None),
        # Roll-ups that lack nothing after its end.
        ("UTC", date(2025, 6, 12), 30, "6"),
    ],
)
def test_a_forecast_goes_on_at_the_rate_so_far(zone: str, day: date, hours: float, expected: str | None) -> None:
    as_of = day_window(day, ZoneInfo(zone)).first + timedelta(hours=hours)
    assert at_rate(zone, day, as_of) == (None if expected is None else Decimal(expected))


def test_a_forecast_of_a_month_counts_the_hour_that_is_missing() -> None:
    first = date(2025, 3, 1)
    window = month_window(first, ZoneInfo(VIENNA))
    assert window.end - window.first == timedelta(hours=31 * 24 - 1)
    as_of = window.first + timedelta(hours=743 / 3)
    assert at_rate(VIENNA, first, as_of, period="month") == Decimal("18")
    assert at_rate(VIENNA, first, as_of, used="1000", unit="tokens", period="month") == Decimal("3000")


def test_a_forecast_is_as_of_what_the_roll_ups_have(postgres: psycopg.Connection, settings: Settings) -> None:
    """Half of the day has passed, but of the last three hours nothing is rolled up."""
    settings = in_zone(postgres, settings, "UTC")
    store(postgres, settings, event_at(NOW - timedelta(hours=10)))
    first = day_window(NOW.date(), settings.timezone).first
    postgres.execute(
        "insert into ops.touched_windows (grain, window_start, touched_at) values ('day', %s, %s)",
        (first, first + timedelta(hours=12)),
    )
    found = standing(postgres, settings, budget(unit="requests"))
    assert (found.as_of, found.used, found.forecast) == (first + timedelta(hours=12), 1, 2)


@pytest.mark.parametrize("period", ["week", "month"])
def test_a_late_event_for_an_earlier_day_changes_no_forecast(
    postgres: psycopg.Connection, settings: Settings, period: str
) -> None:
    """The day waits for its roll-up, for days if its events are archived. What is used goes on to grow meanwhile."""
    settings = in_zone(postgres, settings, VIENNA)
    store(postgres, settings, event_at(NOW - timedelta(days=2)), event_at(NOW - timedelta(hours=2)))
    today, late = (day_window(NOW.date() - timedelta(days=ago), settings.timezone) for ago in (0, 2))
    # As of noon of today (Vienna): 3.5 days of the week, 11.5 of the month.
    noon = datetime(2025, 6, 12, 10, tzinfo=UTC)
    marked = "insert into ops.touched_windows (grain, window_start, touched_at) values ('day', %s, %s)"
    postgres.execute(marked, (today.start, noon))
    one = budget(period=period, unit="requests")
    before = standing(postgres, settings, one)
    assert (before.used, before.as_of, before.forecast) == (2, noon, 4 if period == "week" else 5)
    postgres.execute(marked, (late.start, noon - timedelta(days=1)))
    after = standing(postgres, settings, one)
    # All that was stored before this time is in it; the rate is that of the time which has passed.
    assert (after.used, after.as_of) == (2, noon - timedelta(days=1))
    assert after.forecast == before.forecast


def test_many_budgets_are_a_few_questions(postgres: psycopg.Connection, settings: Settings) -> None:
    settings = in_zone(postgres, settings, "UTC")
    at = NOW - timedelta(hours=1)
    store(postgres, settings, *(event_at(at, team=f"team-{number}", user_id=f"u-{number}") for number in range(30)))
    some = [
        budget(f"{kind}-{number}", period=period, unit=unit, name=f"{kind}-{number}-{period}-{unit}")
        for kind in ("team=team", "user=u")
        for number in range(30)
        for period in ("day", "month")
        for unit in ("requests", "usd")
    ]
    seen: list[str] = []

    class Watched(psycopg.Cursor[Any]):
        def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
            seen.append(query.as_string(None) if isinstance(query, sql.Composable) else str(query))
            return super().execute(query, *arguments, **options)

    postgres.cursor_factory = Watched
    found = standings(postgres, some, settings.timezone, NOW)
    assert [one.budget for one in found] == some
    assert {one.used for one in found} == {Decimal(1), Decimal("0.01")}
    assert len([query for query in seen if "from analytics" in query or '"analytics"' in query]) == 4
