"""The record of alerts, `ops.alerts`: which are open, and who took them on. What was told to whom is in `sending/due.py`.

Any number of evaluators may work at once. Each dedupe key has one open row.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from usage_pipeline.alerting.alert import Alert, Severity
from usage_pipeline.alerting.rules import Judgement, cool_down, recurrence
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load

# Names in ops.heartbeats: the sensor of alerts, which the daemon runs.
HEARTBEAT = "scheduler"


@dataclass(frozen=True, slots=True)
class OpenAlert:
    """An alert that is open, for a reader."""

    alert_id: int
    rule: str
    severity: Severity
    dedupe_key: str
    title: str
    text: str
    remedy: str
    link: str | None
    size: int | None
    first_at: datetime
    last_at: datetime
    count: int
    delivered_at: datetime | None
    delivery_error: str | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    snoozed_at: datetime | None
    snoozed_by: str | None
    snoozed_until: datetime | None
    is_snoozed: bool


def note_judgement(postgres: psycopg.Connection, judgement: Judgement, settings: Settings) -> tuple[int, int]:
    """Opens, counts and clears alerts. Returns how many it opened and cleared. Alerts of rules without facts stay."""
    opened = note_alerts(postgres, judgement.alerts, settings)
    arguments = {
        "judged": sorted(judgement.judged),
        "found": [alert.dedupe_key for alert in judgement.alerts],
    }
    return opened, postgres.execute(load("alerting/clear_alerts"), arguments).rowcount


def note_alerts(postgres: psycopg.Connection, alerts: Iterable[Alert], settings: Settings) -> int:
    """Opens alerts, and counts open ones again, in the order of their keys, so that two evaluators do not deadlock."""
    opened = 0
    for alert in sorted(alerts, key=lambda one: one.dedupe_key):
        row = postgres.execute(load("alerting/upsert_alert"), _arguments(alert, settings)).fetchone()
        opened += bool(row and row[0])
    return opened


def note_sent_before(
    postgres: psycopg.Connection, alert: Alert, told_at: Mapping[str, datetime], settings: Settings
) -> None:
    """Notes an alert that channels were told while PostgreSQL was away, so that it is not sent again, and its end is sent."""
    if told_at:
        arguments = _arguments(alert, settings) | {"sent_at": min(told_at.values())}
        postgres.execute(load("alerting/insert_sent_alert"), arguments)
    for channel, at in told_at.items():
        arguments = {"dedupe_key": alert.dedupe_key, "channel": channel, "told_at": at}
        postgres.execute(load("alerting/insert_sent_tellings"), arguments)


def open_alerts(postgres: psycopg.Connection) -> list[OpenAlert]:
    """All open alerts, oldest first."""
    with postgres.cursor(row_factory=class_row(OpenAlert)) as cursor:
        return cursor.execute(load("alerting/select_open_alerts")).fetchall()


def acknowledge(postgres: psycopg.Connection, key: str, who: str) -> bool:
    """Notes that somebody took on the open alert with that number or dedupe key. False if there is none."""
    return postgres.execute(load("alerting/acknowledge_alert"), {"key": key, "who": who}).fetchone() is not None


def snooze(postgres: psycopg.Connection, key: str, span: timedelta, who: str) -> bool:
    """Makes the open alert with that number or dedupe key silent for a time. False if there is none."""
    arguments = {"key": key, "who": who, "span": span}
    return postgres.execute(load("alerting/snooze_alert"), arguments).fetchone() is not None


def forget_alerts(postgres: psycopg.Connection, before: datetime) -> None:
    """Deletes alerts that were over before that time."""
    postgres.execute(load("alerting/delete_alerts"), {"before": before})


def beat(postgres: psycopg.Connection, name: str, details: dict[str, object]) -> None:
    """Writes a sign of life of `name` to ops.heartbeats."""
    postgres.execute(load("alerting/upsert_heartbeat"), {"name": name, "details": Jsonb(details)})


def remembered(postgres: psycopg.Connection, name: str) -> dict[str, object]:
    """The details of the last sign of life; empty without one."""
    row = postgres.execute(load("alerting/select_heartbeat"), {"name": name}).fetchone()
    return row[0] if row else {}


def _arguments(alert: Alert, settings: Settings) -> dict[str, object]:
    pauses = {"repeat_after": cool_down(alert.rule, settings), "recur_after": recurrence(alert.rule, settings)}
    return asdict(alert) | pauses
