"""Computes the costs of past days again with another price version. All other numbers stay the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import psycopg

from usage_pipeline.rollups import calendar, day_prices
from usage_pipeline.rollups.calendar import Window
from usage_pipeline.rollups.daily import SourceGoneError
from usage_pipeline.rollups.window_tables import WINDOW_TABLES
from usage_pipeline.rollups.windows import WindowContendedError, expect_whole_source, replace_window
from usage_pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class RecostedDay:
    """Costs of a day before and after in US dollars (None: no request has a price). `problem` is empty when all went well."""

    usage_date: date
    cost_before: Decimal | None
    cost_after: Decimal | None
    unpriced_requests: int
    problem: str = ""


def recost(
    connection: psycopg.Connection, days: Sequence[date], price_version: str, *, settings: Settings
) -> Iterator[RecostedDay]:
    """Sets the price version of each day, and makes the day, its hours, and at the end its week and month again.

    A day whose events are archived or gone keeps its costs and its version. If this is interrupted, the sensor `late_windows`
    goes on with the days whose version was set. It is safe to run again.
    """
    now, zone = datetime.now(UTC), settings.timezone
    done: list[date] = []
    for day in days:
        window = calendar.day_window(day, zone)
        before, _ = _cost(connection, window)
        try:
            whole = expect_whole_source(connection, window, settings=settings, now=now)
            day_prices.repin(connection, whole, price_version)
            for hour in (calendar.hour_window(start, zone) for start in calendar.hours_of(window)):
                if hour.start < now and hour.end > whole.first:
                    replace_window(connection, hour, settings=settings, now=now)
            # Whoever asks for other costs may have other ROLLUP_TAGS, or none.
            replace_window(connection, window, settings=settings, now=now, keeps_tags=True)
        except (SourceGoneError, WindowContendedError) as problem:
            yield RecostedDay(day, before, before, 0, str(problem))
            continue
        done.append(day)
        yield RecostedDay(day, before, *_cost(connection, window))
    for longer in _longer_windows(done, zone):
        replace_window(connection, longer, settings=settings, now=now)


def _longer_windows(days: Sequence[date], zone: ZoneInfo) -> list[Window]:
    weeks = [calendar.week_window(day, zone) for day in sorted({calendar.week_of(day) for day in days})]
    months = [calendar.month_window(day, zone) for day in sorted({calendar.month_of(day) for day in days})]
    return [*weeks, *months]


def _cost(connection: psycopg.Connection, day: Window) -> tuple[Decimal | None, int]:
    query = WINDOW_TABLES["day"].compose("rollups/sum_window_cost")
    [(cost_usd, unpriced_requests)] = connection.execute(query, {"window": day.day}).fetchall()
    return cost_usd, unpriced_requests
