"""Uses of each API key and token per past hour. They are kept for 15 days, so that a rule need not read 14 days of raw rows."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import psycopg
from psycopg import sql as compose
from psycopg.rows import class_row

from usage_pipeline.alerting.abnormal_usage import HISTORY_HOURS, UsageHour, is_abnormal
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import composed, load, relation

# A drain stores an hour's last uses within seconds; what comes later counts in the reports, not here.
_HOUR = timedelta(hours=1)
_GRACE = timedelta(minutes=5)
# After a pause of the scheduler so many hours are caught up at one evaluation.
_MOST_HOURS_AT_ONCE = 24
# And so many of them are judged, the newest.
MOST_JUDGED_HOURS = 6
# The busiest ones of an hour that are judged; each costs 336 rows of an index.
_MOST_JUDGED = 5_000
# Whose uses an hour is judged by, and which column of raw counts them.
_FAMILIES = {
    family: {
        "raw": relation(f"raw.{family}_deltas"),
        "id": compose.Identifier(f"{family}_id"),
        "uses": compose.Identifier(uses),
    }
    for family, uses in (("api_key", "total_requests"), ("token", "usage_count"))
}


def due_hours(judged_hour: str, now: datetime) -> list[datetime]:
    """Past hours after `judged_hour` (ISO), oldest first. Without it, the newest past hour. Empty while none is due."""
    newest = (now - _GRACE).replace(minute=0, second=0, microsecond=0) - _HOUR
    if not judged_hour:
        return [newest]
    first = max(datetime.fromisoformat(judged_hour) + _HOUR, newest - (_MOST_HOURS_AT_ONCE - 1) * _HOUR)
    return [first + number * _HOUR for number in range(max(0, (newest - first) // _HOUR + 1))]


def store_hours(postgres: psycopg.Connection, hours: Sequence[datetime], *, time_zone: str) -> None:
    """Sums up these hours again from the raw rows, and deletes hours that no later hour is compared with."""
    for hour in hours:
        arguments = {"hour": hour, "first_batch": _batch_at(hour - _HOUR), "time_zone": time_zone}
        for family, names in _FAMILIES.items():
            postgres.execute(composed("alerting/replace_usage_hours", **names), {**arguments, "family": family})
    if hours:
        postgres.execute(load("alerting/delete_usage_hours"), {"before": hours[-1] - timedelta(days=15)})


def judged_hours(postgres: psycopg.Connection, settings: Settings, hours: Sequence[datetime]) -> tuple[UsageHour, ...]:
    """Stores these hours. Returns the last one, and of those that were missed what is abnormal in them.

    What is abnormal is marked, hour by hour: it is no part of the history by which later hours are judged.
    """
    store_hours(postgres, hours, time_zone=settings.usage_timezone)
    found: list[UsageHour] = []
    for hour in hours[-MOST_JUDGED_HOURS:]:
        read = [*read_hour(postgres, settings, hour)]
        abnormal = [one for one in read if is_abnormal(one, settings)]
        marked = {
            "families": [one.family for one in abnormal],
            "ids": [one.id for one in abnormal],
            "hours": [one.hour_start for one in abnormal],
        }
        postgres.execute(load("alerting/mark_abnormal_hours"), marked)
        found += read if hour == hours[-1] else abnormal
    return tuple(found)


def read_hour(postgres: psycopg.Connection, settings: Settings, hour: datetime) -> Iterator[UsageHour]:
    """The busiest keys and tokens of that hour, with their hours of the 14 days before, or since they were first seen."""
    arguments = {
        "hour": hour,
        "first_hour": hour - HISTORY_HOURS * _HOUR,
        "least_uses": settings.alert_usage_floor,
        "most": _MOST_JUDGED,
    }
    with postgres.cursor(row_factory=class_row(UsageHour)) as cursor:
        yield from cursor.execute(load("alerting/select_usage_hours"), arguments)


def _batch_at(at: datetime) -> str:
    """Batch ids begin with the claim time in epoch milliseconds: no batch claimed later has a smaller id."""
    return f"{int(at.timestamp() * 1000):013d}"
