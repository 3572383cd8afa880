"""Sends to each channel what is due for it, and notes what became of it."""

import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Protocol

import psycopg

from usage_pipeline.alerting.sending import due as record
from usage_pipeline.alerting.sending.channels import Channel
from usage_pipeline.alerting.sending.couriers import LOG
from usage_pipeline.alerting.sending.messages import MOST_LATELY, Due, Message, messages_of
from usage_pipeline.process import process_name

# A tick of a sensor has a minute in all.
_SENDING_SECONDS = 25.0


class Carrier(Protocol):
    """What takes messages to channels (`couriers.Courier`)."""

    @property
    def channels(self) -> tuple[Channel, ...]: ...
    def send(self, messages: Mapping[str, Message]) -> Mapping[str, str | None]: ...


def send_due(postgres: psycopg.Connection, carrier: Carrier, *, most_lately: int = MOST_LATELY) -> tuple[int, int]:
    """Sends what is due, within _SENDING_SECONDS. Returns how many messages channels took, and how many they did not.

    Of a rule that has sent `most_lately` messages in the last minutes, the next ones wait.
    """
    deadline = time.monotonic() + _SENDING_SECONDS
    # Two sensors of one process are two senders.
    name = f"{process_name()}:{secrets.token_hex(4)}"
    channels = [one.key for one in carrier.channels]
    record.note_channels(postgres, carrier.channels)
    all_due = by_channel(record.due(postgres, channels))
    fresh = {key for key, found in all_due.items() if any(one.is_new for one in found)}
    for key in fresh:
        # Noted before it is sent: who cannot be told of it now is told later, if it is over by then, too.
        record.note_owed(postgres, key, [one.alert_id for one in all_due[key] if one.is_new], attempts=0)
    claimed = record.claim_channels(postgres, name, list(all_due), fresh)
    # Once more: what is claimed now, another evaluator may just have sent.
    left = by_channel(record.due(postgres, claimed))
    lately = record.lately(postgres, claimed)
    outgoing = {key: messages_of(found, lately[key], most_lately) for key, found in left.items()}
    problems: dict[str, str | None] = dict.fromkeys(claimed)
    try:
        return _send_rounds(postgres, carrier, outgoing, problems, deadline)
    finally:
        for key in claimed:
            record.release_channel(postgres, name, key, problems[key])


def by_channel(due: Iterable[Due]) -> dict[str, list[Due]]:
    found: defaultdict[str, list[Due]] = defaultdict(list)
    for one in due:
        found[one.channel].append(one)
    return dict(found)


def _send_rounds(
    postgres: psycopg.Connection,
    carrier: Carrier,
    outgoing: Mapping[str, Sequence[Message]],
    problems: dict[str, str | None],
    deadline: float,
) -> tuple[int, int]:
    """A message to each channel at the same time, then the next. A channel that failed gets no more in this evaluation."""
    sent = failed = 0
    for messages in zip_longest(*outgoing.values()):
        of_channel = dict(zip(outgoing, messages, strict=True))
        going = {key: one for key, one in of_channel.items() if one is not None and problems[key] is None}
        if time.monotonic() > deadline:
            failed += len(going)
            break
        for key, problem in carrier.send(going).items():
            counts = key != LOG.key or len(carrier.channels) == 1
            if problem is None:
                record.note_told(postgres, key, going[key], datetime.now(UTC))
                sent += counts
            else:
                problems[key] = problem
                record.note_owed(postgres, key, going[key].alert_ids, attempts=1)
                failed += counts
    return sent, failed
