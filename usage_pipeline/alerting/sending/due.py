"""The record of what each channel was told: what is due, who sends it, and what became of it. This module sends nothing.

Any number of evaluators may work at once: the one that claims a channel sends to it.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import class_row

from usage_pipeline.alerting.sending.channels import Channel
from usage_pipeline.alerting.sending.messages import Due, Kind, Message
from usage_pipeline.storage.sql import load
from usage_pipeline.texts import storable

# Longer than an evaluation sends: one that dies meanwhile holds its channels up for so long. What it had sent and not noted is
# sent again, rather than not at all.
LEASE = timedelta(seconds=90)
# Messages of a rule are counted for so long (messages.MOST_LATELY).
LATELY = timedelta(minutes=5)
# One that grows is told again, but not sooner.
GROWTH_PAUSE = timedelta(minutes=15)
# That an alert is over is nobody's concern a day later; an open alert is tried as long as it is open.
CLEARED_COUNTS = timedelta(days=1)
# Back-off of a channel between attempts: 30 s, 60 s, … at most so long.
_FIRST_PAUSE_SECONDS = 30
_LONGEST_PAUSE_SECONDS = 900


def note_channels(postgres: psycopg.Connection, channels: Sequence[Channel]) -> None:
    arguments = {"channels": [one.key for one in channels], "names": [one.name for one in channels]}
    postgres.execute(load("alerting/upsert_channels"), arguments)


def due(postgres: psycopg.Connection, channels: Collection[str]) -> list[Due]:
    """What these channels are to be told now: all of it."""
    arguments = {"channels": list(channels), "growth_pause": GROWTH_PAUSE, "cleared_counts": CLEARED_COUNTS}
    with postgres.cursor(row_factory=class_row(Due)) as cursor:
        return cursor.execute(load("alerting/select_due"), arguments).fetchall()


def lately(postgres: psycopg.Connection, channels: Collection[str]) -> Mapping[str, Mapping[tuple[Kind, str], int]]:
    """How many messages each channel got in LATELY, by kind and rule."""
    arguments = {"channels": list(channels), "lately": LATELY}
    found: dict[str, dict[tuple[Kind, str], int]] = {channel: {} for channel in channels}
    for channel, kind, rule, count in postgres.execute(load("alerting/count_recent_messages"), arguments):
        found[channel][kind, rule] = count
    return found


def claim_channels(
    postgres: psycopg.Connection, claimed_by: str, channels: Collection[str], fresh: Collection[str]
) -> set[str]:
    """Those of these channels that nobody else sends to, and that are not to be left alone for now; `fresh` ones never are."""
    arguments = {"channels": list(channels), "fresh": list(fresh), "claimed_by": claimed_by, "lease": LEASE}
    return {channel for (channel,) in postgres.execute(load("alerting/claim_channels"), arguments)}


def release_channel(postgres: psycopg.Connection, claimed_by: str, channel: str, error: str | None) -> None:
    """Ends a claim. With an error the channel is left alone for a while."""
    arguments = {
        "channel": channel,
        "claimed_by": claimed_by,
        "error": None if error is None else storable(error),
        "first_pause": _FIRST_PAUSE_SECONDS,
        "longest_pause": _LONGEST_PAUSE_SECONDS,
    }
    postgres.execute(load("alerting/release_channel"), arguments)


def note_told(postgres: psycopg.Connection, channel: str, message: Message, at: datetime) -> None:
    arguments = {"channel": channel, "kind": message.kind, "alert_ids": message.alert_ids, "told_at": at}
    postgres.execute(load("alerting/note_told"), arguments)


def note_owed(postgres: psycopg.Connection, channel: str, alert_ids: Collection[int], *, attempts: int) -> None:
    """Notes that the channel was to be told of these alerts, and `attempts` more that it did not take."""
    arguments = {"channel": channel, "alert_ids": list(alert_ids), "attempts": attempts}
    postgres.execute(load("alerting/note_owed"), arguments)


def forget_channels(postgres: psycopg.Connection, before: datetime) -> None:
    """Deletes channels that were last in ALERT_URLS before that time."""
    postgres.execute(load("alerting/delete_channels"), {"before": before})
