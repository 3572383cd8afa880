"""What the status says of PostgreSQL: the server, the schema, and what the tables tell. Each query is bounded in time."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import psycopg
from cronsim import CronSim

from usage_pipeline.alerting.reading import (
    MOST_COUNTED,
    read_dead_letters,
    read_regressions,
    read_uncertain,
)
from usage_pipeline.alerting.record import HEARTBEAT, open_alerts
from usage_pipeline.drain.rounds import ALL_FAMILIES
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.settings import Settings
from usage_pipeline.status.part import Part, size, span
from usage_pipeline.status.schema import schema_version
from usage_pipeline.storage.chunks.partitions import chunks
from usage_pipeline.storage.chunks.tables import EVENT_TABLES
from usage_pipeline.storage.lifecycle.report import SCHEDULE
from usage_pipeline.storage.sql import load
from usage_pipeline.storage.timescale import is_hypertable
from usage_pipeline.texts import counted, shortened

_MOST_TITLES = 3
_TITLE_CHARACTERS = 60
Question = Callable[[psycopg.Connection, Settings], Part]


def server_part(connection: psycopg.Connection, settings: Settings) -> Part:
    del settings
    [(version, size_bytes, is_read_only, timescaledb)] = connection.execute(load("status/select_server")).fetchall()
    plain = version.split(" ")[0]
    facts = {"version": plain, "database_bytes": size_bytes, "is_read_only": is_read_only, "timescaledb": timescaledb}
    storage = f"TimescaleDB {timescaledb}" if timescaledb else "native partitions"
    said = f"{plain}, {storage}; the database takes {size(size_bytes)}"
    if is_read_only:
        return Part("PostgreSQL", "look", f"{said}; it takes no writes: a standby?", facts)
    return Part("PostgreSQL", "ok", said, facts)


def schema_part(connection: psycopg.Connection, settings: Settings) -> Part:
    del settings
    found = schema_version(connection)
    facts = {"version": found.stored, "newest": found.newest}
    if fault := found.fault:
        return Part("schema", "down", fault, facts)
    return Part("schema", "ok", f"{found.stored}, the newest", facts)


def scheduler_part(connection: psycopg.Connection, settings: Settings) -> Part:
    row = connection.execute(load("api/service/select_heartbeat_age"), {"name": HEARTBEAT}).fetchone()
    if row is None:
        return Part("scheduler", "ok", "Dagster never gave a sign of life here", {"heartbeat_seconds": None})
    facts = {"heartbeat_seconds": round(row[0])}
    said = f"Dagster gave its last sign of life {span(row[0])} ago"
    return Part("scheduler", "look" if row[0] > settings.heartbeat_seconds else "ok", said, facts)


def alerts_part(connection: psycopg.Connection, settings: Settings) -> Part:
    del settings
    found = open_alerts(connection)
    facts = {"open": len(found), "titles": [one.title for one in found[:_MOST_TITLES]]}
    if not found:
        return Part("alerts", "ok", "none open", facts)
    titles = "; ".join(shortened(one.title, _TITLE_CHARACTERS) for one in found[:_MOST_TITLES])
    more = f"; and {len(found) - _MOST_TITLES} more" if len(found) > _MOST_TITLES else ""
    return Part("alerts", "look", f"{len(found)} open (usage-pipeline alerts): {titles}{more}", facts)


def dead_letters_part(connection: psycopg.Connection, settings: Settings) -> Part:
    del settings
    found = {one.family: one.count for one in read_dead_letters(connection)}
    facts = {"open": sum(found.values()), "by_family": found}
    if not found:
        return Part("dead letters", "ok", "none open", facts)
    said = ", ".join(f"{family} {count:,}{'+' * (count >= MOST_COUNTED)}" for family, count in found.items())
    return Part("dead letters", "look", f"{said}: usage-pipeline dead-letters list", facts)


def decisions_part(connection: psycopg.Connection, settings: Settings) -> Part:
    """What waits for a person beside dead letters: counters that fell, and batches that may be there twice."""
    del settings
    regressions = sum(one.count for one in read_regressions(connection))
    uncertain = read_uncertain(connection, datetime.now(UTC))
    batches = sum(one.count for one in uncertain)
    facts = {
        "open_regressions": regressions,
        "uncertain_batches": batches,
        "uncertain_keys": sum(one.keys for one in uncertain),
    }
    parts = []
    if regressions:
        parts.append(f"{counted(regressions, 'merchant counter')} lower than stored (usage-pipeline merchants status)")
    if batches:
        parts.append(f"{counted(batches, 'uncertain batch', 'uncertain batches')} in the last 24 h")
    return Part(
        "to decide", "look" if parts else "ok", "; ".join(parts) or "no lowered counter, no uncertain batch", facts
    )


def freshness_part(connection: psycopg.Connection, settings: Settings) -> Part:
    rows = connection.execute(load("status/select_freshness")).fetchall()
    tables = [{"table": table, "newest_complete_day": day, "windows_waiting": waiting} for table, day, waiting in rows]
    facts = {"tables": tables}
    behind = [f"{table} {waiting:,}" for table, _, waiting in rows if waiting]
    if behind:
        shown = ", ".join(behind[:_MOST_TITLES]) + (
            f" and {len(behind) - _MOST_TITLES} more" if len(behind) > _MOST_TITLES else ""
        )
        return Part("freshness", "look", f"closed hours, days, weeks or months that wait: {shown}", facts)
    days: list[date] = [day for table, day, _ in rows if day and table.startswith(("usage.", "analytics.usage_daily"))]
    if not days:
        return Part("freshness", "ok", "nothing is rolled up yet, and nothing waits", facts)
    return Part("freshness", "ok", f"nothing waits; the newest complete day is {max(days)}", facts)


def starts_part(connection: psycopg.Connection, settings: Settings) -> Part:
    facts = {"usage_start": settings.usage_start_date, "stats_start": settings.stats_start_date}
    if faults := start_faults(connection, settings):
        return Part("start dates", "look", "; ".join(faults), {**facts, "faults": faults})
    usual = f"usage from {settings.usage_start_date}, issues from {settings.stats_start_date}"
    return Part("start dates", "ok", usual, {**facts, "faults": []})


def start_faults(connection: psycopg.Connection, settings: Settings) -> list[str]:
    """A sentence for each start date that is after stored days, of which there are no partitions then."""
    starts = {"usage_start": settings.usage_start_date, "stats_start": settings.stats_start_date}
    [(usage_day, stats_day)] = connection.execute(load("status/select_days_before"), starts).fetchall()
    return [
        f"{name} is {start}, and {day} is stored: days before it are never made again"
        for name, start, day in (
            ("USAGE_START_DATE", settings.usage_start_date, usage_day),
            ("STATS_START_DATE", settings.stats_start_date, stats_day),
        )
        if day is not None
    ]


def lifecycle_part(connection: psycopg.Connection, settings: Settings) -> Part:
    now = datetime.now(settings.timezone)
    due = next(CronSim(SCHEDULE, now)).astimezone(UTC)
    events = EVENT_TABLES[0]
    said = f"next at {due:%Y-%m-%d %H:%M}Z"
    facts: dict[str, object] = {"next_at": due, "is_scheduled": settings.enable_job_scheduler}
    if not settings.enable_job_scheduler:
        said = "not scheduled (ENABLE_JOB_SCHEDULER)"
    if is_hypertable(connection, events.name):
        return Part("lifecycle", "ok", said, facts)
    found = chunks(connection, events.name)
    last = max((one.end for one in found), default=None)
    facts |= {"event_partitions": len(found), "partitions_until": last}
    if last is None:
        return Part("lifecycle", "ok", f"{said}; no partition of events yet", facts)
    said += f"; {counted(len(found), 'partition')} of events"
    today = datetime.combine(current_day(settings.timezone), datetime.min.time(), settings.timezone)
    if last < today + timedelta(days=1):
        return Part("lifecycle", "look", f"{said}, none for tomorrow: does the lifecycle run?", facts)
    return Part("lifecycle", "ok", f"{said}, made ahead to {last:%Y-%m-%d}", facts)


def last_stored(connection: psycopg.Connection) -> dict[str, datetime | None]:
    """When each family last had a batch stored."""
    return dict(connection.execute(load("alerting/select_last_batches"), {"families": list(ALL_FAMILIES)}).fetchall())


# As they are shown, below the server itself.
QUESTIONS: tuple[tuple[str, Question], ...] = (
    ("schema", schema_part),
    ("scheduler", scheduler_part),
    ("freshness", freshness_part),
    ("alerts", alerts_part),
    ("dead letters", dead_letters_part),
    ("to decide", decisions_part),
    ("start dates", starts_part),
    ("lifecycle", lifecycle_part),
)
