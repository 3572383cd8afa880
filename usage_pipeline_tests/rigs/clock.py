"""The day in UTC, read when a test asks: a constant of its file would be yesterday's in a run that crosses midnight."""

from datetime import UTC, date, datetime, timedelta


def today() -> date:
    return datetime.now(UTC).date()


def days_ago(days: int) -> date:
    return today() - timedelta(days=days)
