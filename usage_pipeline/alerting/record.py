"""The record of alerts, `ops.alerts`: which are open, which message is due, and who sends it. This module sends nothing.

Any number of evaluators may work at once. Each dedupe key has one open row, and the evaluator that claims the row sends.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Literal

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from usage_pipeline.alerting.alert import Alert, Severity
from usage_pipeline.alerting.channels import named
from usage_pipeline.alerting.rules import Judgement, cool_down
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load

Kind = Literal["raised", "cleared"]

# Names in ops.heartbeats: the sensor of alerts, which the daemon runs.
HEARTBEAT = "scheduler"

# Longer than sending takes: an evaluator that dies meanwhile holds a message up for so long. What it had sent by then is
# sent again, rather than not at all.
CLAIM_SECONDS = 300
# So many messages of each rule go before further ones of any.
_SHARE_OF_A_RULE = 3
# Back-off between attempts: 30 s, 60 s, … at most so long.
_FIRST_PAUSE_SECONDS = 30
_LONGEST_PAUSE_SECONDS = 900
# That an alert is over is nobody's concern a day later; an open alert is tried as long as it is open.
_CLEARED_COUNTS_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Message:
    """A message that this evaluator has claimed; `delivered_to` are channels that have it already.

    `told` are those that got the alert itself, to which that it is over is sent; None: all.
    """

    alert_id: int
    pending: Kind
    rule: str
    severity: Severity
    title: str
    text: str
    remedy: str
    first_at: datetime
    last_at: datetime
    count: int
    delivered_to: Sequence[str]
    told: Sequence[str] | None = None


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
    first_at: datetime
    last_at: datetime
    count: int
    delivered_at: datetime | None
    delivery_error: str | None


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
    channels = [name for name, _ in named(settings.alert_channels)]
    for alert in sorted(alerts, key=lambda one: one.dedupe_key):
        arguments = asdict(alert) | {"cool_down": cool_down(alert.rule, settings), "channels": channels}
        row = postgres.execute(load("alerting/upsert_alert"), arguments).fetchone()
        opened += bool(row and row[0])
    return opened


def note_sent_before(postgres: psycopg.Connection, alert: Alert, sent_at: datetime) -> None:
    """Notes an alert that was sent while PostgreSQL was away, so that it is not sent again, and its end is sent."""
    postgres.execute(load("alerting/insert_sent_alert"), asdict(alert) | {"sent_at": sent_at})


def claim_messages(postgres: psycopg.Connection, claimed_by: str, *, most: int) -> list[Message]:
    """Messages that are due, the most urgent first. For CLAIM_SECONDS no other evaluator gets them."""
    lease = timedelta(seconds=CLAIM_SECONDS)
    arguments = {"claimed_by": claimed_by, "most": most, "share": _SHARE_OF_A_RULE, "lease": lease}
    with postgres.cursor(row_factory=class_row(Message)) as cursor:
        found = cursor.execute(load("alerting/claim_alerts"), arguments).fetchall()
    return sorted(found, key=lambda one: (one.pending == "cleared", one.severity != "failure", one.alert_id))


def note_delivery(
    postgres: psycopg.Connection, message: Message, claimed_by: str, accepted: Sequence[str], error: str | None
) -> None:
    """Notes the channels that accepted a claimed message, and why others did not (None: all channels have it)."""
    arguments = {
        "alert_id": message.alert_id,
        "claimed_by": claimed_by,
        "kind": message.pending,
        "accepted": list(accepted),
        "error": error,
        "first_pause": _FIRST_PAUSE_SECONDS,
        "longest_pause": _LONGEST_PAUSE_SECONDS,
        "cleared_counts": timedelta(seconds=_CLEARED_COUNTS_SECONDS),
    }
    postgres.execute(load("alerting/note_delivery"), arguments)


def open_alerts(postgres: psycopg.Connection) -> list[OpenAlert]:
    """All open alerts, oldest first."""
    with postgres.cursor(row_factory=class_row(OpenAlert)) as cursor:
        return cursor.execute(load("alerting/select_open_alerts")).fetchall()


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
